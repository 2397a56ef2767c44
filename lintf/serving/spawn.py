# SPDX-License-Identifier: Apache-2.0
"""Runs the embedded server as a process of its own, for a while."""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator

_READY = re.compile(r"Serving .* at (?P<target>\S+)")


class ServerError(RuntimeError):
    """The server did not come up; the text holds what it said."""


@contextlib.contextmanager
def spawned_server(
    model_base_path: str | os.PathLike[str], model_name: str
) -> Iterator[str]:
    """Serves the newest version of a model on a free port.

    Args:
        model_base_path: Directory of the model's versions.
        model_name: What requests call it.

    Yields:
        The address, such as "127.0.0.1:40123". The server stops when the
        context ends.

    Raises:
        ServerError: The server ended before it was ready.
    """
    with tempfile.TemporaryFile("w+") as log:
        process = subprocess.Popen(
            [
                *(sys.executable, "-m", "lintf.cli", "serve"),
                f"--model_name={model_name}",
                f"--model_base_path={os.fspath(model_base_path)}",
                "--port=0",
            ],
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
            env={**os.environ, "PYTHONUNBUFFERED": "1"},
        )
        assert process.stdout is not None
        try:
            lines = (_READY.match(line) for line in process.stdout)
            ready = next((line for line in lines if line), None)
            if ready is None:
                log.seek(0)
                raise ServerError(
                    f"the server did not come up:\n{log.read()[-4000:]}"
                )
            yield ready["target"]
        finally:
            process.terminate()
            process.wait(timeout=60)
