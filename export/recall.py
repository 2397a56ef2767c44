# SPDX-License-Identifier: Apache-2.0
"""How much of the exact result a search in two stages finds.

The first stage selects rows by 1-bit codes, or, with a learned similarity, by
something cheaper than it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Mapping, Sequence

import numpy as np
import tensorflow as tf

from export.errors import JobError
from export.queries import QuerySet
from lintf import ops
from lintf.index.plan import Plan
from lintf.index.schema import Quantization
from lintf.index.search import NativeSearch
from lintf.index.sharded import AnyIndex, ShardedIndex, shards_of
from lintf.index.sharded_search import ShardedSearch, best_first

# What the table shows beside the chosen shortlist, times k.
_MULTIPLES = (1, 4, 10, 40)
# Results kept at once: bounds the memory, whatever k is.
_MAX_RESULTS = 4_000_000


@dataclasses.dataclass(frozen=True)
class Report:
    """Recall of one signature.

    Attributes:
        signature: Its name.
        k: Results a query.
        shortlist: Rows that the first stage selects for rescoring; without
            embeddings, `k`.
        recall: Share of the exact `k` best that is found.
        floor: What `recall` must reach.
        num_queries: Asked.
        source: Where the queries come from.
        rescored: Whether there are embeddings to rescore with.
        codes: What selects, in words.
        table: Pairs of shortlist and recall, ascending. Without embeddings:
            how many of the exact `k` best are among so many best by code.
        learned: Whether a learned similarity scores.
    """

    signature: str
    k: int
    shortlist: int
    recall: float
    floor: float
    num_queries: int
    source: str
    rescored: bool
    codes: str
    table: tuple[tuple[int, float], ...]
    learned: bool = False

    @property
    def passes(self) -> bool:
        """Whether the index may be published."""
        return self.recall >= self.floor

    def to_text(self) -> str:
        """A small table."""
        what = "shortlist" if self.rescored else "best by code"
        if self.learned:
            what = "budget"
        lines = [
            f"{self.signature}: {self.codes}",
            f"  {what:>14}  recall@{self.k} ({self.num_queries} {self.source})",
        ]
        for shortlist, recall in self.table:
            # Longer than the index, it is the whole index.
            chosen = shortlist == min(self.shortlist, self.table[-1][0])
            mark = "  <- chosen" if chosen else ""
            lines.append(f"  {shortlist:>14,}  {recall:.4f}{mark}")
        return "\n".join(lines)


def measure_learned(
    index: AnyIndex,
    plans: Mapping[str, Plan],
    queries: QuerySet,
    floor: float,
) -> tuple[Report, ...]:
    """Measures every signature that may search in two stages.

    Args:
        index: Filled, with a learned similarity.
        plans: How the signatures search, by name.
        queries: What to ask; none of them is an item.
        floor: What the recall must reach.
    """
    rows = int(index.num_rows)
    reports = []
    for name, plan in plans.items():
        if plan.algorithm not in ("auto", "two_stage"):
            continue
        exact = _best_ids(index, queries.vectors, Plan(plan.k, "exact"))
        chosen = plan.budget_or_default
        sizes = {chosen, *(m * plan.k for m in _MULTIPLES)}
        table = []
        for size in sorted({min(s, rows) for s in sizes}):
            plan_of_size = dataclasses.replace(
                plan, algorithm="two_stage", budget=size
            )
            found = _best_ids(index, queries.vectors, plan_of_size)
            table.append((size, mean(shares(exact, found))))
        reports.append(
            Report(
                signature=name,
                k=plan.k,
                shortlist=chosen,
                recall=dict(table)[min(chosen, rows)],
                floor=floor,
                num_queries=len(queries.vectors),
                source=queries.source,
                rescored=True,
                codes=f"candidates by {plan.candidates_or_default}",
                table=tuple(table),
                learned=True,
            )
        )
    return tuple(reports)


def _best_ids(index: AnyIndex, queries: np.ndarray, plan: Plan) -> np.ndarray:
    """Ids of the best items without a filter: `[queries, min(k, rows)]`."""
    plan = dataclasses.replace(plan, k=min(plan.k, int(index.num_rows)))
    kind = ShardedSearch if isinstance(index, ShardedIndex) else NativeSearch
    search = kind(index, plan, [])
    step = max(1, _MAX_RESULTS // (plan.k * len(shards_of(index))))
    found = []
    for begin in range(0, len(queries), step):
        part = queries[begin : begin + step]
        programs = ops.compile_filter([""] * len(part), index.schema)
        ids = search(tf.constant(part, tf.float32), programs).ids
        found.append(ids.numpy())
    return np.concatenate(found)


def measure(
    index: AnyIndex,
    plans: Mapping[str, Plan],
    queries: QuerySet,
    floor: float,
    batches: Iterable[np.ndarray] | None = None,
    places: np.ndarray | None = None,
) -> tuple[Report, ...]:
    """Measures every signature that may answer by codes.

    Args:
        index: Filled.
        plans: How the signatures search, by name.
        queries: What to ask.
        floor: What the recall must reach.
        batches: The embeddings of all items, `[n, dim]` each, if the index has
            codes alone.
        places: `[items]` the row of each of them; None for the items' order.
    """
    quantization = index.schema.quantization
    assert quantization is not None
    plans = {n: p for n, p in plans.items() if uses_codes(p)}
    most = max(plan.k for plan in plans.values()) + 1
    if batches is None:
        parts = _search(index, queries.vectors, most, "masked", None)
        best = np.concatenate([rows for _, rows in parts])
    else:
        best = exact_rows(batches, queries.vectors, most, index.schema.metric)
        if places is not None:
            best = np.where(best < 0, -1, places[best])
    reports = []
    for name, plan in plans.items():
        exact = without_own(best, queries.own, plan.k)
        chosen = plan.shortlist or quantization.shortlist
        chosen = max(chosen, plan.k) if batches is None else plan.k
        sizes = {chosen, *(m * plan.k for m in _MULTIPLES)}
        table = []
        for size in sorted({min(s, int(index.num_rows)) for s in sizes}):
            # One more of each, in place of the item that the query is.
            own = int((queries.own >= 0).any())
            codes = dataclasses.replace(quantization, shortlist=size + own)
            k = (plan.k if batches is None else size) + own
            each: list[float] = []
            for part, rows in _search(
                index, queries.vectors, k, "quantized", codes
            ):
                others = without_own(rows, queries.own[part], k - own)
                each += shares(exact[part], others)
            table.append((size, mean(each)))
        reports.append(
            Report(
                signature=name,
                k=plan.k,
                shortlist=chosen,
                recall=dict(table)[min(chosen, int(index.num_rows))],
                floor=floor,
                num_queries=len(queries.vectors),
                source=queries.source,
                rescored=batches is None,
                codes=_in_words(quantization),
                table=tuple(table),
            )
        )
    return tuple(reports)


def _in_words(codes: Quantization) -> str:
    return (
        f"codes of {codes.bits} bits (bins {codes.bins}, repeats "
        f"{codes.repeats}, {codes.scoring})"
    )


def check(reports: Sequence[Report]) -> None:
    """Refuses an index whose recall is below the floor.

    Raises:
        JobError: It is; the message has the table and what may help.
    """
    low = [r for r in reports if not r.passes]
    if not low:
        return
    report = low[0]
    if report.learned:
        raise JobError(
            f"retrieve.recall_floor: the recall@{report.k} of "
            f"{report.signature!r} must be at least {report.floor:g}, got "
            f"{report.recall:.4f}; nothing was published. What helps: a larger "
            "budget, other candidates, the algorithm exact or bounded; or a "
            f"lower floor.\n{report.to_text()}"
        )
    ways = ["more bits"]
    if report.rescored:
        ways.insert(0, "a larger shortlist")
    else:
        ways.append("stored embeddings to rescore with (index.dtype)")
    if "asymmetric" not in report.codes:
        ways.append("scoring: asymmetric")
    raise JobError(
        f"quantization.recall_floor: the recall@{report.k} of "
        f"{report.signature!r} must be at least {report.floor:g}, got "
        f"{report.recall:.4f}; nothing was published. What helps: "
        f"{', '.join(ways)}; or a lower floor.\n{report.to_text()}"
    )


def uses_codes(plan: Plan) -> bool:
    """Whether a signature may answer by codes."""
    return plan.algorithm in ("auto", "quantized")


def shares(exact: np.ndarray, found: np.ndarray) -> list[float]:
    """Share of the exact rows that are found, of each query that has any.

    Args:
        exact: `[queries, k]` rows, -1 in unused slots.
        found: `[queries, any]` the same.

    >>> shares(np.array([[1, 2], [3, -1]]), np.array([[2, 5], [3, 4]]))
    [0.5, 1.0]
    """
    return [
        float(np.isin(truth[truth >= 0], rows).mean())
        for truth, rows in zip(exact, found, strict=True)
        if (truth >= 0).any()
    ]


def mean(each: Sequence[float]) -> float:
    """The recall over several queries, from their `shares`."""
    return float(np.mean(each)) if each else 1.0


def without_own(rows: np.ndarray, own: np.ndarray, k: int) -> np.ndarray:
    """The `k` best of each query but for the item that it is.

    >>> without_own(np.array([[4, 7, 9], [4, 7, 9]]), np.array([7, -1]), 2)
    array([[4, 9],
           [4, 7]])
    """
    other = (rows != own[:, np.newaxis]) | (own < 0)[:, np.newaxis]
    # Stable: those to be left out go last, the others keep their order.
    order = np.argsort(~other, axis=1, kind="stable")[:, :k]
    kept = np.take_along_axis(rows, order, axis=1)
    return np.where(np.take_along_axis(other, order, axis=1), kept, -1)


def exact_rows(
    batches: Iterable[np.ndarray], queries: np.ndarray, k: int, metric: str
) -> np.ndarray:
    """The best rows of items that come in batches, `[queries, k]`.

    Args:
        batches: `[n, dim]` each; of length 1 if the metric is cosine.
        queries: `[queries, dim]`.
        k: How many; -1 fills what is missing.
        metric: The index's.
    """
    metric = "l2" if metric == "l2" else "inner_product"
    scores = np.full((len(queries), k), -np.inf, np.float32)
    rows = np.full((len(queries), k), -1, np.int64)
    start = 0
    for vectors in batches:
        found = ops.masked_knn(
            queries,
            vectors,
            tf.ones([len(vectors)], tf.bool),
            min(k, len(vectors)),
            metric=metric,
        )
        here = np.where(
            found.indices.numpy() < 0, -1, found.indices.numpy() + start
        )
        scores = np.concatenate([scores, found.scores.numpy()], axis=1)
        rows = np.concatenate([rows, here], axis=1)
        order = np.argsort(-scores, axis=1, kind="stable")[:, :k]
        scores = np.take_along_axis(scores, order, axis=1)
        rows = np.take_along_axis(rows, order, axis=1)
        start += len(vectors)
    return rows


def _search(
    index: AnyIndex,
    queries: np.ndarray,
    k: int,
    algorithm: str,
    codes: Quantization | None,
) -> Iterator[tuple[slice, np.ndarray]]:
    """Rows of the index without a filter, a few queries at a time.

    Yields:
        Which queries, and their rows: `[queries, min(k, rows)]`.
    """
    k = min(k, int(index.num_rows))
    # Each shard gives as many, before the best are taken.
    step = max(1, _MAX_RESULTS // (k * len(shards_of(index))))
    for begin in range(0, len(queries), step):
        part = queries[begin : begin + step]
        programs = ops.compile_filter([""] * len(part), index.schema)
        scores, rows, first = [], [], 0
        for shard in shards_of(index):
            found = ops.retrieve(
                part,
                programs,
                shard.resource,
                shard.ids,
                shard.embeddings,
                shard.num_rows,
                shard.columns,
                k=k,
                metric=index.schema.metric,
                algorithm=algorithm,
                scales=shard.scales,
                codes=shard.codes if codes is not None else None,
                quantization=codes,
                dim=index.schema.dim,
            )
            scores.append(found.scores.numpy())
            here = found.rows.numpy()
            rows.append(np.where(here < 0, -1, here + first))
            first += int(shard.num_rows)
        every = np.concatenate(rows, axis=1)
        order = best_first(np.concatenate(scores, axis=1), every, k).numpy()
        best = np.take_along_axis(every, order, axis=1)
        yield slice(begin, begin + len(part)), best
