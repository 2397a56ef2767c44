# SPDX-License-Identifier: Apache-2.0
"""The benchmark of live updates at a tiny size: not its times."""

import json
import os
import pathlib
import subprocess
import sys

ROOT = pathlib.Path(__file__).parents[2]


def test_updates(tmp_path):
    subprocess.run(
        [
            sys.executable,
            "-m",
            "benchmarks.updates",
            "--rows=2000",
            "--dim=32",
            "--rounds=3",
            "--seconds=0.05",
            "--churn_rows=1000",
            "--churn=4000",
            f"--cache={tmp_path}",
            f"--output={tmp_path / 'out'}",
        ],
        cwd=ROOT,
        env={**os.environ, "TF_USE_LEGACY_KERAS": "1"},
        check=True,
        capture_output=True,
    )
    result = json.loads((tmp_path / "out" / "updates.json").read_text())
    assert [row["rate"] for row in result["lintf"]] == [0, 300, 600, 3000]
    for row in result["lintf"]:
        assert row["lost_low"] <= row["lost"] <= row["lost_high"]
        assert (row["applied"] > 0) == (row["rate"] > 0)
    assert result["fresh"]["updates"] == 200
    assert result["fresh"]["not_found"] == 0
    # Every delete left a row to an insert.
    assert result["churn"]["changes"] == 4000
    assert result["churn"]["rows_in_use"] == 1000
    text = (tmp_path / "out" / "updates.md").read_text()
    assert "0 of 200 did not find the row" in text
