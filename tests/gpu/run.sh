#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
#
# Builds, checks and measures the GPU code, in less than 8 minutes, on a machine
# with nvcc, g++, a GPU, and a Python with numpy and torch; without TensorFlow
# and without a network. Goes on past what fails, and prints its table last.
#
#   tests/gpu/run.sh
#
# Variables: OUT, the folder of gpu.json, gpu.md and gpu_checks.json (default
# benchmarks/results); BUILD, the folder of what is built (default build/gpu);
# PYTHON, NVCC, CXX; LIMIT, the seconds it may take (default 450).
set -uo pipefail

cd "$(dirname "$0")/../.."
exec "${PYTHON:-python3}" -m tests.gpu.run "$@"
