# SPDX-License-Identifier: Apache-2.0
"""Jobs whose towers come with a learned similarity."""

import dataclasses
import json
import shutil

import numpy as np
import pytest
import tensorflow as tf

from export import build_index, publish, queries, verify
from export.config import load_config
from export.errors import JobError
from export.parse import ConfigError
from lintf import ops
from lintf.index.schema import IndexSchema
from lintf.index.shards import shard_of
from lintf.similarity import reference, saved
from lintf.similarity.spec import SimilaritySpec
from tests.export import jobs, learned_jobs

pytest.importorskip("pyarrow")

assert ops.retrieve  # its import loads the op library

SPEC = learned_jobs.SPEC


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """An index with a learned similarity: the job's folder."""
    folder = tmp_path_factory.mktemp("learned")
    config = learned_jobs.write_job(folder)
    assert build_index.run(load_config(config), folder / "toys").name == "1"
    return folder


def _scores(features: np.ndarray) -> np.ndarray:
    """By the definition, of every query and item."""
    items = jobs.columns()["vector"] @ learned_jobs.projection(
        "item", SPEC.item_dim
    )
    queries = features @ learned_jobs.projection("query", SPEC.query_dim)
    return reference.scores(SPEC, learned_jobs.weights(), queries, items)


@pytest.mark.parametrize("name", ["exactly", "bounded"])
def test_serves_the_similarity_from_raw_features(built, name):
    model = tf.saved_model.load(str(built / "toys" / "1"))
    features = learned_jobs.query_features()[:5]

    found = model.signatures[name](
        interest=tf.constant(features),
        filter=tf.constant(["year >= 1980"] * 5),
    )

    data = jobs.columns()
    passing = np.array([y is not None and y >= 1980 for y in data["year"]])
    scores = np.where(passing, _scores(features), -np.inf)
    best = np.argsort(-scores, axis=1)[:, :7]
    assert found["ids"].numpy().tolist() == np.array(data["key"])[best].tolist()
    np.testing.assert_allclose(
        found["scores"].numpy(),
        np.take_along_axis(scores, best, axis=1),
        rtol=1e-4,
        atol=1e-4,
    )
    assert (found["num_scored"].numpy() <= passing.sum()).all()


def test_the_schema_says_how_queries_and_items_are_compared(built):
    model = tf.saved_model.load(str(built / "toys" / "1"))
    stats = model.signatures["index_stats"](probe=tf.constant([0], tf.int64))
    schema = IndexSchema.from_json(stats["schema"].numpy()[0])
    assert schema.similarity == SPEC


def test_the_build_file_has_the_recall_of_two_stage_searches(built):
    build = publish.read_build(built / "toys" / "1")
    assert [r["signature"] for r in build["recall"]] == ["retrieve", "staged"]
    for report in build["recall"]:
        assert report["num_queries"] == learned_jobs.QUERIES
        assert report["source"] == "queries of a file"
        assert report["learned"]
        # All rows as candidates miss nothing.
        assert report["table"][-1] == [jobs.ROWS, 1.0]


def test_verifies_again(built):
    job = json.loads((built / ".toys.work" / "job.json").read_text("utf-8"))
    done = verify.Verifier(built / "toys" / "1").check(job)
    assert any(text.startswith("recall@7 of staged ") for text in done)


def test_below_the_floor_nothing_is_published(tmp_path):
    config = learned_jobs.write_job(
        tmp_path,
        retrieve={
            "k": 7,
            "budget": 7,
            "algorithm": "two_stage",
            "recall_floor": 1.0,
            "recall_features": {"path": "queries.npz"},
        },
    )
    with pytest.raises(JobError, match="retrieve.recall_floor: the recall@7"):
        build_index.run(load_config(config), tmp_path / "toys")
    assert publish.versions(tmp_path / "toys") == []


def test_two_stage_searches_without_queries_are_refused(tmp_path):
    config = learned_jobs.write_job(tmp_path, retrieve={"k": 7})
    with pytest.raises(ConfigError, match="retrieve.recall_features: required"):
        build_index.run(load_config(config), tmp_path / "toys")
    # A portable index searches exactly.
    job = load_config(config)
    built = build_index.run(job, tmp_path / "toys", ops="portable")
    assert "recall" not in publish.read_build(built)


def test_candidates_by_codes(tmp_path):
    config = learned_jobs.write_job(
        tmp_path,
        retrieve={
            "k": 7,
            "budget": 40,
            "algorithm": "two_stage",
            "candidates": "codes",
            "recall_floor": 0.2,
            "recall_features": {"path": "queries.npz"},
        },
        quantization={"bits": 64},
    )
    built = build_index.run(load_config(config), tmp_path / "toys")
    (report,) = publish.read_build(built)["recall"]
    assert report["codes"] == "candidates by codes"


def test_a_similarity_of_other_towers_is_refused(tmp_path):
    config = learned_jobs.write_job(tmp_path)
    wider = dataclasses.replace(SPEC, component_dim=5)
    saved.save(wider, learned_jobs.weights(wider), tmp_path / "similarity")
    with pytest.raises(
        JobError, match="needs a query tower with an output of 21 numbers"
    ):
        build_index.run(load_config(config), tmp_path / "toys")


def test_no_similarity_where_one_is_named(tmp_path):
    config = learned_jobs.write_job(tmp_path)
    (tmp_path / "similarity" / "spec.json").unlink()
    with pytest.raises(JobError, match="towers.similarity: no similarity at"):
        build_index.run(load_config(config), tmp_path / "toys")
    shutil.rmtree(tmp_path / "similarity")
    with pytest.raises(JobError, match="towers.similarity: `path` must be"):
        build_index.run(load_config(config), tmp_path / "toys")


def test_raw_updates_in_shards_are_checked(tmp_path):
    # The job checks what it wrote; its first item is not in the first shard.
    assert shard_of(np.array([jobs.columns()["key"][0]]), 3).numpy() != [0]
    config = learned_jobs.write_job(tmp_path, shards=3)
    assert build_index.run(load_config(config), tmp_path / "toys").name == "1"


def test_bounded_searches_of_an_open_gate_are_refused(tmp_path):
    spec = SimilaritySpec(2, 2, 4, gate="sigmoid")
    config = learned_jobs.write_job(tmp_path, spec)
    with pytest.raises(ConfigError, match="bounded: .* needs a convex gate"):
        build_index.run(load_config(config), tmp_path / "toys")


def test_a_file_of_queries_must_have_the_towers_features(tmp_path):
    config = learned_jobs.write_job(tmp_path)
    features = {"interest": tf.TensorSpec([None, jobs.DIM])}
    file = tmp_path / "queries.npz"
    for arrays, message in (
        ({"other": np.zeros(3)}, "missing: interest"),
        ({"interest": np.zeros([2, 5])}, r"\[None, 4\], got \[2, 5\]"),
        ({"interest": np.float32(1)}, r"\[None, 4\], got \[\]"),
        ({"interest": np.full([2, jobs.DIM], np.nan)}, "must be finite"),
        ({"interest": np.zeros([0, jobs.DIM])}, "at least one"),
        ({"interest": np.full([2, jobs.DIM], "1")}, "float32, got str"),
        ({"interest": np.array([[None] * 4])}, "without Python objects"),
    ):
        np.savez(file, **arrays)
        with pytest.raises(JobError, match=f"recall_features: .*{message}"):
            queries.features_from_file(str(file), features, 8, 0)
    file.unlink()
    with pytest.raises(JobError, match="recall_features: .*No such file"):
        build_index.run(load_config(config), tmp_path / "toys")
