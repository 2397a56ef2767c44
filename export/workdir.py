# SPDX-License-Identifier: Apache-2.0
"""The work directory: what an unfinished job needs to go on.

It holds `state.json` (which build it belongs to), `towers/`, `fill/`
(checkpoints) and `tensorboard/`. One job at a time holds it.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import pathlib
import shutil
from collections.abc import Iterator, Mapping
from typing import Any

from export.errors import JobError


class WorkDir:
    """A job's own directory; see `claim`."""

    def __init__(self, path: pathlib.Path) -> None:
        if path.name.isdigit():
            raise JobError(
                f"--work_dir {path} has a number for a name, which a model "
                "server would take for a version; choose another name"
            )
        self.path = path

    @property
    def towers(self) -> pathlib.Path:
        """Training checkpoints and trained towers."""
        return self.path / "towers"

    @property
    def fill(self) -> pathlib.Path:
        """Checkpoints of the filling."""
        return self.path / "fill"

    @property
    def tensorboard(self) -> pathlib.Path:
        """Event files and the projector's files."""
        return self.path / "tensorboard"

    @property
    def job_file(self) -> pathlib.Path:
        """The resolved job, for the process that verifies it."""
        return self.path / "job.json"

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Holds the directory for one job.

        Raises:
            JobError: Another job holds it.
        """
        self.path.mkdir(parents=True, exist_ok=True)
        with (self.path / "lock").open("a") as file:
            try:
                # The kernel frees it when the process ends, however it ends.
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise JobError(
                    f"another job is at work in {self.path}; wait for it, or "
                    "name another directory with --work_dir"
                ) from None
            yield

    def claim(self, identity: Mapping[str, Any]) -> None:
        """Takes the directory for a build, or takes a build up again.

        Args:
            identity: All that the built index depends on.

        Raises:
            JobError: It holds work on a build of another identity.
        """
        state = self._read()
        if state is not None and state["identity"] != _plain(identity):
            # A job that was refused before its first checkpoint, because of
            # its config for example, has left nothing to lose.
            if not state["finished"] and any(self.fill.glob("*")):
                raise JobError(
                    f"{self.path} belongs to an unfinished job that differs "
                    f"in {_difference(state['identity'], _plain(identity))}; "
                    "finish that job, name another --work_dir, or remove the "
                    "directory"
                )
            state = None
        if state is None or state["finished"]:
            self._clear()
        self._write(identity, finished=False)

    def finish(self, identity: Mapping[str, Any]) -> None:
        """Says that a build is published, or refused; its checkpoints can go.

        Work on a build of another identity is left alone.
        """
        state = self._read()
        if state is not None and state["identity"] == _plain(identity):
            self._write(identity, finished=True)
            self._clear()

    def _clear(self) -> None:
        shutil.rmtree(self.fill, ignore_errors=True)

    def _read(self) -> dict[str, Any] | None:
        try:
            text = (self.path / "state.json").read_text("utf-8")
        except FileNotFoundError:
            return None
        return dict(json.loads(text))

    def _write(self, identity: Mapping[str, Any], *, finished: bool) -> None:
        text = json.dumps({"identity": identity, "finished": finished})
        unfinished = self.path / "state.json.part"
        with unfinished.open("w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.replace(unfinished, self.path / "state.json")


def build_id(identity: Mapping[str, Any]) -> str:
    """A short name for a build: the same for the same identity."""
    text = json.dumps(identity, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _plain(identity: Mapping[str, Any]) -> Any:
    """As JSON gives it back."""
    return json.loads(json.dumps(identity))


def _difference(there: Any, here: Any) -> str:
    """`config.retrieve.k (100 there, 50 here)`, the first few."""
    found = list(_differences(there, here, ""))
    more = f" and {len(found) - 3} more" if len(found) > 3 else ""
    return ", ".join(found[:3]) + more


def _differences(there: Any, here: Any, path: str) -> Iterator[str]:
    if isinstance(there, dict) and isinstance(here, dict):
        for key in sorted({*there, *here}):
            where = f"{path}.{key}" if path else key
            yield from _differences(there.get(key), here.get(key), where)
    elif there != here:
        if path.endswith("fingerprint"):
            yield f"{path.removesuffix('_fingerprint')} (other content)"
        else:
            yield f"{path} ({_short(there)} there, {_short(here)} here)"


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else text[:57] + "..."
