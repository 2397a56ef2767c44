# SPDX-License-Identifier: Apache-2.0
"""The state of an index beyond its variables, and writes to the variables."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import tensorflow as tf
from tensorflow.python.eager import context

from lintf.ops import library

if TYPE_CHECKING:
    from lintf.index.schema import Quantization

_ops = library.load()


class IndexStats(NamedTuple):
    """Counts of an index.

    Attributes:
        num_rows: `[]` int64, rows in use.
        live_rows: `[]` int64, those of them that hold an item.
        searches: `[3]` int64, queries that were answered by masked,
            pre-filtered and quantized search since the index was loaded; of
            a learned similarity by exact, bounded and two-stage search.
    """

    num_rows: tf.Tensor
    live_rows: tf.Tensor
    searches: tf.Tensor


class IndexResource(tf.saved_model.experimental.TrackableResource):
    """What an index knows beyond its variables: which row an item id is in.

    An attribute of the module that has the variables, made together with
    them. It is saved with the module, and every
    load of the SavedModel has one of its own. There is nothing to initialise:
    operations make its content from the `ids` and `num_rows` variables when
    they first need it, and again when those have been restored or assigned.

    >>> resource = IndexResource()
    >>> ids = tf.Variable([7, 8, -1, -1], dtype=tf.int64)
    >>> num_rows = tf.Variable(2, dtype=tf.int64)
    >>> int(index_stats(resource, ids, num_rows).live_rows)
    2
    """

    def __init__(self, name: str = "lintf_index"):
        """Makes the resource.

        Args:
            name: Names it in sessions, each of which has its own.
        """
        super().__init__()
        self._name = name
        # Otherwise a function that uses it first, while being traced, would
        # make a handle that only this function can use.
        with tf.init_scope():
            self._resource_handle = self._create_resource()

    def invalidate(self) -> None:
        """Forgets the content; the next use makes it again.

        Needed only after a write into `ids` in place by other means than
        `assign_rows`.
        """
        _ops.lintf_invalidate_index(self.resource_handle)

    def _create_resource(self) -> tf.Tensor:
        if tf.executing_eagerly():
            # A new one each time, which goes when its handle does.
            return _ops.lintf_index_handle(shared_name=context.anonymous_name())
        if tf.compat.v1.get_default_graph().building_function:
            # Saved as the function that makes the resource of a model that is
            # loaded: once a load, and kept by whatever captured its handle.
            return _ops.lintf_index_handle(anonymous=True)
        # The graph that is saved for sessions. One node and one session make
        # one resource, whatever is run.
        return _ops.lintf_index_handle(shared_name=self._name)


def handle_of(source: Any) -> Any:
    """The handle of an `IndexResource` or a variable; a tensor is one."""
    if hasattr(source, "resource_handle"):
        return source.resource_handle
    if isinstance(source, tf.Variable):
        return source.handle
    return source


def items_handle(embeddings: Any, codes: Any) -> Any:
    """The handle that stands for the items: of codes, if they are all.

    Raises:
        ValueError: There is neither.
    """
    if embeddings is None and codes is None:
        raise ValueError("there must be `embeddings` or `codes`, got neither")
    return handle_of(codes if embeddings is None else embeddings)


def assign_rows(
    resource: Any,
    variable: Any,
    start: Any,
    values: Any,
    *,
    name: str | None = None,
) -> Any:
    """Writes rows of an index variable in place.

    Unlike scatter and slice assignments this leaves dense reads of the
    variable free of copies. `resource` forgets its content.

    Args:
        resource: The `IndexResource`.
        variable: `[capacity, ...]` variable.
        start: `[]` integer, the first row.
        values: `[n, ...]` rows of the variable's dtype.
        name: Of the operation.

    Returns:
        The operation in a graph; nothing otherwise.

    Raises:
        tf.errors.InvalidArgumentError: The rows do not fit; nothing was
            written.

    >>> ids = tf.Variable([-1, -1, -1], dtype=tf.int64)
    >>> assign_rows(IndexResource(), ids, 1, [5, 6])
    >>> ids.numpy().tolist()
    [-1, 5, 6]
    """
    dtype = variable.dtype if isinstance(variable, tf.Variable) else None
    return _ops.lintf_assign_rows(
        handle_of(resource),
        handle_of(variable),
        tf.convert_to_tensor(start, tf.int64),
        tf.convert_to_tensor(values, dtype),
        name=name,
    )


def index_stats(
    resource: Any,
    ids: Any,
    num_rows: Any,
    *,
    learned: bool = False,
    name: str | None = None,
) -> IndexStats:
    """Counts the rows of an index.

    Args:
        resource: The `IndexResource`.
        ids: `[capacity]` int64 variable, -1 in rows without an item.
        num_rows: `[]` int64 variable.
        learned: Counts searches by a learned similarity.
        name: Of the operation.

    Raises:
        tf.errors.FailedPreconditionError: A variable has no value, or two
            rows have the same id.
    """
    stats = _ops.lintf_index_stats(
        handle_of(resource), handle_of(ids), handle_of(num_rows), name=name
    )
    searches = _ops.lintf_search_counts(handle_of(resource), learned=learned)
    return IndexStats(stats.rows, stats.live_rows, searches)


def assign_codes(
    resource: Any,
    variable: Any,
    start: Any,
    codes: Any,
    *,
    name: str | None = None,
) -> Any:
    """Writes the codes of rows of an index in place.

    Args:
        resource: The `IndexResource`.
        variable: `[ceil(capacity / 64), words, 64]` int64 variable: blocks of
            64 rows, word by word.
        start: `[]` integer, the first row.
        codes: `[n, words]` int64, from `sign_oporp`.
        name: Of the operation.

    Returns:
        The operation in a graph; nothing otherwise.

    Raises:
        tf.errors.InvalidArgumentError: The rows do not fit; nothing was
            written.

    >>> codes = tf.Variable(tf.zeros([1, 2, 64], tf.int64))
    >>> assign_codes(IndexResource(), codes, 3, [[5, 6]])
    >>> codes.numpy()[0, :, 3].tolist()
    [5, 6]
    """
    return _ops.lintf_assign_codes(
        handle_of(resource),
        handle_of(variable),
        tf.convert_to_tensor(start, tf.int64),
        tf.convert_to_tensor(codes, tf.int64),
        name=name,
    )


def planner_costs(
    resource: Any,
    ids: Any,
    embeddings: Any,
    num_rows: Any,
    *,
    scales: Any = None,
    codes: Any = None,
    quantization: Quantization | None = None,
    dim: int = 0,
    name: str | None = None,
) -> tf.Tensor:
    """Measures what searches cost on this machine, for `retrieve`'s planner.

    Takes about a second on one thread. The result differs from run to run. Of
    an index on a GPU it is what is compiled in for the CPU.

    Args:
        resource: The `IndexResource`.
        ids: As in `retrieve`, and so are the others.
        embeddings: As there; None for an index of codes alone.
        num_rows: As there.
        scales: As there.
        codes: As there.
        quantization: As there.
        dim: As there.
        name: Of the operation.

    Returns:
        `[5]` float32, nanoseconds: for each row and dimension, one vector of
        queries in masked search, one row of pre-filtered search, and each
        query of it; for each word of a row's code; for each row of a
        shortlist.

    Raises:
        ValueError: As `retrieve`.
    """
    attrs = code_attrs(codes, quantization, dim)
    del attrs["shortlist"]
    return _ops.lintf_planner_costs(
        handle_of(resource),
        handle_of(ids),
        items_handle(embeddings, codes),
        handle_of(num_rows),
        [] if scales is None else [handle_of(scales)],
        [] if codes is None else [handle_of(codes)],
        name=name,
        **attrs,
    )


def code_attrs(
    codes: Any, quantization: Quantization | None, dim: int
) -> dict[str, Any]:
    """The attributes by which operations on an index know its codes.

    Raises:
        ValueError: Codes without their quantization, or the other way round.
    """
    if (codes is None) != (quantization is None):
        raise ValueError("`codes` and `quantization` go together, got only one")
    if quantization is None:
        return {"shortlist": 0}
    if dim < 1:
        raise ValueError(
            f"`dim`, of the queries, must be given with `codes`, got {dim}"
        )
    return {
        "dim": dim,
        "bins": quantization.bins,
        "repeats": quantization.repeats,
        "seed": quantization.seed,
        "scoring": quantization.scoring,
        "shortlist": quantization.shortlist,
    }
