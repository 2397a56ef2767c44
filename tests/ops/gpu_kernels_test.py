# SPDX-License-Identifier: Apache-2.0
"""Which devices the ops have kernels for. Needs no GPU."""

from __future__ import annotations

import pytest
import tensorflow as tf
from tensorflow.python.framework import kernels

from lintf.ops import library
from lintf.ops._build_info import CUDA
from tests.ops.toy_index import EMULATED

# Strings never leave the CPU, nor does what is asked of all shards at once.
ON_CPU_ALONE = {"Lintf>CheckUpdate", "Lintf>CompileFilter"}


def _kernels(op: str) -> dict[str, set[str]]:
    """The inputs and outputs in host memory, by device."""
    library.load()
    found = kernels.get_registered_kernels_for_op(op).kernel
    by_device = {k.device_type: set(k.host_memory_arg) for k in found}
    assert len(by_device) == len(found), "two kernels for one device"
    return by_device


@pytest.mark.parametrize("op", library._OPS)
def test_every_op_runs_on_the_cpu(op):
    assert "CPU" in _kernels(op)


needs_cuda = pytest.mark.skipif(
    EMULATED or not CUDA, reason="the op library was built without CUDA"
)


@needs_cuda
@pytest.mark.parametrize("op", library._OPS)
def test_every_op_runs_on_a_gpu(op):
    assert ("GPU" in _kernels(op)) == (op not in ON_CPU_ALONE)


@needs_cuda
@pytest.mark.parametrize("op", sorted(set(library._OPS) - ON_CPU_ALONE))
def test_handles_are_host_memory(op):
    # TensorFlow keeps handles there; a kernel that says otherwise would have
    # them copied, and crash.
    definition = library.op_def_registry.get(op)
    on_host = _kernels(op)["GPU"]
    handles = {
        argument.name
        for argument in [*definition.input_arg, *definition.output_arg]
        if argument.type == tf.resource.as_datatype_enum
    }
    assert handles <= on_host


@needs_cuda
def test_what_the_host_looks_at_is_host_memory():
    for op, names in {
        "Lintf>Retrieve": {"queries", "programs"},
        "Lintf>RetrieveSimilar": {"queries", "programs", "weights"},
        "Lintf>FilterMask": {"programs"},
        "Lintf>Lookup": {"id", "found", "row"},
        "Lintf>Update": {"id", "delete", "embedding", "values", "status"},
        "Lintf>AssignRows": {"start"},
        "Lintf>MaskedKnn": {"queries"},
    }.items():
        assert names <= _kernels(op)["GPU"], op
    results = {"result_ids", "scores", "num_results", "rows", "values"}
    assert not results & _kernels("Lintf>Retrieve")["GPU"]
