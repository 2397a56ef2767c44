# SPDX-License-Identifier: Apache-2.0
"""Builds an index: the same program as `python -m export.build_index`.

Example:
  lintf build-index --config export/configs/movielens_100k.yaml \\
      --output_dir models/films
"""

from __future__ import annotations

from collections.abc import Sequence


def main(argv: Sequence[str]) -> int:
    """Runs the export job on the arguments; returns the exit status."""
    from export import build_index

    return build_index.main(["lintf build-index", *argv])
