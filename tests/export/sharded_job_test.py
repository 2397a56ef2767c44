# SPDX-License-Identifier: Apache-2.0
"""Export jobs whose index is in several shards."""

import numpy as np
import pytest
import tensorflow as tf

from export import build_index, memory, publish
from export.config import load_config
from export.errors import JobError
from export.parse import ConfigError
from lintf.index import restore
from lintf.index.schema import IndexSchema
from lintf.index.shards import Shards
from tests.export import jobs
from tests.export.job_test import load

pytest.importorskip("pyarrow")


def _build(folder, *overrides, ops="native", **changes):
    """Runs a job, which verifies what it wrote; returns the version."""
    config = load_config(jobs.write_job(folder, **changes), overrides)
    build_index.run(config, str(folder / "toys"), ops=ops)
    return folder / "toys" / "1"


def _answers(path):
    model, ask = load(path)
    queries = np.random.default_rng(4).standard_normal((6, jobs.DIM))
    found = ask["retrieve_by_embedding"](
        query_embedding=tf.constant(queries, tf.float32),
        filter=tf.constant(['genres == "war"', "", "year > 1990"] * 2),
    )
    del model
    return {name: value.numpy() for name, value in found.items()}


def test_a_job_in_shards_answers_as_one_in_one_piece(tmp_path):
    whole = _build(tmp_path / "whole")
    sharded = _build(tmp_path / "sharded", "shards=3")
    assert restore.sharding_of(whole) == Shards()
    assert restore.sharding_of(sharded) == Shards(3)
    expected = _answers(whole)
    for name, values in _answers(sharded).items():
        np.testing.assert_array_equal(values, expected[name], name)
    builds = [publish.read_build(path) for path in (whole, sharded)]
    assert builds[0]["build_id"] != builds[1]["build_id"]
    assert builds[0]["num_items"] == builds[1]["num_items"] == jobs.ROWS
    assert "shards" not in builds[0]["config"]


@pytest.mark.parametrize("dtype", ["none", "int8"])
def test_codes_in_shards(tmp_path, dtype):
    path = _build(
        tmp_path,
        index={"dtype": dtype, "metric": "cosine", "id_dtype": "string"},
        quantization={"bits": 64, "recall_floor": 0.3},
        shards={"count": 2, "devices": ["CPU:0", "CPU:1"]},
    )
    (report,) = publish.read_build(path)["recall"]
    assert report["recall"] > 0.3
    # All that there is, so all that is best.
    assert report["table"][-1][0] == jobs.ROWS
    if dtype == "int8":
        assert report["table"][-1][1] == 1.0


def test_a_killed_job_goes_on(tmp_path):
    config = jobs.write_job(tmp_path, shards=2)
    killed = jobs.run_killed(config, tmp_path / "m", "step 5")
    assert killed.returncode < 0
    done = jobs.run_killed(config, tmp_path / "m", "")
    assert done.returncode == 0, done.stderr
    assert "Resuming after 32 items" in done.stdout + done.stderr
    with_shards = _answers(tmp_path / "m" / "1")
    whole = _answers(_build(tmp_path / "whole"))
    for name, values in with_shards.items():
        np.testing.assert_array_equal(values, whole[name], name)


def test_a_portable_index_is_in_one_piece(tmp_path):
    with pytest.raises(ConfigError, match="shards: a portable index is in one"):
        _build(tmp_path, "shards=2", ops="portable")


@pytest.mark.parametrize(
    ("shards", "message"),
    [
        (0, "shards: `count` must be an integer of at least 1, got 0"),
        ("two", "shards: expected an integer or a mapping"),
        ({"devices": ["GPU:0"]}, "shards: `devices` are for"),
        ({"count": 2, "devices": ["GPU"]}, "shards: `devices` must be such as"),
        ({"number": 2}, "shards.number: no such key"),
    ],
)
def test_bad_shards(tmp_path, shards, message):
    with pytest.raises(ConfigError, match=message):
        load_config(jobs.write_job(tmp_path, shards=shards))


def test_the_number_of_shards_makes_another_build(tmp_path):
    path = jobs.write_job(tmp_path)
    one, two, long = (
        load_config(path, overrides).identity()
        for overrides in ((), ["shards=2"], ["shards.count=2"])
    )
    assert one == load_config(path, ["shards=1"]).identity()
    assert two == long != one


def test_room_for_imbalance_counts_as_memory(monkeypatch):
    schema = IndexSchema(dim=2)
    needed = 16 * 1_000_000
    monkeypatch.setattr(memory, "available_bytes", lambda: needed)
    memory.check(schema, 1_000_000)
    rows = Shards(4).rows(1_000_000)
    with pytest.raises(JobError, match=f"{rows:,} rows in 4 shards of 16"):
        memory.check(schema, 1_000_000, Shards(4))
