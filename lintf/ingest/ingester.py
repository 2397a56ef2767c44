# SPDX-License-Identifier: Apache-2.0
"""Keeps every served version of every replica at the end of the log.

A thread for each replica asks which versions it serves. Each version gets one
lane a partition, with a thread of its own: a replica that is away or full holds
nobody else up. A label moves to a new version once that has caught up.
"""

from __future__ import annotations

import dataclasses
import logging
import random
import threading
import time
from collections.abc import Callable, Sequence

from lintf.ingest.dead_letters import DeadLetters
from lintf.ingest.lane import Lane, LaneOptions, State
from lintf.ingest.records import Decoder
from lintf.ingest.source import Source, SourceUnavailableError
from lintf.ingest.target import Replica, Target, TargetError

_LOGGER = logging.getLogger("lintf.ingest")


@dataclasses.dataclass(frozen=True)
class IngesterOptions:
    """Settings of an ingester.

    Attributes:
      lane: of each lane.
      label: the version label to move to the newest version of each replica
        that has caught up; "" for none.
      label_lag_s: how old the end of the log may be that a version has reached
        to count as caught up.
      poll_s: how often to ask a replica for its versions.
      until_caught_up: whether to end once everything that was in the log at
        the start is applied everywhere.
    """

    lane: LaneOptions = LaneOptions()
    label: str = ""
    label_lag_s: float = 5.0
    poll_s: float = 1.0
    until_caught_up: bool = False


class _Feed:
    """The lanes of one version, and their threads."""

    def __init__(self, target: Target, lanes: Sequence[Lane]) -> None:
        self.target = target
        self.lanes = lanes
        self._stop = threading.Event()
        self._threads = [
            threading.Thread(
                target=self._run,
                args=[lane],
                name=f"{target.replica}/{target.version}/{lane.partition}",
            )
            for lane in lanes
        ]
        for thread in self._threads:
            thread.start()

    def caught_up_since(self, time: float) -> bool:
        """Whether all that was in the log at a time is applied."""
        return all(
            lane.caught_up_at is not None and lane.caught_up_at >= time
            for lane in self.lanes
        )

    def stop(self) -> None:
        """Asks the lanes to end after the request in flight."""
        self._stop.set()

    def join(self) -> None:
        """Waits until they have."""
        for thread in self._threads:
            thread.join()

    def _run(self, lane: Lane) -> None:
        while not self._stop.is_set():
            try:
                delay = lane.step()
            except Exception:
                # A bug: shows, and stops this lane alone for a while.
                _LOGGER.exception("%s: failed", threading.current_thread().name)
                lane.state, lane.message = State.HALTED, "failed, see the log"
                delay = 10.0
            if delay:
                self._stop.wait(delay)


class _Follower:
    """Follows the versions of one replica.

    `poll` does one round; `feeds` may be read from other threads.
    """

    def __init__(
        self,
        replica: Replica,
        make_lanes: Callable[[Target], Sequence[Lane]],
        options: IngesterOptions,
        clock: Callable[[], float],
        rng: random.Random,
    ) -> None:
        self.replica = replica
        self.feeds: dict[int, _Feed] = {}
        self.reachable = False
        self.labelled: int | None = None
        self._make_lanes = make_lanes
        self._options = options
        self._clock = clock
        self._rng = rng
        self._failures = 0
        self._message = ""

    def poll(self) -> float:
        """Looks at the replica; returns how long to wait before the next."""
        try:
            versions = self.replica.versions()
        except TargetError as error:
            self.reachable = False
            # A server that comes back has the labels of its config file.
            self.labelled = None
            return self._wait(error.message)
        self.reachable = True
        self._follow(versions)
        if self._options.label:
            try:
                self._move_label()
            except TargetError as error:
                return self._wait(
                    f"label {self._options.label}: {error.message}"
                )
        self._failures, self._message = 0, ""
        return self._options.poll_s

    def stop(self) -> None:
        """Stops the lanes; returns when all have ended."""
        feeds = list(self.feeds.values())
        for feed in feeds:
            feed.stop()
        for feed in feeds:
            feed.join()

    def _follow(self, versions: Sequence[int]) -> None:
        feeds = dict(self.feeds)
        for version in sorted(set(feeds) - set(versions)):
            _LOGGER.info(
                "%s version %d is no longer served",
                self.replica.address,
                version,
            )
            gone = feeds.pop(version)
            gone.stop()
            gone.join()
        for version in sorted(set(versions) - set(feeds)):
            target = self.replica.target(version)
            _LOGGER.info(
                "%s version %d is served", self.replica.address, version
            )
            feeds[version] = _Feed(target, self._make_lanes(target))
        self.feeds = feeds

    def _move_label(self) -> None:
        if not self.feeds:
            return
        newest = max(self.feeds)
        if newest == self.labelled:
            return
        since = self._clock() - self._options.label_lag_s
        if not self.feeds[newest].caught_up_since(since):
            return
        self.replica.set_label(self._options.label, newest)
        self.labelled = newest
        _LOGGER.info(
            "%s: label %s now names version %d, which has caught up",
            self.replica.address,
            self._options.label,
            newest,
        )

    def _wait(self, message: str) -> float:
        if message != self._message:
            _LOGGER.warning("%s: %s", self.replica.address, message)
        self._message = message
        options = self._options.lane
        delay = options.first_delay_s * 2.0 ** min(self._failures, 64)
        self._failures += 1
        return min(delay, options.max_delay_s) * self._rng.uniform(0.5, 1.0)


class Ingester:
    """Feeds replicas from a log until it is told to stop.

    Attributes:
      followers: one a replica, each with its lanes.
    """

    def __init__(
        self,
        source: Source,
        replicas: Sequence[Replica],
        decoder: Decoder,
        dead_letters: DeadLetters,
        options: IngesterOptions,
        *,
        clock: Callable[[], float] = time.monotonic,
        rng: random.Random | None = None,
    ) -> None:
        """Makes an ingester; `run` starts it.

        Args:
          source: the log.
          replicas: the servers.
          decoder: of the log's values.
          dead_letters: where poison goes.
          options: the settings.
          clock: seconds, rising.
          rng: spreads retries.
        """
        self._source = source
        self._decoder = decoder
        self._dead_letters = dead_letters
        self._options = options
        self._clock = clock
        self._rng = rng or random.Random()
        self._partitions: Sequence[int] = ()
        self._stop = threading.Event()
        self._failed = False
        self.followers = [
            _Follower(replica, self._make_lanes, options, clock, self._rng)
            for replica in replicas
        ]

    def lanes(self) -> list[Lane]:
        """All lanes there are now."""
        return [
            lane
            for follower in self.followers
            for feed in list(follower.feeds.values())
            for lane in feed.lanes
        ]

    def stop(self) -> None:
        """Makes `run` return, once the requests in flight are answered.

        May be called from a signal handler.
        """
        self._stop.set()

    def run(self) -> int:
        """Feeds until `stop`, or until everything has caught up.

        Returns:
          The exit status: 0; 1 if `until_caught_up` was asked for and a lane
          has halted.

        Raises:
          SourceError: the log is not there.
        """
        if not self._find_partitions():
            return 0
        threads = [
            threading.Thread(target=self._follow, args=[follower])
            for follower in self.followers
        ]
        for thread in threads:
            thread.start()
        try:
            self._wait()
        finally:
            self._stop.set()
            for thread in threads:
                thread.join()
        return int(self._failed)

    def _find_partitions(self) -> bool:
        """Asks the log for its partitions; False if stopped meanwhile."""
        delay, message = self._options.lane.first_delay_s, ""
        while not self._stop.is_set():
            try:
                self._partitions = self._source.partitions()
                return True
            except SourceUnavailableError as error:
                if str(error) != message:
                    message = str(error)
                    _LOGGER.warning("the log can't be reached: %s", message)
                self._stop.wait(delay * self._rng.uniform(0.5, 1.0))
                delay = min(2 * delay, self._options.lane.max_delay_s)
        return False

    def _make_lanes(self, target: Target) -> Sequence[Lane]:
        return [
            Lane(
                self._source,
                partition,
                target,
                self._decoder,
                self._dead_letters,
                self._options.lane,
                clock=self._clock,
                rng=random.Random(self._rng.random()),
            )
            for partition in self._partitions
        ]

    def _follow(self, follower: _Follower) -> None:
        try:
            while not self._stop.is_set():
                try:
                    delay = follower.poll()
                except Exception:
                    _LOGGER.exception("%s: failed", follower.replica.address)
                    delay = 10.0
                self._stop.wait(delay)
        finally:
            follower.stop()

    def _wait(self) -> None:
        # Where there is nothing to look at, nothing wakes this thread up.
        look_every_s = 0.05 if self._options.until_caught_up else None
        while not self._stop.wait(look_every_s):
            if self._all_caught_up():
                return
            halted = [
                lane for lane in self.lanes() if lane.state is State.HALTED
            ]
            if halted:
                self._failed = True
                _LOGGER.error(
                    "%d of %d lanes have halted: can't catch up",
                    len(halted),
                    len(self.lanes()),
                )
                return

    def _all_caught_up(self) -> bool:
        return all(
            follower.feeds
            and all(
                lane.caught_up_at is not None
                for feed in list(follower.feeds.values())
                for lane in feed.lanes
            )
            and (
                not self._options.label
                or follower.labelled == max(follower.feeds)
            )
            for follower in self.followers
        )
