# SPDX-License-Identifier: Apache-2.0
"""Killed with SIGKILL anywhere, the same command ends with the same index."""

import signal

import numpy as np
import pytest
import tensorflow as tf

from export import publish
from tests.export import jobs

pytest.importorskip("pyarrow")

# 8 steps of 8 rows, checkpoints after steps 2, 4 and 6: killed before the first
# one, right after one, between two, and at every step of the publishing.
EVENTS = ["step 1", "checkpoint 4", "step 7", "saved", "verified", "published"]


def variables(version):
    reader = tf.train.load_checkpoint(str(version / "variables" / "variables"))
    return {
        name: reader.get_tensor(name)
        for name in reader.get_variable_to_shape_map()
        if "CHECKPOINTABLE_OBJECT_GRAPH" not in name
    }


def test_a_killed_job_is_finished_by_the_same_command(tmp_path):
    config = jobs.write_job(tmp_path)
    killed, whole = tmp_path / "killed", tmp_path / "whole"
    for event in EVENTS:
        done = jobs.run_killed(config, killed, event)
        assert done.returncode == -signal.SIGKILL, done.stderr
        expected = [1] if event == "published" else []
        assert publish.versions(killed) == expected
        if event == "step 7":
            assert "Resuming after 32 items" in done.stdout
    last = jobs.run_killed(config, killed, "")
    assert last.returncode == 0, last.stderr
    assert "Nothing to do" in last.stderr
    assert publish.versions(killed) == [1]
    assert [p.name for p in killed.iterdir() if p.is_dir()] == ["1"]

    done = jobs.run_killed(config, whole, "")
    assert done.returncode == 0, done.stderr
    assert publish.read_build(whole / "1") == publish.read_build(killed / "1")
    one, other = variables(whole / "1"), variables(killed / "1")
    assert one.keys() == other.keys()
    assert any(
        name.endswith("embeddings/.ATTRIBUTES/VARIABLE_VALUE") for name in one
    )
    for name, values in one.items():
        np.testing.assert_array_equal(values, other[name], err_msg=name)
        assert values.tobytes() == other[name].tobytes() or (
            values.dtype == object
        )


def test_another_config_does_not_take_over_an_unfinished_job(tmp_path):
    config = jobs.write_job(tmp_path)
    done = jobs.run_killed(config, tmp_path / "m", "step 3")
    assert done.returncode == -signal.SIGKILL, done.stderr
    jobs.write_job(tmp_path, fill={"batch_size": 16})
    done = jobs.run_killed(config, tmp_path / "m", "")
    assert done.returncode == 1
    assert "config.fill.batch_size (8 there, 16 here)" in done.stderr
    assert publish.versions(tmp_path / "m") == []
