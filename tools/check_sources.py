# SPDX-License-Identifier: Apache-2.0
"""Checks what no linter checks: licence line, line length, white space."""

from __future__ import annotations

import pathlib
import re
import subprocess
import sys
from collections.abc import Iterator

_MAX_COLUMNS = 80
_LICENCE = re.compile(r"(#|//) SPDX-License-Identifier: Apache-2\.0$")
_SOURCES = {".py", ".cc", ".h", ".bzl", ".cmake", ".sh"}
_SOURCE_NAMES = {"BUILD", "WORKSPACE", "CMakeLists.txt", "Makefile"}
_PROSE = {".md"}
# A comment for a linter must stand at the end of the line that it is about.
_PRAGMA = re.compile(r"  # (type: ignore|noqa)\b.*$")
_OTHER = {".toml", ".yaml", ".txt", ".in", ".config"}
# Another project's text, data, and what programs write.
_SKIPPED = ("LICENSE", "tests/testdata/", "benchmarks/results/")


def _files() -> list[pathlib.Path]:
    """Returns the checkout's files that git does not ignore."""
    listing = subprocess.run(
        ["git", "ls-files", "-z", "-co", "--exclude-standard"],
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    paths = (pathlib.Path(name) for name in listing.split("\0") if name)
    return sorted(path for path in paths if path.is_file())


def _may_be_long(path: pathlib.Path, line: str) -> bool:
    """Tells whether a line that is too long cannot be broken."""
    if path.suffix in _PROSE and line.startswith("|"):
        return True  # A table's row.
    return re.search(r"https?://\S+", line) is not None


def _problems(path: pathlib.Path) -> Iterator[tuple[int, str]]:
    """Yields line number and text of each problem of a file."""
    text = path.read_text(encoding="utf-8")
    if not text:
        return
    lines = text.split("\n")
    if lines.pop() != "":
        yield len(lines) + 1, "the last line must end with a line feed"
    if path.suffix in _SOURCES or path.name in _SOURCE_NAMES:
        first = 1 if lines[0].startswith("#!") else 0
        if len(lines) <= first or not _LICENCE.match(lines[first]):
            yield first + 1, "the SPDX licence line must stand here"
    for number, line in enumerate(lines, start=1):
        columns = len(_PRAGMA.sub("", line))
        if columns > _MAX_COLUMNS and not _may_be_long(path, line):
            yield number, f"{columns} columns, more than {_MAX_COLUMNS}"
        if line != line.rstrip():
            yield number, "trailing white space"
        if "\t" in line and path.name != "Makefile":
            yield number, "a tab"


def main() -> int:
    """Prints each problem as path:line: text; returns the exit code."""
    count = 0
    for path in _files():
        known = path.suffix in _SOURCES | _PROSE | _OTHER
        if not known and path.name not in _SOURCE_NAMES:
            continue
        if path.as_posix().startswith(_SKIPPED):
            continue
        for number, problem in _problems(path):
            print(f"{path}:{number}: {problem}")
            count += 1
    return 1 if count else 0


if __name__ == "__main__":
    sys.exit(main())
