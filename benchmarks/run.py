# SPDX-License-Identifier: Apache-2.0
"""Runs a workload, prints its table, writes it to benchmarks/results.

python -m benchmarks.run --rows 1000000 --dim 128 --batches 1,32
"""

from __future__ import annotations

import json
import os
import pathlib
from collections.abc import Sequence

from absl import app, flags

# Before any numeric library is loaded: one thread each, and Keras 2 for TFRS.
for _name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[_name] = "1"
os.environ["TF_USE_LEGACY_KERAS"] = "1"
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

_RESULTS = pathlib.Path(__file__).parent / "results"

_ROWS = flags.DEFINE_integer("rows", 1_000_000, "Items.", lower_bound=1)
_DIM = flags.DEFINE_integer("dim", 128, "Dimensions.", lower_bound=1)
_K = flags.DEFINE_integer("k", 100, "Results a query.", lower_bound=1)
_BATCHES = flags.DEFINE_list("batches", ["1", "32"], "Queries a call.")
_ROUNDS = flags.DEFINE_integer(
    "rounds", 9, "Interleaved rounds.", lower_bound=1
)
_OUTPUT = flags.DEFINE_string(
    "output", str(_RESULTS), "Where exact.json and exact.md go."
)


def main(argv: Sequence[str]) -> None:
    if len(argv) > 1:
        raise app.UsageError(f"unexpected argument {argv[1]!r}")
    import tensorflow as tf

    tf.config.threading.set_intra_op_parallelism_threads(1)
    tf.config.threading.set_inter_op_parallelism_threads(1)
    from benchmarks.workloads import exact

    result = exact.run(
        _ROWS.value,
        _DIM.value,
        _K.value,
        [int(b) for b in _BATCHES.value],
        _ROUNDS.value,
    )
    text = exact.table(result)
    output = pathlib.Path(_OUTPUT.value)
    output.mkdir(parents=True, exist_ok=True)
    (output / "exact.json").write_text(json.dumps(result, indent=1) + "\n")
    (output / "exact.md").write_text(text)
    print(text)


if __name__ == "__main__":
    app.run(main)
