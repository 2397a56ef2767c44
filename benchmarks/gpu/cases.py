# SPDX-License-Identifier: Apache-2.0
"""The cases of the table: the paper's shapes, and those of its peers.

Each function makes its data on the card, checks a result where that is cheap,
and returns rows for the table. Sizes shrink to the memory that is free.
"""

from __future__ import annotations

import dataclasses
import functools
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from benchmarks.gpu import limits, peers
from benchmarks.gpu.card import Card, TorchCard
from benchmarks.gpu.report import Row
from lintf.similarity.spec import SimilaritySpec
from tests.gpu import library as lib
from tests.gpu import programs

# Values of each attribute, drawn evenly.
_VALUES = 64


@dataclasses.dataclass
class Bench:
    """What the cases share.

    Attributes:
      card: Where they run.
      library: The functions that are measured.
      scale: 1 has the sizes of the table; less is for tests.
      seconds: About how long to time one call.
    """

    card: Card
    library: lib.Library
    scale: float = 1.0
    seconds: float = 0.6

    @functools.cached_property
    def bandwidth(self) -> float:
        """Bytes that a copy reads and writes in a second."""
        return self.card.copy_bandwidth()

    def size(self, rows: float, bytes_of_row: float, reserve: int = 6) -> int:
        """As many rows as are wanted, or as fit beside `reserve` GiB."""
        free = self.card.free_bytes() - (reserve << 30) * self.scale
        fitting = int(free / bytes_of_row)
        return max(min(int(rows * self.scale), fitting), 1000) // 64 * 64

    def results_of(
        self, search: lib.Search, name: str, ids: bool = False
    ) -> tuple[Callable[[], None], dict[str, Any]]:
        """Prepares a search; returns its call and its results' arrays."""
        arrays = self.library.results(search, ids=ids)
        call = self.library.prepare(
            name, search.struct, lib.results_struct(arrays)
        )
        return call, arrays


def _queries(bench: Bench, count: int, dim: int) -> Any:
    return bench.card.normal((count, dim), "float32")


def _missing(note: str, rows: int, wanted: float) -> str:
    """Adds to a note that there are fewer rows than were wanted."""
    if rows >= int(wanted) // 64 * 64:
        return note
    return f"{rows:,} rows fit; {note}".rstrip("; ")


# ---- Filters.


def _own_filters(
    random: np.random.Generator, count: int, low: bool
) -> tuple[np.ndarray, float]:
    """Draws a filter for each query; returns programs and their pass rate.

    About 11 % pass 2 clauses, one of them reversed; about 1 in 4,000 passes 3
    clauses, one of them reversed.
    """
    bodies = []
    for _ in range(count):

        def draw(number: int) -> list[int]:
            values = random.permutation(_VALUES)[:number]
            return [int(value) for value in values]

        if low:
            bodies.append(
                programs.all_of(
                    programs.in_table(0, draw(1)),
                    programs.in_table(1, draw(2)),
                    programs.negated(programs.in_table(2, draw(32))),
                )
            )
        else:
            bodies.append(
                programs.all_of(
                    programs.in_table(0, draw(8)),
                    programs.negated(programs.in_table(1, draw(8))),
                )
            )
    rate = 1 / 64 * 2 / 64 / 2 if low else 8 / 64 * 56 / 64
    return programs.pack(bodies), rate


def _torch_passes(
    columns: Sequence[tuple[str, Any]], packed: np.ndarray, low: bool
) -> Callable[[], Any]:
    """The same filters by torch: bool [num_queries, rows] when called."""
    import torch

    clauses = 3 if low else 2
    tables = torch.zeros(
        [len(packed), clauses, 256], dtype=torch.bool, device="cuda"
    )
    for b, words in enumerate(packed):
        place = 1
        for clause in range(clauses):
            # A header and its table; `not` follows the last leaf, `and` each
            # but the first.
            payload = words[place + 1 : place + 5].astype(np.int64)
            bits = np.unpackbits(payload.view(np.uint8), bitorder="little")
            reverse = clause == clauses - 1
            tables[b, clause] = torch.from_numpy(bits.astype(bool) ^ reverse)
            place += 5 + reverse + (clause > 0)

    def call() -> Any:
        indices = [data.long() for _, data in columns[:clauses]]
        passing = tables[:, 0][:, indices[0]]
        for clause in range(1, clauses):
            passing = passing & tables[:, clause][:, indices[clause]]
        return passing

    return call


def _paper_index(bench: Bench, rows: int) -> dict[str, Any]:
    """15.5 M x 128 bfloat16 with three attributes, as the paper has them."""
    return {
        "items": bench.card.normal((rows, 128), "bfloat16"),
        "columns": [
            ("uint8", bench.card.integers(_VALUES, rows, "uint8"))
            for _ in range(3)
        ],
        "ids": bench.card.sequence(rows),
    }


def _agrees_with_torch(
    bench: Bench, arrays: dict[str, Any], peer: Callable[[], Any]
) -> str:
    """Compares scores with torch's; returns a note if they differ."""
    if not isinstance(bench.card, TorchCard):
        return ""
    got = bench.library.fetch(arrays)
    expected = peer()[0].float().cpu().numpy()
    scores, counts = got["scores"], got["counts"]
    for b in range(len(scores)):
        count = int(counts[b])
        error = np.abs(scores[b, :count] - expected[b, :count]).max(initial=0)
        # torch rounds the query and the sums to the type of the rows.
        largest = np.abs(scores[b, :count]).max(initial=1e-9)
        if error > 0.02 * largest:
            return f"query {b} is off torch's scores by {error:.3g}"
    return ""


def filtered(bench: Bench) -> list[Row]:
    """The paper's table: own filter per query, top 2000."""
    wanted = 15_500_000 * bench.scale
    rows = bench.size(15_500_000, 128 * 2 + 3 + 8 + 64)
    k = min(2000, rows)
    index = _paper_index(bench, rows)
    random = np.random.default_rng()
    bars = {
        (False, 1): 0.4,
        (False, 16): 2.2,
        (True, 1): 0.12,
        (True, 16): 0.4,
    }
    table = []
    for (low, count), bar in bars.items():
        packed, rate = _own_filters(random, count, low)
        queries = _queries(bench, count, 128)
        search = lib.Search(
            queries,
            rows,
            k,
            items=index["items"],
            element_type="bfloat16",
            algorithm="auto",
            programs=packed,
            columns=index["columns"],
            ids=index["ids"],
        )
        call, arrays = bench.results_of(search, "lintf_gpu_retrieve", ids=True)
        timing = bench.card.time(call, seconds=bench.seconds)
        name = "low pass, 3 clauses" if low else "11 % pass, 2 clauses"
        row = Row(
            f"15.5M x 128 bf16, {name}, own filters, top 2000, B={count}",
            timing.gpu * 1e3,
            bar=bar,
            bytes=limits.filtered_bytes(
                rows,
                128,
                "bfloat16",
                limits.union_rate(rate, count),
                3 if low else 2,
            ),
            seconds=timing.gpu,
            wall=timing.wall,
        )
        note = ""
        if isinstance(bench.card, TorchCard):
            peer = peers.torch_search(
                queries,
                index["items"],
                k,
                _torch_passes(index["columns"], packed, low),
            )
            row.peers, note = peers.time_peers(
                bench.card, {"torch": lambda peer=peer: peer}
            )
            if "torch" in row.peers:
                row.error = _agrees_with_torch(bench, arrays, peer)
        row.note = _missing(note, rows, wanted)
        table.append(row)
    return table


# ---- Scans.


def scans(bench: Bench) -> list[Row]:
    """Every row of 15.5 M, every dtype: the memory's speed."""
    table = []
    for element_type in lib.ELEMENT_TYPES:
        wanted = 15_500_000 * bench.scale
        of_row = limits.row_bytes(128, element_type)
        rows = bench.size(15_500_000, of_row)
        items = bench.card.normal((rows, 128), element_type)
        scales = None
        if element_type == "int8":
            scales = bench.card.normal((rows, 1), "float32")
            scales = abs(scales)
        for count in (1, 4):
            search = lib.Search(
                _queries(bench, count, 128),
                rows,
                100,
                items=items,
                element_type=element_type,
                scales=scales,
            )
            call, _ = bench.results_of(search, "lintf_gpu_masked_knn")
            timing = bench.card.time(call, seconds=bench.seconds)
            moved = limits.scan_bytes(rows, 128, element_type)
            table.append(
                Row(
                    f"15.5M x 128 {element_type}, no filter, k=100, B={count}",
                    100 * moved / timing.gpu / bench.bandwidth,
                    unit="% of copy",
                    bar=80,
                    at_least=True,
                    bytes=moved,
                    seconds=timing.gpu,
                    wall=timing.wall,
                    note=_missing(f"{timing.gpu * 1e3:.3g} ms", rows, wanted),
                )
            )
        del items, scales
    return table


def one_million(bench: Bench) -> list[Row]:
    """1 M x 128: one float32 query; a large batch of bfloat16."""
    rows = bench.size(1_000_000, 128 * 4 + 64)
    table = []
    items = bench.card.normal((rows, 128), "float32")
    queries = _queries(bench, 1, 128)
    call, arrays = bench.results_of(
        lib.Search(queries, rows, 100, items=items), "lintf_gpu_masked_knn"
    )
    timing = bench.card.time(call, seconds=bench.seconds)
    row = Row(
        "1M x 128 f32, no filter, k=100, B=1",
        timing.gpu * 1e3,
        bar=0.20,
        bytes=limits.scan_bytes(rows, 128, "float32"),
        seconds=timing.gpu,
        wall=timing.wall,
    )
    calls = {
        name: functools.partial(search, queries, items, 100)
        for name, search in (
            ("torch", peers.torch_search),
            ("cupy", peers.cupy_search),
            ("FAISS", peers.faiss_search),
            ("cuVS", peers.cuvs_search),
        )
    }
    row.peers, row.note = peers.time_peers(bench.card, calls)
    table.append(row)

    batch = 1024 if bench.scale == 1 else 40
    for element_type in ("bfloat16", "float16"):
        items = bench.card.normal((rows, 128), element_type)
        queries = _queries(bench, batch, 128)
        calls = {
            "torch": functools.partial(peers.torch_search, queries, items, 100)
        }
        times, note = peers.time_peers(bench.card, calls)
        for precision in lib.PRECISIONS:
            search = lib.Search(
                queries,
                rows,
                100,
                items=items,
                element_type=element_type,
                precision=precision,
            )
            call, arrays = bench.results_of(search, "lintf_gpu_masked_knn")
            timing = bench.card.time(call, seconds=bench.seconds)
            flops = 2 * batch * rows * 128 / timing.gpu
            row = Row(
                f"1M x 128 {element_type}, k=100, B={batch}, "
                f"queries in {precision} precision",
                timing.gpu * 1e3,
                seconds=timing.gpu,
                wall=timing.wall,
                peers=times,
                note=f"{flops * 1e-12:.0f} TFLOP/s {note}".rstrip(),
            )
            if times:
                row.value, row.unit = times["torch"] / timing.gpu, "x torch"
                row.bar = 5 if element_type == "bfloat16" else None
                row.at_least = True
                row.note = f"{timing.gpu * 1e3:.3g} ms; {row.note}"
            if times:
                row.error = _agrees_with_torch(bench, arrays, calls["torch"]())
            table.append(row)
    return table


# ---- Codes.


def _word_vectors(bench: Bench, rows: int) -> tuple[Any, np.ndarray]:
    """Unit rows like GloVe's: their spectrum falls off as its does."""
    random = np.random.default_rng(17)
    turn, _ = np.linalg.qr(random.standard_normal([128, 128]))
    mixing = turn / np.sqrt(1 + np.arange(128))[:, None]
    return bench.card.spectrum(rows, 128, mixing), mixing


def rescoring(bench: Bench) -> list[Row]:
    """512-bit codes, 1 % kept and rescored, against all rows scored."""
    wanted = 15_500_000 * bench.scale
    rows = bench.size(15_500_000, 256 + 64 + 32)
    k = min(2000, rows // 100)
    items, mixing = _word_vectors(bench, rows)
    projection = bench.library.project(
        np.eye(128, dtype=np.float32), 32, 16, seed=5
    )
    codes = bench.card.encode(items, projection)
    random = np.random.default_rng()
    host = (random.standard_normal([4, 128]) @ mixing).astype(np.float32)
    host /= np.linalg.norm(host, axis=1, keepdims=True)
    table = []
    for count in (1, 4):
        queries = bench.library.device.put(host[:count])
        samples = bench.library.device.put(
            bench.library.project(host[:count], 32, 16, seed=5)
        )
        common = dict(
            items=items,
            element_type="float16",
            samples=samples,
            codes=codes,
            code_words=8,
            scoring="asymmetric",
            shortlist=rows // 100,
        )
        exact, exact_arrays = bench.results_of(
            lib.Search(queries, rows, k, algorithm="masked", **common),
            "lintf_gpu_retrieve",
        )
        exact_time = bench.card.time(exact, seconds=bench.seconds)
        best = bench.library.fetch(exact_arrays)["rows"]
        for scoring in lib.SCORINGS:
            common["scoring"] = scoring
            call, arrays = bench.results_of(
                lib.Search(queries, rows, k, algorithm="quantized", **common),
                "lintf_gpu_retrieve",
            )
            timing = bench.card.time(call, seconds=bench.seconds)
            found = bench.library.fetch(arrays)["rows"]
            recall = np.mean(
                [
                    len(set(f.tolist()) & set(b.tolist())) / k
                    for f, b in zip(found, best, strict=True)
                ]
            )
            table.append(
                Row(
                    f"15.5M x 512-bit codes, {scoring}, 1 % rescored, "
                    f"top {k}, B={count}",
                    timing.gpu / exact_time.gpu,
                    unit="x masked",
                    bar=0.4,
                    bytes=count * limits.code_bytes(rows, 8, rows // 100)
                    + count * rows // 100 * 256,
                    seconds=timing.gpu,
                    wall=timing.wall,
                    note=_missing(
                        f"{timing.gpu * 1e3:.3g} ms, masked "
                        f"{exact_time.gpu * 1e3:.3g} ms",
                        rows,
                        wanted,
                    ),
                )
            )
            table.append(
                Row(
                    f"... {scoring}, B={count}, recall of exact",
                    float(recall),
                    unit="",
                    bar=0.99,
                    at_least=True,
                )
            )
    return table


def many_codes(bench: Bench) -> list[Row]:
    """1e9 x 64-bit codes, the best 50 M of them (member notifications)."""
    wanted = 1_000_000_000 * bench.scale
    rows = bench.size(1_000_000_000, 8 + 2 + 2)
    k = max(rows // 20, 1)
    codes = bench.card.integers(0, rows, "int64")
    queries = _queries(bench, 1, 64)
    samples = queries
    search = lib.Search(
        queries, rows, k, samples=samples, codes=codes, code_words=1
    )
    device = bench.library.device
    found = device.empty([1, k], "int64")
    counts = device.empty([1], "int64")
    table = []
    for order in lib.CODE_ORDERS:
        call = bench.library.prepare(
            "lintf_gpu_code_knn",
            search.struct,
            lib.CODE_ORDERS.index(order),
            None,
            found,
            counts,
        )
        timing = bench.card.time(call, seconds=bench.seconds, max_runs=30)
        table.append(
            Row(
                f"1e9 x 64-bit codes, top 50M rows, {order}, one query",
                timing.gpu * 1e3,
                bar=15,
                bytes=limits.code_bytes(rows, 1, k),
                seconds=timing.gpu,
                wall=timing.wall,
                note=_missing("", rows, wanted),
            )
        )
    held = rows * 8 + k * 8 + bench.library.workspace_bytes
    table.append(
        Row(
            "... memory, returning rows: codes, rows, scratch",
            held / 1e9,
            unit="GB",
            bar=12,
            note=_missing("", rows, wanted),
        )
    )
    best = device.get(found, "int64")[0]
    error = ""
    if best[0] < 0 or best[-1] >= rows or (np.diff(best) <= 0).any():
        error = "the rows that were found are not different rows in order"
    del found
    ids = bench.card.sequence(rows)
    search = lib.Search(
        queries,
        rows,
        k,
        samples=samples,
        codes=codes,
        code_words=1,
        ids=ids,
        algorithm="quantized",
    )
    call, _ = bench.results_of(search, "lintf_gpu_retrieve", ids=True)
    timing = bench.card.time(call, seconds=bench.seconds, max_runs=20)
    held = rows * 16 + k * (4 + 8 + 8) + bench.library.workspace_bytes
    table.append(
        Row(
            "... with scores and int64 ids, best first",
            timing.gpu * 1e3,
            seconds=timing.gpu,
            wall=timing.wall,
            note=_missing("", rows, wanted),
            error=error,
        )
    )
    table.append(
        Row(
            "... memory, with scores and ids: all of it",
            held / 1e9,
            unit="GB",
            bar=20,
            note=_missing("", rows, wanted),
        )
    )
    return table


# ---- Learned similarities.


def _mixture(
    bench: Bench, budget: int
) -> tuple[SimilaritySpec, lib.Similarity]:
    """Mixture of logits, 8 x 4 components of 32 numbers."""
    spec = SimilaritySpec(
        query_components=8,
        item_components=4,
        component_dim=32,
        temperature=0.05,
        gate="silu_softmax",
        gate_hidden=128 if bench.scale == 1 else 4,
    )
    random = np.random.default_rng(23)
    weights = [
        bench.library.device.put(
            (0.1 * random.standard_normal(shape)).astype(np.float32)
        )
        for shape in spec.weight_shapes().values()
    ]
    return spec, lib.Similarity(weights, **spec.to_dict(), budget=budget)


def learned(bench: Bench) -> list[Row]:
    """1 M rows by a mixture of logits, against an inner product of 128."""
    wanted = 1_000_000 * bench.scale
    spec, similarity = _mixture(bench, budget=4000)
    rows = bench.size(1_000_000, spec.item_dim * 4 + 128 * 4 + 64)
    k = min(100, rows)
    operations = limits.mixture_operations(spec.pairs, 32, spec.gate_hidden)
    table = []
    for element_type in ("float32", "bfloat16"):
        plain = bench.card.normal((rows, 128), element_type)
        items = bench.card.normal((rows, spec.item_dim), element_type)
        for count in (1, 16 if bench.scale == 1 else 2):
            dot, _ = bench.results_of(
                lib.Search(
                    _queries(bench, count, 128),
                    rows,
                    k,
                    items=plain,
                    element_type=element_type,
                ),
                "lintf_gpu_masked_knn",
            )
            dot_time = bench.card.time(dot, seconds=bench.seconds)
            # About as long as components of length 1.
            queries = _queries(bench, count, spec.query_dim) / 32
            best = None
            for algorithm in ("exact", "bounded", "two_stage"):
                search = lib.Search(
                    queries,
                    rows,
                    k,
                    items=items,
                    element_type=element_type,
                    algorithm=algorithm,
                    similarity=similarity,
                )
                arrays = bench.library.results(search, scored=True)
                call = bench.library.prepare(
                    "lintf_gpu_retrieve",
                    search.struct,
                    lib.results_struct(arrays),
                )
                timing = bench.card.time(call, seconds=bench.seconds)
                found = bench.library.fetch(arrays)
                best = found["rows"] if best is None else best
                scored = float(found["num_scored"].mean())
                error = ""
                if algorithm == "bounded" and (found["rows"] != best).any():
                    error = "bounded does not have the rows of exact"
                recall = np.mean(
                    [
                        len(set(f.tolist()) & set(b.tolist())) / k
                        for f, b in zip(found["rows"], best, strict=True)
                    ]
                )
                rate = operations * scored * count / timing.gpu
                table.append(
                    Row(
                        f"1M x 8x4x32 {element_type}, {algorithm}, k=100, "
                        f"B={count}",
                        timing.gpu / dot_time.gpu,
                        unit="x dot of 128",
                        bar=2.0 if algorithm == "two_stage" else None,
                        bytes=limits.scan_bytes(
                            rows, spec.item_dim, element_type
                        ),
                        seconds=timing.gpu,
                        wall=timing.wall,
                        note=_missing(
                            f"{timing.gpu * 1e3:.3g} ms, dot "
                            f"{dot_time.gpu * 1e3:.3g} ms; {scored:,.0f} "
                            f"scored, {rate * 1e-12:.2f} T operations/s; "
                            f"recall {recall:.3f} on random vectors",
                            rows,
                            wanted,
                        ),
                        error=error,
                    )
                )
        del plain, items
    return table


# ---- As much as fits; updates.


def large(bench: Bench) -> list[Row]:
    """260 M x 128 float16 with attributes, on a card of 80 GB."""
    rows = bench.size(260_000_000, 128 * 2 + 3 + 1 / 4, reserve=3)
    items = bench.card.normal((rows, 128), "float16")
    columns = [
        ("uint8", bench.card.integers(_VALUES, rows, "uint8")) for _ in range(3)
    ]
    host = np.full(128, 0.5, np.float32)
    # Better than any row that is drawn, at both ends and past 2^31 elements.
    planted = sorted({0, rows // 2, rows - 70, rows - 1})
    for place, row in enumerate(planted):
        bench.card.set_row(items, row, host * (8 - place))
    queries = bench.library.device.put(host[None, :])
    table = []
    for algorithm in ("masked", "prefiltered"):
        packed = programs.pack([programs.in_range(0, 0, _VALUES - 1)])
        search = lib.Search(
            queries,
            rows,
            100,
            items=items,
            element_type="float16",
            algorithm=algorithm,
            programs=packed,
            columns=columns,
        )
        call, arrays = bench.results_of(search, "lintf_gpu_retrieve")
        timing = bench.card.time(call, seconds=bench.seconds, max_runs=5)
        found = bench.library.fetch(arrays)["rows"][0, : len(planted)]
        right = found.tolist() == planted
        table.append(
            Row(
                f"{algorithm}, 260M x 128 f16 and 3 attributes, B=1",
                rows / 1e6,
                unit="M rows",
                bar=260 * bench.scale if bench.card.name == "emulator" else 260,
                at_least=True,
                bytes=limits.filtered_bytes(rows, 128, "float16", 1.0, 1),
                seconds=timing.gpu,
                wall=timing.wall,
                note=f"{timing.gpu * 1e3:.3g} ms",
                error="" if right else f"rows {found}, expected {planted}",
            )
        )
    return table


def updates(bench: Bench, duration: float = 1.5) -> list[Row]:
    """Searches one after another, with updates between them."""
    rows = bench.size(15_500_000, 128 * 2 + 3 + 8 + 64)
    index = _paper_index(bench, rows)
    random = np.random.default_rng()
    tables = lib.tables_struct(
        ids=index["ids"],
        items=index["items"],
        element_type="bfloat16",
        dim=128,
        columns=index["columns"],
    )
    live = bench.library.device.put(
        np.full((rows + 63) // 64, ~np.uint64(0), np.uint64)
    )
    item = lib.to_bfloat16(random.standard_normal([1, 128]).astype("f4"))
    values = [np.zeros(1, np.uint8) for _ in range(3)]
    packed, _ = _own_filters(random, 1, low=False)
    low_packed, _ = _own_filters(random, 1, low=True)
    queries = _queries(bench, 1, 128)
    device = bench.library.device
    kinds = {
        "masked": (packed, 650.0),
        "prefiltered": (low_packed, 1500.0),
    }
    table = []
    if bench.scale < 1:
        duration = 0.2
    for algorithm, (program, bar) in kinds.items():
        alone = 0.0
        for rate in (0, 300, 600):
            search = lib.Search(
                queries,
                rows,
                min(2000, rows),
                items=index["items"],
                element_type="bfloat16",
                algorithm=algorithm,
                programs=program,
                columns=index["columns"],
                ids=index["ids"],
                live=live,
            )
            call, _ = bench.results_of(search, "lintf_gpu_retrieve", ids=True)
            call()
            device.synchronize()
            begin = time.perf_counter()
            done = stored = 0
            while (now := time.perf_counter() - begin) < duration:
                while stored < rate * now:
                    row = random.integers(0, rows, 1)
                    bench.library.run(
                        "lintf_gpu_store_rows",
                        tables,
                        lib.contents_struct(
                            row, row, items=item, columns=values
                        ),
                        live,
                    )
                    stored += 1
                call()
                device.synchronize()
                done += 1
            qps = done / (time.perf_counter() - begin)
            alone = alone or qps
            table.append(
                Row(
                    f"15.5M x 128 bf16, {algorithm}, B=1, "
                    f"{rate} updates a second",
                    qps,
                    unit="QPS",
                    bar=bar,
                    at_least=True,
                    note=f"{qps / alone:.1%} of the rate without updates",
                )
            )
    return table


# In the order of the table; what needs the most memory is last.
CASES: dict[str, Callable[[Bench], list[Row]]] = {
    "filtered": filtered,
    "one_million": one_million,
    "scans": scans,
    "rescoring": rescoring,
    "learned": learned,
    "updates": updates,
    "many_codes": many_codes,
    "large": large,
}
