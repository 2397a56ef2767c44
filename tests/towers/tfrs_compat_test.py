# SPDX-License-Identifier: Apache-2.0
"""What stands between a user and TFRS is said clearly."""

import os
import subprocess
import sys
import types

import pytest

from lintf.towers import tfrs_compat


def _tensorflow(version):
    keras = types.SimpleNamespace(version=lambda: version)
    return types.SimpleNamespace(keras=keras)


def test_keras_3_is_refused(monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorflow", _tensorflow("3.15.1"))
    for call in (tfrs_compat.import_tfrs, tfrs_compat.use_legacy_keras):
        with pytest.raises(
            tfrs_compat.TfrsUnavailableError,
            match=r"Keras 3\.15\.1; start Python with TF_USE_LEGACY_KERAS=1",
        ):
            call()


def test_switch_must_be_set_before_tensorflow(monkeypatch):
    monkeypatch.delenv("TF_USE_LEGACY_KERAS", raising=False)
    monkeypatch.delitem(sys.modules, "tensorflow", raising=False)
    with pytest.raises(
        tfrs_compat.TfrsUnavailableError, match=r"call lintf\.towers\.use_leg"
    ):
        tfrs_compat.import_tfrs()
    tfrs_compat.use_legacy_keras()
    assert os.environ["TF_USE_LEGACY_KERAS"] == "1"


def test_absent_tfrs_names_the_pip_line(monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorflow", _tensorflow("2.21.0"))
    monkeypatch.setitem(sys.modules, "tensorflow_recommenders", None)
    with pytest.raises(
        tfrs_compat.TfrsUnavailableError,
        match="pip install tensorflow-recommenders tf-keras",
    ):
        tfrs_compat.import_tfrs()


def test_broken_scann_is_named(tmp_path):
    # TFRS imports ScaNN where it is installed, and catches ImportError only.
    (tmp_path / "scann.py").write_text(
        "import tensorflow as tf\n"
        "raise tf.errors.NotFoundError(\n"
        "    None, None, '/x/_scann_ops.so: undefined symbol: _ZN4absl')\n"
    )
    code = (
        "from lintf import towers\n"
        "towers.use_legacy_keras()\n"
        "try: towers.import_tfrs()\n"
        "except towers.TfrsUnavailableError as error: print(error)\n"
    )
    output = subprocess.run(
        [sys.executable, "-c", code],
        check=True,
        capture_output=True,
        text=True,
        env={
            **os.environ,
            "PYTHONPATH": os.pathsep.join([str(tmp_path), *sys.path]),
        },
    ).stdout
    assert "pip uninstall scann" in output
    assert "undefined symbol" in output
