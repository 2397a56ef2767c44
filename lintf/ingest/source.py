# SPDX-License-Identifier: Apache-2.0
"""The change log as the ingester sees it."""

from __future__ import annotations

import abc
import dataclasses
from collections.abc import Sequence


class SourceError(Exception):
    """The log can't be read on; a person has to do something."""


class SourceUnavailableError(SourceError):
    """The log can't be reached now; trying again may help."""


class CorruptLogError(SourceError):
    """The log holds bytes that nobody wrote as records."""


class LogTruncatedError(SourceError):
    """The log no longer has the records that are asked for."""

    def __init__(self, partition: int, after_offset: int, begin: int) -> None:
        super().__init__(
            f"partition {partition}: the log must reach back to offset "
            f"{after_offset + 1}, but it begins at {begin}; serve a newer "
            "snapshot, or keep the log for longer"
        )


class LogTooShortError(SourceError):
    """The log ends before the offset that the index holds."""

    def __init__(self, partition: int, after_offset: int, end: int) -> None:
        super().__init__(
            f"partition {partition}: the index holds the log up to offset "
            f"{after_offset}, but the log ends at {end - 1}; it is another "
            "log, or has lost its newest records"
        )


@dataclasses.dataclass(frozen=True, slots=True)
class Record:
    """One record of the log.

    Attributes:
      partition: its partition.
      offset: its place in the partition; offsets rise, not always by one.
      key: the item's id as UTF-8 text; None if it has none.
      value: what the item is now; None for a delete (a tombstone).
      timestamp_ms: when it was written, in ms since 1970 UTC.
    """

    partition: int
    offset: int
    key: bytes | None
    value: bytes | None
    timestamp_ms: int = 0


@dataclasses.dataclass(frozen=True, slots=True)
class Batch:
    """What a read found.

    Attributes:
      records: in order of their offsets.
      next_offset: how far the log was read: each record below it is here or
        was before. It is beyond the last record's where the log has gaps.
    """

    records: Sequence[Record]
    next_offset: int


class Source(abc.ABC):
    """A change log of some partitions. Thread-safe; a context manager.

    Readers keep the offsets; a source keeps nothing that would matter.
    """

    @abc.abstractmethod
    def partitions(self) -> Sequence[int]:
        """The partitions, 0 to the number of them minus 1.

        Raises:
          SourceError: the log is not there.
        """

    @abc.abstractmethod
    def begin(self, partition: int) -> int:
        """The first offset that can still be read.

        Raises:
          SourceError: as for `read`.
        """

    @abc.abstractmethod
    def end(self, partition: int) -> int:
        """The offset that the next record to be written will have.

        Raises:
          SourceError: as for `read`.
        """

    @abc.abstractmethod
    def read(
        self,
        partition: int,
        after_offset: int,
        limit: int,
        timeout_s: float,
    ) -> Batch:
        """The records after an offset.

        Returns once there are `limit` records or the time is over, with what
        there is.

        Args:
          partition: one of `partitions`.
          after_offset: the last offset not to return; -1 for all.
          limit: most records to return.
          timeout_s: how long to wait for records.

        Raises:
          SourceUnavailableError: the log can't be reached now.
          LogTruncatedError: records after the offset have been deleted.
          LogTooShortError: the log ends before the offset.
          SourceError: anything else that is wrong.
        """

    @abc.abstractmethod
    def close(self) -> None:
        """Frees what the source holds."""

    def __enter__(self) -> Source:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()
