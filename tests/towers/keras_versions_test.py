# SPDX-License-Identifier: Apache-2.0
"""Runs the towers' tests under Keras 3 and under the legacy Keras 2.

The switch must be set before TensorFlow is imported, hence the processes.
"""

import os
import pathlib
import re
import subprocess
import sys

import pytest

_FOLDER = pathlib.Path(__file__).parent
# Training is TFRS's, which has Keras 2 only.
_FILES = {
    "0": ("layers_test.py", "learned_test.py", "movielens_test.py"),
    "1": (
        "fine_tuning_test.py",
        "layers_test.py",
        "learned_test.py",
        "learned_training_test.py",
        "movielens_test.py",
        "training_test.py",
    ),
}


@pytest.mark.parametrize("legacy", ["0", "1"])
def test_towers_pass(legacy):
    result = subprocess.run(
        [
            *(sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"),
            *(str(_FOLDER / name) for name in _FILES[legacy]),
        ],
        cwd=_FOLDER.parents[1],
        env={**os.environ, "TF_USE_LEGACY_KERAS": legacy},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stdout[-8000:]
    assert re.search(r"^\d+ passed", result.stdout.splitlines()[-1])
    assert "skipped" not in result.stdout.splitlines()[-1]
