# SPDX-License-Identifier: Apache-2.0
"""Search in an index by a learned similarity."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import tensorflow as tf

from lintf.ops import library
from lintf.ops.index import code_attrs, handle_of, planner_costs
from lintf.ops.retrieve import missing_attr

if TYPE_CHECKING:
    from lintf.index.schema import Quantization
    from lintf.similarity.spec import SimilaritySpec

_ops = library.load()

# Of those that `retrieve_similar` takes, the first are `planner_costs`.
_PLANNER_COSTS = 5


class RetrievedSimilar(NamedTuple):
    """The best rows of each query, best first.

    Attributes:
        ids: `[batch, k]` int64, -1 in unused slots.
        scores: `[batch, k]` float32, -inf in unused slots.
        num_results: `[batch]` int32, slots in use.
        rows: `[batch, k]` int64 rows of the index, -1 in unused slots.
        num_scored: `[batch]` int64, rows whose full score was computed.
        values: For each returned column, what it holds in those rows:
            `[batch, k]`, or `[batch, k, width]` of a column of rank 2; the
            missing value in unused slots.
    """

    ids: tf.Tensor
    scores: tf.Tensor
    num_results: tf.Tensor
    rows: tf.Tensor
    num_scored: tf.Tensor
    values: list[tf.Tensor]


def retrieve_similar(
    queries: Any,
    programs: Any,
    resource: Any,
    ids: Any,
    embeddings: Any,
    num_rows: Any,
    columns: Sequence[Any],
    *,
    spec: SimilaritySpec,
    weights: Sequence[Any] = (),
    k: int,
    algorithm: str = "auto",
    candidates: str = "averaged",
    budget: int = 1000,
    return_columns: Sequence[int] = (),
    return_missing: Sequence[Any] | None = None,
    scales: Any = None,
    codes: Any = None,
    quantization: Quantization | None = None,
    costs: Sequence[float] = (),
    name: str | None = None,
) -> RetrievedSimilar:
    """Finds the k best rows of an index by a learned similarity.

    As `retrieve`, with the scores of `spec` (`lintf.similarity.spec` has the
    equations; sections 3.3 of arXiv 2407.13218 and 3 of arXiv 2306.04039).
    Scores are summed in float32 in an order of their own, so a query's results
    are the same bits alone and in any batch, and `lintf.similarity.reference`
    gives them but for rounding.

    "exact" scores all rows that pass. "bounded" gives the same results, and
    leaves out the gate of rows whose largest logit is too low; it needs a
    convex gate. "two_stage" scores candidates alone. "auto" takes for each
    query what costs least, by its own number of passing rows.

    Args:
        queries: `[batch, spec.query_dim]` float32, finite.
        programs: As in `retrieve`, and so are the next ones.
        resource: As there.
        ids: As there.
        embeddings: `[capacity, spec.item_dim]` float32, bfloat16, float16 or
            int8 variable.
        num_rows: As there.
        columns: As there.
        spec: The similarity.
        weights: Float32 tensors or variables, in the order of
            `spec.weight_shapes()`.
        k: As there.
        algorithm: "auto", "exact", "bounded" or "two_stage".
        candidates: What selects those of "two_stage": "averaged" (the inner
            product with the averaged component), "components" (that of each
            pair, and their union) or "codes".
        budget: How many candidates; raised to `k`.
        return_columns: As there.
        return_missing: As there.
        scales: As there.
        codes: As there, of the first `spec.components_dim` numbers of a row.
        quantization: As there.
        costs: From `similarity_costs`; without them, those that are compiled
            in.
        name: Of the operation.

    Raises:
        ValueError: `codes` without `quantization`, or the other way round.
        tf.errors.InvalidArgumentError: As `retrieve`; and if a weight is not
            of its shape or not finite, or the algorithm is "bounded" and the
            gate not convex.
        tf.errors.FailedPreconditionError: As `retrieve`.

    >>> from lintf.ops import IndexResource, compile_filter
    >>> from lintf.index.schema import IndexSchema
    >>> from lintf.similarity.spec import SimilaritySpec
    >>> spec = SimilaritySpec(1, 2, 1, gate="softmax")
    >>> schema = IndexSchema(dim=4, similarity=spec)
    >>> found = retrieve_similar(
    ...     [[3.0, 0.0, 0.0]],
    ...     compile_filter([""], schema),
    ...     IndexResource(),
    ...     ids=tf.Variable([70, 80], dtype=tf.int64),
    ...     embeddings=tf.Variable([[1.0, 3, 0, 0], [1, 1, 0, 0]]),
    ...     num_rows=tf.Variable(2, dtype=tf.int64),
    ...     columns=[],
    ...     spec=spec,
    ...     k=1,
    ...     algorithm="exact",
    ... )
    >>> found.ids.numpy().tolist(), found.scores.numpy().tolist()
    ([[70]], [[6.0]])
    >>> found.num_scored.numpy().tolist()
    [2]
    """
    types = [columns[c].dtype for c in return_columns]
    costs = list(costs)
    found = _ops.lintf_retrieve_similar(
        tf.convert_to_tensor(queries, tf.float32),
        tf.convert_to_tensor(programs, tf.int64),
        handle_of(resource),
        handle_of(ids),
        handle_of(embeddings),
        handle_of(num_rows),
        [handle_of(c) for c in columns],
        [] if scales is None else [handle_of(scales)],
        [] if codes is None else [handle_of(codes)],
        [tf.convert_to_tensor(w, tf.float32) for w in weights],
        k=k,
        return_columns=list(return_columns),
        return_types=types,
        return_missing=missing_attr(types, return_missing),
        algorithm=algorithm,
        candidates=candidates,
        budget=budget,
        costs=costs[:_PLANNER_COSTS],
        similarity_costs=costs[_PLANNER_COSTS:],
        name=name,
        **spec.to_dict(),
        **_code_attrs(spec, codes, quantization),
    )
    return RetrievedSimilar(
        found.result_ids,
        found.scores,
        found.num_results,
        found.rows,
        found.num_scored,
        list(found.values),
    )


def similarity_costs(
    resource: Any,
    ids: Any,
    embeddings: Any,
    num_rows: Any,
    *,
    spec: SimilaritySpec,
    weights: Sequence[Any] = (),
    scales: Any = None,
    codes: Any = None,
    quantization: Quantization | None = None,
    name: str | None = None,
) -> tf.Tensor:
    """Measures what searches cost on this machine, for "auto".

    Takes about two seconds on one thread. The result differs from run to run.
    Of an index on a GPU it is what is compiled in for the CPU.

    Args:
        resource: As in `retrieve_similar`, and so are the others.
        ids: As there.
        embeddings: As there.
        num_rows: As there.
        spec: As there.
        weights: As there.
        scales: As there.
        codes: As there.
        quantization: As there.
        name: Of the operation.

    Returns:
        `[9]` float32: `planner_costs`, of what selects candidates; then
        nanoseconds for each number of a row, each multiply-add of a score and
        each exponential, and the share of rows whose full score "bounded"
        computes.

    Raises:
        ValueError: As `retrieve_similar`.
    """
    of_candidates = planner_costs(
        resource,
        ids,
        embeddings,
        num_rows,
        scales=scales,
        codes=codes,
        quantization=quantization,
        dim=spec.components_dim,
    )
    of_scores = _ops.lintf_similarity_costs(
        handle_of(resource),
        handle_of(ids),
        handle_of(embeddings),
        handle_of(num_rows),
        [] if scales is None else [handle_of(scales)],
        [] if codes is None else [handle_of(codes)],
        [tf.convert_to_tensor(w, tf.float32) for w in weights],
        name=name,
        **spec.to_dict(),
    )
    return tf.concat([of_candidates, of_scores], 0)


def _code_attrs(
    spec: SimilaritySpec, codes: Any, quantization: Quantization | None
) -> dict[str, Any]:
    attrs = code_attrs(codes, quantization, spec.components_dim)
    # Candidates have a budget in its place.
    del attrs["shortlist"]
    return attrs
