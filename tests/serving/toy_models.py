# SPDX-License-Identifier: Apache-2.0
"""Small SavedModels from stock ops, for tests of the serving layer.

The answer of every version tells which version gave it, so that swaps show.
"""

import os

import numpy as np
import tensorflow as tf
from tensorflow_serving.apis import predict_pb2, prediction_log_pb2

DIM = 4
ROWS = 6
K = 3

RESULTS = ("ids", "num_results", "scores")


class ToyIndex(tf.Module):
    """Top-k by inner product, with the signatures that the tests need.

    `version` is added to every id times 1000, so version 2 answers 2003 where
    version 1 answers 1003.
    """

    def __init__(self, version: int) -> None:
        super().__init__()
        rng = np.random.default_rng(7)
        self.items = tf.Variable(
            rng.normal(size=(ROWS, DIM)).astype(np.float32)
        )
        self.base = tf.Variable(1000 * version, dtype=tf.int64)

    def _top(self, query: tf.Tensor) -> dict[str, tf.Tensor]:
        scores, rows = tf.math.top_k(
            tf.matmul(query, self.items, transpose_b=True), k=K
        )
        return {
            "ids": tf.cast(rows, tf.int64) + self.base,
            "scores": scores,
            "num_results": tf.fill(tf.shape(query)[:1], K),
        }

    @tf.function(
        input_signature=[
            tf.TensorSpec([None, DIM], tf.float32, name="query_embedding"),
            tf.TensorSpec([None], tf.string, name="filter"),
        ]
    )
    def retrieve_by_embedding(self, query_embedding, filter):
        """A filter of "fail" is refused, as a malformed one would be."""
        check = tf.debugging.Assert(
            tf.reduce_all(tf.not_equal(filter, "fail")),
            ["the filter must be another word, got fail at position 0"],
        )
        with tf.control_dependencies([check]):
            return self._top(query_embedding)

    @tf.function(
        input_signature=[
            tf.TensorSpec([None], tf.int64, name="user_id"),
            tf.TensorSpec([None, 3], tf.int64, name="history"),
            tf.TensorSpec([None], tf.string, name="gender"),
            tf.TensorSpec([None], tf.string, name="filter"),
        ]
    )
    def retrieve(self, user_id, history, gender, filter):
        """A query whose answer depends on every input."""
        query = tf.stack(
            [
                tf.cast(user_id, tf.float32),
                tf.cast(tf.reduce_sum(history, axis=1), tf.float32),
                tf.cast(tf.equal(gender, "F"), tf.float32),
                tf.cast(tf.strings.length(filter), tf.float32),
            ],
            axis=1,
        )
        top = self._top(query)
        top["attribute_title"] = tf.strings.join(
            ["film ", tf.strings.as_string(top["ids"])]
        )
        return top

    @tf.function(
        input_signature=[tf.TensorSpec([None], tf.float32, name="query")]
    )
    def one_input(self, query):
        """The signature of the recorded error texts."""
        return {
            "ids": tf.cast(query, tf.int64) + self.base,
            "scores": query * 2.0,
        }

    @tf.function(
        input_signature=[tf.TensorSpec([None], tf.string, name="path")]
    )
    def wait_for_file(self, path):
        """Runs until a file exists: a request whose end a test decides."""

        def absent(i):
            # The counter keeps the look-up from being hoisted out of the loop.
            pattern = tf.strings.join(
                [path[0], tf.strings.substr(tf.strings.as_string(i), 0, 0)]
            )
            return tf.equal(tf.size(tf.io.matching_files(pattern)), 0)

        i = tf.while_loop(absent, lambda i: (i + 1,), (tf.constant(0),))[0]
        return {"version": tf.fill([1], self.base + 0 * tf.cast(i, tf.int64))}

    @tf.function(input_signature=[tf.TensorSpec([None], tf.int64, name="size")])
    def big_answer(self, size):
        """Answers of any size, in float32 values."""
        return {"values": tf.zeros([1, tf.cast(size[0], tf.int32)])}

    @tf.function(
        input_signature=[
            tf.TensorSpec([None], tf.float32, name="floats"),
            tf.TensorSpec([None], tf.bool, name="bools"),
            tf.TensorSpec([None], tf.int32, name="ints"),
            tf.TensorSpec([None, 2], tf.string, name="strings"),
        ]
    )
    def echo(self, floats, bools, ints, strings):
        """One input of each kind, for the fuzz."""
        return {
            "floats": tf.identity(floats),
            "bools": tf.identity(bools),
            "ints": tf.identity(ints),
            "strings": tf.identity(strings),
        }


def warmup_record(
    signature: str, inputs: dict[str, np.ndarray]
) -> prediction_log_pb2.PredictionLog:
    """One record of a warm-up file."""
    request = predict_pb2.PredictRequest()
    request.model_spec.name = "any"
    request.model_spec.signature_name = signature
    for name, value in inputs.items():
        request.inputs[name].CopyFrom(tf.make_tensor_proto(value))
    return prediction_log_pb2.PredictionLog(
        predict_log=prediction_log_pb2.PredictLog(request=request)
    )


def write_warmup(directory: str, records: list[bytes]) -> None:
    """Writes the warm-up file of a version directory."""
    extra = os.path.join(directory, "assets.extra")
    os.makedirs(extra, exist_ok=True)
    path = os.path.join(extra, "tf_serving_warmup_requests")
    with tf.io.TFRecordWriter(path) as writer:
        for record in records:
            writer.write(record)


def export(directory: str, version: int) -> str:
    """Writes the toy model to a directory and returns it."""
    module = ToyIndex(version)
    tf.saved_model.save(
        module,
        directory,
        signatures={
            "serving_default": module.retrieve,
            "retrieve_by_embedding": module.retrieve_by_embedding,
            "one_input": module.one_input,
            # Changes nothing, but has the name of what does.
            "update": module.one_input,
            "wait_for_file": module.wait_for_file,
            "big_answer": module.big_answer,
            "echo": module.echo,
        },
    )
    record = warmup_record("one_input", {"query": np.zeros([1], np.float32)})
    write_warmup(directory, [record.SerializeToString()])
    return directory
