# SPDX-License-Identifier: Apache-2.0
"""What goes with a learned similarity in a config, and what does not."""

import copy
import math
import typing
from typing import Any

import pytest
import yaml

from export.config import (
    FeaturesFile,
    JobConfig,
    SimilarityKind,
    load_config,
)
from export.parse import ConfigError, to_dataclass
from lintf.index.schema import IndexSchema
from lintf.similarity.spec import SimilaritySpec
from lintf.towers import options

RECIPE = """
name: films
towers: {recipe: movielens_100k, similarity: mixture_of_logits}
items: {dataset: movielens_100k}
"""
SAVED = """
name: toys
towers:
  query: {path: query}
  item: {path: item}
  similarity: {path: similarity}
items: {path: items.parquet}
retrieve: {k: 5, recall_features: {path: queries.npz}}
"""


def parse(text: str, **changes: Any) -> JobConfig:
    data = yaml.safe_load(text)
    for key, value in changes.items():
        node = data
        *parents, last = key.split("__")
        for parent in parents:
            node = node.setdefault(parent, {})
        node[last] = value
    return to_dataclass(JobConfig, copy.deepcopy(data))


def test_a_similarity_by_name_is_one_of_the_recipe():
    config = parse(RECIPE)

    assert config.is_learned
    assert config.towers is not None
    assert config.towers.similarity == "mixture_of_logits"
    assert config.retrieve.learned_floor == 0.95
    assert not parse(RECIPE, towers__similarity="dot").is_learned


def test_budgets_and_candidates_reach_the_plans():
    config = parse(
        RECIPE,
        retrieve={
            "k": 10,
            "algorithm": "two_stage",
            "candidates": "components",
            "budget": 300,
            "variants": [{"name": "more", "k": 20, "algorithm": "exact"}],
        },
    )

    spec = SimilaritySpec(2, 2, 4, gate="softmax")
    schema = IndexSchema(spec.item_dim, similarity=spec)
    (main, variant) = config.retrieve.plans(schema).values()

    assert (main.candidates, main.budget) == ("components", 300)
    assert (variant.algorithm, variant.budget) == ("exact", 600)


def test_paths_are_relative_to_the_config(tmp_path):
    path = tmp_path / "job.yaml"
    path.write_text(SAVED, encoding="utf-8")

    config = load_config(path)

    assert config.towers is not None
    assert config.towers.similarity.path == str(tmp_path / "similarity")
    assert config.retrieve.recall_features == FeaturesFile(
        str(tmp_path / "queries.npz")
    )


def test_where_the_similarity_lies_is_no_part_of_the_build():
    elsewhere = parse(SAVED, towers__similarity={"path": "other"})
    assert elsewhere.identity() == parse(SAVED).identity()


def test_configs_without_one_are_what_they_were():
    identity = parse(RECIPE, towers={"recipe": "movielens_100k"}).identity()

    assert "similarity" not in identity["towers"]
    assert "budget" not in identity["retrieve"]


def test_recipes_know_the_same_similarities():
    assert set(typing.get_args(SimilarityKind)) == set(
        typing.get_args(options.SimilarityKind)
    )


@pytest.mark.parametrize(
    ("text", "changes", "message"),
    [
        (
            RECIPE,
            {"towers__fine_tune": {"learning_rate": math.inf}},
            "towers.fine_tune: `learning_rate` must be positive and finite",
        ),
        (
            RECIPE,
            {"towers__similarity": "mol"},
            "towers.similarity: expected .*mixture_of_logits",
        ),
        (
            RECIPE,
            {"towers__similarity": {"path": "x"}},
            "towers: `similarity` must be a name where a `recipe` trains it",
        ),
        (
            SAVED,
            {"towers__similarity": "hadamard_mlp"},
            "towers: `similarity` must be .*'hadamard_mlp' with saved towers",
        ),
        (
            RECIPE,
            {"towers__options": {"similarity": "hadamard_mlp"}},
            "towers: `options` must not have `similarity`",
        ),
        (
            SAVED,
            {"towers__query": None},
            "towers: `similarity` needs both towers.*missing: query",
        ),
        (
            SAVED,
            {"towers__fine_tune": {}},
            "towers: `fine_tune` needs a `recipe`",
        ),
        (
            RECIPE,
            {"towers__fine_tune": {"epochs": 0}},
            "towers.fine_tune: `epochs` must be at least 1",
        ),
        (RECIPE, {"index__metric": "cosine"}, "index.metric: cosine compares"),
        (
            RECIPE,
            {"index__dtype": "none", "quantization": {}},
            "index.dtype: none stores codes alone",
        ),
        (
            RECIPE,
            {"retrieve__algorithm": "masked"},
            "retrieve.algorithm: masked searches by the inner product",
        ),
        (
            RECIPE,
            {"retrieve__candidates": "codes"},
            "retrieve.candidates: codes need a `quantization`",
        ),
        (
            RECIPE,
            {"quantization": {}},
            "quantization: given, but no retrieve signature selects",
        ),
        (
            RECIPE,
            {
                "quantization": {"shortlist": 9},
                "retrieve__candidates": "codes",
            },
            "quantization.shortlist: given, but .* it is retrieve.budget",
        ),
        (
            RECIPE,
            {"retrieve__recall_floor": 1.5},
            "retrieve: `recall_floor` must be from 0 to 1",
        ),
        (
            RECIPE,
            {
                "towers__options": {"mixture": {"gate": "relu"}},
                "retrieve__algorithm": "bounded",
            },
            "retrieve.algorithm: bounded needs a convex gate .*got .* relu",
        ),
        (
            RECIPE,
            {"towers__similarity": "dot", "retrieve__budget": 50},
            "retrieve.budget: given, but without a learned similarity",
        ),
        (
            RECIPE,
            {"towers__similarity": None, "retrieve__algorithm": "bounded"},
            "retrieve.algorithm: bounded needs a learned similarity",
        ),
        (
            RECIPE,
            {"towers__similarity": "dot", "retrieve__recall_floor": 0.5},
            "retrieve.recall_floor: given, but it is of a learned",
        ),
    ],
)
def test_what_does_not_go_together_is_refused(text, changes, message):
    with pytest.raises(ConfigError, match=message):
        parse(text, **changes)


@pytest.mark.parametrize(
    ("changes", "lacks"),
    [
        ({}, False),
        ({"retrieve": {"k": 5}}, True),
        ({"retrieve": {"k": 5, "algorithm": "two_stage"}}, True),
        ({"retrieve": {"k": 5, "algorithm": "bounded"}}, False),
        ({"retrieve": {"k": 5, "recall_floor": 0}}, False),
    ],
)
def test_two_stage_searches_are_measured_with_queries(changes, lacks):
    assert parse(SAVED, **changes).lacks_queries == lacks
    assert not parse(RECIPE).lacks_queries
