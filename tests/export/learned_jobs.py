# SPDX-License-Identifier: Apache-2.0
"""Saved towers with a learned similarity, on the made-up items of `jobs`."""

import pathlib
from typing import Any

import numpy as np
import tensorflow as tf

from lintf.similarity import saved
from lintf.similarity.spec import SimilaritySpec
from tests.export import jobs

SPEC = SimilaritySpec(
    3, 2, 4, "weighted", temperature=0.5, gate="silu_softmax", gate_hidden=5
)
QUERIES = 24


def weights(spec: SimilaritySpec = SPEC) -> dict[str, np.ndarray]:
    random = np.random.default_rng(11)
    return {
        name: random.standard_normal(shape).astype(np.float32)
        for name, shape in spec.weight_shapes().items()
    }


def projection(side: str, dim: int) -> np.ndarray:
    """What a tower multiplies its one feature with."""
    seed = {"query": 21, "item": 22}[side]
    random = np.random.default_rng(seed)
    return random.standard_normal((jobs.DIM, dim)).astype(np.float32)


def query_features() -> np.ndarray:
    random = np.random.default_rng(31)
    return random.standard_normal((QUERIES, jobs.DIM)).astype(np.float32)


class _Linear(tf.Module):
    def __init__(self, feature: str, matrix: np.ndarray):
        super().__init__()
        self.matrix = tf.Variable(matrix)
        spec = tf.TensorSpec([None, jobs.DIM], tf.float32, name=feature)
        self.embed = tf.function(
            lambda **f: {"embedding": f[feature] @ self.matrix},
            autograph=False,
        ).get_concrete_function(**{feature: spec})


def write_job(
    folder: pathlib.Path, spec: SimilaritySpec = SPEC, **changes: Any
) -> pathlib.Path:
    """Writes items, towers, similarity, queries and config."""
    for side, feature, dim in (
        ("query", "interest", spec.query_dim),
        ("item", "vector", spec.item_dim),
    ):
        tower = _Linear(feature, projection(side, dim))
        tf.saved_model.save(
            tower,
            str(folder / side),
            signatures={"serving_default": tower.embed},
        )
    saved.save(spec, weights(spec), folder / "similarity")
    np.savez(folder / "queries.npz", interest=query_features())
    config: dict[str, Any] = {
        "items": {"path": "items.parquet", "id": "key"},
        "towers": {
            "query": {"path": "query"},
            "item": {"path": "item"},
            "similarity": {"path": "similarity"},
        },
        "retrieve": {
            "k": 7,
            "budget": 30,
            "recall_floor": 0.2,
            "recall_features": {"path": "queries.npz"},
            "return_attributes": ["genres", "year"],
            "variants": [
                {"name": "exactly", "k": 7, "algorithm": "exact"},
                {"name": "bounded", "k": 7, "algorithm": "bounded"},
                {"name": "staged", "k": 7, "algorithm": "two_stage"},
            ],
        },
    }
    return jobs.write_job(folder, **{**config, **changes})
