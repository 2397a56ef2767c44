# SPDX-License-Identifier: Apache-2.0
"""Makes an index from a config and the whole change log, without export data.

It is published under the next number of the directory, where a server that
watches it takes it over. The log must still hold the newest record of every
item, as a compacted Kafka topic does. Towers, and without a config everything
else but the items, come from an earlier version that --like names.

Examples:
  lintf bootstrap --model_base_path models/films --config films.yaml \\
      --source file:changes
  lintf bootstrap --model_base_path models/films --like models/films/7 \\
      --source kafka:films --kafka_config kafka.properties
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
    "Directory for the model's version directories.",
    flag_values=FLAGS,
)
flags.DEFINE_string(
    "config",
    "",
    "YAML file: dim, index (metric, id_dtype, dtype, capacity), attributes "
    "(name, kind, vocabulary, encoding, dtype, width), quantization, "
    "retrieve, filter_limits, batching, update.",
    flag_values=FLAGS,
)
flags.DEFINE_string(
    "like",
    "",
    "A version's directory: its towers are taken, and without --config all "
    "else but its items.",
    flag_values=FLAGS,
)
flags.DEFINE_integer(
    "capacity",
    None,
    "Rows to allocate; if not given, what the config or --like has.",
    lower_bound=1,
    flag_values=FLAGS,
)
source_flags.define(FLAGS)


def main(argv: Sequence[str]) -> int:
    """Makes the index; returns the exit status."""
    del argv  # All flags.
    try:
        if not FLAGS.model_base_path:
            raise ValueError("--model_base_path must be given.")
        if not FLAGS.config and not FLAGS.like:
            raise ValueError("--config, --like or both must be given.")
        source_flags.check(FLAGS)
    except ValueError as error:
        print(f"lintf bootstrap: {error}", file=sys.stderr)
        return 2
    quiet.import_tensorflow()
    import tensorflow as tf

    tf.get_logger().setLevel("ERROR")
    from export import bootstrap
    from export.errors import JobError
    from lintf.ingest.source import SourceError

    base = pathlib.Path(FLAGS.model_base_path).absolute()
    try:
        config = None
        if FLAGS.config:
            config = bootstrap.load_config(pathlib.Path(FLAGS.config))
        like = pathlib.Path(FLAGS.like) if FLAGS.like else None
        with source_flags.open_log(FLAGS) as log:
            print(
                bootstrap.bootstrap(
                    base,
                    log,
                    config=config,
                    like=like,
                    capacity=FLAGS.capacity,
                )
            )
    except (JobError, SourceError, ValueError, OSError, ImportError) as error:
        print(f"lintf bootstrap: {error}", file=sys.stderr)
        return 1
    return 0
