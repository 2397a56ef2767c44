# SPDX-License-Identifier: Apache-2.0
"""The job from config to published version, on made-up items."""

import json
import pathlib

import numpy as np
import pytest
import tensorflow as tf
import yaml

from export import build_index, job, projector, publish, verify, warmup
from export.config import load_config
from export.errors import JobError
from export.items import ItemsError
from lintf import ops
from lintf.index.schema import IndexSchema
from lintf.index.signatures import INSERTED, MUTATING_SIGNATURES
from lintf.serving.changes import Change, ChangeEncoder
from tests.export import jobs

pytest.importorskip("pyarrow")


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """A job that ran to its end: its folder and the version's."""
    folder = tmp_path_factory.mktemp("job")
    config = jobs.write_job(folder)
    code = build_index.main(
        [
            "build-index",
            f"--config={config}",
            f"--output_dir={folder / 'toys'}",
        ]
    )
    assert code == 0
    return folder


def load(path):
    assert ops.compile_filter  # its import loads the op library
    model = tf.saved_model.load(str(path))
    # A signature does not keep its model alive.
    return model, model.signatures


def test_publishes_version_1(built):
    base = built / "toys"
    assert publish.versions(base) == [1]
    visible = [p.name for p in base.iterdir() if not p.name.startswith(".")]
    assert visible == ["1"]
    build = publish.read_build(base / "1")
    assert build["num_items"] == jobs.ROWS
    assert build["name"] == "toys"


def test_answers_from_the_items(built):
    _, signatures = load(built / "toys" / "1")
    data = jobs.columns()
    query = np.ones((1, jobs.DIM), np.float32)
    found = signatures["serving_default"](
        query_embedding=tf.constant(query),
        filter=tf.constant(['year >= 1980 and company != "company 1"']),
    )
    passing = [
        (y is not None and y >= 1980) and c != "company 1"
        for y, c in zip(data["year"], data["company"], strict=True)
    ]
    scores = np.where(passing, data["vector"] @ query[0], -np.inf)
    best = np.argsort(-scores)[:7]
    assert found["ids"].numpy()[0].tolist() == [data["key"][i] for i in best]
    assert found["attribute_year"].numpy()[0].tolist() == [
        data["year"][i] for i in best
    ]
    stats = signatures["index_stats"](probe=tf.constant([0], tf.int64))
    assert int(stats["capacity"][0]) == 80
    schema = IndexSchema.from_json(stats["schema"].numpy()[0])
    assert schema.attribute("year").dtype == "int16"


def test_warm_up_reads_and_covers_every_signature(built):
    path = built / "toys" / "1"
    records = warmup.read_warmup(path)
    names = {name for name, _ in records}
    known = set(warmup.signatures(path))
    assert names == known - MUTATING_SIGNATURES <= set(warmup.READ_SIGNATURES)
    assert known > MUTATING_SIGNATURES
    for name in names:
        batches = {
            len(next(iter(inputs.values())))
            for signature, inputs in records
            if signature == name
        }
        assert batches == {1, 32}
    filters = {
        text
        for _, inputs in records
        for text in inputs.get("filter", np.array([])).tolist()
    }
    assert filters == {b"", b"id not in [1, 2]"}


def test_a_mutating_signature_is_never_warmed_up(tmp_path):
    class Model(tf.Module):
        @tf.function(input_signature=[tf.TensorSpec([None], tf.int64)])
        def either(self, id):
            return {"status": id}

    model = Model()
    tf.saved_model.save(
        model,
        str(tmp_path / "m"),
        signatures={"lookup": model.either, "update": model.either},
    )
    warmup.write_warmup(tmp_path / "m", "m", (1,))
    names = [name for name, _ in warmup.read_warmup(tmp_path / "m")]
    assert names == ["lookup"]


def test_projector_files(built):
    (run,) = (built / ".toys.work" / "tensorboard").iterdir()
    config = (run / projector.CONFIG).read_text()
    assert f'tensor_path: "{projector.VECTORS}"' in config
    vectors = np.loadtxt(run / projector.VECTORS, delimiter="\t")
    header, *labels = (run / projector.LABELS).read_text().splitlines()
    assert header.split("\t") == [
        *("id", "genres", "company", "year", "price", "sold")
    ]
    data = jobs.columns()
    rows = [data["key"].index(int(line.split("\t")[0])) for line in labels]
    assert len(rows) == 10
    np.testing.assert_allclose(vectors, data["vector"][rows], rtol=1e-5)
    assert labels[0].split("\t")[1] == ", ".join(data["genres"][rows[0]])


def test_tensorboard_scalars(built):
    (run,) = (built / ".toys.work" / "tensorboard").iterdir()
    rows = {}
    for path in run.glob("events.*"):
        for record in tf.data.TFRecordDataset(str(path)):
            event = tf.compat.v1.Event.FromString(record.numpy())
            for value in event.summary.value:
                if value.tag == "rows":
                    plugin = value.metadata.plugin_data.plugin_name
                    assert plugin == "scalars"
                    rows[event.step] = float(tf.make_ndarray(value.tensor))
    assert rows == {s: min(8 * s, jobs.ROWS) for s in range(1, 9)}


def test_running_it_again_does_nothing(built, capfd):
    version = built / "toys" / "1"
    before = sorted((str(p), p.stat().st_mtime_ns) for p in version.rglob("*"))
    config = load_config(built / "job.yaml")
    assert build_index.run(config, built / "toys") == version
    after = sorted((str(p), p.stat().st_mtime_ns) for p in version.rglob("*"))
    assert before == after
    assert "Nothing to do" in capfd.readouterr().err


def test_an_existing_version_is_refused_before_any_work(built):
    config = load_config(built / "job.yaml", ["retrieve.k=3"])
    with pytest.raises(JobError, match="version 1 exists already"):
        build_index.run(config, built / "toys", version=1)
    # The same build under the same number is there already: that is success.
    config = load_config(built / "job.yaml")
    assert build_index.run(config, built / "toys", version=1).name == "1"


def test_the_build_id_depends_on_config_and_data_alone(built, tmp_path):
    config = jobs.write_job(tmp_path / "elsewhere")
    path = build_index.run(load_config(config), tmp_path / "other")
    build = publish.read_build(path)
    assert build == publish.read_build(built / "toys" / "1")


@pytest.mark.parametrize(
    ("changes", "overrides", "ops_kind"),
    [
        ({"index": {"metric": "cosine", "id_dtype": "string"}}, [], "native"),
        ({"index": {"metric": "l2"}}, ["batching.max_batch_size=4"], "native"),
        ({}, ["filter_limits.max_words=200"], "portable"),
    ],
)
def test_other_kinds_of_index(tmp_path, changes, overrides, ops_kind):
    config = load_config(jobs.write_job(tmp_path, **changes), overrides)
    path = build_index.run(config, tmp_path / "m", ops=ops_kind)
    _, signatures = load(path)
    stats = signatures["index_stats"](probe=tf.constant([0], tf.int64))
    assert int(stats["num_rows"][0]) == jobs.ROWS
    key = "filter_program" if ops_kind == "portable" else "filter"
    assert key in warmup.signatures(path)["serving_default"].inputs


class Doubler(tf.Module):
    """Takes made-up features to embeddings: a column times a table row."""

    def __init__(self, name):
        super().__init__()
        values = np.random.default_rng(len(name)).random((3000, jobs.DIM))
        self.table = tf.Variable(values.astype(np.float32))

    @tf.function(
        input_signature=[
            tf.TensorSpec([None], tf.int64, name="key"),
            tf.TensorSpec([None, 3], tf.string, name="genres"),
        ]
    )
    def embed(self, key, genres):
        count = tf.reduce_sum(tf.cast(genres != "", tf.float32), axis=1)
        rows = tf.gather(self.table, key % 3000)
        return {"embedding": rows * (1 + count)[:, tf.newaxis]}


def save_doubler(path, name):
    module = Doubler(name)
    tf.saved_model.save(
        module, str(path), signatures={"serving_default": module.embed}
    )
    return module


def keras_query_tower(path):
    inputs = {
        "user": tf.keras.Input([], dtype="int64", name="user"),
        "mood": tf.keras.Input([1], dtype="string", name="mood"),
    }
    lookup = tf.keras.layers.StringLookup(vocabulary=["good", "bad"])
    mood = tf.keras.layers.Flatten()(
        tf.keras.layers.Embedding(3, jobs.DIM)(lookup(inputs["mood"]))
    )
    user = tf.keras.layers.Embedding(9, jobs.DIM)(inputs["user"])
    model = tf.keras.Model(inputs, tf.keras.layers.Add()([mood, user]))
    model.save(path)
    return model


def test_saved_towers(tmp_path):
    """An item tower as SavedModel, a query tower as `.keras` file."""
    item_tower = save_doubler(tmp_path / "item", "item")
    query_tower = keras_query_tower(tmp_path / "query.keras")
    config = jobs.write_job(
        tmp_path,
        towers={"query": {"path": "query.keras"}, "item": {"path": "item"}},
        items={"path": "items.parquet", "id": "key"},
    )
    path = build_index.run(load_config(config), tmp_path / "m")
    _, signatures = load(path)
    data = jobs.columns()
    width = 3
    vectors = item_tower.embed(
        tf.constant(data["key"], tf.int64),
        tf.constant([g + [""] * (width - len(g)) for g in data["genres"]]),
    )["embedding"].numpy()
    features = {
        "user": tf.constant([1, 2], tf.int64),
        "mood": tf.constant([["good"], ["odd"]]),
    }
    query = query_tower(features).numpy()
    embedded = signatures["embed_query"](**features)["query_embedding"]
    np.testing.assert_allclose(embedded, query, rtol=1e-6)
    found = signatures["serving_default"](
        **features, filter=tf.constant(["", "sold == true"])
    )
    exact = query @ vectors.T
    exact[1, ~np.array(data["sold"])] = -np.inf
    best = np.argsort(-exact, axis=1)[:, :7]
    assert found["ids"].numpy().tolist() == np.array(data["key"])[best].tolist()
    # A new item comes by its features alone.
    encoder = ChangeEncoder(
        IndexSchema.from_json(stats(signatures)["schema"]),
        warmup.signatures(path),
    )
    change = Change(7777, features={"key": 7777, "genres": ["noir", "war"]})
    encoder.check(change)
    assert encoder.signature(change) == "update"
    inputs = encoder.inputs("update", [change])
    status = signatures["update"](
        **{n: tf.constant(v) for n, v in inputs.items()}
    )
    assert status["status"].numpy().tolist() == [INSERTED]
    stored = signatures["lookup"](id=tf.constant([7777], tf.int64))
    np.testing.assert_allclose(
        stored["embedding"],
        item_tower.embed(
            tf.constant([7777], tf.int64), tf.constant([["noir", "war", ""]])
        )["embedding"],
        rtol=1e-6,
    )


def stats(signatures):
    found = signatures["index_stats"](probe=tf.constant([0], tf.int64))
    return {name: value.numpy()[0] for name, value in found.items()}


def test_a_read_only_index_at_an_offset(tmp_path):
    config = jobs.write_job(
        tmp_path, update={"enabled": False}, log={"offsets": [5, -1, 0]}
    )
    path = build_index.run(load_config(config), tmp_path / "m")
    _, signatures = load(path)
    assert not MUTATING_SIGNATURES & set(signatures)
    assert stats(signatures)["log_offsets"].tolist() == [5, -1, 0]


class IdTower(tf.Module):
    @tf.function(input_signature=[tf.TensorSpec([None], tf.int64, name="id")])
    def embed(self, id):
        return tf.one_hot(id % jobs.DIM, jobs.DIM)


@pytest.mark.parametrize("enabled,capacity", [(True, 60 + 1_024), (False, 60)])
def test_room_for_new_items(tmp_path, enabled, capacity):
    config = jobs.write_job(tmp_path, index={}, update={"enabled": enabled})
    path = build_index.run(load_config(config), tmp_path / "m")
    _, signatures = load(path)
    assert stats(signatures)["capacity"] == capacity


def test_an_item_towers_id_is_the_items(tmp_path):
    tower = IdTower()
    tf.saved_model.save(
        tower,
        str(tmp_path / "item"),
        signatures={"serving_default": tower.embed},
    )
    settings = {
        "towers": {"item": {"path": "item"}},
        "items": {
            "path": "items.parquet",
            "id": "key",
            "features": {"id": "key"},
        },
    }
    config = jobs.write_job(tmp_path, **settings)
    path = build_index.run(load_config(config), tmp_path / "m")
    assert "id" in warmup.signatures(path)["update"].inputs
    settings["items"]["id"] = "@row"
    config = jobs.write_job(tmp_path, **settings)
    with pytest.raises(JobError, match="of the column '@row'.*update.enabled"):
        build_index.run(load_config(config, ["name=other"]), tmp_path / "n")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"index": {"capacity": 10}}, "index.capacity: expected at least 60"),
        (
            {"index": {"capacity": 10**12}},
            # int64 ids, 4 float32, and attributes of 1, 1, 2, 4 and 1 bytes.
            r"1,000,000,000,000 rows of 33 bytes take 33,000\.0 GB, but .* GB "
            "of memory are available",
        ),
        (
            {
                "towers": {"query": {"path": "absent"}},
            },
            "no tower at",
        ),
    ],
)
def test_jobs_that_cannot_be_done(tmp_path, changes, message):
    config = jobs.write_job(tmp_path, **changes)
    with pytest.raises(JobError, match=message):
        build_index.run(load_config(config), tmp_path / "m")
    assert publish.versions(tmp_path / "m") == []


def test_command_line_errors(tmp_path, capfd):
    config = jobs.write_job(tmp_path)
    out = f"--output_dir={tmp_path / 'm'}"
    for flags, code, message in [
        ([out], 2, "--config is required"),
        ([f"--config={config}"], 2, "--output_dir is required"),
        ([f"--config={config}", out, "--ops=gpu"], 2, "--ops"),
        ([f"--config={config}", out, "stray"], 2, "got 'stray'"),
        ([f"--config={config}", out, "--nope=1"], 2, "nope"),
        ([f"--config={config}x", out], 2, "cannot read the config"),
        ([f"--config={config}", out, "--set=a=1"], 2, "a: no such key"),
        (
            [f"--config={config}", out, "--set=items.path=x.csv"],
            1,
            "no such file",
        ),
        (
            [f"--config={config}", f"--output_dir={tmp_path}/7"],
            2,
            "is a number, as versions are",
        ),
    ]:
        assert build_index.main(["build-index", *flags]) == code
        assert message in capfd.readouterr().err
    assert build_index.main(["build-index", "--help"]) == 0
    assert "--work_dir" in capfd.readouterr().out


def test_running_out_of_memory_is_one_line(tmp_path, capfd, monkeypatch):
    def exhaust(request):
        tf.fill([10**6, 10**6, 10], 0.0)

    monkeypatch.setattr(job, "run_job", exhaust)
    arguments = [
        "build-index",
        f"--config={jobs.write_job(tmp_path)}",
        f"--output_dir={tmp_path / 'm'}",
    ]
    assert build_index.main(arguments) == 1
    lines = capfd.readouterr().err.splitlines()
    (line,) = [t for t in lines if t.startswith("build-index: ")]
    assert line.startswith("build-index: out of memory: ")
    assert "lower index.capacity" in line
    assert not any("Traceback" in t for t in lines)


class Interrupted(Exception):
    """Stands for whatever ends a job."""


EVENTS = "step 3,filled,saved,warmup,described,verified".split(",")


def test_nothing_appears_before_it_is_whole(tmp_path, monkeypatch):
    """A job that ends between any two steps leaves no version behind."""
    monkeypatch.setattr(job, "_verify", lambda model, job_file: None)
    config = load_config(jobs.write_job(tmp_path))
    base = tmp_path / "m"
    for event in EVENTS:

        def stop(now: str, event: str = event) -> None:
            if now == event:
                raise Interrupted

        with pytest.raises(Interrupted):
            build_index.run(config, base, on_event=stop)
        assert publish.versions(base) == []
    assert build_index.run(config, base) == base / "1"
    # Nor does a failed attempt leave its files lying about.
    assert [p.name for p in base.iterdir() if p.is_dir()] == ["1"]


def test_a_failed_check_publishes_nothing(tmp_path):
    config = load_config(jobs.write_job(tmp_path))
    base = tmp_path / "m"

    def damage(event: str) -> None:
        if event == "described":
            (found,) = base.glob(".unfinished-*")
            (found / warmup.FILE).unlink()

    with pytest.raises(JobError, match="no warm-up requests"):
        build_index.run(config, base, on_event=damage)
    assert publish.versions(base) == []


def test_items_that_change_while_the_job_runs(tmp_path):
    """Rows read at the check must be those that were written."""
    path = jobs.write_job(tmp_path)
    config = load_config(path)

    def change(event: str) -> None:
        if event == "saved":
            import pyarrow as pa
            import pyarrow.parquet as pq

            table = pq.read_table(tmp_path / "items.parquet").to_pydict()
            table["year"][7] = 1955
            pq.write_table(pa.table(table), tmp_path / "items.parquet")

    with pytest.raises(JobError, match="row 7: the stored attribute 'year'"):
        build_index.run(config, tmp_path / "m", on_event=change)


def corrupt(version: pathlib.Path, path: str, value) -> None:
    """Rewrites one variable of a published index's checkpoint."""
    prefix = str(version / "variables" / "variables")
    reader = tf.train.load_checkpoint(prefix)
    tensors = {
        name: reader.get_tensor(name)
        for name in reader.get_variable_to_shape_map()
    }
    (key,) = [n for n in tensors if n.endswith(path)]
    tensors[key] = value(tensors[key])
    for old in (version / "variables").iterdir():
        old.unlink()
    tf.raw_ops.SaveV2(
        prefix=prefix,
        tensor_names=list(tensors),
        shape_and_slices=[""] * len(tensors),
        tensors=[tf.constant(v) for v in tensors.values()],
    )


def first_two_swapped(array):
    array = array.copy()
    array[:2] = array[1::-1].copy()
    return array


@pytest.mark.parametrize(
    ("path", "message"),
    [
        (
            "embeddings/.ATTRIBUTES/VARIABLE_VALUE",
            "row 0: the stored embedding",
        ),
        ("year/.ATTRIBUTES/VARIABLE_VALUE", "row 0: the stored attribute"),
        ("ids/.ATTRIBUTES/VARIABLE_VALUE", "row 0: the stored id"),
    ],
)
def test_verify_catches_changed_variables(built, tmp_path, path, message):
    import shutil

    copy = tmp_path / "copy"
    shutil.copytree(built / "toys" / "1", copy)
    job_file = json.loads((built / ".toys.work" / "job.json").read_text())
    assert verify.Verifier(copy).check(job_file)
    corrupt(copy, path, first_two_swapped)
    with pytest.raises(verify.MismatchError, match=message):
        verify.Verifier(copy).check(job_file)


def test_verify_catches_wrong_answers(built, monkeypatch):
    """A search that is off by one item, on an index that is right."""
    verifier = verify.Verifier(built / "toys" / "1")
    right = verifier._call

    def shifted(signature, **inputs):
        found = right(signature, **inputs)
        if "ids" in found:
            found["ids"] = np.roll(found["ids"], 1, axis=1)
        return found

    assert verifier.check()
    monkeypatch.setattr(verifier, "_call", shifted)
    with pytest.raises(verify.MismatchError, match="retrieve_by_embedding"):
        verifier.check()


@pytest.mark.parametrize(
    ("signature", "changed", "message"),
    [
        ("update_by_embedding", "delete", "the status of delete must be 3"),
        ("update_by_embedding", "embedding", "the embedding must be the item"),
        ("update_by_embedding", "attribute_price", "attribute 'price' must be"),
        ("update_attributes", "attribute_price", "attribute 'price' must be"),
        ("update_attributes", "log_offset", "its offsets"),
    ],
)
def test_verify_catches_wrong_updates(
    built, monkeypatch, signature, changed, message
):
    """Changes that arrive other than they were sent."""
    verifier = verify.Verifier(built / "toys" / "1")
    right = verifier._call

    def spoiled(name, **inputs):
        if name == signature:
            value = inputs[changed]
            inputs[changed] = ~value if changed == "delete" else value + 1
        return right(name, **inputs)

    monkeypatch.setattr(verifier, "_call", spoiled)
    with pytest.raises(verify.MismatchError, match=message):
        verifier.check()


def test_bad_items_end_the_job_early(tmp_path):
    path = jobs.write_job(tmp_path)
    data = yaml.safe_load(path.read_text())
    data["items"]["id"] = "company"
    path.write_text(yaml.safe_dump(data))
    with pytest.raises(ItemsError, match="column 'company', row 0"):
        build_index.run(load_config(path), tmp_path / "m")
