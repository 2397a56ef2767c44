# SPDX-License-Identifier: Apache-2.0
"""Says what each CUDA kernel takes: registers, spills, shared memory.

    tools/gpu_resources.py            writes custom_ops/GPU_RESOURCES.md
    tools/gpu_resources.py --check    fails on spilled registers
    tools/gpu_resources.py --check --architectures 90    of one alone

Needs nvcc (or NVCC), c++filt and no GPU. Kernels of CUB are not listed.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import dataclasses
import functools
import os
import pathlib
import re
import subprocess
import sys
from collections.abc import Sequence

_ROOT = pathlib.Path(__file__).resolve().parent.parent
_TABLE = _ROOT / "custom_ops" / "GPU_RESOURCES.md"
_ARCHITECTURES = ("80", "90")


@dataclasses.dataclass(frozen=True, order=True)
class Kernel:
    """What ptxas says of one kernel on one architecture."""

    source: str
    name: str
    architecture: str
    registers: int
    stack: int  # bytes a thread in local memory
    spilled: int  # bytes stored and loaded
    shared: int  # bytes declared; dynamic shared memory is not known here


def parse(source: str, text: str) -> list[Kernel]:
    """Reads what `ptxas -v` says; names are as the compiler mangled them."""
    kernels = []
    pattern = re.compile(
        r"Compiling entry function '(?P<name>\S+)' for 'sm_(?P<arch>\d+)'.*?"
        r"(?P<stack>\d+) bytes stack frame, (?P<stores>\d+) bytes spill stores,"
        r" (?P<loads>\d+) bytes spill loads.*?"
        r"Used (?P<registers>\d+) registers(?P<rest>[^\n]*)",
        re.DOTALL,
    )
    for match in pattern.finditer(text):
        shared = re.search(r"(\d+) bytes smem", match["rest"])
        kernels.append(
            Kernel(
                source,
                match["name"],
                match["arch"],
                int(match["registers"]),
                int(match["stack"]),
                int(match["stores"]) + int(match["loads"]),
                int(shared[1]) if shared else 0,
            )
        )
    return kernels


def short_name(demangled: str) -> str:
    """Shortens a kernel's name: no namespaces, no parameters.

    >>> short_name("void lintf::gpu::(anonymous namespace)::F<int, 4>(int*)")
    'F<int, 4>'
    """
    name = demangled.replace("(anonymous namespace)::", "")
    name = re.sub(r"\([A-Za-z_:]+\)(?=-?\d)", "", name)  # casts of enums
    depth = 0
    for place, character in enumerate(name):
        depth += {"<": 1, ">": -1}.get(character, 0)
        if character == "(" and depth == 0:
            name = name[:place]
            break
    name = name.replace("lintf::gpu::", "").replace("lintf::", "")
    return name.removeprefix("void ").strip()


def _compile(
    source: pathlib.Path, architectures: Sequence[str]
) -> list[Kernel]:
    codes = [
        f"-gencode=arch=compute_{number},code=sm_{number}"
        for number in architectures
    ]
    result = subprocess.run(
        [
            os.environ.get("NVCC", "nvcc"),
            *("-x", "cu", "-std=c++17", "-O3", "-DNDEBUG", "-I."),
            *codes,
            *("-Xptxas", "-v", "-c", str(source), "-o", "/dev/null"),
        ],
        cwd=_ROOT,
        capture_output=True,
        text=True,
    )
    if result.returncode != 0:
        raise RuntimeError(f"{source} does not compile:\n{result.stderr}")
    return parse(source.name, result.stderr)


def _demangle(names: Sequence[str]) -> dict[str, str]:
    text = subprocess.run(
        ["c++filt"],
        input="\n".join(names),
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    return dict(zip(names, text.splitlines(), strict=True))


def collect(
    sources: Sequence[pathlib.Path], architectures: Sequence[str], jobs: int
) -> list[Kernel]:
    """Compiles sources; returns the kernels of namespace lintf, sorted."""
    compile_one = functools.partial(_compile, architectures=architectures)
    with concurrent.futures.ThreadPoolExecutor(jobs) as pool:
        kernels = [k for part in pool.map(compile_one, sources) for k in part]
    demangled = _demangle([kernel.name for kernel in kernels])
    return sorted(
        dataclasses.replace(kernel, name=short_name(demangled[kernel.name]))
        for kernel in kernels
        if "lintf::" in demangled[kernel.name].split("(")[0]
        or demangled[kernel.name].startswith("void lintf::")
        or demangled[kernel.name].startswith("lintf::")
    )


def table(kernels: Sequence[Kernel]) -> str:
    """Returns the file's text: a line a kernel, its architectures in pairs."""
    lines = [
        "# What the CUDA kernels take",
        "",
        "Written by `tools/gpu_resources.py` from `ptxas -v`, for "
        + " and ".join(f"sm_{number}" for number in _ARCHITECTURES)
        + ";",
        "`--check` fails on a spill. A stack is an array that a kernel indexes",
        "by a variable. Shared memory is what the kernel declares, in bytes;",
        "dynamic shared memory comes on top.",
        "",
        "| source | kernel | registers | spilled | stack | shared |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    rows: dict[tuple[str, str], list[Kernel]] = {}
    for kernel in kernels:
        rows.setdefault((kernel.source, kernel.name), []).append(kernel)
    for (source, name), group in rows.items():
        cells = [
            source,
            f"`{name}`".replace("|", "\\|"),
            *(
                _pair([getattr(kernel, field) for kernel in group])
                for field in ("registers", "spilled", "stack", "shared")
            ),
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def _pair(values: Sequence[int]) -> str:
    """Writes a value for each architecture, or one if they are the same."""
    if len(set(values)) == 1:
        return str(values[0])
    return " / ".join(map(str, values))


def main() -> int:
    """Writes the table, or checks; returns 1 if the check fails."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    parser.add_argument(
        "--architectures",
        nargs="+",
        choices=_ARCHITECTURES,
        default=_ARCHITECTURES,
        help="with --check: which to compile for",
    )
    parser.add_argument("sources", nargs="*", type=pathlib.Path)
    options = parser.parse_args()
    if not options.check and set(options.architectures) != set(_ARCHITECTURES):
        parser.error("the table is of all architectures; add --check")
    sources = options.sources or [
        path.relative_to(_ROOT)
        for path in sorted(_ROOT.glob("custom_ops/core/*.cu.cc"))
    ]
    kernels = collect(sources, options.architectures, options.jobs)
    bad = [kernel for kernel in kernels if kernel.spilled]
    for kernel in bad:
        print(
            f"{kernel.source}: {kernel.name} spills {kernel.spilled} bytes on "
            f"sm_{kernel.architecture}",
            file=sys.stderr,
        )
    if options.check:
        print(f"{len(kernels)} kernels, {len(bad)} of them spill")
        return 1 if bad else 0
    _TABLE.write_text(table(kernels), encoding="utf-8")
    print(f"wrote {_TABLE.relative_to(_ROOT)}: {len(kernels)} kernels")
    return 0


if __name__ == "__main__":
    sys.exit(main())
