# SPDX-License-Identifier: Apache-2.0
"""A small job on made-up items, for the tests; a program that can be killed.

    python -m tests.export.jobs CONFIG OUTPUT_DIR EVENT

runs a job and kills itself with SIGKILL at the event ("" never).
"""

import os
import pathlib
import signal
import subprocess
import sys
from typing import Any

import numpy as np
import yaml

ROOT = pathlib.Path(__file__).resolve().parents[2]
ROWS, DIM = 60, 4
WORDS = ["comedy", "drama", "war", "noir", "western"]


def columns(rows: int = ROWS, string_ids: bool = False) -> dict[str, Any]:
    """Items by column; the same at every call."""
    random = np.random.default_rng(5)
    numbers = (random.permutation(10 * rows)[:rows] + 1).tolist()
    ids = [f"item {i}" for i in numbers] if string_ids else numbers
    return {
        "key": ids,
        "vector": random.standard_normal((rows, DIM)).astype("float32"),
        "genres": [
            sorted(set(random.choice(WORDS, random.integers(0, 4)).tolist()))
            for _ in range(rows)
        ],
        "company": [
            None if i % 7 == 0 else f"company {i % 9}" for i in range(rows)
        ],
        "year": [
            None if i % 11 == 0 else int(random.integers(1950, 2020))
            for i in range(rows)
        ],
        "price": random.random(rows).astype("float32"),
        "sold": [bool(i % 3 == 0) for i in range(rows)],
    }


def write_job(folder: pathlib.Path, **changes: Any) -> pathlib.Path:
    """Writes items and config; returns the config's path."""
    import pyarrow
    import pyarrow.parquet

    folder.mkdir(parents=True, exist_ok=True)
    string_ids = changes.get("index", {}).get("id_dtype") == "string"
    data = columns(string_ids=string_ids)
    data["vector"] = data["vector"].tolist()
    pyarrow.parquet.write_table(
        pyarrow.table(data), folder / "items.parquet", row_group_size=25
    )
    config: dict[str, Any] = {
        "name": "toys",
        "items": {
            "path": "items.parquet",
            "id": "key",
            "embedding": {"column": "vector"},
        },
        "index": {"metric": "inner_product", "capacity": 80},
        "attributes": [
            {"name": "genres", "kind": "tags"},
            {"name": "company", "kind": "category"},
            {"name": "year", "kind": "int", "dtype": "int16"},
            {"name": "price", "kind": "float"},
            {"name": "sold", "kind": "bool"},
        ],
        "retrieve": {"k": 7, "return_attributes": ["genres", "year"]},
        "fill": {"batch_size": 8},
        "checkpoint": {"every_steps": 2},
        "projector": {"rows": 10},
    }
    config.update(changes)
    path = folder / "job.yaml"
    path.write_text(yaml.safe_dump(config), encoding="utf-8")
    return path


def run_killed(
    config: pathlib.Path, output_dir: pathlib.Path, event: str
) -> subprocess.CompletedProcess[str]:
    """Runs a job in a process of its own, which kills itself at an event."""
    return subprocess.run(
        [
            sys.executable,
            "-m",
            "tests.export.jobs",
            str(config),
            str(output_dir),
            event,
        ],
        cwd=ROOT,
        # What is still in a buffer when the process is killed is lost.
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
        capture_output=True,
        text=True,
        check=False,
    )


def main(config: str, output_dir: str, kill_at: str) -> None:
    from export import build_index
    from export.config import load_config

    def on_event(event: str) -> None:
        if event == kill_at:
            os.kill(os.getpid(), signal.SIGKILL)

    build_index.run(load_config(config), output_dir, on_event=on_event)


if __name__ == "__main__":
    main(*sys.argv[1:])
