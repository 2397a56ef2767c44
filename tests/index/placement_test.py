# SPDX-License-Identifier: Apache-2.0
"""Where the shards of a loaded index are, with virtual CPUs for devices.

Each load is a process of its own, because devices are made once.
"""

import json
import os
import pathlib
import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf

from lintf.index.batching import Batching
from lintf.index.schema import IndexSchema
from lintf.index.served import ServedIndex
from lintf.index.sharded import ShardedIndex
from lintf.index.shards import Shards
from lintf.similarity.spec import SimilaritySpec

ROOT = pathlib.Path(__file__).resolve().parents[2]
ITEMS = 12
VECTORS = np.random.default_rng(3).standard_normal((ITEMS, 2))
CPUS = ("CPU:0", "CPU:1", "CPU:2")


def _save(path, devices, similarity=None, **served):
    schema = IndexSchema(dim=2, similarity=similarity)
    index = ShardedIndex(schema, 40, Shards(3, devices))
    if similarity is not None:
        index.set_similarity_weights({"pair_weights": np.ones([1, 2])})
    index.append(range(ITEMS), VECTORS)
    ServedIndex(index, k=10, **served).save(path)
    return path


@pytest.fixture(scope="module")
def on_cpus(tmp_path_factory):
    return _save(tmp_path_factory.mktemp("cpus") / "m", CPUS)


@pytest.fixture(scope="module")
def on_gpus(tmp_path_factory):
    return _save(tmp_path_factory.mktemp("gpus") / "m", ())


def _loaded(path, num_cpus, soft):
    done = subprocess.run(
        [
            *(sys.executable, "-m", "tests.index.placed"),
            *(str(path), str(num_cpus), "soft" if soft else "hard"),
        ],
        cwd=ROOT,
        env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.strip().splitlines()[-1])


def _check_answers(loaded):
    best = np.argsort(-VECTORS.sum(axis=1))[:10]
    assert loaded["before"] == best.tolist()
    assert loaded["status"] == [1] * 10
    assert loaded["after"] == list(range(100, 110))
    assert loaded["offsets"] == [9]


@pytest.mark.parametrize(
    ("num_cpus", "soft", "devices"),
    [
        # Where the devices are there, a session need not be told anything.
        (3, False, list(CPUS)),
        (3, True, list(CPUS)),
        # What is missing is replaced.
        (2, True, ["CPU:0", "CPU:0", "CPU:1"]),
        (1, True, ["CPU:0"] * 3),
    ],
)
def test_each_shard_works_on_its_device(on_cpus, num_cpus, soft, devices):
    loaded = _loaded(on_cpus, num_cpus, soft)
    _check_answers(loaded)
    for name in ("searched", "updated", "looked"):
        assert loaded[name] == devices


def test_without_gpus_the_cpu_has_all_shards(on_gpus):
    loaded = _loaded(on_gpus, 1, True)
    _check_answers(loaded)
    assert loaded["searched"] == ["CPU:0"] * 3


def test_a_session_without_soft_placement_says_which_device_is_missing(on_gpus):
    assert "device:GPU:" in _loaded(on_gpus, 1, False)["error"]


@pytest.mark.parametrize(
    "similarity",
    # With weights of 1 it is the inner product.
    [None, SimilaritySpec(component_dim=2, component="weighted")],
)
def test_batches_search_on_every_device(tmp_path, similarity):
    path = _save(tmp_path / "m", CPUS, similarity, batching=Batching())
    loaded = _loaded(path, 3, False)
    _check_answers(loaded)
    assert loaded["searched"] == list(CPUS)


def test_loading_without_a_session_puts_all_on_one_device(on_cpus, on_gpus):
    for path in (on_cpus, on_gpus):
        loaded = tf.saved_model.load(str(path))
        found = loaded.signatures["retrieve_by_embedding"](
            query_embedding=tf.ones([1, 2]), filter=tf.constant([""])
        )
        best = np.argsort(-VECTORS.sum(axis=1))[:10]
        assert found["ids"].numpy()[0].tolist() == best.tolist()
        devices = {shard.ids.device for shard in loaded.state.shards}
        assert len(devices) == 1


def test_the_fingerprint_is_that_of_the_graph_with_devices(on_gpus):
    written = tf.saved_model.experimental.read_fingerprint(str(on_gpus))
    other = on_gpus.parent / "other"
    ServedIndex(ShardedIndex(IndexSchema(dim=2), 40, Shards(3)), k=10).save(
        other
    )
    assert written.saved_model_checksum
    assert written != tf.saved_model.experimental.read_fingerprint(str(other))
