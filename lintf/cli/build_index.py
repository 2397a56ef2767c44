# SPDX-License-Identifier: Apache-2.0
"""Builds an index: the same program as `python -m export.build_index`.

Example:
  lintf build-index --config export/configs/movielens_100k.yaml \\
      --output_dir models/films
"""

from __future__ import annotations

import runpy
import sys
from collections.abc import Sequence


def main(argv: Sequence[str]) -> int:
    """Runs the export job on the arguments; it exits by itself."""
    sys.argv = ["lintf build-index", *argv]
    runpy.run_module("export.build_index", run_name="__main__")
    return 0
