# SPDX-License-Identifier: Apache-2.0
"""TensorFlow's saved_model_cli, able to load a SavedModel of an index.

Run it as `python -m lintf.saved_model_cli` or as `lintf inspect`; the arguments
are saved_model_cli's own.
"""

from __future__ import annotations


def main() -> None:
    """Registers lintf's ops and hands over, with `sys.argv` as it is."""
    from tensorflow.python.tools import saved_model_cli

    from lintf import ops  # noqa: F401

    saved_model_cli.main()


if __name__ == "__main__":
    main()
