# SPDX-License-Identifier: Apache-2.0
"""A snapshot holds the last version and the log, and nothing else."""

import fcntl
import json
import shutil

import pytest

from export import publish, snapshot
from export.errors import JobError
from lintf.index import restore
from lintf.index.schema import Quantization
from lintf.index.shards import Shards
from lintf.ingest.file_log import FileLog
from lintf.ingest.file_log_writer import FileLogWriter
from lintf.ingest.source import LogTruncatedError
from tests.export import live

CODES = Quantization(bins=2, repeats=32)


@pytest.fixture
def writer(tmp_path):
    with FileLogWriter(
        tmp_path / "log", live.PARTITIONS, fsync_interval_s=None
    ) as writer:
        yield writer


@pytest.fixture(scope="module")
def first(tmp_path_factory):
    """Puts version 1, which is made once, into a model's base path."""
    made = {}

    def publish_first(base, offsets=(-1, -1)):
        if offsets not in made:
            made[offsets] = tmp_path_factory.mktemp("first") / "films"
            live.publish_first(made[offsets], offsets=offsets)
        shutil.copytree(made[offsets], base)

    return publish_first


@pytest.fixture
def base(tmp_path):
    return tmp_path / "models" / "films"


def _snapshot(base, writer, **options):
    log_options = {
        name: options.pop(name)
        for name in ("until", "on_poison")
        if name in options
    }
    with FileLog(base.parents[1] / "log") as source:
        log = snapshot.Log(source, **log_options)
        return snapshot.snapshot(base, log, **options)


def _expected(base, version="1"):
    """What a served version answers once it has all of the log."""
    with (
        live.Served(base / version) as served,
        FileLog(base.parents[1] / "log") as log,
    ):
        served.apply(log)
        return served.answers(), served.offsets()


def _actual(path):
    with live.Served(path) as served:
        return served.answers(), served.offsets()


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"id_dtype": "string", "metric": "cosine", "dtype": "int8"},
        {"dtype": "none", "quantization": CODES},
        {"id_dtype": "string", "quantization": CODES, "sharding": Shards(3)},
    ],
    ids=["plain", "strings_int8", "codes", "shards"],
)
def test_snapshot_equals_a_served_version(base, writer, fields):
    live.publish_first(base, **fields)
    live.append_random(
        writer, 400, string_ids=fields.get("id_dtype") == "string"
    )
    wanted, offsets = _expected(base)
    path = _snapshot(base, writer)
    assert path == base / "2"
    answers, found = _actual(path)
    live.assert_same(wanted, answers)
    assert found == offsets == [writer.next_offset(p) - 1 for p in (0, 1)]
    with live.Served(path) as served:
        stats = served.stats()
        assert stats["num_rows"] == stats["live_rows"] < live.ROWS + 8
        assert stats["capacity"] == live.ROWS + 10
        # It goes on with the log.
        strings = fields.get("id_dtype") == "string"
        live.append_random(writer, 20, seed=8, string_ids=strings)
        with FileLog(base.parents[1] / "log") as log:
            served.apply(log)
        assert served.offsets() == [writer.next_offset(p) - 1 for p in (0, 1)]


def test_snapshots_keep_shards_and_their_devices(base, writer):
    sharding = Shards(4, ("CPU:0", "CPU:1"))
    live.publish_first(base, sharding=sharding)
    live.append_random(writer, 100)
    wanted, offsets = _expected(base)
    path = _snapshot(base, writer, capacity=100)
    answers, found = _actual(path)
    live.assert_same(wanted, answers)
    assert found == offsets
    assert restore.sharding_of(path) == sharding
    with live.Served(path) as served:
        stats = served.stats()
    assert stats["capacity"] == 100
    each = sharding.capacity_of_each(100)
    assert stats["shard_capacity"].tolist() == [[each] * 4]
    # There is nothing new.
    assert _snapshot(base, writer) == path
    with pytest.raises(JobError, match="or one of its shards, has no row left"):
        live.append_random(writer, 300, items=500)
        _snapshot(base, writer)


def test_snapshots_of_snapshots(base, writer, first):
    first(base)
    live.append_random(writer, 60)
    until = [writer.next_offset(0) - 1, 5]
    live.append_random(writer, 60, seed=4)
    wanted, offsets = _expected(base)
    path = _snapshot(base, writer, until=until)
    with live.Served(path) as served:
        assert served.offsets() == until
    assert _snapshot(base, writer, capacity=100) == base / "3"
    answers, found = _actual(base / "3")
    live.assert_same(wanted, answers)
    assert found == offsets
    with live.Served(base / "3") as served:
        assert served.stats()["capacity"] == 100
    build = publish.read_build(base / "3")
    assert build["snapshot_of"] == {
        "version": 2,
        "build_id": publish.read_build(base / "2")["build_id"],
    }
    assert build["log_offsets"] == offsets
    # There is nothing new.
    assert _snapshot(base, writer) == base / "3"
    # Fewer rows than there were items do once the log has deleted some.
    for item in range(10):
        writer.append(f"{item}".encode(), None)
    assert _snapshot(base, writer, capacity=live.ROWS) == base / "4"
    with live.Served(base / "4") as served:
        assert served.stats()["capacity"] == live.ROWS
    assert publish.versions(base) == [1, 2, 3, 4]


def test_log_that_no_longer_reaches_back(base, writer, first):
    first(base, offsets=(4, 4))
    live.append_random(writer, 40)
    for partition in range(live.PARTITIONS):
        writer.roll(partition)
        writer.trim(partition, writer.next_offset(partition))
    with pytest.raises(LogTruncatedError, match="must reach back to offset 5"):
        _snapshot(base, writer)
    assert publish.versions(base) == [1]


@pytest.mark.parametrize(
    ("until", "text"),
    [
        ([4], "must have 2 offsets, one for each partition, got 1"),
        ([4, 10_000], "names offset 10000, but the log ends before"),
        ([3, 5], "holds the log up to offset 4 already"),
    ],
)
def test_offsets_that_are_refused(base, writer, first, until, text):
    first(base, offsets=(4, 4))
    live.append_random(writer, 40)
    with pytest.raises(JobError, match=text):
        _snapshot(base, writer, until=until)
    assert publish.versions(base) == [1]


def test_log_that_is_shorter_than_the_index(base, writer, first):
    first(base, offsets=(4, 4))
    with pytest.raises(JobError, match="lost its end, or is another one"):
        _snapshot(base, writer)


def test_log_of_another_number_of_partitions(base, first, tmp_path):
    first(base)
    with FileLogWriter(tmp_path / "log", 3) as writer:
        with pytest.raises(JobError, match="2 partitions, but this one has 3"):
            _snapshot(base, writer)


def test_full_index(base, writer, first):
    first(base)
    value = json.dumps({"embedding": [1.0] * live.DIM}).encode()
    for item in range(1000, 1012):
        writer.append(f"{item}".encode(), value)
    with pytest.raises(JobError, match="all 40 rows hold items; .* --capacity"):
        _snapshot(base, writer)
    assert publish.versions(base) == [1]


def test_poison_is_skipped(base, writer, first):
    first(base)
    bad = [
        (b"7", b"{"),
        (b"not a number", b'{"attributes": {}}'),
        (b"7", b'{"embedding": [1, 2]}'),
        (b"7", b'{"attributes": {"no_such": 1}}'),
        (None, None),
        # Only the item tower tells.
        (b"7", b'{"features": {"word": "a", "weight": 3e38}}'),
    ]
    live.append_random(writer, 30)
    for number, (key, value) in enumerate(bad):
        writer.append(key, value, partition=1)
        live.append_random(writer, 3, seed=number)
    told = []
    path = _snapshot(
        base,
        writer,
        on_poison=lambda record, reason: told.append((record, reason)),
    )
    assert {(r.key, r.value) for r, _ in told} == set(bad)
    assert all(reason for _, reason in told)
    with live.Served(path) as served:
        assert served.offsets() == [writer.next_offset(p) - 1 for p in (0, 1)]


class _Crash(BaseException):
    """What no code of the job handles."""


def test_crashes(base, writer, first):
    first(base)
    live.append_random(writer, 20)

    def crash_at(event):
        def on_event(name):
            if name == event:
                raise _Crash

        return on_event

    for event in ("saved", "checked"):
        with pytest.raises(_Crash):
            _snapshot(base, writer, on_event=crash_at(event))
        assert publish.versions(base) == [1]
    assert list(base.glob(".unfinished*"))
    assert _snapshot(base, writer) == base / "2"
    assert not list(base.glob(".unfinished*"))
    wanted, offsets = _expected(base)
    answers, found = _actual(base / "2")
    live.assert_same(wanted, answers)
    assert found == offsets


def test_version_that_another_job_publishes_meanwhile(base, writer, first):
    first(base)
    live.append_random(writer, 20)

    def on_event(name):
        if name == "checked":
            (base / "2").mkdir()

    # A newer number would hide the other one.
    with pytest.raises(JobError, match="version 2 exists already"):
        _snapshot(base, writer, on_event=on_event)
    assert not any((base / "2").iterdir())


def test_two_snapshots_at_once(base, writer, first):
    first(base)
    with (base / ".snapshot.lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(JobError, match="another snapshot of .* being made"):
            _snapshot(base, writer)


def test_no_version(base, writer):
    base.mkdir(parents=True)
    with pytest.raises(JobError, match="no version under"):
        _snapshot(base, writer)
    with pytest.raises(JobError, match="must be a model's base path"):
        _snapshot(base.parent / "none", writer)
