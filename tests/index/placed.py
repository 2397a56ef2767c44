# SPDX-License-Identifier: Apache-2.0
"""Loads a sharded index in a session and tells where its parts ran.

    python -m tests.index.placed MODEL_DIR NUM_CPUS SOFT

Prints, as JSON, the device that each operation on a shard ran on in a search
and in an update, and what they answered; or the error of the load.
"""

import json
import sys

import numpy as np
import tensorflow as tf

from lintf import ops

INDEX_OPS = (
    "Lintf>Retrieve",
    "Lintf>RetrieveSimilar",
    "Lintf>Update",
    "Lintf>Lookup",
)


class Session:
    """A SavedModel in a session, like that of a server."""

    def __init__(self, path, num_cpus, soft):
        assert ops.compile_filter  # its import loads the op library
        self._graph = tf.Graph()
        config = tf.compat.v1.ConfigProto(
            allow_soft_placement=soft, device_count={"CPU": num_cpus}
        )
        self._session = tf.compat.v1.Session(graph=self._graph, config=config)
        with self._graph.as_default():
            meta_graph = tf.compat.v1.saved_model.load(
                self._session, ["serve"], path
            )
        self._signatures = meta_graph.signature_def

    def call(self, name, **inputs):
        """Outputs of a signature, and the devices of operations by type."""
        signature = self._signatures[name]
        metadata = tf.compat.v1.RunMetadata()
        outputs = self._session.run(
            {key: info.name for key, info in signature.outputs.items()},
            {signature.inputs[key].name: v for key, v in inputs.items()},
            options=tf.compat.v1.RunOptions(
                trace_level=tf.compat.v1.RunOptions.FULL_TRACE
            ),
            run_metadata=metadata,
        )
        devices = {op: [] for op in INDEX_OPS}
        for device in metadata.step_stats.dev_stats:
            short = device.device.split("/")[-1].removeprefix("device:")
            for node in device.node_stats:
                for op in INDEX_OPS:
                    if f"{op}(" in node.timeline_label:
                        devices[op].append(short)
        return outputs, {op: sorted(found) for op, found in devices.items()}


def main(path, num_cpus, soft):
    try:
        session = Session(path, int(num_cpus), soft == "soft")
    except tf.errors.OpError as error:
        print(json.dumps({"error": error.message}))
        return
    query = {
        "query_embedding": np.ones([1, 2], np.float32),
        "filter": np.array([b""], object),
    }
    change = {
        "id": np.arange(100, 110),
        "delete": np.zeros(10, bool),
        "embedding": np.full([10, 2], 9, np.float32),
        "log_partition": np.zeros(10, np.int64),
        "log_previous_offset": np.arange(-1, 9),
        "log_offset": np.arange(10),
    }
    before, searched = session.call("retrieve_by_embedding", **query)
    updated, changed = session.call("update", **change)
    after, _ = session.call("retrieve_by_embedding", **query)
    stats, _ = session.call("index_stats", probe=[0])
    print(
        json.dumps(
            {
                "searched": searched["Lintf>Retrieve"]
                + searched["Lintf>RetrieveSimilar"],
                "updated": changed["Lintf>Update"],
                "looked": changed["Lintf>Lookup"],
                "before": before["ids"][0].tolist(),
                "status": updated["status"].tolist(),
                "after": sorted(after["ids"][0].tolist()),
                "offsets": stats["log_offsets"][0].tolist(),
            }
        )
    )


if __name__ == "__main__":
    main(*sys.argv[1:])
