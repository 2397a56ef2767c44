# SPDX-License-Identifier: Apache-2.0
"""The versions of one model: directory watching, loading and hot swap.

A thread a model lists the model's directory, loads what is new, and only then
unloads what is no longer wanted, so that some version always serves. Requests
hold the version that they use: one that was swapped out lives until its last
request has ended.
"""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import os
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any, Generic, Protocol, TypeVar

import grpc
from tensorflow_serving.apis import get_model_status_pb2

from lintf.serving import errors, model_config
from lintf.serving.errors import ServingError

_LOG = logging.getLogger(__name__)

State = get_model_status_pb2.ModelVersionStatus.State

# How long an aborted server waits for a load that it can't interrupt.
_MAX_LOAD_WAIT_S = 60.0

_INT64 = range(-(2**63), 2**63)


class Closable(Protocol):
    """What a loader returns."""

    def close(self) -> None: ...


ServableT = TypeVar("ServableT", bound=Closable)


def find_versions(base_path: str) -> dict[int, str]:
    """Lists the version directories of a model.

    Args:
      base_path: the model's directory.

    Returns:
      Paths by version. Every child whose name is an int64 is a version; of two
      names of one number the alphabetically last counts.

    Raises:
      OSError: the directory can't be listed.
    """
    versions = {}
    for name in sorted(os.listdir(base_path)):
        try:
            version = int(name)
        except ValueError:
            continue
        # int() also takes 1_000, which is no int64 in C++.
        if version in _INT64 and "_" not in name and name.isascii():
            versions[version] = os.path.join(base_path, name)
    return versions


@dataclasses.dataclass(frozen=True)
class LoadPolicy:
    """How versions are loaded.

    Attributes:
      poll_wait_s: seconds between two looks at the directory; 0 looks once,
        a negative number never.
      max_retries: how often a failed load is tried again.
      retry_interval_s: seconds between two tries.
    """

    poll_wait_s: float = 1.0
    max_retries: int = 5
    retry_interval_s: float = 60.0


@dataclasses.dataclass
class _Version(Generic[ServableT]):
    """A version's life. Guarded by the lock of its `VersionedModel`."""

    path: str
    state: int = State.START
    error: ServingError | None = None
    servable: ServableT | None = None
    num_users: int = 0
    num_attempts: int = 0
    next_attempt_s: float = 0.0

    @property
    def is_pending(self) -> bool:
        return self.state in (State.START, State.LOADING)


class VersionedModel(Generic[ServableT]):
    """The served versions of one model, kept in step with its directory."""

    def __init__(
        self,
        name: str,
        base_path: str,
        version_policy: Any,
        load: Callable[[str], ServableT],
        policy: LoadPolicy,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Makes the model; nothing is loaded before `start` or `poll`.

        Args:
          name: the model's name in requests.
          base_path: the directory of its version directories.
          version_policy: a `ServableVersionPolicy`.
          load: loads and warms up a version directory, or raises ServingError.
          policy: intervals and retries.
          clock: seconds, for the intervals.
        """
        self.name = name
        self._load = load
        self._policy = policy
        self._clock = clock
        self._base_path = base_path
        self._version_policy = version_policy
        self._changed = threading.Condition()
        self._versions: dict[int, _Version[ServableT]] = {}
        self._wanted: dict[int, str] = {}
        self._must_poll = threading.Event()
        self._stopping = False
        # Only one thread at a time loads and unloads.
        self._poll_lock = threading.Lock()
        self._thread = threading.Thread(
            target=self._watch, name=f"versions of {name}", daemon=True
        )

    # Requests.

    @contextlib.contextmanager
    def acquire(self, version: int | None) -> Iterator[tuple[int, ServableT]]:
        """Holds a version for the length of a request.

        Args:
          version: the version; None for the largest available one.

        Yields:
          The version's number and its servable.

        Raises:
          ServingError: it is not available.
        """
        with self._changed:
            if version is None:
                number = max(self._available(), default=None)
            else:
                number = version if version in self._available() else None
            if number is None:
                raise errors.servable_not_found(self.name, version)
            entry = self._versions[number]
            servable = entry.servable
            assert servable is not None
            entry.num_users += 1
        try:
            yield number, servable
        finally:
            with self._changed:
                entry.num_users -= 1
            self._close_if_unused(entry)

    def _available(self) -> list[int]:
        return [
            number
            for number, entry in self._versions.items()
            if entry.state == State.AVAILABLE
        ]

    def statuses(self) -> list[tuple[int, int, ServingError | None]]:
        """Every version ever seen, newest first: number, state, error."""
        with self._changed:
            return [
                (number, entry.state, entry.error)
                for number, entry in sorted(
                    self._versions.items(), reverse=True
                )
            ]

    def is_available(self, version: int) -> bool:
        """Whether requests can use this version now."""
        with self._changed:
            return version in self._available()

    # Life.

    def start(self) -> None:
        """Starts to watch the directory."""
        self._thread.start()

    def reconfigure(self, base_path: str, version_policy: Any) -> None:
        """Changes what is served; the watching thread does the work."""
        with self._changed:
            self._base_path = base_path
            self._version_policy = version_policy
        self._must_poll.set()

    def wait_until_settled(self) -> ServingError | None:
        """Waits until every wanted version was tried and one is available.

        Returns:
          None then, or the error of the newest version once all have failed
          for good.
        """
        with self._changed:
            while True:
                wanted = [
                    self._versions[number]
                    for number in sorted(self._wanted, reverse=True)
                ]
                if self._available() and all(
                    entry.state == State.AVAILABLE or entry.error
                    for entry in wanted
                ):
                    return None
                if wanted and all(e.state == State.END for e in wanted):
                    return wanted[0].error
                if self._stopping:
                    return ServingError(
                        grpc.StatusCode.CANCELLED, "The server is stopping."
                    )
                self._changed.wait()

    def stop(self) -> None:
        """Unloads everything, after the requests in progress have ended."""
        self._signal_stop()
        with self._poll_lock:
            with self._changed:
                self._wanted = {}
            self._unload_unwanted()
        with self._changed:
            while any(e.state != State.END for e in self._versions.values()):
                self._changed.wait()

    def abort(self) -> None:
        """Unloads everything now; requests in progress fail."""
        self._signal_stop()
        with self._changed:
            entries = list(self._versions.values())
        for entry in entries:
            if entry.servable is not None:
                entry.servable.close()
        if self._thread.is_alive():
            # Ending the process in the middle of a load could crash it.
            self._thread.join(_MAX_LOAD_WAIT_S)

    def _signal_stop(self) -> None:
        with self._changed:
            self._stopping = True
            self._changed.notify_all()
        self._must_poll.set()

    # The watching thread.

    def _watch(self) -> None:
        while not self._stopping:
            try:
                self.poll()
            except Exception:
                # The thread must outlive anything a model does to it: without
                # it no later version would ever be served.
                _LOG.exception("Looking for versions of %s failed", self.name)
            self._must_poll.wait(self._next_wait_s())
            self._must_poll.clear()

    def _next_wait_s(self) -> float | None:
        with self._changed:
            waits = [
                entry.next_attempt_s - self._clock()
                for entry in self._versions.values()
                if entry.is_pending
            ]
        if self._policy.poll_wait_s > 0:
            waits.append(self._policy.poll_wait_s)
        return max(min(waits), 0.0) if waits else None

    def poll(self) -> None:
        """Looks at the directory once and acts on what it finds."""
        with self._poll_lock:
            with self._changed:
                if self._stopping:
                    return
                base_path = self._base_path
                version_policy = self._version_policy
            try:
                found = find_versions(base_path)
            except OSError as error:
                # A file system that is away for a moment unloads nothing.
                _LOG.error(
                    "Could not find base path %s for servable %s: %s",
                    base_path,
                    self.name,
                    error,
                )
                return
            self._want(model_config.select_versions(version_policy, found))
            for number in sorted(self._wanted):
                self._try_load(number)
            self._unload_unwanted()

    def _want(self, wanted: dict[int, str]) -> None:
        with self._changed:
            for number, path in wanted.items():
                entry = self._versions.get(number)
                if entry is None or (
                    entry.state == State.END
                    and (entry.error is None or number not in self._wanted)
                ):
                    # New, or here again after it was away. A version that
                    # failed for good stays so while its directory is there.
                    self._versions[number] = _Version(path)
            if not wanted and self._wanted:
                _LOG.warning(
                    "No versions of servable %s found under base path %s. "
                    "Version directories are named by a number, as in %s/1.",
                    self.name,
                    self._base_path,
                    self._base_path,
                )
            self._wanted = wanted
            self._changed.notify_all()

    def _try_load(self, number: int) -> None:
        with self._changed:
            entry = self._versions[number]
            if (
                self._stopping
                or not entry.is_pending
                or self._clock() < entry.next_attempt_s
            ):
                return
            entry.state = State.LOADING
            entry.num_attempts += 1
        try:
            servable = self._load(entry.path)
        except ServingError as error:
            self._note_failure(number, entry, error)
            return
        except Exception as error:
            # A model is a program: whatever it raises is its failure to load.
            _LOG.exception("Version %d of %s", number, self.name)
            self._note_failure(
                number,
                entry,
                ServingError(grpc.StatusCode.INTERNAL, str(error)),
            )
            return
        _LOG.info("Version %d of %s is available", number, self.name)
        with self._changed:
            entry.servable = servable
            entry.state = State.AVAILABLE
            entry.error = None
            self._changed.notify_all()

    def _note_failure(
        self, number: int, entry: _Version[ServableT], error: ServingError
    ) -> None:
        _LOG.error(
            "Loading version %d of %s failed: %s", number, self.name, error
        )
        with self._changed:
            entry.error = error
            entry.next_attempt_s = self._clock() + self._policy.retry_interval_s
            if entry.num_attempts > self._policy.max_retries:
                entry.state = State.END
            self._changed.notify_all()

    def _unload_unwanted(self) -> None:
        with self._changed:
            available = self._available()
            if self._wanted and not any(v in self._wanted for v in available):
                # Nothing that is wanted serves yet: keep what does.
                return
            leaving = []
            for number, entry in self._versions.items():
                if number in self._wanted or entry.state == State.END:
                    continue
                entry.state = State.UNLOADING if entry.servable else State.END
                leaving.append(entry)
            self._changed.notify_all()
        for entry in leaving:
            self._close_if_unused(entry)

    def _close_if_unused(self, entry: _Version[ServableT]) -> None:
        """Closes a version that is to go, once its last request has ended."""
        with self._changed:
            if entry.state != State.UNLOADING or entry.num_users:
                return
            servable, entry.servable = entry.servable, None
        if servable is None:
            return  # Another thread is closing it.
        servable.close()
        with self._changed:
            entry.state = State.END
            self._changed.notify_all()
