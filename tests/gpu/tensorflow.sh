#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
#
# Checks and times the served index on a GPU, on a machine where TensorFlow can
# use one: makes small indexes of every storage type, loads each on the GPU and
# on the CPU, runs every signature on both, updates both, and compares.
#
#   tests/gpu/tensorflow.sh         # needs a GPU
#   tests/gpu/tensorflow.sh --dry   # two virtual CPUs instead of one and a GPU
#
# Takes lintf/ops/_lintf_ops.so, or the file that LINTF_OPS_LIBRARY names, if it
# has GPU code; otherwise builds one in BUILD, which needs cmake, ninja, g++,
# nvcc and TensorFlow's headers.
#
# Variables: OUT, the folder of gpu_tensorflow.json and gpu_tensorflow.md
# (default benchmarks/results; a dry run writes none without it); BUILD (default
# build/gpu_tensorflow); PYTHON (default python3).
set -euo pipefail

cd "$(dirname "$0")/../.."
PYTHON=${PYTHON:-python3}
BUILD=${BUILD:-build/gpu_tensorflow}

built_with_cuda() {
  grep -qs '^CUDA = True' lintf/ops/_build_info.py &&
    [[ -e lintf/ops/_lintf_ops.so ]]
}

if [[ -z ${LINTF_OPS_LIBRARY:-} && " $* " != *" --dry "* ]] &&
  ! built_with_cuda; then
  cmake -G Ninja -S . -B "$BUILD" -DPython_EXECUTABLE="$(command -v "$PYTHON")"
  cmake --build "$BUILD" --target lintf_ops
  LINTF_OPS_LIBRARY=$PWD/$BUILD/_lintf_ops.so
  export LINTF_OPS_LIBRARY
  # What says which TensorFlow the library is for lies beside the package.
  cp "$BUILD/_build_info.py" lintf/ops/_build_info.py
fi
export TF_CPP_MIN_LOG_LEVEL=${TF_CPP_MIN_LOG_LEVEL:-2}
export TF_FORCE_GPU_ALLOW_GROWTH=${TF_FORCE_GPU_ALLOW_GROWTH:-true}
exec "$PYTHON" -m tests.gpu.tensorflow_checks "$@"
