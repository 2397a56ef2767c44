# SPDX-License-Identifier: Apache-2.0
"""The parts of the soak, without the processes that it breaks."""

import sys

import pytest

from lintf.ingest.file_log import FileLog
from tests.soak import model
from tests.soak.changes import Generator, Row
from tests.soak.logs import FileChanges, KafkaChanges
from tests.soak.phase import Phase, Result
from tests.soak.processes import Downtime, Process, wait_until
from tests.soak.queries import Watcher


@pytest.mark.parametrize("kind", [FileChanges, KafkaChanges])
def test_logs_remember_what_was_acknowledged(tmp_path, kind):
    log = kind(tmp_path, 3)
    try:
        generator = Generator(40, seed=2)
        for _ in range(200):
            log.append(*generator.change())
        log.flush()
        records = log.acknowledged()
        assert len(records) == 200
        assert log.replay().rows == generator._model.rows
        for partition, end in enumerate(log.ends()):
            offsets = [r.offset for r in records if r.partition == partition]
            assert offsets == list(range(end + 1))
    finally:
        log.close()


@pytest.mark.parametrize("size", [1, 7, 1000])
def test_torn_tail_is_no_record(tmp_path, size):
    log = FileChanges(tmp_path / "log", 1)
    generator = Generator(10, seed=1)
    for _ in range(5):
        log.append(*generator.change())
    seen = []

    def while_torn():
        with FileLog(tmp_path / "log") as reader:
            seen.append(reader.end(0))
            seen.append(len(reader.read(0, -1, 100, 0.0).records))

    log.tear(0, size, while_torn)
    assert seen == [5, 5]
    log.append(*generator.change())
    log.close()
    with FileLog(tmp_path / "log") as reader:
        found = reader.read(0, -1, 100, 0.0).records
    assert [(r.key, r.value) for r in found] == [
        (r.key, r.value) for r in log.acknowledged()
    ]


def test_downtime():
    now = [0.0]
    downtime = Downtime(lambda: now[0])
    assert downtime.since(5.0)
    now[0] = 10.0
    downtime.end()
    assert downtime.since(9.0)
    assert not downtime.since(11.0)
    downtime.begin()
    assert downtime.since(11.0)


@pytest.fixture
def watcher():
    watcher = Watcher("localhost:1", 10, Downtime(), seed=1)
    yield watcher
    watcher._client.close()


def _row(row, **fields):
    return {"id": row.id, **row.attributes(), **fields}


GOOD = Row(3, 9, 12)


def test_watcher_lets_good_rows_pass(watcher):
    older = Row(4, 8, 8)
    watcher.look([_row(GOOD, score=9.0), _row(older, score=8.0)], "even", True)
    watcher.look([_row(GOOD, embedding=GOOD.embedding())], None, False)
    assert not watcher.errors
    assert (watcher.rows, watcher.torn) == (3, 0)


@pytest.mark.parametrize(
    ("row", "parity", "newest"),
    [
        (_row(GOOD, check=1, score=9.0), None, True),
        ({**_row(GOOD, score=9.0), "id": 4}, None, True),
        (_row(GOOD, score=8.0), None, True),
        (_row(GOOD, score=9.0), "odd", True),
        (_row(GOOD, embedding=Row(3, 8, 8).embedding()), None, False),
    ],
)
def test_watcher_sees_torn_rows(watcher, row, parity, newest):
    watcher.look([row], parity, newest)
    assert watcher.torn == 1
    assert watcher.errors


def test_watcher_sees_rows_out_of_order(watcher):
    rows = [Row(4, 8, 8), GOOD]
    watcher.look([_row(r, score=float(r.embedded)) for r in rows], None, True)
    assert watcher.errors == ["scores ascend: 8.0 9.0"]


def test_calls_fail_only_while_the_server_is_away():
    for away in (True, False):
        downtime = Downtime()
        if not away:
            downtime.end()
        # Nothing listens there.
        watcher = Watcher("localhost:1", 30, downtime, seed=1)
        watcher.start()
        wait_until(
            lambda w=watcher: w.errors or w.refused, "a call has failed", 60
        )
        watcher.stop()
        assert bool(watcher.errors) != away
        assert bool(watcher.refused) == away


def test_process_that_ends_by_itself(tmp_path):
    process = Process("wrong", tmp_path, ["no-such-command"])
    with pytest.raises(RuntimeError, match="no command 'no-such-command'"):
        process.run()
    with pytest.raises(RuntimeError, match="ended with status 2"):
        process.check()


def test_process_is_killed_and_started_again(tmp_path):
    process = Process("sleeper", tmp_path, [])
    process._arguments = [sys.executable, "-c", "input()"]
    with pytest.raises(TimeoutError):
        wait_until(lambda: False, "never", 0.1)
    import subprocess

    with pytest.MonkeyPatch.context() as patch:
        start = subprocess.Popen
        patch.setattr(
            subprocess,
            "Popen",
            lambda *a, **k: start(*a, stdin=subprocess.PIPE, **k),
        )
        for _ in range(2):
            process.start()
            assert process.check()
            process.kill()
    process.abandon()


def test_models_config(tmp_path):
    from lintf.serving import model_config

    path = tmp_path / "models.config"
    model.write_config(path, tmp_path / "models", 7)
    config = model_config.read_config_file(str(path))
    model_config.check(config)
    (found,) = config.model_config_list.config
    assert dict(found.version_labels) == {model.LABEL: 7}


def test_every_kind_of_fault_is_made(tmp_path):
    kinds = set()
    for kind in ("file", "kafka"):
        phase = Phase(kind, tmp_path / kind, 1.0, seed=3)
        order = phase._order()
        names = set(phase.faults())
        assert {next(order) for _ in names} == names
        kinds |= names
    assert kinds == {
        "server_killed",
        "ingester_killed",
        "version_swapped",
        "index_filled",
        "malformed",
        "log_torn",
        "broker_paused",
    }


def test_result():
    good = Result(sent=5, applied=5, queries=1)
    assert good.is_good
    assert not Result(sent=5, applied=4, queries=1).is_good
    assert not Result(sent=5, applied=5, queries=0).is_good
    bad = good + Result(sent=5, applied=5, queries=1, errors=["one"])
    assert not bad.is_good
    assert str(bad).endswith(
        "changes sent 10, applied 10, lost 0 twice 0 torn 0"
    )
