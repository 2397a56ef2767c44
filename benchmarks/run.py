# SPDX-License-Identifier: Apache-2.0
r"""Runs workloads, prints their tables, writes them to benchmarks/results.

    python -m benchmarks.run                          all of them
    python -m benchmarks.run --workload=exact,codes   these
    python -m benchmarks.run --quick --output=/tmp/x  small, to see it work

Every workload runs in a process of its own: it has the memory for itself, and
the number of threads of TensorFlow and BLAS is fixed for a process.
"""

from __future__ import annotations

import importlib
import os
import pathlib
import subprocess
import sys
import time
from collections.abc import Sequence

from absl import app, flags, logging

from benchmarks import plots, report, workloads
from benchmarks import settings as settings_lib

_RESULTS = pathlib.Path(__file__).parent / "results"
_DEFAULT = settings_lib.Settings()

_WORKLOADS = flags.DEFINE_list(
    "workload", list(workloads.NAMES), "Which, of " + ", ".join(workloads.NAMES)
)
_QUICK = flags.DEFINE_bool("quick", False, "Tiny cases; times mean nothing.")
_ROWS = flags.DEFINE_integer(
    "rows", None, "Items; 1,000,000 by default.", lower_bound=100
)
_DIM = flags.DEFINE_integer(
    "dim", None, "Dimensions, a multiple of 32; 128 by default.", lower_bound=32
)
_SECONDS = flags.DEFINE_float(
    "seconds", _DEFAULT.seconds, "For the rounds of a case.", lower_bound=0
)
_ROUNDS = flags.DEFINE_integer(
    "min_rounds", _DEFAULT.min_rounds, "Least rounds a case.", lower_bound=1
)
_PEERS = flags.DEFINE_list("peers", list(_DEFAULT.peers), "Which to measure.")
_CACHE = flags.DEFINE_string(
    "cache", str(_DEFAULT.cache), "Data and environments that are made once."
)
_SCANN = flags.DEFINE_string(
    "scann_python", "", "A Python with ScaNN; by default one is made."
)
_CODE_BENCH = flags.DEFINE_string(
    "code_bench", "", "The program code_knn_bench, for `growth`."
)
_OUTPUT = flags.DEFINE_string("output", str(_RESULTS), "Where results go.")
_INSIDE = flags.DEFINE_bool("inside", False, "Run in this process.")


def main(argv: Sequence[str]) -> None:
    if len(argv) > 1:
        raise app.UsageError(f"unexpected argument {argv[1]!r}")
    unknown = set(_WORKLOADS.value) - set(workloads.NAMES)
    if unknown:
        raise app.UsageError(
            f"`--workload` must be of {', '.join(workloads.NAMES)}; got "
            f"{', '.join(sorted(unknown))}"
        )
    if _INSIDE.value:
        # FAISS tells at length which of its libraries it loads.
        logging.set_verbosity(logging.WARNING)
        for name in _WORKLOADS.value:
            run(name, _settings(name), pathlib.Path(_OUTPUT.value))
        return
    start = time.perf_counter()
    failed = []
    for name in _WORKLOADS.value:
        threads = str(_threads(name))
        environment = {
            **os.environ,
            "OMP_NUM_THREADS": threads,
            "OPENBLAS_NUM_THREADS": threads,
            "MKL_NUM_THREADS": threads,
            # TFRS is written against Keras 2.
            "TF_USE_LEGACY_KERAS": "1",
            "TF_CPP_MIN_LOG_LEVEL": os.environ.get("TF_CPP_MIN_LOG_LEVEL", "2"),
        }
        command = [sys.executable, "-m", "benchmarks.run", *sys.argv[1:]]
        command += [f"--workload={name}", "--inside"]
        if subprocess.run(command, env=environment).returncode:
            failed.append(name)
    seconds = time.perf_counter() - start
    print(f"{len(_WORKLOADS.value)} workloads in {seconds:.0f} s", flush=True)
    if failed:
        raise SystemExit(f"failed: {', '.join(failed)}")


def run(
    name: str, settings: settings_lib.Settings, output: pathlib.Path
) -> dict[str, object]:
    """Runs one workload in this process and writes its files."""
    import tensorflow as tf

    tf.config.threading.set_intra_op_parallelism_threads(settings.threads)
    tf.config.threading.set_inter_op_parallelism_threads(1)
    module = importlib.import_module(f"benchmarks.workloads.{name}")
    result = module.run(settings)
    report.write(result, output)
    print(report.markdown(result), flush=True)
    try:
        plots.draw(result, module.PLOTS, output)
    except ImportError as error:
        print(f"no plots: {error}", file=sys.stderr)
    return result


def _threads(name: str) -> int:
    # Not by importing the workload: this process loads no numeric library.
    return 2 if name == "threads" else 1


def _settings(name: str) -> settings_lib.Settings:
    quick = _QUICK.value
    size = (
        (settings_lib.QUICK_ROWS, settings_lib.QUICK_DIM)
        if quick
        else (settings_lib.FULL_ROWS, settings_lib.FULL_DIM)
    )
    return settings_lib.Settings(
        rows=_ROWS.value or size[0],
        dim=_DIM.value or size[1],
        quick=quick,
        threads=_threads(name),
        seconds=0.0 if quick else _SECONDS.value,
        min_rounds=1 if quick else _ROUNDS.value,
        peers=tuple(_PEERS.value),
        cache=pathlib.Path(_CACHE.value),
        scann_python=_SCANN.value,
        code_bench=_CODE_BENCH.value,
    )


if __name__ == "__main__":
    app.run(main)
