# SPDX-License-Identifier: Apache-2.0
"""Runs served indexes on a GPU and on the CPU, compares and times them.

tests/gpu/tensorflow.sh is its command line.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import pathlib
import statistics
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf

from lintf import ops
from lintf.index.index import Index
from lintf.index.schema import IndexSchema, Quantization, infer_attribute
from lintf.index.served import ServedIndex

Arrays = dict[str, np.ndarray]

GENRES = ["comedy", "drama", "war", "western"]
TAGS = ["long", "new", "old", "short"]
FILTERS = [
    "",
    'genre in ["comedy", "war"]',
    'genre == "drama" and not (year < 1980)',
    'contains_any(tags, ["new", "old"]) and price <= 2.5',
    "year >= 1950 and year < 1951 and fresh",
    "price > 1000",
    "id in [3, 5, 8, 13, 1000000007]",
    "not exists(year)",
]


@dataclasses.dataclass(frozen=True)
class Kind:
    """One index of the checks.

    Attributes:
        name: In the results.
        dtype: Of the embeddings; "none" for codes alone.
        codes: Whether it has codes.
        metric: Of the schema.
        algorithm: Of its searches.
        exact: Whether both devices give the same bits.
    """

    name: str
    dtype: str
    codes: bool
    metric: str
    algorithm: str
    exact: bool


KINDS = [
    Kind("float32", "float32", False, "inner_product", "masked", True),
    Kind("float32, l2", "float32", False, "l2", "prefiltered", True),
    Kind("bfloat16", "bfloat16", False, "cosine", "masked", False),
    Kind("bfloat16, l2", "bfloat16", False, "l2", "auto", True),
    Kind("float16", "float16", False, "inner_product", "prefiltered", False),
    Kind("int8", "int8", False, "cosine", "auto", True),
    Kind("float32 and codes", "float32", True, "cosine", "quantized", True),
    Kind("int8 and codes", "int8", True, "inner_product", "quantized", True),
    Kind("codes alone", "none", True, "cosine", "auto", True),
]


class Loaded:
    """A SavedModel on one device."""

    def __init__(self, path: str, device: str):
        with tf.device(device):
            self._model = tf.saved_model.load(path)
        self.device = device

    def call(self, signature: str, inputs: Arrays) -> Arrays:
        """Runs a signature on arrays, in the dtypes that it takes."""
        outputs = self.run(signature, self.tensors(signature, inputs))
        return {name: value.numpy() for name, value in outputs.items()}

    def tensors(self, signature: str, inputs: Arrays) -> dict[str, tf.Tensor]:
        function = self._model.signatures[signature]
        specs = function.structured_input_signature[1]
        with tf.device("/CPU:0"):
            return {
                name: tf.constant(value, specs[name].dtype)
                for name, value in inputs.items()
            }

    def run(
        self, signature: str, tensors: dict[str, tf.Tensor]
    ) -> dict[str, tf.Tensor]:
        return self._model.signatures[signature](**tensors)

    def tags(self, count: int) -> np.ndarray:
        """No tags for each of `count` items, as updates take them."""
        function = self._model.signatures["update"]
        spec = function.structured_input_signature[1]["attribute_tags"]
        return np.full((count, spec.shape[1]), "", object)

    @property
    def signatures(self) -> list[str]:
        return sorted(self._model.signatures)

    def variable_devices(self) -> dict[str, str]:
        """The device of each variable, by name."""
        state = self._model.state
        variables = {"ids": state.ids, "num_rows": state.num_rows}
        variables["log_offsets"] = state.log_offsets
        for name in ("embeddings", "scales", "codes"):
            if getattr(state, name, None) is not None:
                variables[name] = getattr(state, name)
        for name, column in state.attributes.items():
            variables[f"attributes/{name}"] = column
        return {name: v.device for name, v in variables.items()}

    def variables(self) -> Arrays:
        """The values of the variables that updates change."""
        state = self._model.state
        found = {
            "ids": state.ids.numpy(),
            "num_rows": state.num_rows.numpy(),
            "log_offsets": state.log_offsets.numpy(),
        }
        rows = int(found["num_rows"])
        found["ids"] = found["ids"][:rows]
        for name in ("embeddings", "scales"):
            if getattr(state, name, None) is not None:
                values = getattr(state, name).numpy()[:rows]
                found[name] = values.astype(np.float32)
        for name, column in state.attributes.items():
            found[name] = column.numpy()[:rows]
        return found


class Checks:
    """One index on two devices."""

    def __init__(self, kind: Kind, rows: int, dim: int, devices: list[str]):
        self.kind = kind
        self._rows = rows
        self._dim = dim
        self._devices = devices
        self._rng = np.random.default_rng(len(kind.name))
        self.failures: list[str] = []

    def run(self, folder: str) -> list[dict[str, Any]]:
        """Makes, saves, loads and compares; returns the times."""
        path = os.path.join(folder, self.kind.name.replace(" ", "_"))
        with tf.device("/CPU:0"):
            self._save(path)
        reference, tested = (Loaded(path, d) for d in self._devices)
        wanted = tf.DeviceSpec.from_string(self._devices[1])
        for name, device in tested.variable_devices().items():
            got = tf.DeviceSpec.from_string(device)
            same = (got.device_type, got.device_index) == (
                wanted.device_type,
                wanted.device_index,
            )
            self._expect(same, f"variable {name} is on {device}")
        self._compare_reads(reference, tested)
        for number in range(3):
            self._compare_updates(reference, tested, number)
            self._compare_reads(reference, tested)
        self._compare_errors(reference, tested)
        self._compare_reads(reference, tested)
        before, after = reference.variables(), tested.variables()
        for name, values in before.items():
            self._same(f"variable {name}", values, after[name])
        seen = set(tested.signatures)
        expected = {
            "serving_default",
            "retrieve_by_embedding",
            "lookup",
            "index_stats",
            "update",
            "update_by_embedding",
            "update_attributes",
        }
        self._expect(seen == expected, f"signatures: {sorted(seen)}")
        return [
            self._time(model, batch)
            for batch in (1, 16, 256)
            for model in (reference, tested)
        ]

    def _save(self, path: str) -> None:
        kind = self.kind
        quantization = None
        if kind.codes:
            quantization = Quantization(
                bins=self._dim // 8, repeats=4096 // self._dim, shortlist=200
            )
        attributes = (
            infer_attribute("genre", "category", GENRES * 9),
            infer_attribute("tags", "tags", [TAGS] * 9),
            infer_attribute("year", "int", [], dtype="int16"),
            infer_attribute("price", "float", []),
            infer_attribute("fresh", "bool", []),
        )
        schema = IndexSchema(
            dim=self._dim,
            metric=kind.metric,
            dtype=kind.dtype,
            quantization=quantization,
            attributes=attributes,
        )
        index = Index(schema, self._rows + 100, log_partitions=2)
        for begin in range(0, self._rows, 8192):
            count = min(8192, self._rows - begin)
            index.append(
                np.arange(begin, begin + count) * 3,
                self._vectors(count),
                {
                    "genre": self._some(GENRES, count),
                    "tags": [
                        list(self._rng.choice(TAGS, 2, replace=False))
                        for _ in range(count)
                    ],
                    "year": self._some(list(range(1940, 2020)), count),
                    "price": self._rng.integers(0, 40, count) / 8,
                    "fresh": self._some([True, False], count),
                },
            )
        ServedIndex(
            index,
            k=100,
            algorithm=kind.algorithm,
            return_attributes=["genre", "tags", "year", "price", "fresh"],
        ).save(path)

    def _some(self, values: list[Any], count: int) -> list[Any]:
        """Random ones of the values, and None now and then."""
        picks = self._rng.integers(0, len(values) + 1, count)
        return [values[i] if i < len(values) else None for i in picks]

    def _vectors(self, count: int) -> np.ndarray:
        shape = (count, self._dim)
        return self._rng.standard_normal(shape).astype(np.float32)

    def _compare_reads(self, reference: Loaded, tested: Loaded) -> None:
        for batch in (1, 3, len(FILTERS), 40):
            filters = [FILTERS[i % len(FILTERS)] for i in range(batch)]
            if batch == 1:
                filters = [str(self._rng.choice(FILTERS))]
            inputs = {
                "query_embedding": self._vectors(batch),
                "filter": np.array(filters, object),
            }
            for signature in ("serving_default", "retrieve_by_embedding"):
                a = reference.call(signature, inputs)
                b = tested.call(signature, inputs)
                self._same_results(a, b, f"{signature} of {batch}")
                c = tested.call(signature, inputs)
                for name, values in b.items():
                    self._same(f"{signature} again, {name}", values, c[name])
        ids = np.array([0, 3, 4, -1, 3 * self._rows, 30, 3, 10**9])
        a = reference.call("lookup", {"id": ids})
        b = tested.call("lookup", {"id": ids})
        for name, values in a.items():
            self._same(f"lookup {name}", values, b[name])
        a = reference.call("index_stats", {"probe": np.zeros(2)})
        b = tested.call("index_stats", {"probe": np.zeros(2)})
        for name, values in a.items():
            if not name.startswith("searches_"):
                self._same(f"index_stats {name}", values, b[name])

    def _compare_updates(
        self, reference: Loaded, tested: Loaded, number: int
    ) -> None:
        count = [1, 7, 300][number]
        # Items that are there, that were deleted and that are new.
        ids = 3 * self._rng.integers(0, self._rows, count)
        ids[::5] = 10**9 + np.arange(len(ids[::5])) % 60
        offsets = np.full(count, -1)
        previous = np.full(count, -1)
        offsets[-1] = number
        previous[-1] = number - 1
        inputs = {
            "id": ids,
            "delete": self._rng.random(count) < 0.4,
            "embedding": self._vectors(count),
            "attribute_genre": self._rng.choice(GENRES, count).astype(object),
            "attribute_tags": tested.tags(count),
            "attribute_year": self._rng.integers(1940, 2020, count),
            "attribute_price": self._rng.integers(0, 40, count) / 8,
            "attribute_fresh": self._rng.integers(-1, 2, count),
            "log_partition": np.ones(count),
            "log_previous_offset": previous,
            "log_offset": offsets,
        }
        inputs["attribute_tags"][:, 0] = self._rng.choice(TAGS, count)
        self._update(reference, tested, "update", inputs)
        del inputs["delete"], inputs["embedding"]
        inputs["log_offset"] = inputs["log_previous_offset"] = np.full(
            count, -1
        )
        inputs["attribute_year"] = inputs["attribute_year"] + 1
        self._update(reference, tested, "update_attributes", inputs)

    def _update(
        self, reference: Loaded, tested: Loaded, signature: str, inputs: Arrays
    ) -> None:
        a = reference.call(signature, inputs)
        b = tested.call(signature, inputs)
        for name, values in a.items():
            self._same(f"{signature} {name}", values, b[name])

    def _compare_errors(self, reference: Loaded, tested: Loaded) -> None:
        count = 400
        ids = 2 * 10**9 + np.arange(count)
        zeros = np.zeros(count)
        update = {
            "id": ids,
            "delete": zeros,
            "embedding": self._vectors(count),
            "attribute_genre": np.full(count, "war", object),
            "attribute_tags": tested.tags(count),
            "attribute_year": zeros,
            "attribute_price": zeros,
            "attribute_fresh": zeros,
            "log_partition": zeros,
            "log_previous_offset": zeros - 1,
            "log_offset": zeros - 1,
        }
        query = {
            "query_embedding": self._vectors(1),
            "filter": np.array(["year >"], object),
        }
        nan = np.full((1, self._dim), np.nan)
        wide = self._vectors(1)[:, 1:]
        one = {name: values[:1] for name, values in update.items()}
        offset = np.array([7])
        bad_log = {"log_offset": offset + 1, "log_previous_offset": offset}
        no_filter = {"filter": np.array([""], object)}
        search = "retrieve_by_embedding"
        cases: list[tuple[str, str, Arrays]] = [
            ("the index is full", "update", update),
            ("must be finite", "update", {**one, "embedding": nan}),
            ("stands at offset -1", "update", {**one, **bad_log}),
            ("expected a value", search, query),
            ("must be finite", search, {"query_embedding": nan, **no_filter}),
            ("expected shape", search, {"query_embedding": wide, **no_filter}),
        ]
        for words, signature, inputs in cases:
            a = self._error(reference, signature, inputs)
            b = self._error(tested, signature, inputs)
            # Around the words TensorFlow puts names of nodes and devices.
            same = a[0] == b[0] and words in a[1] and words in b[1]
            self._expect(same, f"an error should say {words!r}: {a}, {b}")

    @staticmethod
    def _error(
        model: Loaded, signature: str, inputs: Arrays
    ) -> tuple[str, str]:
        try:
            model.call(signature, inputs)
        except tf.errors.OpError as error:
            return type(error).__name__, error.message
        return "none", ""

    def _same_results(self, a: Arrays, b: Arrays, what: str) -> None:
        """Compares results; the order of near-equal scores may differ."""
        if self.kind.exact:
            for name, values in a.items():
                self._same(f"{what}, {name}", values, b[name])
            return
        self._same(f"{what}, num_results", a["num_results"], b["num_results"])
        close = np.isclose(a["scores"], b["scores"], rtol=1e-4, atol=1e-4)
        close |= np.isneginf(a["scores"]) & np.isneginf(b["scores"])
        self._expect(bool(close.all()), f"{what}: scores differ")
        other = 0
        for x, y in zip(a["ids"], b["ids"], strict=True):
            other += len(set(x.tolist()) - set(y.tolist()))
        # Ties of the last places may fall otherwise.
        limit = max(1, a["ids"].size // 200)
        self._expect(other <= limit, f"{what}: {other} other ids")

    def _same(self, what: str, a: Any, b: Any) -> None:
        a, b = np.asarray(a), np.asarray(b)
        same = a.shape == b.shape and a.dtype == b.dtype
        if same and a.dtype.kind == "f":
            same = bool(((a == b) | (np.isnan(a) & np.isnan(b))).all())
        elif same:
            same = bool((a == b).all())
        self._expect(same, f"{what} differs")

    def _expect(self, condition: bool, what: str) -> None:
        if not condition:
            self.failures.append(f"{self.kind.name}: {what}")

    def _time(self, model: Loaded, batch: int) -> dict[str, Any]:
        """The median time of a call of `retrieve_by_embedding`."""
        tensors = model.tensors(
            "retrieve_by_embedding",
            {
                "query_embedding": self._vectors(batch),
                "filter": np.full(batch, FILTERS[1], object),
            },
        )

        def call() -> None:
            model.run("retrieve_by_embedding", tensors)["ids"].numpy()

        return {
            "index": self.kind.name,
            "device": model.device,
            "batch": batch,
            "median_ms": round(1e3 * _median_seconds(call), 4),
        }


def _median_seconds(call: Callable[[], None]) -> float:
    """The median of calls for about a second, after a few to warm up."""
    for _ in range(3):
        call()
    seconds = []
    end = time.perf_counter() + 1
    while len(seconds) < 5 or (
        len(seconds) < 300 and time.perf_counter() < end
    ):
        begin = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - begin)
    return statistics.median(seconds)


def _devices(dry: bool) -> list[str]:
    if dry:
        cpu = tf.config.list_physical_devices("CPU")[0]
        two = [tf.config.LogicalDeviceConfiguration()] * 2
        tf.config.set_logical_device_configuration(cpu, two)
        return ["/CPU:0", "/CPU:1"]
    if not tf.config.list_physical_devices("GPU"):
        sys.exit("TensorFlow must see a GPU, got none; see its log, or --dry")
    return ["/CPU:0", "/GPU:0"]


def _table(results: dict[str, Any]) -> str:
    lines = [
        "# The served index in TensorFlow on a GPU",
        "",
        f"{results['rows']} rows of {results['dim']} dimensions, top 100, one "
        "filter; the median time of a call of `retrieve_by_embedding` from "
        f"Python, milliseconds. {results['gpu']}, TensorFlow "
        f"{results['tensorflow']}.",
        "",
        "| index | device | batch | ms |",
        "|---|---|---|---|",
    ]
    for row in results["times"]:
        lines.append(
            f"| {row['index']} | {row['device']} | {row['batch']} | "
            f"{row['median_ms']} |"
        )
    lines += ["", f"{len(results['failures'])} failures."]
    lines += [f"- {failure}" for failure in results["failures"]]
    return "\n".join(lines) + "\n"


def _gpu_name(dry: bool) -> str:
    if dry:
        return "No GPU (a dry run)"
    gpu = tf.config.list_physical_devices("GPU")[0]
    details = tf.config.experimental.get_device_details(gpu)
    return str(details.get("device_name", "an unknown GPU"))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--dry", action="store_true")
    parser.add_argument("--rows", type=int, default=0)
    parser.add_argument("--only", default="", help="a part of kinds' names")
    arguments = parser.parse_args()
    dry = arguments.dry
    devices = _devices(dry)
    rows = arguments.rows or (1500 if dry else 200_000)
    dim = 32 if dry else 128
    results: dict[str, Any] = {
        "rows": rows,
        "dim": dim,
        "gpu": _gpu_name(dry),
        "tensorflow": tf.__version__,
        "times": [],
        "failures": [],
    }
    # A library without kernels for a GPU would leave everything on the CPU.
    if not dry and not _has_gpu_kernels():
        sys.exit("the op library must have GPU code, got one without")
    with tempfile.TemporaryDirectory() as folder:
        for kind in KINDS:
            if arguments.only not in kind.name:
                continue
            begin = time.perf_counter()
            checks = Checks(kind, rows, dim, devices)
            try:
                results["times"] += checks.run(folder)
            except Exception:
                traceback.print_exc()
                checks.failures.append(f"{kind.name}: did not run to its end")
            results["failures"] += checks.failures
            seconds = round(time.perf_counter() - begin)
            failed = len(checks.failures)
            print(f"{kind.name}: {failed} failures, {seconds} s", flush=True)
    table = _table(results)
    out = os.environ.get("OUT") or ("" if dry else "benchmarks/results")
    if out:
        folder_out = pathlib.Path(out)
        folder_out.mkdir(parents=True, exist_ok=True)
        text = json.dumps(results, indent=1) + "\n"
        (folder_out / "gpu_tensorflow.json").write_text(text)
        (folder_out / "gpu_tensorflow.md").write_text(table)
    print(table)
    return 1 if results["failures"] else 0


def _has_gpu_kernels() -> bool:
    from tensorflow.python.framework import kernels

    assert ops.retrieve
    found = kernels.get_registered_kernels_for_op("Lintf>Retrieve").kernel
    return any(kernel.device_type == "GPU" for kernel in found)


if __name__ == "__main__":
    sys.exit(main())
