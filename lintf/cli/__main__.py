# SPDX-License-Identifier: Apache-2.0
"""Runs the command line as `python -m lintf.cli`."""

import sys

from lintf.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
