# SPDX-License-Identifier: Apache-2.0
"""An index made of nothing but a config and the whole log."""

import json
import pathlib
import re

import numpy as np
import pytest
import yaml

from export import bootstrap, snapshot
from export.errors import JobError
from export.parse import ConfigError
from lintf.index import restore
from lintf.index.schema import Quantization
from lintf.index.shards import Shards
from lintf.ingest.file_log import FileLog
from lintf.ingest.file_log_writer import FileLogWriter
from lintf.ingest.source import LogTruncatedError
from tests.export import live

CONFIG = {
    "dim": live.DIM,
    "index": {"metric": "l2", "capacity": 60, "id_dtype": "string"},
    "attributes": [
        {"name": "genres", "kind": "tags", "vocabulary": live.GENRES},
        {"name": "year", "kind": "int", "dtype": "int16"},
        {"name": "company", "kind": "category"},
    ],
    "retrieve": {"k": 4, "return_attributes": ["year"]},
}


def _config(tmp_path, **changes):
    path = tmp_path / "index.yaml"
    path.write_text(yaml.safe_dump({**CONFIG, **changes}), encoding="utf-8")
    return bootstrap.load_config(path)


def _bootstrap(tmp_path, **options):
    with FileLog(tmp_path / "log") as source:
        return bootstrap.bootstrap(
            tmp_path / "models", snapshot.Log(source), **options
        )


@pytest.fixture
def writer(tmp_path):
    with FileLogWriter(tmp_path / "log", live.PARTITIONS) as writer:
        yield writer


def _append(writer, item, **fields):
    writer.append(item.encode(), json.dumps(fields).encode())


def test_config_and_log(tmp_path, writer):
    for i in range(70):
        _append(
            writer,
            f"item {i}",
            embedding=[float(i)] * live.DIM,
            attributes={"year": 1950 + i, "company": f"company {i % 3}"},
        )
        if i % 2:
            writer.append(f"item {i}".encode(), None)
    _append(writer, "item 4", attributes={"genres": ["noir", "unknown"]})
    path = _bootstrap(tmp_path, config=_config(tmp_path))
    assert path == tmp_path / "models" / "1"
    with live.Served(path) as served:
        stats = served.stats()
        assert stats["num_rows"] == stats["live_rows"] == 35
        assert stats["capacity"] == 60
        assert served.offsets() == [writer.next_offset(p) - 1 for p in (0, 1)]
        found = served.ask("lookup", id=[b"item 6", b"item 7", b"item 4"])
        assert found["found"].tolist() == [True, False, True]
        assert found["embedding"][0].tolist() == [6.0] * live.DIM
        assert found["attribute_year"][0] == 1956
        filters = [b'company == "company 1" and id != "item 10"']
        near = served.ask(
            "retrieve_by_embedding",
            query_embedding=np.full([1, live.DIM], 9.9, np.float32),
            filter=filters,
        )
        assert near["ids"].tolist() == [
            [b"item 16", b"item 22", b"item 28", b"item 34"]
        ]
        both = served.ask(
            "retrieve_by_embedding",
            query_embedding=np.zeros([1, live.DIM], np.float32),
            filter=[b'genres == "noir"'],
        )
        assert both["ids"][0, 0] == b"item 4"
        assert both["num_results"].tolist() == [1]
        # It takes the log's next changes.
        _append(writer, "new", embedding=[1.0] * live.DIM)
        with FileLog(tmp_path / "log") as log:
            served.apply(log)
        assert served.stats()["live_rows"] == 36


def test_like_an_earlier_version(tmp_path, writer):
    live.publish_first(tmp_path / "old", quantization=Quantization(2, 32))
    live.append_random(writer, 150)
    like = tmp_path / "old" / "1"
    path = _bootstrap(tmp_path, like=like, capacity=90)
    with live.Served(path) as served:
        stats, answers = served.stats(), served.answers()
        assert stats["capacity"] == 90
    with live.Served(like) as served:
        assert served.stats()["schema"] == stats["schema"]
        query = served.ask("embed_query", word=[b"a"], weight=np.float32([1]))
    with live.Served(path) as served:
        same = served.ask("embed_query", word=[b"a"], weight=np.float32([1]))
        assert (same["query_embedding"] == query["query_embedding"]).all()
    # Each item that is there came from the log, and those of `like` did not.
    with FileLog(tmp_path / "log") as log:
        keys = {
            int(record.key)
            for partition in log.partitions()
            for record in log.read(partition, -1, 1000, 0.0).records
        }
    found = answers["lookup"]["found"].tolist()
    assert 0 < sum(found) < live.ROWS + 8
    assert {i for i, there in enumerate(found) if there} <= keys


def test_in_shards(tmp_path, writer):
    for i in range(40):
        _append(writer, f"item {i}", embedding=[float(i)] * live.DIM)
    path = _bootstrap(tmp_path, config=_config(tmp_path, shards=2))
    assert restore.sharding_of(path) == Shards(2)
    with live.Served(path) as served:
        stats = served.stats()
        assert stats["live_rows"] == stats["shard_live_rows"].sum() == 40
    # One that is to be like it has as many, unless its config says otherwise.
    like = _bootstrap(tmp_path, like=path)
    assert restore.sharding_of(like) == Shards(2)
    whole = _bootstrap(tmp_path, like=path, config=_config(tmp_path, shards=1))
    assert restore.sharding_of(whole) == Shards()
    with live.Served(whole) as served:
        assert served.stats()["live_rows"] == 40
    with pytest.raises(ConfigError, match="shards: `count` must be"):
        _config(tmp_path, shards=0)


def test_log_that_has_lost_its_beginning(tmp_path, writer):
    live.append_random(writer, 20, string_ids=True)
    writer.roll(0)
    writer.trim(0, writer.next_offset(0))
    with pytest.raises(LogTruncatedError, match="reach back to offset 0"):
        _bootstrap(tmp_path, config=_config(tmp_path))
    assert not (tmp_path / "models" / "1").exists()


def test_no_capacity(tmp_path, writer):
    config = _config(tmp_path, index={})
    with pytest.raises(JobError, match="give --capacity, or index.capacity"):
        _bootstrap(tmp_path, config=config)


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"dims": 3}, "dims: no such key; did you mean 'dim'"),
        ({"dim": 0}, "`dim` must be a positive integer"),
        (
            {"attributes": [{"name": "a", "kind": "tags"}]},
            r"attributes\[0\]: .*`width` is required",
        ),
        (
            {"attributes": [{"name": "a", "kind": "int", "vocabulary": ["x"]}]},
            "kind int has no vocabulary",
        ),
        ({"index": {"dtype": "none"}}, "there must be a `quantization`"),
    ],
)
def test_configs_that_are_refused(tmp_path, changes, text):
    with pytest.raises(ConfigError, match=text):
        _config(tmp_path, **changes)


def test_config_of_the_readme(tmp_path):
    text = pathlib.Path(bootstrap.__file__).with_name("README.md").read_text()
    (example,) = re.findall(r"```yaml\n(dim:.*?)```", text, re.DOTALL)
    path = tmp_path / "index.yaml"
    path.write_text(example, encoding="utf-8")
    schema = bootstrap.load_config(path).schema()
    assert [a.encoding for a in schema.attributes] == [
        "bits",
        "hash",
        "hash",
        "number",
    ]


def test_missing_config(tmp_path):
    with pytest.raises(ConfigError, match="cannot read the config"):
        bootstrap.load_config(tmp_path / "absent.yaml")
