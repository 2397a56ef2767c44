# SPDX-License-Identifier: Apache-2.0
"""lintf through its served signature, filter compilation included.

As a program it is the other process of an engine with its own number of
threads:

    python -m benchmarks.engines.lintf_engine ITEMS.npy THREADS
"""

from __future__ import annotations

import pathlib
import sys
from collections.abc import Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from benchmarks import synthetic
from benchmarks.engines import Engine, Request, Work, remote
from lintf import Index, IndexSchema, ServedIndex, ops
from lintf.index.plan import Variant
from lintf.index.schema import Attribute, infer_attribute

SIZES = {"float32": 4, "bfloat16": 2, "float16": 2, "int8": 1, "none": 0}
# Rows appended at a time.
_STEP = 1 << 17


def attributes_of(
    items: synthetic.Items,
) -> tuple[tuple[Attribute, ...], dict[str, np.ndarray]]:
    """The attributes of the synthetic items, and their values by name."""
    categories = np.array(synthetic.CATEGORIES, object)
    regions = np.array(synthetic.REGIONS, object)
    schema = (
        infer_attribute("category", "category", synthetic.CATEGORIES),
        infer_attribute("region", "category", synthetic.REGIONS),
        infer_attribute("price", "int", (), dtype="int16"),
    )
    values = {
        "category": categories[items.category],
        "region": regions[items.region],
        "price": items.price,
    }
    return schema, values


def make_index(
    vectors: np.ndarray,
    attributes: tuple[Attribute, ...] = (),
    values: dict[str, np.ndarray] | None = None,
    **options: Any,
) -> Index:
    """An index whose ids are the row numbers.

    Args:
        vectors: `[rows, dim]` float32.
        attributes: Of the schema.
        values: Of each attribute, by name.
        **options: More fields of the schema: dtype, quantization, metric.
    """
    rows, dim = vectors.shape
    schema = IndexSchema(dim=dim, attributes=attributes, **options)
    index = Index(schema, rows)
    for begin in range(0, rows, _STEP):
        part = slice(begin, min(begin + _STEP, rows))
        index.append(
            np.arange(part.start, part.stop),
            vectors[part],
            {name: v[part] for name, v in (values or {}).items()},
        )
    return index


def planner_costs(index: Index) -> list[float]:
    """What "auto" decides by, measured now on this index."""
    costs = ops.planner_costs(
        index.resource,
        index.ids,
        index.embeddings,
        index.num_rows,
        scales=index.scales,
        codes=index.codes,
        quantization=index.schema.quantization,
        dim=index.schema.dim,
    )
    return costs.numpy().tolist()


class LintfEngine(Engine):
    """`retrieve_by_embedding` of a `ServedIndex`."""

    is_lintf = True
    reads_columns = True

    def __init__(
        self,
        index: Index,
        name: str = "lintf",
        algorithm: str = "auto",
        labels: dict[str, Any] | None = None,
        shortlist: int | None = None,
        costs: Sequence[float] = (),
    ):
        """Several engines may share an index.

        Args:
            index: Whose ids are the row numbers.
            name: What tables call it.
            algorithm: "auto", "masked", "prefiltered" or "quantized".
            labels: As `Engine` has them.
            shortlist: Rows a query to rescore; by default the schema's.
            costs: What "auto" decides by.
        """
        schema = index.schema
        self._by_codes = algorithm == "quantized" or schema.dtype == "none"
        size = SIZES[schema.dtype] * schema.dim + 4 * (schema.dtype == "int8")
        self._item_bytes = size
        row_bytes = float(size)
        if self._by_codes:
            assert schema.quantization is not None
            row_bytes = schema.quantization.bits / 8
        super().__init__(name, row_bytes, 0 if self._by_codes else schema.dim)
        self.labels = labels or {}
        self._index = index
        self._algorithm = algorithm
        self._shortlist = shortlist
        self._costs = costs
        self._calls: dict[int, Any] = {}

    def prepare(self, request: Request) -> None:
        if request.k not in self._calls:
            variant = Variant(
                "measured", request.k, self._algorithm, self._shortlist
            )
            served = ServedIndex(
                self._index,
                k=request.k,
                variants=(variant,),
                costs=self._costs,
                max_request_rows=1 << 16,
            )
            self._calls[request.k] = served.signatures()[variant.signatures[1]]
        self._call = self._calls[request.k]
        self._inputs = {
            "query_embedding": tf.constant(request.queries),
            "filter": tf.constant(list(request.texts)),
        }

    def search(self) -> Any:
        return self._call(**self._inputs)["ids"]

    def rows(self, answer: Any) -> np.ndarray:
        return answer.numpy()

    def bytes(self, work: Work) -> float:
        rescored = work.shortlist * self._item_bytes if self._by_codes else 0
        return super().bytes(work) + rescored


def remote_engine(
    items: pathlib.Path, dim: int, name: str, threads: int
) -> remote.RemoteEngine:
    """float32, no filter, in a process with its own number of threads."""
    command = [sys.executable, "-m", "benchmarks.engines.lintf_engine"]
    command += [str(items), str(threads)]
    engine = remote.RemoteEngine(name, 4.0 * dim, dim, command, threads)
    engine.is_lintf = True
    return engine


if __name__ == "__main__":
    path, threads = sys.argv[1:]
    tf.config.threading.set_intra_op_parallelism_threads(int(threads))
    tf.config.threading.set_inter_op_parallelism_threads(1)
    remote.serve(lambda: LintfEngine(make_index(np.load(path))))
