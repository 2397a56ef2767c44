# SPDX-License-Identifier: Apache-2.0
"""What tests/gpu/run.sh does: builds, checks, measures, and sums up.

Each part is a process of its own, so that one that crashes or hangs takes
nothing with it.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import dataclasses
import json
import os
import pathlib
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence

from tests.gpu import build

# Of the whole time; the table may take what the parts before it left.
_BUILD_SHARE = 0.4
_TEST_SECONDS = 40.0
_SANITIZER_SECONDS = 60.0
# Part of the time that is kept for the sanitizers, which come last.
_SANITIZER_SHARE = 0.25
_SANITIZERS = ("memcheck", "racecheck", "initcheck")


@dataclasses.dataclass(frozen=True)
class Part:
    """How one part went.

    Attributes:
      name: What it is.
      status: "passed", "FAILED", or why it was left out.
      seconds: How long it took.
      output: The last of what it said.
    """

    name: str
    status: str
    seconds: float
    output: str = ""


def run_part(
    name: str,
    command: Sequence[str],
    limit: float,
    environment: Mapping[str, str] | None = None,
    echo: bool = False,
    bad_output: str = "",
) -> Part:
    """Runs a command for at most `limit` seconds.

    Args:
      name: Of the part.
      command: To run in the folder of the repository.
      limit: Seconds; less than 1 leaves the part out.
      environment: Variables to add.
      echo: Whether to print what it says, too.
      bad_output: If not empty, what a command that failed says.
    """
    if limit < 1:
        return Part(name, "left out: no time", 0.0)
    begin = time.monotonic()
    try:
        result = subprocess.run(
            command,
            cwd=build.ROOT,
            env={**os.environ, **(environment or {})},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            timeout=limit,
        )
        output = result.stdout
        good = result.returncode == 0
        if bad_output and bad_output in output:
            good = False
        status = "passed" if good else "FAILED"
    except subprocess.TimeoutExpired as error:
        output = (error.stdout or b"").decode(errors="replace")
        status = f"FAILED: not done in {limit:.0f} s"
    except OSError as error:
        output, status = str(error), "FAILED"
    seconds = time.monotonic() - begin
    if echo or status != "passed":
        print(output[-8000:], flush=True)
    print(f"{name}: {status} ({seconds:.1f} s)", flush=True)
    return Part(name, status, seconds, output[-4000:])


def sanitizer_command(tool: str, program: pathlib.Path) -> list[str]:
    """Returns the command that runs a test under a tool."""
    command = ["compute-sanitizer", f"--tool={tool}", "--print-limit=20"]
    if tool != "initcheck":
        command.append("--error-exitcode=9")
    return [*command, str(program)]


def sanitizer_complaint(tool: str) -> str:
    """Returns what a tool says of a fault, where its exit code does not.

    initcheck also reports copies to the host of memory that was never written,
    as a test makes of arrays that are to be filled in part; a kernel that reads
    such memory is another matter.
    """
    return "Uninitialized __global__" if tool == "initcheck" else ""


def sanitizer_environment(tool: str) -> dict[str, str]:
    """Returns the variables of gpu_testing.h for a tool."""
    variables = {"LINTF_GPU_REDUCED": "1"}
    if tool == "initcheck":
        # Filled memory would hide what was never written.
        variables["LINTF_GPU_NO_POISON"] = "1"
    return variables


def parts_table(parts: Sequence[Part]) -> str:
    """Returns the parts as a Markdown table.

    >>> print(parts_table([Part("build", "passed", 3.21)]))
    | part | status | s |
    | --- | --- | --- |
    | build | passed | 3.2 |
    """
    lines = ["| part | status | s |", "| --- | --- | --- |"]
    for part in parts:
        lines.append(f"| {part.name} | {part.status} | {part.seconds:.1f} |")
    return "\n".join(lines)


def _run_sanitizers(
    tests: Sequence[pathlib.Path], deadline: float
) -> list[Part]:
    """Runs the tests under each tool, several at a time."""
    if shutil.which("compute-sanitizer") is None:
        return [Part("compute-sanitizer", "left out: not installed", 0.0)]

    def run(job: tuple[str, pathlib.Path]) -> Part:
        tool, program = job
        limit = min(_SANITIZER_SECONDS, deadline - time.monotonic())
        return run_part(
            f"{tool} {program.name}",
            sanitizer_command(tool, program),
            limit,
            sanitizer_environment(tool),
            bad_output=sanitizer_complaint(tool),
        )

    jobs = [(tool, program) for tool in _SANITIZERS for program in tests]
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        return list(pool.map(run, jobs))


def run_all(
    out: pathlib.Path, folder: pathlib.Path, limit: float, emulator: bool
) -> list[Part]:
    """Runs every part.

    Args:
      out: Folder of the results.
      folder: Folder of what is built.
      limit: Seconds for all of it.
      emulator: Whether to do it all on the CPU, with the table's sizes cut
        down: to test this program.
    """
    begin = time.monotonic()
    deadline = begin + limit

    def left(reserve: float = 0.0) -> float:
        return deadline - time.monotonic() - reserve

    flags = ["--emulator"] if emulator else []
    jobs = ["--jobs", "2"] if emulator else []
    library = folder / build.LIBRARY
    parts = [
        run_part(
            "build",
            [
                *(sys.executable, "-m", "tests.gpu.build"),
                *("--out", str(folder)),
                *flags,
                *jobs,
            ],
            limit if emulator else limit * _BUILD_SHARE,
        )
    ]
    plan = build.make_plan(folder, None if emulator else (9, 0))
    tests = [path for path in plan.tests if path.exists()]
    for path in plan.tests:
        if path not in tests:
            parts.append(Part(path.name, "FAILED: was not built", 0.0))
            continue
        part_limit = min(_TEST_SECONDS, left())
        parts.append(run_part(path.name, [str(path)], part_limit))
    kept = 0.0 if emulator else limit * _SANITIZER_SHARE
    checks = [sys.executable, "-m", "tests.gpu.checks", str(library)]
    checks += ["emulator"] if emulator else []
    parts.append(
        run_part("checks", checks, min(limit * 0.2, left(kept)), echo=True)
    )
    table_limit = left(kept)
    # The table stops by itself, a little earlier.
    table = [
        *(sys.executable, "-m", "benchmarks.gpu.run", str(library)),
        *("--out", str(out), "--limit", str(max(table_limit - 30, 1))),
        *flags,
    ]
    table += ["--scale", "0.0001"] if emulator else []
    parts.append(run_part("table", table, table_limit, echo=True))
    if not emulator:
        parts += _run_sanitizers(tests, deadline)
    return parts


def main(arguments: Sequence[str]) -> int:
    """Runs all; returns 1 if a part failed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--emulator", action="store_true")
    options = parser.parse_args(arguments)
    environment = os.environ
    out = pathlib.Path(environment.get("OUT") or "benchmarks/results")
    out = (build.ROOT / out).resolve()
    folder = pathlib.Path(environment.get("BUILD") or "build/gpu")
    folder = (build.ROOT / folder).resolve()
    limit = float(environment.get("LIMIT") or 450)
    out.mkdir(parents=True, exist_ok=True)
    # An older table must not pass for this run's.
    for name in ("gpu.json", "gpu.md"):
        (out / name).unlink(missing_ok=True)
    begin = time.monotonic()
    parts = run_all(out, folder, limit, options.emulator)
    data = [dataclasses.asdict(part) for part in parts]
    text = json.dumps(data, indent=1) + "\n"
    (out / "gpu_checks.json").write_text(text, encoding="utf-8")
    table = out / "gpu.md"
    print(f"\n{parts_table(parts)}\n")
    if table.exists():
        print(table.read_text(encoding="utf-8"))
    failed = [part.name for part in parts if part.status != "passed"]
    print(
        f"{time.monotonic() - begin:.0f} s; "
        + (f"not passed: {', '.join(failed)}" if failed else "all passed")
    )
    return 1 if any("FAILED" in part.status for part in parts) else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
