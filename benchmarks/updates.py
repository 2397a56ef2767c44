# SPDX-License-Identifier: Apache-2.0
r"""What live updates cost the queries that run meanwhile.

    python -m benchmarks.updates

One thread queries as fast as it can while another upserts at a steady rate, in
batches; rates take turns in an order drawn anew in every round, so that what
disturbs the machine disturbs all alike. Beside it: how soon an upsert is
found, the memory that updates take, and a long life of churn.
"""

from __future__ import annotations

import json
import math
import pathlib
import random
import statistics
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import tensorflow as tf
from absl import app, flags

from benchmarks import machine, synthetic
from benchmarks.engines.lintf_engine import attributes_of, make_index
from lintf import Index, ServedIndex

_RESULTS = pathlib.Path(__file__).parent / "results"
# Upserts a second; those of LiNR's own measurement, and many more.
_RATES = (0, 300, 600, 3_000)
_BATCH = 100
_K = 100
# Of Student's distribution at 97.5 %, for some degrees of freedom.
_T = {
    5: 2.57,
    7: 2.36,
    9: 2.26,
    11: 2.20,
    14: 2.14,
    19: 2.09,
    29: 2.05,
    39: 2.02,
    59: 2.0,
}

_ROWS = flags.DEFINE_integer("rows", 1_000_000, "Items.", lower_bound=1_000)
_DIM = flags.DEFINE_integer("dim", 128, "A multiple of 32.", lower_bound=32)
_ROUNDS = flags.DEFINE_integer("rounds", 40, "Rounds.", lower_bound=2)
_SECONDS = flags.DEFINE_float("seconds", 1.0, "A rate's part of a round.")
_CHURN_ROWS = flags.DEFINE_integer("churn_rows", 100_000, "Rows of churn.")
_CHURN = flags.DEFINE_integer("churn", 1_000_000, "Changes of churn.")
_CACHE = flags.DEFINE_string("cache", "build/benchmarks", "Data made once.")
_OUTPUT = flags.DEFINE_string("output", str(_RESULTS), "Where results go.")


def main(argv: Sequence[str]) -> None:
    if len(argv) > 1:
        raise app.UsageError(f"unexpected argument {argv[1]!r}")
    # One core for queries, one for updates.
    tf.config.threading.set_intra_op_parallelism_threads(1)
    items = synthetic.load(_ROWS.value, _DIM.value, pathlib.Path(_CACHE.value))
    served = _Served(make_index(items.vectors, *attributes_of(items)), items)
    result = {
        "rows": _ROWS.value,
        "dim": _DIM.value,
        "k": _K,
        "batch": _BATCH,
        "machine": machine.describe(),
        "lintf": _rates("lintf", served.search, served.batches(64), _RATES),
        "fresh": served.freshness(200),
        "memory": served.memory(200),
    }
    faiss = _faiss(items)
    if faiss is not None:
        result["faiss"] = _rates("FAISS", *faiss, (0, 600))
    result["churn"] = _churn(items)
    output = pathlib.Path(_OUTPUT.value)
    output.mkdir(parents=True, exist_ok=True)
    text = _markdown(result)
    (output / "updates.json").write_text(json.dumps(result, indent=1) + "\n")
    (output / "updates.md").write_text(text)
    print(text)


class _Served:
    """The signatures of an index whose ids are the row numbers."""

    def __init__(self, index: Index, items: synthetic.Items):
        self._items = items
        signatures = ServedIndex(
            index, k=_K, return_attributes=("price",)
        ).signatures()
        self._retrieve = signatures["retrieve_by_embedding"]
        self._update = signatures["update_by_embedding"]
        self._random = np.random.default_rng(0)
        self._next = 0

    def search(self, filter_text: str = "") -> dict[str, tf.Tensor]:
        """One query, another one each time."""
        self._next = (self._next + 1) % len(self._items.queries)
        query = self._items.queries[self._next : self._next + 1]
        return self._retrieve(
            query_embedding=tf.constant(query),
            filter=tf.constant([filter_text]),
        )

    def inputs(
        self,
        ids: np.ndarray,
        delete: np.ndarray | None = None,
        price: np.ndarray | None = None,
    ) -> dict[str, tf.Tensor]:
        """Of `update_by_embedding`: other items' vectors and attributes."""
        count = len(ids)
        rows = self._random.integers(0, len(self._items.vectors), count)
        categories = np.array(synthetic.CATEGORIES, object)
        regions = np.array(synthetic.REGIONS, object)
        if price is None:
            price = self._items.price[rows]
        none = np.full(count, -1, np.int64)
        values = {
            "id": np.asarray(ids, np.int64),
            "delete": np.zeros(count, bool) if delete is None else delete,
            "embedding": self._items.vectors[rows],
            "attribute_category": categories[self._items.category[rows]],
            "attribute_region": regions[self._items.region[rows]],
            "attribute_price": np.asarray(price, np.int64),
            "log_partition": none,
            "log_previous_offset": none,
            "log_offset": none,
        }
        return {name: tf.constant(v) for name, v in values.items()}

    def update(self, inputs: dict[str, tf.Tensor]) -> np.ndarray:
        return self._update(**inputs)["status"].numpy()

    def batches(self, count: int) -> list[Callable[[], Any]]:
        """Upserts of existing items, ready to be called."""
        rows = len(self._items.vectors)
        batches = [
            self.inputs(self._random.choice(rows, _BATCH, replace=False))
            for _ in range(count)
        ]
        return [lambda b=b: self.update(b) for b in batches]

    def freshness(self, count: int) -> dict[str, Any]:
        """Whether an upsert is found by the next query, and its cost."""
        stale, update_ms, search_ms = 0, [], []
        for i in range(count):
            ids = self._random.choice(
                len(self._items.vectors), _BATCH, replace=False
            )
            price = np.full(_BATCH, 20_000 + i)
            inputs = self.inputs(ids, price=price)
            begin = time.perf_counter()
            self.update(inputs)
            middle = time.perf_counter()
            found = self.search(f"id == {ids[-1]} and price == {20_000 + i}")
            stale += int(found["num_results"][0]) != 1
            search_ms.append(1e3 * (time.perf_counter() - middle))
            update_ms.append(1e3 * (middle - begin))
        return {
            "updates": count,
            "not_found": stale,
            "update_ms": statistics.median(update_ms),
            "found_after_ms": statistics.median(search_ms),
        }

    def memory(self, count: int) -> dict[str, Any]:
        """What `count` batches add to the process's memory."""
        batches = self.batches(16)
        before = _memory(reset=True)
        for i in range(count):
            batches[i % 16]()
        after = _memory()
        return {
            "updates": count * _BATCH,
            "table_mb": self._items.vectors.nbytes / 1e6,
            "grown_mb": (after["VmRSS"] - before["VmRSS"]) / 1e6,
            "peak_grown_mb": (after["VmHWM"] - before["VmRSS"]) / 1e6,
        }


class _Writer:
    """Runs updates at a steady rate in a thread of its own."""

    def __init__(self, updates: Sequence[Callable[[], Any]], rate: int):
        self._updates, self._rate = updates, rate
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self.rows = 0

    def __enter__(self) -> _Writer:
        if self._rate:
            self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        if self._rate:
            self._thread.join()

    def _run(self) -> None:
        step = _BATCH / self._rate
        due = time.perf_counter()
        while not self._stop.wait(max(due - time.perf_counter(), 0)):
            self._updates[self.rows // _BATCH % len(self._updates)]()
            self.rows += _BATCH
            due += step


def _rates(
    name: str,
    search: Callable[[], Any],
    updates: Sequence[Callable[[], Any]],
    rates: Sequence[int],
) -> list[dict[str, Any]]:
    """Queries a second at each rate, and by what is lost to rate 0."""
    for warm_up in (search, *updates):
        warm_up()
    shuffle = random.Random(0).shuffle
    seconds: dict[int, list[list[float]]] = {rate: [] for rate in rates}
    applied = dict.fromkeys(rates, 0.0)
    order = list(rates)
    for _ in range(_ROUNDS.value):
        shuffle(order)
        for rate in order:
            latencies = []
            with _Writer(updates, rate) as writer:
                begin = now = time.perf_counter()
                while now - begin < _SECONDS.value:
                    search()
                    now, last = time.perf_counter(), now
                    latencies.append(now - last)
                applied[rate] += writer.rows / (now - begin)
            seconds[rate].append(latencies)
    return [
        {
            "engine": name,
            "rate": rate,
            "applied": applied[rate] / _ROUNDS.value,
            **_compare(seconds[rate], seconds[rates[0]]),
        }
        for rate in rates
    ]


def _compare(
    own: list[list[float]], idle: list[list[float]]
) -> dict[str, float]:
    """Ratios of throughput within a round, with their interval."""
    ratios = [
        (len(a) / sum(a)) / (len(b) / sum(b))
        for a, b in zip(own, idle, strict=True)
    ]
    mean, error = statistics.mean(ratios), 0.0
    if len(ratios) > 2:
        spread = statistics.stdev(ratios) / math.sqrt(len(ratios))
        freedom = max((f for f in _T if f < len(ratios)), default=5)
        error = _T[freedom] * spread
    flat = sorted(s for round_ in own for s in round_)
    flat_idle = sorted(s for round_ in idle for s in round_)
    p99, idle_p99 = (f[int(0.99 * (len(f) - 1))] for f in (flat, flat_idle))
    return {
        "queries_per_s": len(flat) / sum(flat),
        "p50_ms": 1e3 * statistics.median(flat),
        "p99_ms": 1e3 * p99,
        "p99_ratio": p99 / idle_p99,
        "lost": 1 - mean,
        "lost_low": 1 - mean - error,
        "lost_high": 1 - mean + error,
    }


def _faiss(items: synthetic.Items) -> Any:
    """A flat index by ids: updates take a lock, as FAISS asks for one."""
    try:
        import faiss
    except ImportError:
        return None
    faiss.omp_set_num_threads(1)
    index = faiss.IndexIDMap2(faiss.IndexFlatIP(items.vectors.shape[1]))
    index.add_with_ids(items.vectors, np.arange(len(items.vectors)))
    lock, queries = threading.Lock(), iter(range(10**12))
    draw = np.random.default_rng(0)

    def search() -> None:
        at = next(queries) % len(items.queries)
        with lock:
            index.search(items.queries[at : at + 1], _K)

    def update() -> None:
        ids = draw.choice(len(items.vectors), _BATCH, replace=False)
        with lock:
            index.remove_ids(ids)
            index.add_with_ids(items.vectors[ids], ids)

    return search, [update]


def _churn(items: synthetic.Items) -> dict[str, Any]:
    """Deletes and inserts, many times the index, then a fresh one beside."""
    rows = min(_CHURN_ROWS.value, len(items.vectors))
    vectors = items.vectors[:rows]
    schema, values = attributes_of(items)
    part = {name: v[:rows] for name, v in values.items()}
    index = make_index(vectors, schema, part)
    served = _Served(index, items)
    fresh = _Served(make_index(vectors, schema, part), items)
    for engine in (served, fresh):
        engine.search()
    before = _memory()
    live, next_id = np.arange(rows), rows
    batch = min(10_000, rows // 10)
    done = 0
    while done < _CHURN.value:
        # Half of it goes, and as many new items come.
        half = batch // 2
        gone = np.random.default_rng(done).choice(rows, half, replace=False)
        ids = np.concatenate([live[gone], np.arange(next_id, next_id + half)])
        served.update(served.inputs(ids, np.arange(2 * half) < half))
        live[gone] = ids[half:]
        next_id += half
        done += 2 * half
    after = _memory()
    ratios = []
    for i in range(200):
        order = (served, fresh) if i % 2 else (fresh, served)
        cost = {}
        for engine in order:
            begin = time.process_time()
            engine.search()
            cost[engine] = time.process_time() - begin
        ratios.append(cost[served] / cost[fresh])
    return {
        "rows": rows,
        "changes": done,
        "rows_in_use": int(index.num_rows),
        "grown_mb": (after["VmRSS"] - before["VmRSS"]) / 1e6,
        "search_ratio": statistics.median(ratios),
    }


def _memory(*, reset: bool = False) -> dict[str, int]:
    """This process's memory and its peak, in bytes."""
    if reset:
        pathlib.Path("/proc/self/clear_refs").write_text("5")
    lines = pathlib.Path("/proc/self/status").read_text().splitlines()
    fields = dict(line.split(":", 1) for line in lines)
    return {
        key: 1024 * int(fields[key].split()[0]) for key in ("VmRSS", "VmHWM")
    }


def _markdown(result: dict[str, Any]) -> str:
    about = result["machine"]
    lines = [
        "# Live updates",
        "",
        f"`python -m benchmarks.updates`: {result['rows']:,} x "
        f"{result['dim']} float32, k={result['k']}, one query at a time on one "
        f"thread, upserts in batches of {result['batch']} from another. "
        f"{about['processor']}, {about['cores']} cores. Loss of queries a "
        "second against no updates, within a round: mean and 95 % interval.",
        "",
        "| engine | upserts/s | applied/s | queries/s | p50 ms | p99 ms | "
        "p99 x idle | loss | interval |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for row in (*result["lintf"], *result.get("faiss", ())):
        lines.append(
            f"| {row['engine']} | {row['rate']:,} | {row['applied']:,.0f} | "
            f"{row['queries_per_s']:.1f} | {row['p50_ms']:.1f} | "
            f"{row['p99_ms']:.1f} | {row['p99_ratio']:.2f} | "
            f"{100 * row['lost']:.1f} % | {100 * row['lost_low']:.1f} to "
            f"{100 * row['lost_high']:.1f} % |"
        )
    fresh, memory, churn = (result[key] for key in ("fresh", "memory", "churn"))
    lines += [
        "",
        f"- The next query after an update: {fresh['not_found']} of "
        f"{fresh['updates']} did not find the row. An update of "
        f"{result['batch']} rows took {fresh['update_ms']:.1f} ms, the query "
        f"{fresh['found_after_ms']:.1f} ms.",
        f"- {memory['updates']:,} updates of a table of "
        f"{memory['table_mb']:.0f} MB: memory grew by "
        f"{memory['grown_mb']:.1f} MB, at its peak by "
        f"{memory['peak_grown_mb']:.1f} MB.",
        f"- {churn['changes']:,} deletes and inserts on {churn['rows']:,} "
        f"rows: {churn['rows_in_use']:,} rows in use, memory grew by "
        f"{churn['grown_mb']:.1f} MB; a search took "
        f"{churn['search_ratio']:.2f} times the CPU time of one on a fresh "
        "index.",
    ]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    app.run(main)
