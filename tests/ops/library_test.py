# SPDX-License-Identifier: Apache-2.0
"""Finding and loading the op library, and what is said when it fails."""

import os
import re
import shutil
import subprocess
import sys

import pytest
import tensorflow as tf

from lintf.ops import library


def _run(code, **environment):
    result = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        env={**os.environ, **environment},
    )
    return result.returncode, result.stdout + result.stderr


def test_the_path_is_canonical(monkeypatch, tmp_path):
    path = library.library_path()
    assert os.path.isabs(path) and os.path.realpath(path) == path
    link = tmp_path / "link.so"
    link.symlink_to(path)
    monkeypatch.setenv(library.LIBRARY_VARIABLE, str(link))
    assert library.library_path() == path


def test_the_variable_must_name_a_file(monkeypatch, tmp_path):
    monkeypatch.setenv(library.LIBRARY_VARIABLE, str(tmp_path / "no.so"))
    with pytest.raises(ImportError, match="LINTF_OPS_LIBRARY.*no.so"):
        library.library_path()


def test_a_missing_library_says_how_to_build_it(monkeypatch):
    monkeypatch.delenv(library.LIBRARY_VARIABLE, raising=False)
    monkeypatch.setattr(library, "_LIBRARY", "_no_such_library.so")
    with pytest.raises(ImportError, match="pip install ."):
        library.library_path()


def test_another_tensorflow_is_refused_before_the_library_loads():
    code = (
        "import tensorflow as tf; tf.__version__ = '2.99.1'; import lintf.ops"
    )
    status, output = _run(code)
    assert status != 0
    assert "ImportError" in output and "TensorFlow 2.99.1 is running" in output


USE = (
    "import lintf.ops as o;"
    "print('found', o.masked_knn([[1.]], [[2.]], [True], 1).scores.numpy())"
)


def test_a_library_under_another_path_already(tmp_path):
    copy = tmp_path / "copy.so"
    shutil.copy(library.library_path(), copy)
    link = tmp_path / "link.so"
    link.symlink_to(library.library_path())
    for other in (copy, link):
        status, output = _run(
            f"import tensorflow as tf; tf.load_op_library({str(other)!r});"
            + USE
        )
        assert status == 0 and "found [[2.]]" in output, output


def test_a_library_that_tensorflow_loaded_by_itself():
    status, output = _run(
        USE, TF_PLUGGABLE_DEVICE_LIBRARY_PATH=library.library_path()
    )
    assert status == 0 and "found [[2.]]" in output, output


def test_the_variable_names_the_library(tmp_path):
    copy = tmp_path / "copy.so"
    shutil.copy(library.library_path(), copy)
    code = USE + (
        f";print('mapped', {str(copy)!r} in open('/proc/self/maps').read())"
    )
    status, output = _run(code, **{library.LIBRARY_VARIABLE: str(copy)})
    assert status == 0 and "mapped True" in output, output


# What TensorFlow writes about an argument by itself.
_TYPE_ONLY = re.compile(
    r"(A|An) [^.]*\.( Defaults to [^.]*\.)?( Must be one of[^.]*\.)?"
)


@pytest.mark.parametrize("op", library._OPS)
def test_every_argument_is_documented(op):
    name = "lintf_" + re.sub("(?<!^)(?=[A-Z])", "_", op.split(">")[1]).lower()
    text = getattr(library.load(), name).__doc__
    entries = re.findall(r"^    (\w+): ((?:.|\n {6})*)", text, re.MULTILINE)
    assert len(entries) >= 2
    for argument, said in entries:
        if argument != "name":
            assert not _TYPE_ONLY.fullmatch(said.strip()), argument


def test_ops_on_an_index_are_stateful():
    stateless = {
        name
        for name in library._OPS
        if not library.op_def_registry.get(name).is_stateful
    }
    assert stateless == {
        "Lintf>CompileFilter",
        "Lintf>MaskedKnn",
        "Lintf>PrefilteredKnn",
        "Lintf>QuantizedKnn",
        "Lintf>SignOporp",
    }
    assert tf.__version__.startswith("2.")
