# SPDX-License-Identifier: Apache-2.0
"""Versions appear whole or not at all, and are never overwritten."""

import json
import pathlib
import threading

import pytest

from export import publish
from export.errors import JobError
from export.workdir import WorkDir, build_id


def finished(base: pathlib.Path, work: str, name: str = "b") -> pathlib.Path:
    path = publish.unfinished_directory(base, base.parent / work)
    (path / publish.BUILD_FILE).parent.mkdir(parents=True)
    (path / publish.BUILD_FILE).write_text(json.dumps({"build_id": name}))
    return path


def test_next_free_number(tmp_path):
    base = tmp_path / "model"
    assert publish.publish(finished(base, "w"), base, None) == base / "1"
    (base / "17").mkdir()
    (base / "notes").mkdir()
    assert publish.publish(finished(base, "w"), base, None) == base / "18"
    assert publish.publish(finished(base, "w"), base, 3) == base / "3"
    assert publish.versions(base) == [1, 3, 17, 18]


def test_a_version_is_never_overwritten(tmp_path):
    base = tmp_path / "model"
    first = publish.publish(finished(base, "w", "first"), base, 5)
    second = finished(base, "w", "second")
    with pytest.raises(JobError, match="version 5 exists already"):
        publish.publish(second, base, 5)
    assert publish.read_build(first) == {"build_id": "first"}
    # An empty directory or a file of that name is not replaced either.
    (base / "6").mkdir()
    (base / "7").write_text("")
    for version in (6, 7):
        with pytest.raises(JobError, match="exists already"):
            publish.publish(second, base, version)
    assert second.is_dir()


def test_unfinished_directories_are_no_versions(tmp_path):
    base = tmp_path / "model"
    path = finished(base, "w")
    assert publish.versions(base) == []
    assert not path.name.isdigit()
    (path / "leftover").write_text("")
    # The same job finds its place clean; another job has another place.
    assert publish.unfinished_directory(base, tmp_path / "w") == path
    assert not path.exists()
    assert publish.unfinished_directory(base, tmp_path / "v") != path


def test_jobs_at_once_get_different_versions(tmp_path):
    base = tmp_path / "model"
    paths = [finished(base, f"w{i}", f"build {i}") for i in range(8)]
    barrier = threading.Barrier(len(paths))
    targets = []

    def one(path: pathlib.Path) -> None:
        barrier.wait()
        targets.append(publish.publish(path, base, None))

    threads = [threading.Thread(target=one, args=(p,)) for p in paths]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(int(t.name) for t in targets) == list(range(1, 9))
    found = {publish.read_build(t)["build_id"] for t in targets}
    assert found == {f"build {i}" for i in range(8)}


def test_finds_a_build(tmp_path):
    base = tmp_path / "model"
    for name in ("a", "b", "a"):
        publish.publish(finished(base, "w", name), base, None)
    (base / "9").mkdir()
    assert publish.find_build(base, "a") == base / "3"
    assert publish.find_build(base, "b") == base / "2"
    assert publish.find_build(base, "c") is None
    assert publish.find_build(tmp_path / "absent", "c") is None


def test_work_dir_belongs_to_one_build(tmp_path):
    work = WorkDir(tmp_path / "work")
    first = {"config": {"retrieve": {"k": 5}}, "items_fingerprint": "x"}
    second = {"config": {"retrieve": {"k": 6}}, "items_fingerprint": "y"}
    with work.locked():
        work.claim(first)
        work.claim(second)  # There is nothing to lose yet.
        work.claim(first)
        work.fill.mkdir()
        (work.fill / "checkpoint").write_text("")
        work.claim(first)
        assert (work.fill / "checkpoint").exists()
        with pytest.raises(JobError) as error:
            work.claim(second)
        assert "config.retrieve.k (5 there, 6 here)" in str(error.value)
        assert "items (other content)" in str(error.value)
        assert "name another --work_dir" in str(error.value)
        work.finish(second)
        assert work.fill.exists()
        work.finish(first)
        assert not work.fill.exists()
        work.claim(second)


def test_build_id_is_a_function_of_the_identity():
    assert build_id({"x": 1, "y": 2}) == build_id({"y": 2, "x": 1})
    assert build_id({"x": 1, "y": 2}) != build_id({"x": 1, "y": 3})


def test_work_dir_is_one_jobs_at_a_time(tmp_path):
    with WorkDir(tmp_path / "work").locked():
        with pytest.raises(JobError, match="another job is at work"):
            with WorkDir(tmp_path / "work").locked():
                pass
    with WorkDir(tmp_path / "work").locked():
        pass


def test_work_dir_must_not_look_like_a_version(tmp_path):
    with pytest.raises(JobError, match="would take for a version"):
        WorkDir(tmp_path / "12")
