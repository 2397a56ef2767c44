# SPDX-License-Identifier: Apache-2.0
"""The GPU functions against the CPU's, through the C interface.

Each check draws its data from a seed and compares all of a result; sizes are
small enough for the emulator, odd, and around the sizes of words and tiles.
"""

from __future__ import annotations

import dataclasses
import os
import pathlib
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from lintf.similarity.spec import SimilaritySpec
from tests.gpu import library as lib
from tests.gpu import programs
from tests.gpu.compare import (
    Items,
    exact_scores,
    good_results,
    make_items,
    same,
    same_results,
)

Check = Callable[["Setting"], None]


@dataclasses.dataclass
class Setting:
    """What a check works with.

    Attributes:
      library: The library that is checked.
      large: Sizes for a GPU; small ones are for the emulator.
    """

    library: lib.Library
    large: bool

    @property
    def device(self) -> Any:
        """The library's device."""
        return self.library.device

    def put(self, array: np.ndarray | None) -> Any:
        """Returns a copy on the device; None of None."""
        return None if array is None else self.device.put(array)


def _masks(
    random: np.random.Generator, rows: int, rates: list[float]
) -> np.ndarray:
    """Draws masks, bool [len(rates), rows]."""
    return np.stack([random.random(rows) < rate for rate in rates])


# ---- Masks.


def check_pack_masks(setting: Setting) -> None:
    """Bools become words, padded with zeros."""
    random = np.random.default_rng(1)
    for rows in (1, 63, 64, 65, 1000, 4097):
        passes = _masks(random, rows, [0.5, 0.0, 1.0])
        expected = lib.pack_masks(passes)
        words = setting.device.empty(expected.shape, "uint64")
        setting.library.run(
            "lintf_gpu_pack_masks",
            setting.put(passes.view(np.uint8)),
            3,
            rows,
            expected.shape[1],
            words,
        )
        same(f"{rows} rows", setting.device.get(words, "uint64"), expected)


def check_list_rows(setting: Setting) -> None:
    """Rows of the bits that are set, in ascending order."""
    random = np.random.default_rng(2)
    sizes = [1, 64, 1000, 20011] + [3_000_017] * setting.large
    for rows in sizes:
        passes = _masks(random, rows, [0.01, 0.0, 1.0, 0.6])
        words = lib.pack_masks(passes)
        listed = setting.device.empty([4, rows], "uint32")
        counts = setting.device.empty([4], "uint32")
        setting.library.run(
            "lintf_gpu_list_rows",
            setting.put(words),
            4,
            words.shape[1],
            rows,
            listed,
            rows,
            counts,
        )
        got = setting.device.get(listed, "uint32")
        got_counts = setting.device.get(counts, "uint32")
        for i in range(4):
            expected = np.flatnonzero(passes[i]).astype(np.uint32)
            assert got_counts[i] == len(expected), (rows, i, got_counts[i])
            same(f"{rows} rows, list {i}", got[i, : len(expected)], expected)


# ---- Filters.


def _make_columns(
    random: np.random.Generator, rows: int
) -> list[tuple[str, np.ndarray]]:
    """Draws a column of each type, and one of tags."""
    columns: list[tuple[str, np.ndarray]] = []
    for name in lib.COLUMN_TYPES:
        dtype = np.dtype(name)
        if name == "float32":
            values = random.integers(-5, 6, rows).astype(np.float32)
            values[random.random(rows) < 0.1] = np.nan
            values[random.random(rows) < 0.1] = 1e-42
        elif name == "uint64":
            values = random.integers(0, 1 << 63, rows, dtype=np.uint64)
            values |= random.integers(0, 2, rows, dtype=np.uint64) << 63
        else:
            low = -6 if dtype.kind == "i" else 0
            values = random.integers(low, 12, rows).astype(dtype)
        columns.append((name, values.astype(dtype)))
    columns.append(("uint16", random.integers(0, 9, [rows, 3]).astype("u2")))
    columns.append(("int64", random.integers(-9, 9, [rows, 2])))
    return columns


def _random_leaf(random: np.random.Generator, num_rows: int) -> programs.Words:
    """Draws a leaf on the columns of _make_columns."""
    low = int(random.integers(-6, 10))
    # Within the range of each type.
    positive = max(low, 0)
    some = [int(v) for v in random.integers(0, 12, 5)]
    leaves = [
        lambda: programs.in_range(0, low, low + 5),
        lambda: programs.in_range(1, low, low + 3),
        lambda: programs.in_set(2, [v - 6 for v in some]),
        lambda: programs.in_table(3, some),
        lambda: programs.bits_any(3, 1 << low % 8),
        lambda: programs.in_set(4, some),
        lambda: programs.in_range(5, positive, positive + 4),
        lambda: programs.bits_any(6, 1 << 63 | 5),
        lambda: programs.bits_all(6, 3 << positive),
        lambda: programs.in_float_range(7, low - 0.5, low + 2),
        lambda: programs.in_float_range(7, 0.0, 1e-42),
        lambda: programs.in_set(8, some[:2]),
        lambda: programs.in_range(9, low, low),
        lambda: programs.in_set(2, list(range(-300, 300, 3))),
        lambda: programs.id_in([v * 7 for v in some] + [num_rows * 7]),
    ]
    return leaves[int(random.integers(len(leaves)))]()


def _random_body(
    random: np.random.Generator, depth: int, num_rows: int
) -> programs.Words:
    """Draws a program's body, a tree of at most `depth` levels."""
    kind = random.integers(4) if depth > 0 else 0
    if kind == 0:
        return _random_leaf(random, num_rows)
    if kind == 1:
        return programs.negated(_random_body(random, depth - 1, num_rows))
    parts = [
        _random_body(random, depth - 1, num_rows)
        for _ in range(int(random.integers(2, 4)))
    ]
    return (programs.all_of if kind == 2 else programs.any_of)(*parts)


def check_filters(setting: Setting) -> None:
    """Programs over every column type give the CPU's masks, bit for bit."""
    random = np.random.default_rng(3)
    sizes = [1, 65, 1003] + [100_003] * setting.large
    for rows in sizes:
        columns = _make_columns(random, rows)
        on_device = [(name, setting.put(data)) for name, data in columns]
        ids = np.arange(rows, dtype=np.int64) * 7
        live = lib.pack_masks(random.random([1, rows]) < 0.9)[0]
        bodies = [_random_body(random, 3, rows) for _ in range(24)]
        bodies += [[], bodies[0]]
        packed = programs.pack(bodies)
        queries = np.zeros([len(bodies), 4], np.float32)
        for with_live in (False, True):
            masks = {}
            for where, data, id_column, live_bits in (
                ("cpu", columns, ids, live),
                ("gpu", on_device, setting.put(ids), setting.put(live)),
            ):
                search = lib.Search(
                    queries,
                    rows,
                    1,
                    programs=packed,
                    columns=data,
                    ids=id_column,
                    live=live_bits if with_live else None,
                )
                masks[where] = setting.library.filter_masks(search, where)
            got, expected = masks["gpu"], masks["cpu"]
            for b in range(len(bodies)):
                mask = got["mask_of_query"][b]
                cpu_mask = expected["mask_of_query"][b]
                what = f"{rows} rows, program {b}, live {with_live}"
                if expected["passes_all"][cpu_mask]:
                    full = lib.pack_masks(np.ones([1, rows], bool))[0]
                    if not got["passes_all"][mask]:
                        same(what, got["words"][mask], full)
                    continue
                same(what, got["words"][mask], expected["words"][cpu_mask])
        unknown = programs.pack([programs.in_range(99, 0, 1)])
        bad = lib.Search(
            queries[:1], rows, 1, programs=unknown, columns=on_device
        )
        try:
            setting.library.filter_masks(bad, "gpu")
        except lib.LibraryError as error:
            assert "program 0" in str(error), error
        else:
            raise AssertionError("a column that is not there was accepted")


# ---- Exact search.


def _knn_cases(setting: Setting) -> Iterator[tuple[int, int, int, int]]:
    """Yields rows, dim, queries and k."""
    yield 1, 8, 1, 1
    yield 63, 32, 3, 70
    yield 400, 24, 17, 33
    if setting.large:
        yield 1000, 64, 5, 17
        yield 777, 24, 17, 100
        yield 20_011, 128, 1, 2000
        yield 50_000, 100, 33, 10
        yield 100_003, 128, 16, 100
        yield 30_000, 768, 130, 64
        yield 9_001, 3, 2, 9001


def _tolerance(queries: np.ndarray, items: Items) -> float:
    """How far an inner product on the tensor cores may be off."""
    magnitudes = np.abs(queries).astype(np.float64) @ np.abs(items.exact).T
    dim = queries.shape[1]
    # Sums of rounded float32, of up to three parts of a query; float16 keeps 22
    # bits of it. With the query rounded the exact scores are of that query.
    relative = 2.0**-20 + (4 * dim + 8) * 2.0**-24
    return float(magnitudes.max(initial=0.0)) * relative + 1e-30


def _round_queries(queries: np.ndarray, element_type: str) -> np.ndarray:
    """Rounds queries to the type of the rows."""
    if element_type == "bfloat16":
        return lib.from_bfloat16(lib.to_bfloat16(queries))
    if element_type == "float16":
        return queries.astype(np.float16).astype(np.float32)
    return queries


def check_exact_search(setting: Setting) -> None:
    """All types, metrics, orders and precisions, over shared and own masks."""
    random = np.random.default_rng(4)
    for rows, dim, count, k in _knn_cases(setting):
        queries = random.standard_normal([count, dim]).astype(np.float32)
        passes = _masks(random, rows, [0.3, 0.0, 1.0, 0.01, 0.9])
        words = lib.pack_masks(passes)
        masks = setting.put(words)
        passes_all = [False, False, True, False, False]
        own = [b % 5 for b in range(count)]
        filtered = [0 if b % 2 else 3 for b in range(count)]
        for element_type in lib.ELEMENT_TYPES:
            items = make_items(random, element_type, rows, dim)
            data = setting.put(items.data)
            scales = setting.put(items.scales)
            put_queries = setting.put(queries)
            for metric in lib.METRICS:
                _check_orders(
                    setting,
                    (queries, put_queries),
                    (items, data, scales),
                    (passes, words, masks, passes_all, (own, filtered)),
                    metric,
                    k,
                )


def _check_orders(
    setting: Setting,
    queries: tuple[np.ndarray, Any],
    items: tuple[Items, Any, Any],
    masks: tuple[np.ndarray, np.ndarray, Any, list[bool], tuple[list, list]],
    metric: str,
    k: int,
) -> None:
    """check_exact_search for one table and metric."""
    host, data, scales = items
    passes, words, put_masks, passes_all, choices = masks
    rows = len(host.data)
    rounds = metric == "inner_product" and host.element_type in (
        "bfloat16",
        "float16",
    )
    for which, choice in enumerate(choices):
        expected = None
        if not rounds:
            expected = setting.library.search_on_cpu(
                lib.Search(
                    queries[0],
                    rows,
                    k,
                    items=host.data,
                    element_type=host.element_type,
                    scales=host.scales,
                    metric=metric,
                    masks=words,
                    passes_all=passes_all,
                    mask_of_query=choice,
                )
            )
        for order in lib.ORDERS:
            for precision in lib.PRECISIONS if rounds else ("full",):
                for segment_rows in (0, 192):
                    if segment_rows and (which or rows > 2000):
                        continue
                    what = (
                        f"{host.data.shape} {host.element_type} {metric} "
                        f"k={k} {order} {precision} segment={segment_rows} "
                        f"masks {which}"
                    )
                    got = setting.library.search(
                        lib.Search(
                            queries[1],
                            rows,
                            k,
                            items=data,
                            element_type=host.element_type,
                            scales=scales,
                            metric=metric,
                            order=order,
                            precision=precision,
                            segment_rows=segment_rows,
                            masks=put_masks,
                            passes_all=passes_all,
                            mask_of_query=choice,
                        )
                    )
                    if expected is not None:
                        same_results(what, got, expected)
                        continue
                    seen = queries[0]
                    if precision == "storage":
                        seen = _round_queries(seen, host.element_type)
                    good_results(
                        what,
                        got,
                        exact_scores(seen, host, metric),
                        passes[choice],
                        _tolerance(seen, host),
                    )


def check_batch_does_not_matter(setting: Setting) -> None:
    """A query alone has the results that it has in a batch, run after run."""
    random = np.random.default_rng(5)
    rows = 50_003 if setting.large else 700
    for element_type in lib.ELEMENT_TYPES:
        items = make_items(random, element_type, rows, 64)
        data, scales = setting.put(items.data), setting.put(items.scales)
        queries = random.standard_normal([9, 64]).astype(np.float32)

        def search(
            part: np.ndarray,
            data: Any = data,
            scales: Any = scales,
            element_type: str = element_type,
        ) -> dict[str, np.ndarray]:
            return setting.library.search(
                lib.Search(
                    setting.put(part),
                    rows,
                    33,
                    items=data,
                    scales=scales,
                    element_type=element_type,
                )
            )

        batch = search(queries)
        for run in range(3):
            same_results(f"{element_type}, run {run}", search(queries), batch)
        for b in range(9):
            alone = search(queries[b : b + 1])
            expected = {name: a[b : b + 1] for name, a in batch.items()}
            same_results(f"{element_type}, query {b}", alone, expected)


def check_extreme_values(setting: Setting) -> None:
    """Zeros of both signs, subnormals, ties of all rows, overflow."""
    tables = {
        "equal": np.full([300, 16], 0.5, np.float32),
        "zeros": np.zeros([300, 16], np.float32)
        * np.where(np.arange(300) % 2, -1, 1)[:, None].astype(np.float32),
        "subnormal": np.full([300, 16], 1e-41, np.float32)
        * np.arange(300, dtype=np.float32)[:, None],
        "large": np.full([300, 16], 3e38, np.float32)
        * np.where(np.arange(300) % 3, -1, 1)[:, None].astype(np.float32),
    }
    queries = np.stack(
        [np.full(16, v, np.float32) for v in (1.0, -1.0, 1e-3, 2.5)]
    )
    for name, values in tables.items():
        for metric in lib.METRICS:
            for k in (1, 40, 300):
                searches = [
                    lib.Search(q, 300, k, items=items, metric=metric)
                    for q, items in (
                        (queries, values),
                        (setting.put(queries), setting.put(values)),
                    )
                ]
                expected = setting.library.search_on_cpu(searches[0])
                got = setting.library.search(searches[1])
                same_results(f"{name} {metric} k={k}", got, expected)


def check_rescoring(setting: Setting) -> None:
    """The k best of a list of rows for each query."""
    random = np.random.default_rng(6)
    rows, dim, count, stride = 5000, 48, 6, 600
    queries = random.standard_normal([count, dim]).astype(np.float32)
    lists = np.full([count, stride], -1, np.int64)
    counts = np.array([600, 0, 1, 333, 64, 599], np.int64)
    passes = np.zeros([count, rows], bool)
    for b, size in enumerate(counts):
        chosen = np.sort(random.choice(rows, size, replace=False))
        lists[b, :size] = chosen
        passes[b, chosen] = True
    for element_type in lib.ELEMENT_TYPES:
        items = make_items(random, element_type, rows, dim)
        for metric in lib.METRICS:
            for k in (1, 50, 700):
                search = lib.Search(
                    setting.put(queries),
                    rows,
                    k,
                    items=setting.put(items.data),
                    scales=setting.put(items.scales),
                    element_type=element_type,
                    metric=metric,
                )
                arrays = setting.library.results(search)
                setting.library.run(
                    "lintf_gpu_rescore_rows",
                    search.struct,
                    setting.put(lists),
                    stride,
                    setting.put(counts),
                    lib.results_struct(arrays),
                )
                got = setting.library.fetch(arrays)
                what = f"{element_type} {metric} k={k}"
                if metric == "inner_product" and element_type in (
                    "bfloat16",
                    "float16",
                ):
                    good_results(
                        what,
                        got,
                        exact_scores(queries, items, metric),
                        passes,
                        _tolerance(queries, items),
                    )
                    continue
                expected = setting.library.search_on_cpu(
                    lib.Search(
                        queries,
                        rows,
                        k,
                        items=items.data,
                        scales=items.scales,
                        element_type=element_type,
                        metric=metric,
                        masks=lib.pack_masks(passes),
                        mask_of_query=list(range(count)),
                    )
                )
                same_results(what, got, expected)


# ---- Codes.


def _codes(
    setting: Setting, vectors: np.ndarray, bins: int, repeats: int
) -> tuple[np.ndarray, np.ndarray]:
    """Returns samples, and codes [rows, words]."""
    samples = setting.library.project(vectors, bins, repeats, seed=11)
    bits = np.packbits(samples >= 0, axis=1, bitorder="little")
    return samples, bits.view(np.uint64)


def check_codes(setting: Setting) -> None:
    """The best by code, for k from 1 to more than there are rows."""
    random = np.random.default_rng(7)
    shapes = [(70, 32, 2), (1501, 32, 4)]
    if setting.large:
        shapes += [(200_003, 64, 8), (1_000_003, 64, 1)]
    for rows, bins, repeats in shapes:
        dim = 64 if bins < 64 or repeats > 1 else 128
        bins = min(bins, dim // 2)
        repeats = max(repeats, 64 // bins)
        vectors = random.standard_normal([rows, dim]).astype(np.float32)
        queries = random.standard_normal([5, dim]).astype(np.float32)
        _, codes = _codes(setting, vectors, bins, repeats)
        samples, _ = _codes(setting, queries, bins, repeats)
        laid_out = lib.interleave_codes(codes)
        passes = _masks(random, rows, [0.4, 0.002, 1.0])
        words = lib.pack_masks(passes)
        for scoring in lib.SCORINGS:
            for k in (1, 65, rows // 2 + 1, rows + 3):
                if k > 4000 and not setting.large:
                    continue
                for order in lib.CODE_ORDERS:
                    _check_code_search(
                        setting,
                        (queries, samples, laid_out, codes.shape[1], rows),
                        words,
                        (scoring, k, order),
                    )


def _check_code_search(
    setting: Setting,
    side: tuple[np.ndarray, np.ndarray, np.ndarray, int, int],
    words: np.ndarray,
    options: tuple[str, int, str],
) -> None:
    """check_codes for one search."""
    queries, samples, codes, code_words, rows = side
    scoring, k, order = options
    count = len(queries)
    results = {}
    for where in ("gpu", "cpu"):
        device = setting.device if where == "gpu" else lib.HostDevice()
        search = lib.Search(
            device.put(queries),
            rows,
            k,
            samples=device.put(samples),
            codes=device.put(codes),
            code_words=code_words,
            scoring=scoring,
            masks=device.put(words),
            passes_all=[False, False, True],
            mask_of_query=[b % 3 for b in range(count)],
        )
        scores = device.empty([count, k], "float32")
        found = device.empty([count, k], "int64")
        counts = device.empty([count], "int64")
        threads = [] if where == "gpu" else [os.cpu_count() or 1]
        setting.library.run(
            f"lintf_{where}_code_knn",
            search.struct,
            lib.CODE_ORDERS.index(order),
            *threads,
            scores,
            found,
            counts,
        )
        results[where] = {
            "counts": device.get(counts, "int64"),
            "rows": device.get(found, "int64"),
            "scores": device.get(scores, "float32"),
        }
    what = f"{rows} rows, {code_words} words, {scoring}, k={k}, {order}"
    same_results(what, results["gpu"], results["cpu"])


# ---- A whole search.


def check_retrieve(setting: Setting) -> None:
    """Filters, every algorithm, ids; kAuto is exact on the GPU."""
    random = np.random.default_rng(8)
    rows = 60_001 if setting.large else 900
    dim, count, k = 64, 7, 25
    items = make_items(random, "float32", rows, dim)
    queries = random.standard_normal([count, dim]).astype(np.float32)
    columns = _make_columns(random, rows)
    ids = random.permutation(rows).astype(np.int64) + 1000
    live = lib.pack_masks(random.random([1, rows]) < 0.95)[0]
    bodies = [_random_body(random, 2, rows) for _ in range(count - 1)] + [[]]
    packed = programs.pack(bodies)
    samples, _ = _codes(setting, queries, 32, 8)
    _, codes = _codes(setting, items.data, 32, 8)
    laid_out = lib.interleave_codes(codes)
    for algorithm in lib.ALGORITHMS:
        results = {}
        for where in ("gpu", "cpu"):
            device = setting.device if where == "gpu" else lib.HostDevice()
            search = lib.Search(
                device.put(queries),
                rows,
                k,
                items=device.put(items.data),
                # The CPU's kAuto may take codes, which the GPU's does not.
                algorithm="masked"
                if algorithm == "auto" and where == "cpu"
                else algorithm,
                programs=packed,
                columns=[(name, device.put(data)) for name, data in columns],
                ids=device.put(ids),
                live=device.put(live),
                samples=device.put(samples),
                codes=device.put(laid_out),
                code_words=codes.shape[1],
                shortlist=100,
            )
            if where == "cpu":
                results[where] = setting.library.search_on_cpu(search, ids=True)
                continue
            arrays = setting.library.results(search, ids=True)
            setting.library.run(
                "lintf_gpu_retrieve", search.struct, lib.results_struct(arrays)
            )
            results[where] = setting.library.fetch(arrays)
        same_results(algorithm, results["gpu"], results["cpu"])
        same(
            f"{algorithm}, ids",
            results["gpu"]["result_ids"],
            results["cpu"]["result_ids"],
        )


# ---- Learned similarities.


def _similarities() -> Iterator[SimilaritySpec]:
    """Yields one of each component similarity and gate, and a real size."""
    yield SimilaritySpec(component="hadamard", component_dim=50, hidden=50)
    yield SimilaritySpec(
        3, 2, 9, "weighted", temperature=0.1, gate="relu", gate_hidden=6
    )
    yield SimilaritySpec(
        2, 4, 16, temperature=0.2, gate="sigmoid", gate_hidden=0
    )
    yield SimilaritySpec(
        2, 3, 12, "hadamard", hidden=7, gate="softmax", gate_hidden=5
    )
    yield SimilaritySpec(
        8, 4, 32, temperature=0.05, gate="silu_softmax", gate_hidden=128
    )


def check_learned(setting: Setting) -> None:
    """Learned similarities: every algorithm, type and kind of candidates.

    Scores have the CPU's bits; candidates of 16-bit rows may be others.
    """
    random = np.random.default_rng(14)
    for spec in _similarities():
        rows = 30_011 if setting.large else 300
        k, count = 20, 4
        queries = random.standard_normal([count, spec.query_dim])
        queries = (queries / np.sqrt(spec.component_dim)).astype(np.float32)
        weights = [
            (0.3 * random.standard_normal(shape)).astype(np.float32)
            for shape in spec.weight_shapes().values()
        ]
        passes = _masks(random, rows, [0.3, 0.0, 1.0, 0.01])
        for element_type in lib.ELEMENT_TYPES:
            items = make_items(random, element_type, rows, spec.item_dim)
            for algorithm in lib.LEARNED_ALGORITHMS[1:]:
                if algorithm == "bounded" and not spec.is_convex:
                    continue
                for candidates in lib.CANDIDATES[:2]:
                    sums = element_type in ("bfloat16", "float16")
                    if algorithm == "exact" and candidates != "averaged":
                        continue
                    if algorithm == "two_stage" and sums:
                        continue
                    _check_learned_search(
                        setting,
                        spec,
                        (queries, weights, items, lib.pack_masks(passes)),
                        k,
                        algorithm,
                        candidates,
                    )


def _check_learned_search(
    setting: Setting,
    spec: SimilaritySpec,
    data: tuple[np.ndarray, list[np.ndarray], Items, np.ndarray],
    k: int,
    algorithm: str,
    candidates: str,
) -> None:
    """check_learned for one search."""
    queries, weights, items, words = data
    results = {}
    for where in ("gpu", "cpu"):
        device = setting.device if where == "gpu" else lib.HostDevice()
        scales = items.scales
        search = lib.Search(
            device.put(queries),
            len(items.data),
            k,
            items=device.put(items.data),
            element_type=items.element_type,
            scales=None if scales is None else device.put(scales),
            algorithm=algorithm,
            masks=device.put(words),
            passes_all=[False, False, True, False],
            mask_of_query=[3, 0, 2, 1],
            similarity=lib.Similarity(
                [device.put(weight) for weight in weights],
                **spec.to_dict(),
                candidates=candidates,
                budget=60,
            ),
        )
        if where == "cpu":
            results[where] = setting.library.search_on_cpu(search, scored=True)
            continue
        arrays = setting.library.results(search, scored=True)
        setting.library.run(
            "lintf_gpu_retrieve", search.struct, lib.results_struct(arrays)
        )
        results[where] = setting.library.fetch(arrays)
    what = f"{spec} {items.element_type} {algorithm} {candidates}"
    same_results(what, results["gpu"], results["cpu"])
    if algorithm != "bounded":
        same(
            f"{what}, num_scored",
            results["gpu"]["num_scored"],
            results["cpu"]["num_scored"],
        )


# ---- Rows.


def check_rows(setting: Setting) -> None:
    """Stored rows are found again; other rows stay as they were."""
    random = np.random.default_rng(9)
    rows, dim, words = 500, 24, 2
    for element_type in lib.ELEMENT_TYPES:
        old = make_items(random, element_type, rows, dim)
        new = make_items(random, element_type, 40, dim)
        columns = _make_columns(random, rows)
        new_columns = [data for _, data in _make_columns(random, 40)]
        ids = np.arange(rows, dtype=np.int64)
        codes = random.integers(0, 1 << 63, [rows, words], dtype=np.uint64)
        new_codes = random.integers(0, 1 << 63, [40, words], dtype=np.uint64)
        live = lib.pack_masks(np.ones([1, rows], bool))[0]
        chosen = random.permutation(rows)[:30].astype(np.int64)
        places = random.permutation(40)[:30].astype(np.int64)
        new_ids = 10_000 + np.arange(30, dtype=np.int64)
        new_ids[::5] = -1

        device = setting.device
        put = {
            "ids": setting.put(ids),
            "items": setting.put(old.data),
            "scales": setting.put(old.scales),
            "codes": setting.put(lib.interleave_codes(codes)),
            "live": setting.put(live),
        }
        put_columns = [(name, setting.put(data)) for name, data in columns]
        tables = lib.tables_struct(
            ids=put["ids"],
            items=put["items"],
            element_type=element_type,
            scales=put["scales"],
            dim=dim,
            codes=put["codes"],
            code_words=words,
            columns=put_columns,
        )
        contents = lib.contents_struct(
            chosen,
            new_ids,
            places=places,
            items=new.data,
            scales=new.scales,
            codes=new_codes,
            columns=new_columns,
        )
        setting.library.run(
            "lintf_gpu_store_rows", tables, contents, put["live"]
        )

        lives = new_ids != -1
        kept, from_places = chosen[lives], places[lives]
        ids[chosen] = new_ids
        old.data[kept] = new.data[from_places]
        old.exact[kept] = new.exact[from_places]
        codes[kept] = new_codes[from_places]
        alive = np.ones([1, rows], bool)
        alive[0, chosen] = lives
        for (_, data), values in zip(columns, new_columns, strict=True):
            data[kept] = values[from_places]
        same("ids", device.get(put["ids"], "int64"), ids)
        dtype = old.data.dtype.name
        same("items", device.get(put["items"], dtype), old.data)
        if old.scales is not None and new.scales is not None:
            old.scales[kept] = new.scales[from_places]
            same("scales", device.get(put["scales"], "float32"), old.scales)
        same(
            "codes",
            device.get(put["codes"], "uint64"),
            lib.interleave_codes(codes),
        )
        same(
            "live", device.get(put["live"], "uint64"), lib.pack_masks(alive)[0]
        )
        wanted = np.concatenate([random.integers(0, rows, 77), [-1, rows - 1]])
        put_wanted = setting.put(wanted)
        found = wanted >= 0
        for (name, data), (_, on_device) in zip(
            columns, put_columns, strict=True
        ):
            same(f"column {name}", device.get(on_device, data.dtype.name), data)
            _check_gathered(setting, name, data, on_device, wanted, put_wanted)
        gathered = device.empty([len(wanted)], "int64")
        setting.library.run(
            "lintf_gpu_gather_ids",
            put["ids"],
            put_wanted,
            len(wanted),
            gathered,
        )
        expected = np.where(found, ids[wanted], -1)
        same("gathered ids", device.get(gathered, "int64"), expected)
        vectors = device.empty([len(wanted), dim], "float32")
        setting.library.run(
            "lintf_gpu_gather_items",
            put["items"],
            lib.ELEMENT_TYPES.index(element_type),
            put["scales"],
            dim,
            put_wanted,
            len(wanted),
            vectors,
        )
        exact = old.data[wanted].astype(np.float32)
        if element_type == "bfloat16":
            exact = lib.from_bfloat16(old.data[wanted])
        if old.scales is not None:
            exact = exact * old.scales[wanted][:, None]
        exact[~found] = 0
        same("gathered items", device.get(vectors, "float32"), exact)


def _check_gathered(
    setting: Setting,
    name: str,
    data: np.ndarray,
    on_device: Any,
    wanted: np.ndarray,
    put_wanted: Any,
) -> None:
    """Compares the gathered values of one column."""
    missing = np.array([3], data.dtype)
    shape = [len(wanted), *data.shape[1:]]
    gathered = setting.device.empty(shape, data.dtype.name)
    width = data.shape[1] if data.ndim == 2 else 1
    column = lib.ColumnStruct(
        lib.COLUMN_TYPES.index(name), lib.address(on_device), width
    )
    setting.library.run(
        "lintf_gpu_gather_column",
        column,
        put_wanted,
        len(wanted),
        missing,
        gathered,
    )
    expected = data[wanted].copy()
    expected[wanted < 0] = 3
    same(
        f"gathered {name}",
        setting.device.get(gathered, data.dtype.name),
        expected,
    )


def check_store_codes(setting: Setting) -> None:
    """Codes are laid out from any row on, and the rest stays."""
    random = np.random.default_rng(10)
    for start, count, words in (
        (0, 1, 1),
        (5, 200, 2),
        (64, 64, 8),
        (63, 2, 3),
    ):
        total = start + count + 7
        before = random.integers(0, 1 << 63, [total, words], dtype=np.uint64)
        new = random.integers(0, 1 << 63, [count, words], dtype=np.uint64)
        laid_out = setting.put(lib.interleave_codes(before))
        setting.library.run(
            "lintf_gpu_store_codes",
            setting.put(new),
            start,
            count,
            words,
            laid_out,
        )
        before[start : start + count] = new
        same(
            f"{start} {count} {words}",
            setting.device.get(laid_out, "uint64"),
            lib.interleave_codes(before),
        )


# ---- Streams and memory.


def check_small_workspace(setting: Setting) -> None:
    """Too little scratch memory is an error that says how much there is."""
    random = np.random.default_rng(12)
    items = make_items(random, "float32", 3000, 32)
    queries = random.standard_normal([4, 32]).astype(np.float32)
    search = lib.Search(
        setting.put(queries), 3000, 50, items=setting.put(items.data)
    )
    arrays = setting.library.results(search)
    call = setting.library._call()
    call.workspace_bytes = 0
    code = setting.library._library.lintf_gpu_masked_knn(
        lib.ctypes.byref(call),
        lib.ctypes.byref(search.struct),
        lib.ctypes.byref(lib.results_struct(arrays)),
    )
    assert code == 1, code
    assert b"bytes of free GPU memory" in call.error, call.error
    assert call.needed_bytes > 0, call.needed_bytes


def check_streams(setting: Setting) -> None:
    """Searches on two streams at once do not disturb each other."""
    if not isinstance(setting.device, lib.TorchDevice):
        return
    import torch

    random = np.random.default_rng(13)
    items = make_items(random, "float16", 200_003, 64)
    data = setting.put(items.data)
    parts = [
        setting.put(random.standard_normal([n, 64]).astype(np.float32))
        for n in (1, 16)
    ]
    setting.device.synchronize()

    def search(queries: Any) -> lib.Search:
        return lib.Search(
            queries, 200_003, 100, items=data, element_type="float16"
        )

    expected = [setting.library.search(search(part)) for part in parts]
    streams = [torch.cuda.Stream() for _ in parts]
    runs = []
    for part, stream in zip(parts, streams, strict=True):
        with torch.cuda.stream(stream):
            other = lib.Library(
                pathlib.Path(setting.library._library._name), setting.device
            )
            one = search(part)
            arrays = other.results(one)
            again = other.prepare(
                "lintf_gpu_masked_knn", one.struct, lib.results_struct(arrays)
            )
            runs.append((again, arrays, other, one))
    for _ in range(20):
        for again, *_ in runs:
            again()
    for (_, arrays, other, _), result in zip(runs, expected, strict=True):
        same_results("two streams", other.fetch(arrays), result)


CHECKS: tuple[Check, ...] = (
    check_pack_masks,
    check_list_rows,
    check_filters,
    check_exact_search,
    check_batch_does_not_matter,
    check_extreme_values,
    check_rescoring,
    check_codes,
    check_retrieve,
    check_learned,
    check_rows,
    check_store_codes,
    check_small_workspace,
    check_streams,
)


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What came of a check; `error` is empty if it passed."""

    name: str
    seconds: float
    error: str


def run_checks(setting: Setting, checks: tuple[Check, ...]) -> list[Outcome]:
    """Runs checks, one after another, whatever fails."""
    outcomes = []
    for check in checks:
        begin = time.monotonic()
        error = ""
        try:
            check(setting)
        except Exception:
            error = traceback.format_exc()
        name = check.__name__.removeprefix("check_")
        outcomes.append(Outcome(name, time.monotonic() - begin, error))
        print(
            f"check {name}: {'FAILED' if error else 'passed'} "
            f"({outcomes[-1].seconds:.1f} s)\n{error}",
            end="",
            flush=True,
        )
    return outcomes


def main(arguments: list[str]) -> int:
    """Checks a library: LIBRARY [emulator]; returns 1 if a check failed."""
    emulated = arguments[1:] == ["emulator"]
    device = lib.HostDevice() if emulated else lib.TorchDevice()
    library = lib.Library(pathlib.Path(arguments[0]), device)
    outcomes = run_checks(Setting(library, large=not emulated), CHECKS)
    return 1 if any(outcome.error for outcome in outcomes) else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
