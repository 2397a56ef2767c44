# SPDX-License-Identifier: Apache-2.0
"""Makes a finished directory a version of a model, or leaves no trace.

TensorFlow Serving loads a numeric child of the model's base path as soon as it
appears. So everything is written under another name, flushed to the disk, and
renamed when it is whole.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import pathlib
import shutil
from collections.abc import Iterator
from typing import Any

from export.errors import JobError

BUILD_FILE = pathlib.PurePath("assets.extra", "lintf_build.json")

_UNFINISHED = ".unfinished-"
_LOCK = ".publish.lock"


def unfinished_directory(
    base: pathlib.Path, work_dir: pathlib.Path
) -> pathlib.Path:
    """An absent directory beside the versions, for one job to write to.

    What an earlier, killed run of the same job left there is removed. The name
    belongs to the work directory, which one job holds at a time.
    """
    base.mkdir(parents=True, exist_ok=True)
    owner = hashlib.sha256(str(work_dir.resolve()).encode()).hexdigest()[:12]
    path = base / f"{_UNFINISHED}{owner}"
    if path.exists():
        shutil.rmtree(path)
    return path


def versions(base: pathlib.Path) -> list[int]:
    """The versions under a model's base path, ascending.

    As TensorFlow Serving sees them: children whose names are numbers.
    """
    if not base.is_dir():
        return []
    return sorted(
        int(p.name)
        for p in base.iterdir()
        if p.name.isascii() and p.name.isdigit()
    )


def publish(
    finished: pathlib.Path, base: pathlib.Path, version: int | None
) -> pathlib.Path:
    """Renames a finished directory to a version, at once.

    Args:
        finished: On the same file system as `base`.
        base: The model's base path.
        version: The version's number; None takes the next free one.

    Returns:
        The version's directory.

    Raises:
        JobError: The version exists; nothing was changed.
    """
    fsync_tree(finished)
    with _locked(base):
        taken = versions(base)
        if version is None:
            version = (taken[-1] if taken else 0) + 1
        target = base / str(version)
        if version in taken or os.path.lexists(target):
            raise JobError(version_taken(target))
        # A rename onto a directory that is not empty fails too, should a
        # program that knows nothing of the lock have come first.
        os.rename(finished, target)
        _fsync(base)
    return target


def version_taken(target: pathlib.Path) -> str:
    """What to tell who wants to write over a version."""
    return (
        f"version {target.name} exists already: {target}; a version is never "
        "overwritten: leave --version out to take the next free number"
    )


def find_build(base: pathlib.Path, build_id: str) -> pathlib.Path | None:
    """The newest version that was built as `build_id`, if there is one."""
    for version in reversed(versions(base)):
        path = base / str(version)
        if read_build(path).get("build_id") == build_id:
            return path
    return None


def read_build(path: pathlib.Path) -> dict[str, Any]:
    """What the job wrote about a build; empty if another program built it."""
    try:
        return dict(json.loads((path / BUILD_FILE).read_text("utf-8")))
    except (OSError, ValueError):
        return {}


def fsync_tree(root: pathlib.Path) -> None:
    """Flushes files and directories to the disk, so that a rename is last."""
    for folder, _, files in os.walk(root, topdown=False):
        for name in files:
            _fsync(pathlib.Path(folder, name))
        _fsync(pathlib.Path(folder))


@contextlib.contextmanager
def _locked(base: pathlib.Path) -> Iterator[None]:
    """Lets one job at a time choose a number. A killed job's lock is free."""
    with (base / _LOCK).open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _fsync(path: pathlib.Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
