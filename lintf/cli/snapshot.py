# SPDX-License-Identifier: Apache-2.0
"""Writes the next version of a live index, from the last one and the log.

The version has the same towers, signatures and attributes; deleted items leave
no holes in it. A server that loads it has little of the log to catch up with.
Nothing need be stopped: the job reads the model's directory and the change log,
and publishes with a rename.

Examples:
  lintf snapshot --model_base_path models/films --source file:changes
  lintf snapshot --model_base_path models/films --source kafka:films \\
      --kafka_config kafka.properties --capacity 2000000
  lintf snapshot --model_base_path models/films --source file:changes \\
      --until 1500,1480
"""

from __future__ import annotations

import pathlib
import sys
from collections.abc import Sequence

from absl import flags

from lintf.cli import quiet, source_flags

FLAGS = flags.FlagValues()  # type: ignore[no-untyped-call]

flags.DEFINE_string(
    "model_base_path",
    "",
    "Directory of the model's version directories.",
    flag_values=FLAGS,
)
flags.DEFINE_integer(
    "capacity",
    None,
    "Rows to allocate; as many as the last version has if not given.",
    lower_bound=1,
    flag_values=FLAGS,
)
source_flags.define(FLAGS)


def main(argv: Sequence[str]) -> int:
    """Makes the snapshot; returns the exit status."""
    del argv  # All flags.
    try:
        if not FLAGS.model_base_path:
            raise ValueError("--model_base_path must be given.")
        source_flags.check(FLAGS)
    except ValueError as error:
        print(f"lintf snapshot: {error}", file=sys.stderr)
        return 2
    quiet.import_tensorflow()
    import tensorflow as tf

    tf.get_logger().setLevel("ERROR")
    from export import snapshot
    from export.errors import JobError
    from lintf.ingest.source import SourceError

    base = pathlib.Path(FLAGS.model_base_path).absolute()
    try:
        with source_flags.open_log(FLAGS) as log:
            print(snapshot.snapshot(base, log, capacity=FLAGS.capacity))
    except (JobError, SourceError, ValueError, OSError, ImportError) as error:
        print(f"lintf snapshot: {error}", file=sys.stderr)
        return 1
    return 0
