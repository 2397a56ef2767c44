# SPDX-License-Identifier: Apache-2.0
"""Imports TensorFlow without the lines that it prints by itself."""

from __future__ import annotations

import os
import sys
import tempfile


def import_tensorflow() -> None:
    """Imports TensorFlow; what it prints shows only if that fails.

    Its C++ side writes notes on the processor to stderr before any log level
    applies, which would stand between a user and a command's answer.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    sys.stderr.flush()
    stderr = os.dup(2)
    with tempfile.TemporaryFile() as held:
        os.dup2(held.fileno(), 2)
        try:
            # The protos import it a second time, in C++.
            import tensorflow  # noqa: F401
            from tensorflow_serving.apis import predict_pb2  # noqa: F401
        except BaseException:
            held.seek(0)
            os.write(stderr, held.read())
            raise
        finally:
            os.dup2(stderr, 2)
            os.close(stderr)
