# SPDX-License-Identifier: Apache-2.0
"""saved_model_cli with lintf's ops registered.

Examples:
  lintf inspect show --dir models/films/1 --all
  lintf inspect run --dir models/films/1 --tag_set serve \\
      --signature_def lookup --input_exprs 'id=[1, 2]'
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from lintf.cli import quiet


def main(argv: Sequence[str]) -> int:
    """Runs saved_model_cli on the arguments; it exits by itself."""
    quiet.import_tensorflow()
    from lintf import saved_model_cli

    sys.argv = ["lintf inspect", *argv]
    saved_model_cli.main()
    return 0
