# SPDX-License-Identifier: Apache-2.0
"""The ops in SavedModels: fresh processes, sessions, several at once."""

import gc
import json
import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf

from lintf import ops
from lintf.index.schema import Attribute, IndexSchema
from tests.ops.toy_index import ToyIndex

SCHEMA = IndexSchema(dim=4, attributes=(Attribute("a", "int", dtype="int8"),))
OPTIONS = tf.saved_model.SaveOptions(namespace_whitelist=["Lintf"])


class Model(tf.Module):
    """Every op of the library behind a signature."""

    def __init__(self, seed):
        super().__init__()
        self.index = ToyIndex(rows=40, capacity=50, dim=4, dead=[3], seed=seed)

    @tf.function(
        input_signature=[
            tf.TensorSpec([None, 4], tf.float32, name="query"),
            tf.TensorSpec([None], tf.string, name="filter"),
        ]
    )
    def search(self, query, filter):
        programs = ops.compile_filter(filter, SCHEMA)
        index = self.index
        found = ops.retrieve(
            query,
            programs,
            index.resource,
            index.ids,
            index.embeddings,
            index.num_rows,
            index.columns[:1],
            k=5,
            return_columns=[0],
        )
        mask = ops.filter_mask(
            programs,
            index.resource,
            index.ids,
            index.num_rows,
            index.columns[:1],
        )
        plain = ops.masked_knn(query, tf.eye(4), tf.fill([1, 4], True), 2)
        looked = index.lookup(found.ids[:, 0])
        return {
            "ids": found.ids,
            "scores": found.scores,
            "values": found.values[0],
            "passing": mask.num_passing,
            "plain": plain.indices,
            "row": looked.row,
        }

    @tf.function(
        input_signature=[
            tf.TensorSpec([], tf.int64, name="start"),
            tf.TensorSpec([None], tf.int64, name="ids"),
        ]
    )
    def write(self, start, ids):
        op = ops.assign_rows(self.index.resource, self.index.ids, start, ids)
        with tf.control_dependencies([op]):
            stats = self.index.stats()
        return {"live": stats.live_rows}


QUERY = np.random.default_rng(3).standard_normal((3, 4)).astype(np.float32)
FILTERS = ["", "a >= 3", "a == 1 or id == 7"]


def _plain(results):
    return {k: np.asarray(v).tolist() for k, v in results.items()}


def _ask(loaded):
    call = loaded.signatures["search"]
    return _plain(call(query=tf.constant(QUERY), filter=tf.constant(FILTERS)))


def _write(loaded, start, ids):
    call = loaded.signatures["write"]
    return int(
        call(
            start=tf.constant(start, tf.int64), ids=tf.constant(ids, tf.int64)
        )["live"]
    )


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """Two models, where they are saved, and what they answer."""
    out = []
    for seed in (1, 2):
        model = Model(seed)
        path = str(tmp_path_factory.mktemp("model"))
        # One is saved before its first use, one after.
        expected = None
        if seed == 1:
            expected = _plain(model.search(QUERY, tf.constant(FILTERS)))
        tf.saved_model.save(
            model,
            path,
            signatures={"search": model.search, "write": model.write},
            options=OPTIONS,
        )
        expected = expected or _plain(model.search(QUERY, tf.constant(FILTERS)))
        out.append((path, expected))
    assert out[0][1] != out[1][1]
    return out


_FRESH_PROCESS = """
import json, sys
import numpy as np, tensorflow as tf
import lintf.ops
path, query, filters = sys.argv[1], *map(json.loads, sys.argv[2:])
call = tf.saved_model.load(path).signatures["search"]
found = call(query=tf.constant(query, tf.float32), filter=tf.constant(filters))
print(json.dumps({k: v.numpy().tolist() for k, v in found.items()}))
"""


def test_in_a_fresh_process(saved):
    path, expected = saved[0]
    command = [sys.executable, "-c", _FRESH_PROCESS, path]
    command += [json.dumps(QUERY.tolist()), json.dumps(FILTERS)]
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert json.loads(result.stdout.splitlines()[-1]) == expected


def test_several_loads_share_nothing(saved):
    paths = [saved[0][0], saved[1][0], saved[0][0]]
    expected = [saved[0][1], saved[1][1], saved[0][1]]
    loaded = [tf.saved_model.load(path) for path in paths]
    assert [_ask(model) for model in loaded] == expected
    # Kills the best item of each query in the first.
    best = expected[0]["row"]
    assert _write(loaded[0], best[0], [-1]) == 38
    assert [_ask(model) for model in loaded[1:]] == expected[1:]
    changed = _ask(loaded[0])
    assert expected[0]["ids"][0][0] not in changed["ids"][0]
    # Saved again, with the change.
    assert _ask(loaded[0]) == changed


def test_loaded_again_after_being_saved_again(saved, tmp_path):
    loaded = tf.saved_model.load(saved[0][0])
    assert _write(loaded, 0, [-1, -1]) == 37
    changed = _ask(loaded)
    tf.saved_model.save(
        loaded,
        str(tmp_path),
        signatures=dict(loaded.signatures),
        options=OPTIONS,
    )
    assert _ask(tf.saved_model.load(str(tmp_path))) == changed
    assert _Session(str(tmp_path)).search() == changed


def test_a_signature_is_enough_to_keep_the_resource(saved):
    path, expected = saved[0]
    call = tf.saved_model.load(path).signatures["search"]
    gc.collect()
    found = call(query=tf.constant(QUERY), filter=tf.constant(FILTERS))
    assert _plain(found) == expected


class _Session:
    """A model behind a session, as a model server loads it."""

    def __init__(self, path):
        graph = tf.Graph()
        self._session = tf.compat.v1.Session(graph=graph)
        with graph.as_default():
            self._model = tf.compat.v1.saved_model.load(
                self._session, ["serve"], path
            )

    def call(self, signature, **inputs):
        signature = self._model.signature_def[signature]
        return _plain(
            self._session.run(
                {k: v.name for k, v in signature.outputs.items()},
                {signature.inputs[k].name: v for k, v in inputs.items()},
            )
        )

    def search(self):
        return self.call("search", query=QUERY, filter=FILTERS)


def test_in_sessions(saved):
    sessions = [_Session(saved[i][0]) for i in (0, 1, 0)]
    expected = [saved[i][1] for i in (0, 1, 0)]
    assert [s.search() for s in sessions] == expected
    # One resource serves all signatures of a session, and no other session.
    row = expected[0]["row"][0]
    assert sessions[0].call("write", start=row, ids=[-1]) == {"live": 38}
    assert expected[0]["ids"][0][0] not in sessions[0].search()["ids"][0]
    assert [s.search() for s in sessions[1:]] == expected[1:]


def test_other_namespaces_are_refused(tmp_path):
    model = Model(1)
    with pytest.raises(ValueError, match="Lintf"):
        tf.saved_model.save(
            model,
            str(tmp_path),
            signatures={"search": model.search},
            options=tf.saved_model.SaveOptions(namespace_whitelist=["Other"]),
        )
