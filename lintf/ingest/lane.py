# SPDX-License-Identifier: Apache-2.0
"""Feeds one partition of the log to one version of one replica.

The index holds the offset that it has applied, and every request says which
offset it follows; the lane keeps nothing that it could not read again. After
any failure it asks the index where it stands and goes on from there, so that a
lost answer, a restart, a redelivery or another ingester can neither lose nor
repeat a change. At most one request is in flight.
"""

from __future__ import annotations

import collections
import dataclasses
import enum
import logging
import random
import time
from collections.abc import Callable, Sequence

from lintf.index import signatures
from lintf.ingest.dead_letters import DeadLetters
from lintf.ingest.records import Decoder, skip, to_change
from lintf.ingest.source import (
    Record,
    Source,
    SourceError,
    SourceUnavailableError,
)
from lintf.ingest.target import Fault, Target, TargetError
from lintf.serving.changes import Change

_LOGGER = logging.getLogger("lintf.ingest")

_SPEED_WINDOW_S = 10.0

STATUS_NAMES = {
    signatures.UNCHANGED: "unchanged",
    signatures.INSERTED: "inserted",
    signatures.REPLACED: "replaced",
    signatures.DELETED: "deleted",
    signatures.NOT_FOUND: "not_found",
}


class State(enum.Enum):
    """What a lane does."""

    STARTING = "starting"
    RUNNING = "running"
    # A call failed, and will be tried again soon.
    WAITING = "waiting"
    # A person has to do something; looked at again now and then.
    HALTED = "halted"


@dataclasses.dataclass(frozen=True)
class LaneOptions:
    """Settings of a lane.

    Attributes:
      batch_rows: most changes of a request.
      max_latency_s: how long to wait for a request to fill.
      stats_interval_s: how often an idle lane asks where the index stands: a
        server that has restarted stands where its SavedModel did.
      end_interval_s: how often to look where the log ends.
      first_delay_s: of the first retry; each further one waits twice as long.
      max_delay_s: the longest wait between retries.
      halt_delay_s: between two looks whether a halted lane can go on.
    """

    batch_rows: int = 1000
    max_latency_s: float = 0.2
    stats_interval_s: float = 1.0
    end_interval_s: float = 0.5
    first_delay_s: float = 0.1
    max_delay_s: float = 5.0
    halt_delay_s: float = 10.0

    def __post_init__(self) -> None:
        if self.batch_rows < 1:
            raise ValueError(
                f"`batch_rows` must be at least 1, got {self.batch_rows}"
            )
        for field in dataclasses.fields(self)[1:]:
            if getattr(self, field.name) < 0:
                raise ValueError(
                    f"`{field.name}` must not be negative, got "
                    f"{getattr(self, field.name)}"
                )


@dataclasses.dataclass(slots=True)
class _Row:
    """A change that is not applied yet.

    Attributes:
      change: the change.
      record: what it was made from; None for a gap in the log.
      checked: whether it was looked at more closely.
    """

    change: Change
    record: Record | None
    checked: bool = False


class Lane:
    """One partition, one version, one replica.

    `step` does one thing at a time and never waits for longer than
    `max_latency_s` and a call's deadline. All other attributes may be read
    from other threads.

    Attributes:
      target: the version.
      partition: the partition.
      state: what the lane does.
      message: why it waits or has halted; "" otherwise.
      position: the last offset that the index is known to hold; None if that
        has to be asked.
      end: where the log ended when last looked at.
      caught_up_at: everything that was in the log at this time (of the clock)
        is applied; None if nothing is known.
      applied: changes applied, by the status that the index gave them.
      dead_letters: records that were poison.
      retries: failed calls, by their fault.
      requests: requests that were answered.
    """

    def __init__(
        self,
        source: Source,
        partition: int,
        target: Target,
        decoder: Decoder,
        dead_letters: DeadLetters,
        options: LaneOptions,
        *,
        clock: Callable[[], float] = time.monotonic,
        wall_clock: Callable[[], float] = time.time,
        rng: random.Random | None = None,
    ) -> None:
        """Makes a lane; nothing is sent yet.

        Args:
          source: the log.
          partition: of the log.
          target: the version to feed.
          decoder: of the log's values.
          dead_letters: where poison goes.
          options: the settings.
          clock: seconds, rising.
          wall_clock: seconds since 1970 UTC.
          rng: spreads retries.
        """
        self.target = target
        self.partition = partition
        self.state = State.STARTING
        self.message = ""
        self.position: int | None = None
        self.end: int | None = None
        self.caught_up_at: float | None = None
        self.applied: collections.Counter[str] = collections.Counter()
        self.dead_letters = 0
        self.retries: collections.Counter[str] = collections.Counter()
        self.requests = 0
        self._source = source
        self._decoder = decoder
        self._dead_letters = dead_letters
        self._options = options
        self._clock = clock
        self._wall_clock = wall_clock
        self._rng = rng or random.Random()
        self._pending: collections.deque[_Row] = collections.deque()
        # So many of the first pending rows were refused together.
        self._suspects = 0
        self._refused_rows = 0
        self._max_rows = options.batch_rows
        self._failures = 0
        self._asked_at = 0.0
        # The last known position, kept where `position` has to be asked.
        self._stood_at = -1
        self._looked_at: float | None = None
        # An end of the log, and when it was the end.
        self._goal: tuple[int, float] | None = None
        self._oldest_ms: int | None = None
        self._attribute_names: set[str] | None = None
        # When requests were applied lately, and how many changes they had.
        self._recent: collections.deque[tuple[float, int]] = collections.deque()
        # Poison that is counted, but not skipped yet.
        self._buried: set[int] = set()

    def step(self) -> float:
        """Does one thing; returns how many seconds to wait before the next.

        Raises:
          AssertionError: a bug; whatever else goes wrong shows in `state`.
        """
        try:
            self._step()
        except TargetError as error:
            return self._on_target_error(error)
        except SourceUnavailableError as error:
            self.retries["source"] += 1
            return self._wait(f"the log can't be reached: {error}")
        except (SourceError, OSError) as error:
            if not self._pending:
                # Meanwhile the index may be brought to a better place.
                self.position = None
            return self._halt(str(error))
        return 0.0

    @property
    def lag_records(self) -> int | None:
        """How many records are not applied; None if that is not known."""
        position, end = self.position, self.end
        if position is None or end is None:
            return None
        return max(end - 1 - position, 0)

    @property
    def lag_seconds(self) -> float | None:
        """How long ago the oldest record that is not applied was written.

        None if that is not known; 0 if there is none.
        """
        lag, oldest_ms = self.lag_records, self._oldest_ms
        if lag == 0:
            return 0.0
        if lag is None or oldest_ms is None:
            return None
        return max(self._wall_clock() - oldest_ms / 1e3, 0.0)

    @property
    def applied_per_second(self) -> float:
        """Changes applied a second, over the last 10 seconds."""
        since = self._clock() - _SPEED_WINDOW_S
        # Copied at once: the lane's own thread adds to it.
        recent = list(self._recent)
        return sum(n for at, n in recent if at > since) / _SPEED_WINDOW_S

    # The steps.

    def _step(self) -> None:
        if self.position is None:
            self._ask()
        self._look_at_end()
        if not self._pending:
            self._fill()
        if self._pending:
            self._send()
        elif self._clock() - self._asked_at >= self._options.stats_interval_s:
            self._ask()
        self.state, self.message = State.RUNNING, ""
        self._failures = 0
        self._check_goal()

    def _ask(self) -> None:
        """Asks the index where it stands."""
        # Before the index is asked: one that takes no updates says so.
        self.target.encoder()
        offsets = self.target.offsets()
        self._asked_at = self._clock()
        if self.partition >= len(offsets):
            raise TargetError(
                Fault.REFUSED,
                f"the index must have an offset for partition "
                f"{self.partition} of the log, got {len(offsets)} partitions; "
                "export it with `log.partitions` of the log's number",
            )
        stored = int(offsets[self.partition])
        if stored < self._stood_at:
            self._log(
                logging.WARNING,
                f"the index went back from offset {self._stood_at} to {stored}",
            )
            self.caught_up_at = self._goal = self._looked_at = None
        if stored != self.position:
            self._forget()
        self.position = self._stood_at = stored

    def _look_at_end(self) -> None:
        now = self._clock()
        interval = self._options.end_interval_s
        if self._looked_at is not None and now - self._looked_at < interval:
            return
        self.end = self._source.end(self.partition)
        self._looked_at = now
        # One that is not reached yet stays: a log that grows has no last end.
        if self._goal is None or self._reached(self._goal[0]):
            self._goal = (self.end, now)

    def _reached(self, end: int) -> bool:
        return self.position is not None and self.position >= end - 1

    def _check_goal(self) -> None:
        if self._goal is not None and self._reached(self._goal[0]):
            self.caught_up_at = self._goal[1]

    def _fill(self) -> None:
        """Reads the next records."""
        assert self.position is not None
        batch = self._source.read(
            self.partition,
            self.position,
            self._options.batch_rows,
            self._options.max_latency_s,
        )
        previous = self.position
        for record in batch.records:
            try:
                change = self._to_change(record, previous)
            except (SourceError, OSError):
                if not self._pending:
                    raise
                # What is before it can go first.
                return
            self._pending.append(_Row(change, record))
            previous = record.offset
        if batch.next_offset - 1 > previous:
            # Offsets that no record has: the index steps over them as well,
            # or retention could seem to have taken something from it.
            self._pending.append(
                _Row(
                    Change(
                        None,
                        partition=self.partition,
                        previous_offset=previous,
                        offset=batch.next_offset - 1,
                    ),
                    None,
                )
            )
        self._note_oldest()

    def _note_oldest(self) -> None:
        if self._pending and self._pending[0].record is not None:
            self._oldest_ms = self._pending[0].record.timestamp_ms

    def _to_change(self, record: Record, previous: int) -> Change:
        encoder = self.target.encoder()
        try:
            change = to_change(
                record, previous, self._decoder, encoder.id_from_text
            )
            encoder.signature(change)
            names = self._attribute_names
            if names is None:
                names = {a.name for a in encoder.schema.attributes}
                self._attribute_names = names
            if change.attributes and not names.issuperset(change.attributes):
                encoder.check(change)
        except ValueError as error:
            return self._bury(record, previous, str(error))
        return change

    def _bury_rows(self, rows: int) -> bool:
        """Looks at each of the first rows; whether any of them is poison.

        A request's inputs are made for all rows at once, which finds the same
        faults in less time, but does not say whose they are.
        """
        encoder = self.target.encoder()
        found = False
        for row, _ in zip(self._pending, range(rows), strict=False):
            if row.checked or row.record is None:
                continue
            try:
                encoder.check(row.change)
            except ValueError as error:
                row.change = self._bury(
                    row.record, row.change.previous_offset, str(error)
                )
                found = True
            row.checked = True
        return found

    def _bury(self, record: Record, previous: int, reason: str) -> Change:
        """Writes a dead letter; returns the change that skips the record."""
        new = self._dead_letters.write(record, reason)
        if record.offset not in self._buried:
            self._buried.add(record.offset)
            self.dead_letters += 1
        if new:
            self._log(
                logging.WARNING,
                f"offset {record.offset} is poison and goes to the dead "
                f"letters: {reason}",
            )
        return skip(record, previous)

    def _send(self) -> None:
        """Sends the first of the pending changes."""
        rows = self._max_rows
        if self._suspects:
            rows = max(self._suspects // 2, 1)
        first = [
            row.change
            for row, _ in zip(self._pending, range(rows), strict=False)
        ]
        signature, run = next(iter(self.target.encoder().runs(first, rows)))
        try:
            statuses = self.target.send(signature, run)
        except TargetError as error:
            if error.fault not in (Fault.POISON, Fault.FULL):
                raise
            self._on_refused(error, len(run))
            return
        self._on_applied(run, statuses)

    def _on_applied(
        self, run: Sequence[Change], statuses: Sequence[int]
    ) -> None:
        self.requests += 1
        for change, status in zip(run, statuses, strict=True):
            row = self._pending.popleft()
            if change.id is not None:
                self.applied[STATUS_NAMES[int(status)]] += 1
            if row.record is not None:
                # Until the next record is read, as old as this one.
                self._oldest_ms = row.record.timestamp_ms
                self._buried.discard(row.record.offset)
        self._note_oldest()
        self.position = self._stood_at = run[-1].offset
        now = self._asked_at = self._clock()
        self._recent.append((now, len(run)))
        while self._recent[0][0] <= now - _SPEED_WINDOW_S:
            self._recent.popleft()
        if self._suspects:
            self._suspects = max(self._suspects - len(run), 0)
            if not self._suspects and self._refused_rows:
                # No row was to blame: the request was too large.
                self._max_rows = max(self._refused_rows // 2, 1)
                self._refused_rows = 0
        else:
            most = self._options.batch_rows
            self._max_rows = min(self._max_rows + most // 100 + 1, most)

    def _on_refused(self, error: TargetError, rows: int) -> None:
        """Nothing of a request was applied, because of one of its rows."""
        if error.fault is Fault.POISON and self._bury_rows(rows):
            return
        self.retries[error.fault.value] += 1
        if rows > 1:
            if not self._suspects:
                self._refused_rows = rows
            self._suspects = rows
            return
        if error.fault is Fault.FULL:
            # The row stays the first, and is tried again alone.
            self._suspects, self._refused_rows = 1, 0
            raise error
        row = self._pending[0]
        if row.change.id is None or row.record is None:
            raise TargetError(
                Fault.REFUSED,
                f"the index refuses even to skip offset {row.change.offset}: "
                f"{error.message}",
            )
        row.change = self._bury(
            row.record, row.change.previous_offset, error.message
        )
        self._suspects = self._refused_rows = 0

    # After a failure.

    def _on_target_error(self, error: TargetError) -> float:
        if error.fault is Fault.FULL:
            return self._halt(
                "the index is full; nothing is lost: serve a version with "
                f"more room ({error.message})"
            )
        self.retries[error.fault.value] += 1
        # Whether the call had an effect is not known.
        self._forget()
        self.position = None
        if error.fault is Fault.REFUSED:
            return self._halt(error.message)
        if error.fault is Fault.CONFLICT and not self._failures:
            self._failures = 1
            return 0.0
        # Two ingesters at once are no reason to worry.
        calm = error.fault is Fault.CONFLICT
        return self._wait(
            f"{error.fault.value}: {error.message}",
            logging.INFO if calm else logging.WARNING,
        )

    def _forget(self) -> None:
        self._pending.clear()
        self._suspects = self._refused_rows = 0

    def _wait(self, message: str, level: int = logging.WARNING) -> float:
        if self.message != message:
            self._log(level, message)
        self.state, self.message = State.WAITING, message
        options = self._options
        # 2.0 ** 64 is beyond any limit, and far from what floats hold.
        delay = options.first_delay_s * 2.0 ** min(self._failures, 64)
        self._failures += 1
        # Half of it at random: many lanes do not come back at once.
        return min(delay, options.max_delay_s) * self._rng.uniform(0.5, 1.0)

    def _halt(self, message: str) -> float:
        if self.state is not State.HALTED or self.message != message:
            self._log(logging.ERROR, f"HALTED: {message}")
        self.state, self.message = State.HALTED, message
        return self._options.halt_delay_s * self._rng.uniform(0.9, 1.1)

    def _log(self, level: int, message: str) -> None:
        _LOGGER.log(
            level,
            "%s version %d partition %d: %s",
            self.target.replica,
            self.target.version,
            self.partition,
            message,
        )
