# SPDX-License-Identifier: Apache-2.0
"""GloVe: 399,500 real word vectors of 50 dimensions, with WordNet classes.

What compact storage and codes lose on real data, and filters by class. (What
a server answers is measured by `benchmarks.glove`.)
"""

from __future__ import annotations

import dataclasses
import pathlib
from typing import Any

import numpy as np

from benchmarks import harness, peers, truth
from benchmarks.engines import Engine, Request
from benchmarks.settings import Settings

PLOTS = ("recall_time",)
_DTYPES = ("float32", "bfloat16", "float16", "int8")
# Bins and repeats: 128, 256 and 512 bits.
_CODES = ((16, 8), (16, 16), (16, 32))
_CLASSES = ("noun.person", "noun.animal", "noun.feeling", "noun.motive")
_BATCH = 32
# Queries that recall is of, more than are timed.
_CHECKED = 200


@dataclasses.dataclass(frozen=True)
class Words:
    """Unit vectors of words, and of words that are not among them.

    Attributes:
        vectors: `[rows, 50]` float32.
        queries: `[500, 50]` float32.
        classes: `[rows]` lists of WordNet classes.
        path: Of the vectors as a .npy file.
    """

    vectors: np.ndarray
    queries: np.ndarray
    classes: list[list[str]]
    path: pathlib.Path


def load(settings: Settings) -> Words:
    """Prepares the files once.

    Raises:
        ImportError: A data package is missing.
    """
    import pyarrow.parquet

    from export.examples import prepare_glove
    from lintf import datasets

    folder = settings.cache / "glove"
    if not (folder / "queries.npy").exists():
        words = datasets.glove_50d()
        prepare_glove.prepare(
            folder,
            words.words.tolist(),
            np.asarray(words.vectors),
            datasets.wordnet_classes(),
        )
    rows = settings.rows if settings.quick else None
    vectors = _unit(np.load(folder / "embeddings.npy")[:rows])
    queries = _unit(np.load(folder / "queries.npy"))
    path = folder / f"unit_{len(vectors)}.npy"
    np.save(path, vectors)
    table = pyarrow.parquet.read_table(
        folder / "items.parquet", columns=["classes"]
    )
    classes = [c or [] for c in table["classes"].to_pylist()[:rows]]
    return Words(vectors, queries, classes, path)


def _unit(vectors: np.ndarray) -> np.ndarray:
    norms = np.linalg.norm(vectors, axis=1, keepdims=True)
    return (vectors / norms).astype(np.float32)


def run(settings: Settings) -> dict[str, Any]:
    """Stores without a filter, then classes with the exact ones."""
    out = harness.Run("glove_50d", "GloVe, 50 dimensions, cosine", settings)
    try:
        words = load(settings)
    except ImportError as error:
        out.skip("glove", str(error))
        return out.result()
    rows, dim = words.vectors.shape
    out.add("rows", rows)
    out.add("dim", dim)
    k = 10 if settings.quick else 100
    exact, codes = _engines(out, words, 10 * k)
    engines = [*exact, *codes]
    many = Request(words.queries[:_CHECKED], k)
    right = truth.exact(words.vectors, many.queries, k)
    recalls = out.recalls(engines, many, right)
    for batch in (1, _BATCH):
        request = Request(words.queries[:batch], k)
        out.measure(
            engines,
            {"filter": "", "batch": batch, "k": k},
            request,
            truth.exact(words.vectors, request.queries, k),
            shortlist=10 * k,
            recalls=recalls,
        )
    filtering = [e for e in exact if e.is_lintf]
    filtering += peers.make(out, "numpy", lambda: _gather(words.vectors))
    filtering += peers.tensorflow(out, words.vectors)
    for engine in filtering:
        if not engine.is_lintf:
            engine.labels = {"store": "float32"}
    for name in _CLASSES:
        masks = np.array([[name in c for c in words.classes]])
        queries = words.queries[:_BATCH]
        text = f'contains_any(classes, ["{name}"])'
        out.measure(
            filtering,
            {"filter": name, "batch": _BATCH, "k": k},
            Request(queries, k, (text,) * _BATCH, masks),
            truth.exact(words.vectors, queries, k, masks),
            column_bytes=8,
        )
    peers.close(engines)
    return out.result()


def _gather(vectors: np.ndarray) -> Engine:
    from benchmarks.engines.numpy_engine import NumpyGatherEngine

    return NumpyGatherEngine(vectors)


def _engines(
    out: harness.Run, words: Words, shortlist: int
) -> tuple[list[Engine], list[Engine]]:
    """The exact ones, and those by codes."""
    from benchmarks.engines.lintf_engine import LintfEngine, make_index
    from lintf.index.schema import Quantization, infer_attribute

    vectors, dim = words.vectors, words.vectors.shape[1]
    classes = infer_attribute("classes", "tags", words.classes)
    attributes = (classes,)
    values = {"classes": np.array([*words.classes, None], object)[:-1]}
    exact: list[Engine] = []
    codes: list[Engine] = []
    for dtype in _DTYPES:
        index = make_index(
            vectors, attributes, values, dtype=dtype, metric="cosine"
        )
        exact.append(
            LintfEngine(index, f"lintf {dtype}", labels={"store": dtype})
        )
    for bins, repeats in _CODES:
        quantization = Quantization(
            bins=bins,
            repeats=repeats,
            scoring="asymmetric",
            shortlist=shortlist,
        )
        index = make_index(vectors, quantization=quantization, metric="cosine")
        name = f"lintf {bins * repeats} bits + rescoring"
        codes.append(LintfEngine(index, name, "quantized", {"store": "codes"}))
    for engine in peers.scann(out, words.path, dim, "float32", "int8"):
        engine.labels = {"store": engine.labels["dtype"]}
        exact.append(engine)

    def build(faiss: Any) -> list[Engine]:
        made = [faiss.flat(vectors), faiss.scalar(vectors, "int8")]
        made.append(faiss.fast_scan(vectors, 2 * dim, shortlist))
        for engine, store in zip(
            made, ("float32", "int8", "codes"), strict=True
        ):
            engine.labels = {"store": store}
        return made

    made = peers.faiss(out, build)
    return exact + made[:2], codes + made[2:]
