# SPDX-License-Identifier: Apache-2.0
"""Finds the pip-installed TensorFlow that the op library is built against.

One place for the three builds (pip's backend, CMake, Bazel). TensorFlow is
found without importing it, because the import costs about five seconds.
Nothing here needs more than the standard library.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import pathlib
import re
import sys
import sysconfig

_DISTRIBUTIONS = ("tensorflow", "tensorflow-cpu")
_PYPROJECT = pathlib.Path(__file__).resolve().parent.parent / "pyproject.toml"


def requirement() -> str:
    """Returns pyproject.toml's requirement, like `tensorflow>=2.21,<2.22`."""
    # A pattern and not a TOML parser: Python 3.10 has none.
    match = re.search(
        r'^\s*"(tensorflow>=[^"]+)",$',
        _PYPROJECT.read_text(encoding="utf-8"),
        re.MULTILINE,
    )
    if match is None:
        raise ValueError(f"{_PYPROJECT} must require `tensorflow>=...`")
    return match.group(1)


def minor_version() -> str:
    """Returns the TensorFlow minor version to build against, like `2.21`."""
    return requirement().removeprefix("tensorflow>=").split(",")[0]


def _candidates() -> list[str]:
    """Directories that may hold TensorFlow, the most specific first."""
    found = []
    spec = importlib.util.find_spec("tensorflow")
    if spec is not None:
        found += list(spec.submodule_search_locations or [])
    # Under pip's build isolation sys.path hides the site-packages that the
    # result is installed into, but sysconfig still names them.
    found += [
        os.path.join(sysconfig.get_path(key), "tensorflow")
        for key in ("purelib", "platlib")
    ]
    return found


def _version(site_packages: str) -> str | None:
    """Returns the version of the TensorFlow installed in `site_packages`."""
    for dist in importlib.metadata.distributions(path=[site_packages]):
        name = (dist.metadata["Name"] or "").lower().replace("_", "-")
        if name in _DISTRIBUTIONS:
            return dist.version
    return None


def find() -> tuple[str, str] | None:
    """Finds an installed TensorFlow with its headers.

    Returns:
      Its package directory and its version, or None where there is none.
    """
    for directory in _candidates():
        header = os.path.join(
            directory, "include", "tensorflow", "core", "framework", "op.h"
        )
        version = _version(os.path.dirname(directory))
        if version is not None and os.path.isfile(header):
            return directory, version
    return None


def main() -> None:
    """Prints directory and version, a line each, or exits saying what to do.

    With the argument `--requirement`: prints what is to be installed.
    """
    if sys.argv[1:] == ["--requirement"]:
        print(requirement())
        return
    found = find()
    if found is None:
        sys.exit(
            f"no TensorFlow with headers found by {sys.executable}; "
            f"run `{sys.executable} -m pip install '{requirement()}'`"
        )
    directory, version = found
    if version.split(".")[:2] != minor_version().split("."):
        sys.exit(
            f"the op library builds against TensorFlow {minor_version()}, got "
            f"{version} in {directory}; "
            f"run `{sys.executable} -m pip install '{requirement()}'`"
        )
    print(directory)
    print(version)


if __name__ == "__main__":
    main()
