# SPDX-License-Identifier: Apache-2.0
"""Replays of logs that have gaps, are away for a while, or end early."""

import pytest

from export import replay
from export.errors import JobError
from lintf.index.index import Index
from lintf.index.schema import IndexSchema
from lintf.ingest.records import JsonDecoder
from lintf.ingest.source import (
    Batch,
    Record,
    Source,
    SourceUnavailableError,
)

OFFSETS = [3, 10, 11, 12, 20]


class Gapped(Source):
    """A log of one partition whose offsets have gaps, also at its end."""

    def __init__(self, end, failures=0, silent_after=None):
        self._end, self._failures = end, failures
        self._silent_after = silent_after
        self.limits = []

    def partitions(self):
        return [0]

    def begin(self, partition):
        return 0

    def end(self, partition):
        return self._end

    def read(self, partition, after_offset, limit, timeout_s):
        self.limits.append(limit)
        if self._failures:
            self._failures -= 1
            raise SourceUnavailableError("away")
        found = [o for o in OFFSETS if o > after_offset][:limit]
        following = [o for o in OFFSETS if o > (found or [-1])[-1]]
        end = following[0] if found and following else self._end
        if self._silent_after is not None:
            found = [o for o in found if o <= self._silent_after]
            end = min(end, self._silent_after + 1)
        records = [
            Record(0, offset, str(offset).encode(), b'{"embedding": [1]}')
            for offset in found
        ]
        return Batch(records, max(end, after_offset + 1))

    def close(self):
        pass


def _run(source, until):
    index = Index(IndexSchema(dim=1), 10)
    poison = []
    job = replay.Replay(
        index, None, JsonDecoder(), lambda *told: poison.append(told)
    )
    tally = job.run(source, [until])
    assert not poison
    count = int(index.num_rows)
    return sorted(index.ids.numpy()[:count].tolist()), index, tally


def test_gaps():
    ids, index, tally = _run(Gapped(end=30), 29)
    assert ids == OFFSETS
    # What the next change must follow is a record, not a gap.
    assert index.log_offsets.numpy().tolist() == [20]
    assert tally.records == len(OFFSETS)


def test_no_record_beyond_the_last_offset():
    ids, index, _ = _run(Gapped(end=30), 11)
    assert ids == [3, 10, 11]
    assert index.log_offsets.numpy().tolist() == [11]


def test_small_batches(monkeypatch):
    monkeypatch.setattr(replay, "_BATCH_ROWS", 2)
    source = Gapped(end=30)
    ids, _, _ = _run(source, 29)
    assert ids == OFFSETS
    assert max(source.limits) == 2


def test_log_that_is_away_for_a_while():
    ids, _, _ = _run(Gapped(end=30, failures=3), 29)
    assert ids == OFFSETS


def test_log_that_stays_away(monkeypatch):
    monkeypatch.setattr(replay, "_MAX_SILENCE_S", -1.0)
    with pytest.raises(SourceUnavailableError):
        _run(Gapped(end=30, failures=1), 29)


def test_log_that_ends_early(monkeypatch):
    monkeypatch.setattr(replay, "_MAX_SILENCE_S", -1.0)
    with pytest.raises(JobError, match="up to offset 29, but nothing came"):
        _run(Gapped(end=30, silent_after=10), 29)
