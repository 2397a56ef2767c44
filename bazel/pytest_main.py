# SPDX-License-Identifier: Apache-2.0
"""Runs pytest on the folders of its command line, as a Bazel test.

The tests see the sources and the op library that Bazel laid out, even where
the interpreter's environment has an editable install of lintf.
"""

from __future__ import annotations

import os
import sys


def main() -> int:
    """Returns pytest's exit code."""
    root = os.getcwd()  # Bazel's runfiles, laid out like the repository.
    sys.meta_path[:] = [
        finder
        for finder in sys.meta_path
        if not type(finder).__name__.startswith("ScikitBuild")
    ]
    # Bazel puts this file's folder first, and each external repository.
    sys.path[:] = [root] + [
        path for path in sys.path if not path.startswith(os.path.dirname(root))
    ]
    # For the processes that tests start.
    os.environ["PYTHONPATH"] = root
    os.environ["LINTF_OPS_LIBRARY"] = os.path.join(
        root, "lintf", "ops", "_lintf_ops.so"
    )
    os.environ.setdefault("HOME", os.environ["TEST_TMPDIR"])
    # Bytecode would land beside the sources that the runfiles link to.
    sys.dont_write_bytecode = True
    os.environ["PYTHONDONTWRITEBYTECODE"] = "1"

    import pytest

    return pytest.main(
        [
            "--rootdir",
            root,
            "--config-file",
            os.path.join(root, "pyproject.toml"),
            "--basetemp",
            os.path.join(os.environ["TEST_TMPDIR"], "pytest"),
            "-p",
            "no:cacheprovider",
            *sys.argv[1:],
        ]
    )


if __name__ == "__main__":
    sys.exit(main())
