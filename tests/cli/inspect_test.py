# SPDX-License-Identifier: Apache-2.0
"""`lintf inspect` and the stock saved_model_cli on SavedModels of an index."""

import json
import os
import pathlib
import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf

from lintf import ops
from lintf.index.index import Index
from lintf.index.schema import FilterLimits, IndexSchema, infer_attribute
from lintf.index.served import ServedIndex
from lintf.ops import library

ROWS, DIM, K, WORDS = 40, 3, 4, 32
GENRES = [["War"], ["Comedy", "Drama"], None, ["Drama"]]
FILTERS = ['genres == "Drama" and year > 1990', ""]
KINDS = ["native", "portable"]


class Tower(tf.Module):
    """A query tower of one matrix."""

    feature_specs = {
        "history": tf.TensorSpec([None, 2], tf.int64),
        "mood": tf.TensorSpec([None], tf.string),
        "weight": tf.TensorSpec([None], tf.float32),
    }

    def __init__(self):
        super().__init__()
        values = np.random.default_rng(3).standard_normal((9, DIM))
        self.table = tf.Variable(values.astype(np.float32))

    def __call__(self, features):
        rows = tf.gather(self.table, features["history"] % 9)
        sign = tf.where(features["mood"] == "good", 1.0, -1.0)
        scale = (features["weight"] * sign)[:, tf.newaxis]
        return tf.reduce_sum(rows, axis=1) * scale


class Saved:
    """A SavedModel of an index: its directory, inputs and true outputs.

    Attributes:
        path: The directory.
        inputs: Signature -> input -> array.
        outputs: Signature -> output -> array, from this process.
    """

    def __init__(self, path: pathlib.Path, portable: bool):
        schema = IndexSchema(
            dim=DIM,
            attributes=(
                infer_attribute("genres", "tags", [g or [] for g in GENRES]),
                infer_attribute("year", "int", [], dtype="int16"),
            ),
            limits=FilterLimits(max_words=WORDS),
        )
        index = Index(schema, ROWS)
        embeddings = np.random.default_rng(4).standard_normal((ROWS, DIM))
        index.append(
            np.arange(ROWS) * 10,
            embeddings.astype(np.float32),
            {
                "genres": [GENRES[i % 4] for i in range(ROWS)],
                "year": [1980 + i for i in range(ROWS)],
            },
        )
        served = ServedIndex(
            index,
            Tower(),
            k=K,
            portable=portable,
            build_id="b7",
            return_attributes=["genres", "year"],
        )
        served.save(path)
        self.path = path
        features = {
            "history": np.array([[1, 2], [3, 14]]),
            "mood": np.array(["good", "bad"]),
            "weight": np.array([0.5, 2.0], np.float32),
        }
        if portable:
            program = ops.compile_filter(FILTERS, schema, pad_words=WORDS)
            search = {"filter_program": np.asarray(program)}
        else:
            search = {"filter": np.array(FILTERS)}
        embedding = np.array([[1, 0, -1], [0.25, 1, 2]], np.float32)
        self.inputs = {
            "serving_default": {**features, **search},
            "retrieve": {**features, **search},
            "retrieve_by_embedding": {"query_embedding": embedding, **search},
            "embed_query": features,
            "lookup": {"id": np.array([20, 21])},
            "index_stats": {"probe": np.array([0, 0])},
        }
        if not portable:
            # Last, because they change what this process has loaded.
            self.inputs |= self._updates(embedding)
        model = tf.saved_model.load(str(path))
        self.outputs = {
            name: {
                key: value.numpy()
                for key, value in model.signatures[name](
                    **{k: tf.constant(v) for k, v in inputs.items()}
                ).items()
            }
            for name, inputs in self.inputs.items()
        }
        assert sorted(model.signatures) == sorted(self.inputs)

    @staticmethod
    def _updates(embedding):
        """A new embedding and a delete; then attributes of two items."""
        none = np.array([-1, -1])
        attributes = {
            "id": np.array([20, 30]),
            "attribute_genres": np.array(
                [["War", "", "", ""], ["?"] + [""] * 3]
            ),
            "attribute_year": np.array([1999, 2000]),
            "log_partition": none,
            "log_previous_offset": none,
            "log_offset": none,
        }
        rows = {
            **attributes,
            "delete": np.array([False, True]),
            "embedding": embedding,
        }
        return {
            "update_attributes": attributes,
            "update": rows,
            "update_by_embedding": {**rows, "id": np.array([40, 50])},
        }


@pytest.fixture(scope="module", params=KINDS)
def saved(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp(request.param)
    return Saved(folder / "model", request.param == "portable")


def arguments(
    saved: Saved, name: str, folder: pathlib.Path, files: bool
) -> list[str]:
    """The command line that runs a signature, its outputs into a folder."""
    exprs, paths = [], []
    for key, value in saved.inputs[name].items():
        if files:
            path = folder.with_name(f"{folder.name}-{key}.npy")
            # Plain bytes: strings of NumPy's own are UTF-32.
            text = value.dtype.kind == "U"
            np.save(path, np.char.encode(value) if text else value)
            paths.append(f"{key}={path}")
        else:
            exprs.append(f"{key}={value.tolist()!r}")
    return [
        "run",
        f"--dir={saved.path}",
        "--tag_set=serve",
        f"--signature_def={name}",
        f"--input_exprs={';'.join(exprs)}",
        f"--inputs={';'.join(paths)}",
        f"--outdir={folder}",
    ]


def check_outputs(saved: Saved, name: str, folder: pathlib.Path) -> None:
    expected = saved.outputs[name]
    assert {p.stem for p in folder.iterdir()} == set(expected)
    for key, value in expected.items():
        # Strings were saved as objects.
        got = np.load(folder / f"{key}.npy", allow_pickle=True)
        if key.startswith("searches_"):
            # Counted since the load, and every run loads the model anew.
            value = np.zeros_like(value)
        np.testing.assert_array_equal(got, value, err_msg=f"{name} {key}")


# Each run in turn: a process for each would spend its time on imports.
_RUN_ALL = """
import json, sys
from lintf.cli import main
for arguments in json.load(open(sys.argv[1])):
    status = main.main(["inspect", *arguments])
    assert status == 0, (status, arguments)
"""


def run_process(command, **env):
    return subprocess.run(
        command,
        env={**os.environ, **env},
        capture_output=True,
        text=True,
        timeout=300,
    )


def test_runs_every_signature(saved, tmp_path):
    outputs = {
        tmp_path / f"{name}-{files}": (name, files)
        for name in saved.inputs
        for files in (False, True)
    }
    commands = [
        arguments(saved, name, folder, files)
        for folder, (name, files) in outputs.items()
    ]
    (tmp_path / "commands.json").write_text(json.dumps(commands))
    done = run_process(
        [sys.executable, "-c", _RUN_ALL, str(tmp_path / "commands.json")]
    )
    assert done.returncode == 0, done.stderr
    for folder, (name, _) in outputs.items():
        check_outputs(saved, name, folder)
    # The values are not empty: the search found what the filter lets through.
    years = saved.outputs["retrieve"]["attribute_year"][0]
    assert (years > 1990).all()
    if "update" in saved.outputs:
        assert saved.outputs["update"]["status"].tolist() == [2, 3]


@pytest.mark.parametrize("saved", ["native"], indirect=True)
def test_the_stock_program_runs_an_index(saved, tmp_path):
    program = pathlib.Path(sys.executable).with_name("saved_model_cli")
    command = [str(program)]
    if not program.exists():
        # What the script runs.
        command = [
            sys.executable,
            "-m",
            "tensorflow.python.tools.saved_model_cli",
        ]
    out = tmp_path / "out"
    done = run_process(
        [*command, *arguments(saved, "retrieve", out, False)],
        TF_PLUGGABLE_DEVICE_LIBRARY_PATH=library.library_path(),
    )
    assert done.returncode == 0, done.stderr
    check_outputs(saved, "retrieve", out)


_FAIL_ALL = """
import contextlib, io, json, sys
from lintf.cli import main
results = []
for arguments in json.load(open(sys.argv[1])):
    errors = io.StringIO()
    with contextlib.redirect_stderr(errors):
        status = main.main(["inspect", *arguments])
    results.append([status, errors.getvalue()])
print(json.dumps(results))
"""


@pytest.mark.parametrize("saved", ["native"], indirect=True)
def test_failures_are_one_line(saved, tmp_path):
    run = ["run", f"--dir={saved.path}", "--tag_set=serve"]
    search = [*run, "--signature_def=retrieve_by_embedding"]
    look = [*run, "--signature_def=lookup"]
    vector = "query_embedding=[[1, 0, 0]]"
    cases = [
        (["shwo"], 2, "Did you mean 'show'?"),
        (["run", "--nope=1"], 2, "Unknown command line flag 'nope'"),
        (look, 2, "--input_exprs"),
        (
            ["show", f"--dir={tmp_path / 'absent'}", "--all"],
            1,
            "SavedModel file does not exist at",
        ),
        (
            [*run, "--signature_def=nope", "--input_exprs=id=[1]"],
            1,
            'Could not find signature "nope". Please choose from',
        ),
        (
            [*search, f'--input_exprs={vector};filter=["yaer > 3"]'],
            1,
            "filter[0]: column 1: expected the name of an attribute, found "
            "`yaer`; did you mean `year`?",
        ),
        (
            [*search, '--input_exprs=filter=[""]'],
            1,
            "You must feed a value for placeholder tensor",
        ),
        ([*look, "--input_exprs=id=["], 1, "is not a valid python literal"),
        ([*look, "--inputs=id=/nowhere.npy"], 1, "/nowhere.npy"),
        ([*look, "--input_exprs=ident=[1]"], 1, "is not a valid input key"),
    ]
    # Each gets both flags: those of the one before would stay.
    commands = [
        [
            *given,
            *(
                f"--{flag}="
                for flag in ("inputs", "input_exprs")
                if given[0] == "run"
                and not any(a.startswith(f"--{flag}=") for a in given)
            ),
        ]
        for given, _, _ in cases
    ]
    (tmp_path / "commands.json").write_text(json.dumps(commands))
    done = run_process(
        [sys.executable, "-c", _FAIL_ALL, str(tmp_path / "commands.json")]
    )
    assert done.returncode == 0, done.stderr
    results = json.loads(done.stdout.splitlines()[-1])
    for (given, status, text), (got, error) in zip(cases, results, strict=True):
        assert got == status, (given, error)
        (line,) = [
            t for t in error.splitlines() if t.startswith("lintf inspect: ")
        ]
        assert text in line, given
        assert "Traceback" not in error
