# SPDX-License-Identifier: Apache-2.0
"""Builds the GPU code without TensorFlow: a C library, and the C++ tests.

Two ways: by nvcc for the GPU of the machine, or by the C++ compiler for the
emulator (custom_ops/core/gpu_emulator.h), which needs no GPU. Needs nvcc, g++
and nothing else; objects that are newer than their sources are kept.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import dataclasses
import os
import pathlib
import shlex
import subprocess
import sys
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
CORE = pathlib.Path("custom_ops/core")
LIBRARY = "liblintf_gpu.so"

_CXX_FLAGS = "-std=c++17 -fPIC -fvisibility=hidden -I."
# The plain core rounds after each operation where the code does not say fma.
_CORE_FLAGS = f"{_CXX_FLAGS} -O3 -DNDEBUG -ffp-contract=off"
_EMULATOR_FLAGS = (
    f"{_CXX_FLAGS} -O2 -ffp-contract=off -Wno-unknown-pragmas"
    " -DLINTF_GPU_EMULATOR -DLINTF_EXPORT_C_API"
)
_CUDA_FLAGS = (
    "-x cu -std=c++17 -O3 -I. -lineinfo -DLINTF_EXPORT_C_API"
    " -Xcompiler -fPIC,-fvisibility=hidden,-ffp-contract=off"
)


@dataclasses.dataclass(frozen=True)
class Step:
    """One command, which writes `output` from `inputs`."""

    output: pathlib.Path
    inputs: tuple[pathlib.Path, ...]
    command: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class Plan:
    """What to run: the steps of a stage do not depend on each other."""

    objects: list[Step]
    links: list[Step]

    @property
    def tests(self) -> list[pathlib.Path]:
        """The programs that are tests."""
        return [
            step.output
            for step in self.links
            if step.output.name.endswith("_test")
        ]


def gencode(capability: tuple[int, int]) -> str:
    """Returns nvcc's option for a GPU.

    >>> gencode((9, 0))
    '-gencode=arch=compute_90,code=sm_90'
    """
    number = 10 * capability[0] + capability[1]
    return f"-gencode=arch=compute_{number},code=sm_{number}"


def capability_of_gpu() -> tuple[int, int]:
    """Returns the compute capability of the first GPU.

    Raises:
      RuntimeError: The driver says of no GPU.
    """
    command = "nvidia-smi --query-gpu=compute_cap --format=csv,noheader"
    try:
        text = subprocess.run(
            command.split(), capture_output=True, text=True, check=True
        ).stdout
    except (OSError, subprocess.CalledProcessError) as error:
        raise RuntimeError(
            f"a GPU must be there to build for; nvidia-smi says: {error}. "
            "Name a capability with --capability, like 9.0"
        ) from error
    return parse_capability(text.splitlines()[0])


def parse_capability(text: str) -> tuple[int, int]:
    """Reads a capability.

    >>> parse_capability("8.0")
    (8, 0)

    Raises:
      ValueError: It is none.
    """
    parts = text.strip().split(".")
    if len(parts) != 2 or not all(part.isdigit() for part in parts):
        raise ValueError(
            f'a compute capability must look like "9.0", got "{text}"'
        )
    return int(parts[0]), int(parts[1])


def make_plan(
    out: pathlib.Path,
    capability: tuple[int, int] | None,
    *,
    nvcc: str = "nvcc",
    cxx: str = "g++",
    root: pathlib.Path = ROOT,
) -> Plan:
    """Returns the commands of a build.

    Args:
      out: Folder of what is built.
      capability: Of the GPU; None builds for the emulator.
      nvcc: The CUDA compiler.
      cxx: The C++ compiler.
      root: Folder of the repository, where the commands run.
    """
    names = sorted(path.name for path in (root / CORE).glob("*.cc"))
    left_out = ("_test.cc", "_bench.cc", "_fuzz.cc")
    core = [
        name
        for name in names
        if not name.endswith((*left_out, ".cu.cc"))
        and name != "gpu_emulator.cc"
    ]
    device = [name for name in names if name.endswith(".cu.cc")]
    tests = [
        name
        for name in names
        if name.startswith("gpu_") and name.endswith("_test.cc")
    ]
    if capability is None:
        device.append("gpu_emulator.cc")
        device_compiler = [cxx, *shlex.split(_EMULATOR_FLAGS)]
        linker = [cxx]
        libraries = ["-lpthread"]
    else:
        device_compiler = [
            nvcc,
            *shlex.split(_CUDA_FLAGS),
            gencode(capability),
        ]
        linker = [nvcc, "-cudart", "static", gencode(capability)]
        libraries = ["-lpthread"]
    core_compiler = [cxx, *shlex.split(_CORE_FLAGS)]
    headers = tuple(sorted((root / CORE).glob("*.h")))

    def compile_one(name: str, compiler: list[str]) -> Step:
        source = CORE / name
        output = out / "objects" / (name[: -len(".cc")] + ".o")
        inputs: tuple[pathlib.Path, ...] = (root / source, *headers)
        if capability is None and name.endswith(".cu.cc"):
            compiler = [*compiler, "-x", "c++"]
        return Step(
            output, inputs, (*compiler, "-c", str(source), "-o", str(output))
        )

    # What takes longest comes first.
    shared = [compile_one(name, device_compiler) for name in device]
    test_objects = [compile_one(name, device_compiler) for name in tests]
    plain = [compile_one(name, core_compiler) for name in core]
    common = tuple(step.output for step in shared + plain)

    def link(output: pathlib.Path, extra: tuple[pathlib.Path, ...]) -> Step:
        inputs = (*extra, *common)
        shared_library = ["-shared"] if output.suffix == ".so" else []
        command = [*linker, *shared_library, *map(str, inputs), *libraries]
        return Step(output, inputs, (*command, "-o", str(output)))

    links = [link(out / LIBRARY, ())]
    for step in test_objects:
        links.append(link(out / step.output.stem, (step.output,)))
    return Plan(shared + test_objects + plain, links)


def is_stale(step: Step) -> bool:
    """Tells whether a step must run."""
    if not step.output.exists():
        return True
    made = step.output.stat().st_mtime
    return any(
        not path.exists() or path.stat().st_mtime > made for path in step.inputs
    )


def run_plan(plan: Plan, jobs: int, root: pathlib.Path = ROOT) -> list[str]:
    """Runs what is stale of a plan, `jobs` commands at a time.

    Returns:
      A message for each command that failed. What can be linked is linked.
    """
    failures = []

    def run(step: Step) -> str:
        step.output.parent.mkdir(parents=True, exist_ok=True)
        result = subprocess.run(
            step.command,
            cwd=root,
            capture_output=True,
            text=True,
        )
        if result.returncode == 0:
            return ""
        step.output.unlink(missing_ok=True)
        return f"{shlex.join(step.command)}\n{result.stderr[-4000:]}"

    with concurrent.futures.ThreadPoolExecutor(jobs) as pool:
        stale = [step for step in plan.objects if is_stale(step)]
        failures += [text for text in pool.map(run, stale) if text]
        stale = [
            step
            for step in plan.links
            if all(path.exists() for path in step.inputs) and is_stale(step)
        ]
        failures += [text for text in pool.map(run, stale) if text]
    return failures


def main() -> int:
    """Builds; returns 1 after a failure."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=pathlib.Path, default=ROOT / "build/gpu")
    parser.add_argument("--emulator", action="store_true")
    parser.add_argument("--capability", type=parse_capability)
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    options = parser.parse_args()
    capability = None
    if not options.emulator:
        capability = options.capability or capability_of_gpu()
    plan = make_plan(
        options.out.resolve(),
        capability,
        nvcc=os.environ.get("NVCC", "nvcc"),
        cxx=os.environ.get("CXX", "g++"),
    )
    begin = time.monotonic()
    failures = run_plan(plan, options.jobs)
    for failure in failures:
        print(failure, file=sys.stderr)
    print(
        f"built {options.out / LIBRARY} and {len(plan.tests)} tests in "
        f"{time.monotonic() - begin:.0f} s, {len(failures)} commands failed"
    )
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
