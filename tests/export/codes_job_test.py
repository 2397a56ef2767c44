# SPDX-License-Identifier: Apache-2.0
"""Jobs that store embeddings compactly, and codes beside or instead of them."""

import json
import shutil
import signal
import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf
import yaml

from export import build_index, job, publish, verify, warmup
from export.config import load_config
from export.parse import ConfigError
from lintf import ops
from lintf.index.signatures import MUTATING_SIGNATURES
from tests.export import jobs
from tests.export.job_test import corrupt, load
from tests.export.resume_test import variables

pytest.importorskip("pyarrow")

assert ops.retrieve  # its import loads the op library

CODES = {"bits": 256, "shortlist": 30, "seed": 3}
RETRIEVE = {
    "k": 7,
    "algorithm": "quantized",
    "return_attributes": ["genres", "year"],
    "variants": [
        {"name": "retrieve_50", "k": 50},
        {"name": "exactly", "k": 7, "algorithm": "prefiltered"},
    ],
}


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """An int8 index with codes and variants: the job's folder."""
    folder = tmp_path_factory.mktemp("codes")
    path = jobs.write_job(
        folder,
        index={"dtype": "int8", "capacity": 80},
        quantization=CODES,
        retrieve=RETRIEVE,
    )
    assert build_index.run(load_config(path), folder / "toys").name == "1"
    return folder


def test_the_build_file_has_the_recall(built):
    build = publish.read_build(built / "toys" / "1")
    narrow, wide = build["recall"]
    assert (narrow["signature"], wide["signature"]) == (
        "retrieve",
        "retrieve_50",
    )
    assert [size for size, _ in narrow["table"]] == [7, 28, 30, 60]
    assert [size for size, _ in wide["table"]] == [50, 60]
    assert (narrow["shortlist"], wide["shortlist"]) == (30, 215)
    assert narrow["floor"] == 0.9 <= narrow["recall"] <= 1
    assert narrow["num_queries"] == jobs.ROWS
    assert build["config"]["quantization"]["bits"] == 256


def test_signatures_and_warm_up_have_the_variants(built):
    path = built / "toys" / "1"
    model, signatures = load(path)
    reading = set(signatures) - MUTATING_SIGNATURES
    assert sorted(reading) == [
        "exactly_by_embedding",
        "index_stats",
        "lookup",
        "retrieve_50_by_embedding",
        "retrieve_by_embedding",
        "serving_default",
    ]
    warmed = {name for name, _ in warmup.read_warmup(path)}
    assert warmed == reading
    query = tf.ones([1, jobs.DIM])
    found = {
        name: signatures[f"{name}_by_embedding"](
            query_embedding=query, filter=tf.constant(["year >= 1980"])
        )
        for name in ("retrieve", "retrieve_50", "exactly")
    }
    data = jobs.columns()
    passing = [y is not None and y >= 1980 for y in data["year"]]
    scores = np.where(passing, data["vector"] @ np.ones(jobs.DIM), -np.inf)
    best = [data["key"][i] for i in np.argsort(-scores)[:3]]
    # The int8 rows are off by less than what separates these.
    assert found["exactly"]["ids"].numpy()[0, :3].tolist() == best
    assert found["retrieve_50"]["ids"].shape == [1, 50]
    count = int(found["retrieve_50"]["num_results"][0])
    assert count == sum(passing)
    stats = signatures["index_stats"](probe=tf.constant([0], tf.int64))
    counted = [
        int(stats[f"searches_{name}"][0])
        for name in ("masked", "prefiltered", "quantized")
    ]
    assert sum(counted) == 3
    assert counted[1] >= 1
    assert counted[2] >= 1
    del model


def test_saved_model_cli_shows_the_new_signatures(built):
    path = str(built / "toys" / "1")
    done = subprocess.run(
        [
            *(sys.executable, "-m", "lintf.saved_model_cli", "show"),
            *("--dir", path, "--all"),
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    shown = done.stdout
    assert "Concrete Functions" in shown, done.stderr
    for text in (
        "signature_def['retrieve_50_by_embedding']",
        "signature_def['exactly_by_embedding']",
        "outputs['searches_quantized']",
        "shape: (-1, 50)",
    ):
        assert text in shown


def first_bit_flipped(codes):
    codes = codes.copy()
    codes[0, 0, 0] ^= 1
    return codes


def doubled(scales):
    return np.where(np.arange(len(scales)) == 2, 2 * scales, scales)


@pytest.mark.parametrize(
    ("path", "change", "message"),
    [
        ("codes", first_bit_flipped, "row 0: the stored code is not that of"),
        ("scales", doubled, "row 2: the stored embedding is not that of the"),
    ],
)
def test_verify_catches_changed_variables(
    built, tmp_path, path, change, message
):
    copy = tmp_path / "copy"
    shutil.copytree(built / "toys" / "1", copy)
    job_file = json.loads((built / ".toys.work" / "job.json").read_text())
    corrupt(copy, f"{path}/.ATTRIBUTES/VARIABLE_VALUE", change)
    with pytest.raises(verify.MismatchError, match=message):
        verify.Verifier(copy).check(job_file)


def test_verify_asks_for_the_recall_again(built, tmp_path):
    verifier = verify.Verifier(built / "toys" / "1")
    done = verifier.check()
    assert any(text.startswith("recall@7 of retrieve ") for text in done)
    (narrow, _) = verifier._reports
    right = verifier._retrieve

    def forgetful(embeddings, filters, signature="retrieve"):
        found = right(embeddings, filters, signature)
        found["ids"] = np.where(np.arange(7) < 4, found["ids"], -1)
        return found

    verifier._retrieve = forgetful
    with pytest.raises(verify.MismatchError, match="recall must be at least"):
        verifier._check_recall(narrow, None)


def test_a_search_by_codes_must_still_filter_and_score(built):
    verifier = verify.Verifier(built / "toys" / "1")
    right = verifier._call

    def wrong(signature, **inputs):
        found = right(signature, **inputs)
        if "scores" in found:
            found["scores"] = found["scores"] + np.float32(0.5)
        return found

    verifier._call = wrong
    with pytest.raises(verify.MismatchError, match="brute force gives"):
        verifier.check()


def test_below_the_floor_nothing_is_published(tmp_path, capfd):
    codes = {**CODES, "bits": 64, "shortlist": 7, "recall_floor": 0.99}
    arguments = [
        "build-index",
        f"--config={jobs.write_job(tmp_path, quantization=codes)}",
        f"--output_dir={tmp_path / 'm'}",
    ]
    assert build_index.main(arguments) == 1
    told = capfd.readouterr().err
    assert "must be at least 0.99, got 0." in told
    assert "What helps: a larger shortlist, more bits" in told
    assert "<- chosen" in told
    assert publish.versions(tmp_path / "m") == []
    assert not (tmp_path / "m").exists()
    # The work directory is free for a job that does what helps.
    arguments.append("--set=quantization.shortlist=60")
    assert build_index.main(arguments) == 0
    assert publish.versions(tmp_path / "m") == [1]
    assert "1.0000  <- chosen" in capfd.readouterr().err


def test_codes_that_do_not_fit_the_items_are_an_error_of_the_config(tmp_path):
    path = jobs.write_job(tmp_path, quantization={"bins": 8, "repeats": 8})
    with pytest.raises(ConfigError, match="`bins` must be at most 4, the len"):
        build_index.run(load_config(path), tmp_path / "m")


def test_numbers_that_float16_cannot_hold(tmp_path):
    import pyarrow as pa
    import pyarrow.parquet as pq

    path = jobs.write_job(tmp_path, index={"dtype": "float16"})
    table = pq.read_table(tmp_path / "items.parquet").to_pydict()
    table["vector"][9][1] = 1e5
    pq.write_table(pa.table(table), tmp_path / "items.parquet")
    with pytest.raises(ValueError, match="fit float16.*has 100000 at dim"):
        build_index.run(load_config(path), tmp_path / "m")


def graph_text(version):
    from tensorflow.core.protobuf import saved_model_pb2

    data = (version / "saved_model.pb").read_bytes()
    saved = saved_model_pb2.SavedModel.FromString(data)
    return [
        list(node.attr["costs"].list.f)
        for function in saved.meta_graphs[0].graph_def.library.function
        for node in function.node_def
        if node.op == "Lintf>Retrieve"
    ]


def test_measured_costs_go_into_the_graph_and_not_into_the_build(
    tmp_path, monkeypatch, built
):
    assert graph_text(built / "toys" / "1") == [[], [], []]
    monkeypatch.setattr(job, "_LEAST_MEASURED_ROWS", 1)
    path = jobs.write_job(
        tmp_path,
        index={"dtype": "int8", "capacity": 80},
        quantization=CODES,
        retrieve=RETRIEVE,
    )
    version = build_index.run(load_config(path), tmp_path / "toys")
    for costs in graph_text(version):
        assert len(costs) == 5
        assert all(cost > 0 for cost in costs)
    assert publish.read_build(version) == publish.read_build(
        built / "toys" / "1"
    )


def test_a_killed_job_with_codes_is_finished_by_the_same_command(
    tmp_path, built
):
    config = jobs.write_job(
        tmp_path,
        index={"dtype": "int8", "capacity": 80},
        quantization=CODES,
        retrieve=RETRIEVE,
    )
    for event in ("step 7", "measured"):
        done = jobs.run_killed(config, tmp_path / "m", event)
        assert done.returncode == -signal.SIGKILL, done.stderr
        assert publish.versions(tmp_path / "m") == []
    last = jobs.run_killed(config, tmp_path / "m", "")
    assert last.returncode == 0, last.stderr
    assert "Resuming after" in last.stdout
    one, other = tmp_path / "m" / "1", built / "toys" / "1"
    assert publish.read_build(one) == publish.read_build(other)
    mine, whole = variables(one), variables(other)
    assert mine.keys() == whole.keys()
    for name, values in mine.items():
        np.testing.assert_array_equal(values, whole[name], err_msg=name)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"index": {"dtype": "none"}, "quantization": {"bits": 64}},
            'must have the scoring "symmetric"',
        ),
    ],
)
def test_portable_jobs_that_cannot_be_done(tmp_path, changes, message):
    path = jobs.write_job(tmp_path, **changes)
    with pytest.raises(ValueError, match=message):
        build_index.run(load_config(path), tmp_path / "m", ops="portable")


def test_a_portable_index_gets_no_codes(tmp_path, capfd):
    path = jobs.write_job(
        tmp_path,
        index={"dtype": "bfloat16"},
        quantization=CODES,
        retrieve={"k": 7, "algorithm": "quantized"},
        filter_limits={"max_words": 200},
    )
    assert yaml.safe_load(path.read_text())["quantization"] == CODES
    version = build_index.run(load_config(path), tmp_path / "m", ops="portable")
    assert "it gets no codes" in capfd.readouterr().err
    assert not any("codes" in name for name in variables(version))
    assert "recall" not in publish.read_build(version)
