# SPDX-License-Identifier: Apache-2.0
"""Every workload at a tiny size: its fields and its recall, not its times."""

import functools
import importlib
import importlib.util
import json
import pathlib
import sys

import numpy as np
import pytest

from benchmarks import plots, report, settings, workloads
from benchmarks.engines import Request, remote

# What a record has besides the keys of its case.
_FIELDS = {
    "engine": str,
    "is_lintf": bool,
    "cpu_ms": float,
    "wall_ms": float,
    "bytes": float,
    "read_gb_per_s": float,
    "read_share": float,
    "gflop_per_s": float,
    "fma_share": float,
    "recall": float,
    "rounds": int,
}
# By codes, and by compact storage.
_LEAST_RECALL = {"codes": 0.1, "glove_50d": 0.2, "planner": 0.2, "storage": 0.9}


@pytest.fixture(scope="session")
def run(tmp_path_factory):
    """Runs a workload once, however many tests look at it."""
    cache = tmp_path_factory.mktemp("benchmarks")
    return functools.cache(lambda name: _run(name, cache))


def _run(name, cache):
    module = importlib.import_module(f"benchmarks.workloads.{name}")
    result = module.run(
        settings.Settings(
            rows=settings.QUICK_ROWS,
            dim=settings.QUICK_DIM,
            quick=True,
            seconds=0.0,
            min_rounds=1,
            # TFRS needs Keras 2 and ScaNN an environment of its own.
            peers=("tensorflow", "faiss", "numpy"),
            cache=cache,
        )
    )
    return module, result


def _check(name, module, result, folder):
    report.write(result, folder)
    read = json.loads((folder / f"{name}.json").read_text())
    assert read["workload"] == name
    assert read["machine"]["processor"]
    assert read["machine"]["read_gb_per_s"] > 0
    assert read["machine"]["sgemm_gflop_per_s"] > 0
    records = read["records"]
    assert any(record["is_lintf"] for record in records)
    for record in records:
        for field, kind in _FIELDS.items():
            assert isinstance(record[field], kind), (field, record)
        assert record["cpu_ms"] > 0 and record["wall_ms"] > 0
        assert _LEAST_RECALL.get(name, 1.0) <= record["recall"] <= 1
        assert report.case_of(record)
    lines = (folder / f"{name}.md").read_text().splitlines()
    rows = [line for line in lines if record["engine"] in line]
    assert rows and all(row.startswith("|") for row in rows)
    if importlib.util.find_spec("matplotlib"):
        drawn = plots.draw(read, module.PLOTS, folder)
        assert len(drawn) == len(module.PLOTS)
        assert all(path.stat().st_size > 1000 for path in drawn)


@pytest.mark.parametrize(
    "name", [name for name in workloads.NAMES if name != "glove_50d"]
)
def test_workload(name, run, tmp_path):
    module, result = run(name)
    _check(name, module, result, tmp_path)


@pytest.mark.data
def test_glove(run, tmp_path):
    pytest.importorskip("pyarrow")
    module, result = run("glove_50d")
    _check("glove_50d", module, result, tmp_path)


def test_ratios_are_to_lintf_with_the_same_labels(run):
    _, result = run("storage")
    for record in result["records"]:
        if record["is_lintf"]:
            assert record["ratio_to_lintf"] == 1
    for cell in report.summary(result):
        assert cell["engine"] == f"lintf {cell['dtype']}"
        assert cell["dtype"] in cell["peer"]


def test_planner_compares_auto_with_the_best_fixed_algorithm(run):
    _, result = run("planner")
    mean = result["auto_to_best"]
    assert mean["cells"] == len(result["cells"]) > 0
    assert mean["worst"] == max(c["auto_to_best"] for c in result["cells"])
    for cell in result["cells"]:
        own = [
            r
            for r in result["records"]
            if all(r[k] == cell[k] for k in ("store", "batch", "pass_rate"))
        ]
        times = {r["engine"]: r["cpu_ms"] for r in own}
        best = min(t for e, t in times.items() if e != "auto")
        assert times[cell["best"]] == best
        assert cell["auto_to_best"] == pytest.approx(times["auto"] / best)


def _echo(tmp_path, body):
    script = tmp_path / "echo_engine.py"
    script.write_text(body)
    here = str(pathlib.Path(__file__).parents[2])
    command = [sys.executable, "-c", f"import sys; sys.path[:0] = [{here!r}]"]
    command[-1] += f"; exec(open({str(script)!r}).read())"
    return remote.RemoteEngine("echo", 4, 1, command, 1)


def test_an_engine_in_another_process(tmp_path):
    engine = _echo(
        tmp_path,
        "import numpy as np\n"
        "from benchmarks.engines import Engine, remote\n"
        "class Echo(Engine):\n"
        "    def __init__(self):\n"
        "        print('what a library prints')\n"
        "        super().__init__('echo', 4, 1)\n"
        "    def prepare(self, request):\n"
        "        print('and more')\n"
        "        self.request = request\n"
        "    def search(self):\n"
        "        request = self.request\n"
        "        return request.queries[:, : request.k].astype(np.int64)\n"
        "remote.serve(Echo)\n",
    )
    queries = np.arange(12, dtype=np.float32).reshape(3, 4)
    engine.prepare(Request(queries, 2))
    cost = engine.measure()
    assert cost.cpu > 0 and cost.wall > 0
    np.testing.assert_array_equal(
        engine.rows(engine.search()), queries[:, :2].astype(np.int64)
    )
    with pytest.raises(ValueError, match="no filters"):
        engine.prepare(Request(queries, 2, masks=np.ones((1, 5), bool)))
    engine.close()
    assert engine._process.returncode == 0


def test_an_engine_whose_process_fails_says_why(tmp_path):
    with pytest.raises(remote.RemoteError, match="echo ended .* no such luck"):
        _echo(tmp_path, "raise SystemExit('no such luck')")
