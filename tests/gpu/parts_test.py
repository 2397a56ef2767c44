# SPDX-License-Identifier: Apache-2.0
"""The parts of tests/gpu and benchmarks/gpu that need no GPU."""

from __future__ import annotations

import ctypes
import doctest
import json
import pathlib
import subprocess
import sys

import numpy as np
import pytest

from benchmarks.gpu import limits, report
from tests.gpu import build, compare, programs, run
from tests.gpu import library as lib

_STRUCTS = {
    "LintfCall": lib.CallStruct,
    "LintfColumn": lib.ColumnStruct,
    "LintfSimilarity": lib.SimilarityStruct,
    "LintfSearch": lib.SearchStruct,
    "LintfResults": lib.ResultsStruct,
    "LintfTables": lib.TablesStruct,
    "LintfContents": lib.ContentsStruct,
}


@pytest.mark.parametrize("module", [build, limits, report, run])
def test_examples(module):
    result = doctest.testmod(module)
    assert result.attempted > 0
    assert result.failed == 0


def test_structs_are_laid_out_as_in_c(tmp_path):
    lines = [
        "#include <stddef.h>",
        "#include <stdio.h>",
        '#include "custom_ops/core/gpu_c_api.h"',
        "int main(void) {",
    ]
    expected = []
    for name, struct in _STRUCTS.items():
        lines.append(f'printf("%d ", (int)sizeof({name}));')
        expected.append(ctypes.sizeof(struct))
        for field, *_ in struct._fields_:
            lines.append(f'printf("%d ", (int)offsetof({name}, {field}));')
            expected.append(getattr(struct, field).offset)
    lines.append("return 0; }")
    source = tmp_path / "layout.cc"
    source.write_text("\n".join(lines), encoding="utf-8")
    program = tmp_path / "layout"
    subprocess.run(
        ["g++", "-I.", str(source), "-o", str(program)],
        cwd=build.ROOT,
        check=True,
    )
    output = subprocess.run(
        [str(program)], capture_output=True, text=True, check=True
    ).stdout
    assert [int(word) for word in output.split()] == expected


def test_enums_have_the_order_of_the_headers():
    core = build.ROOT / build.CORE

    def values(header: str, enum: str) -> list[str]:
        text = (core / header).read_text(encoding="utf-8")
        body = text.split(f"enum class {enum} ")[1].split("{")[1].split("}")[0]
        lines = (line.split("//")[0] for line in body.splitlines())
        names = " ".join(lines).split(",")
        return [
            name.split("=")[0].strip()[1:] for name in names if name.strip()
        ]

    def camel(names: tuple[str, ...]) -> list[str]:
        return [name.title().replace("_", "") for name in names]

    assert values("item_matrix.h", "ElementType") == camel(lib.ELEMENT_TYPES)
    columns = [name.replace("float32", "float") for name in lib.COLUMN_TYPES]
    assert values("column.h", "ColumnType") == camel(tuple(columns))
    assert values("masked_knn.h", "Metric") == ["InnerProduct", "L2"]
    assert camel(lib.METRICS) == ["InnerProduct", "L2"]
    assert values("gpu_knn.h", "QueryPrecision") == camel(lib.PRECISIONS)
    assert values("gpu_knn.h", "ScanOrder") == camel(lib.ORDERS)
    algorithms = lib.ALGORITHMS + lib.LEARNED_ALGORITHMS[1:]
    assert values("planner.h", "Algorithm") == camel(algorithms)
    assert values("planner.h", "Candidates") == camel(lib.CANDIDATES)
    assert values("similarity.h", "PairSimilarity") == camel(lib.COMPONENTS)
    assert values("similarity.h", "Gate") == camel(lib.GATES)
    assert values("code_knn.h", "CodeScoring") == camel(lib.SCORINGS)
    assert values("code_knn.h", "CodeOrder") == camel(lib.CODE_ORDERS)


def test_search_describes_its_arrays():
    queries = np.zeros([3, 8], np.float32)
    items = np.zeros([100, 8], np.int8)
    scales = np.ones(100, np.float32)
    masks = np.zeros([2, 2], np.uint64)
    search = lib.Search(
        queries,
        100,
        5,
        items=items,
        element_type="int8",
        scales=scales,
        metric="l2",
        order="listed",
        masks=masks,
        passes_all=[True, False],
        mask_of_query=[1, 0, 1],
        columns=[("uint8", np.zeros(100, np.uint8))],
    )
    struct = search.struct
    assert struct.queries == queries.ctypes.data
    assert (struct.num_queries, struct.dim, struct.num_rows) == (3, 8, 100)
    assert (struct.element_type, struct.metric, struct.order) == (3, 1, 2)
    assert (struct.num_masks, struct.mask_stride) == (2, 2)
    chosen = (ctypes.c_int32 * 3).from_address(struct.mask_of_query)
    assert list(chosen) == [1, 0, 1]
    passes = (ctypes.c_uint8 * 2).from_address(struct.passes_all)
    assert list(passes) == [1, 0]
    assert (struct.columns[0].type, struct.columns[0].width) == (3, 1)
    assert struct.programs is None


def test_search_describes_its_similarity():
    weights = [np.zeros([6, 5], np.float32), np.zeros(5, np.float32)]
    similarity = lib.Similarity(
        weights,
        query_components=3,
        item_components=2,
        component_dim=4,
        temperature=0.5,
        gate="relu",
        gate_hidden=5,
        candidates="codes",
        budget=70,
    )
    search = lib.Search(
        np.zeros([1, 18], np.float32),
        9,
        1,
        algorithm="two_stage",
        similarity=similarity,
    )
    assert (search.struct.dim, search.struct.algorithm) == (14, 6)
    struct = search.struct.similarity.contents
    assert (struct.query_components, struct.item_components) == (3, 2)
    assert (struct.gate, struct.candidates, struct.budget) == (3, 2, 70)
    assert struct.temperature == 0.5
    assert struct.weights[1] == weights[1].ctypes.data


def test_search_refuses_what_does_not_fit():
    queries = np.zeros([3, 8], np.float32)
    with pytest.raises(ValueError, match="each of the 3 queries, got 2"):
        lib.Search(queries, 10, 1, programs=programs.pack([[], []]))
    with pytest.raises(ValueError, match="contiguous"):
        lib.Search(queries[:, ::2], 10, 1)
    with pytest.raises(TypeError, match="address"):
        lib.address("text")


def test_address_takes_torch_and_cupy_arrays():
    class TorchLike:
        def data_ptr(self):
            return 1234

        def is_contiguous(self):
            return True

    class CupyLike:
        class data:  # noqa: N801
            ptr = 77

        class flags:  # noqa: N801
            c_contiguous = True

    assert lib.address(TorchLike()) == 1234
    assert lib.address(CupyLike()) == 77
    assert lib.address(None) is None


def test_programs_are_words_of_the_format():
    packed = programs.pack(
        [
            programs.all_of(
                programs.in_set(2, [9, -4]),
                programs.negated(programs.bits_any(1, 1 << 63)),
            ),
            [],
        ]
    )
    assert packed.tolist() == [
        [
            8 | 1 << 32,
            5 | 2 << 8 | 2 << 32,
            -4,
            9,
            7 | 1 << 8 | 1 << 32,
            -(1 << 63),
            18,
            16,
        ],
        [0] * 8,
    ]


def test_masks_and_codes_are_packed_bit_by_bit():
    random = np.random.default_rng(0)
    passes = random.random([2, 130]) < 0.5
    words = lib.pack_masks(passes)
    assert words.shape == (2, 3)
    for row in range(130):
        bits = words[:, row // 64] >> np.uint64(row % 64) & np.uint64(1)
        assert (bits == passes[:, row]).all()
    codes = random.integers(0, 1 << 63, [70, 3], dtype=np.uint64)
    laid_out = lib.interleave_codes(codes).reshape(-1)
    for row in (0, 63, 64, 69):
        for word in range(3):
            place = (row // 64 * 3 + word) * 64 + row % 64
            assert laid_out[place] == codes[row, word]


def test_bfloat16_rounds_to_even():
    values = np.array([1.0, 1.00390625, 1.01171875, -3.14159, 1e-40], "f4")
    expected = np.array([1.0, 1.0, 1.015625, -3.140625, 1e-40], "f4")
    got = lib.from_bfloat16(lib.to_bfloat16(values))
    assert got[:4].tolist() == expected[:4].tolist()
    assert got[4] == pytest.approx(1e-40, rel=0.01)


# ---- Comparisons find faults.


@pytest.fixture
def results():
    """Right results of 2 queries over 6 rows, 2 of which are equal."""
    scores = np.array([[5, 4, 4, 1, 0, -1], [0, 1, 2, 3, 4, 5]], np.float64)
    passes = np.array([[1, 1, 1, 0, 1, 1], [1, 1, 0, 0, 0, 0]], bool)
    got = {
        "counts": np.array([3, 2], np.int32),
        "rows": np.array([[0, 1, 2], [1, 0, -1]]),
        "scores": np.array([[5, 4, 4], [1, 0, -np.inf]], np.float32),
    }
    return got, scores, passes


def test_good_results_are_good(results):
    compare.good_results("right", *results, tolerance=1e-6)


@pytest.mark.parametrize(
    ("name", "place", "value", "message"),
    [
        ("counts", 0, 2, "2 results, expected 3"),
        ("rows", (0, 0), 3, "was filtered"),
        ("rows", (0, 0), 1, "comes twice"),
        ("rows", (1, 2), 4, "past the results"),
        ("scores", (0, 0), 5.1, "off by 0.1"),
        ("scores", (1, 2), 0, "past the results"),
    ],
)
def test_wrong_results_are_found(results, name, place, value, message):
    got, scores, passes = results
    got[name][place] = value
    with pytest.raises(AssertionError, match=message):
        compare.good_results("wrong", got, scores, passes, 1e-6)


def test_wrong_orders_are_found(results):
    got, scores, passes = results
    got["rows"][0] = [0, 2, 1]
    with pytest.raises(AssertionError, match="wrong order"):
        compare.good_results("swapped", got, scores, passes, 1e-6)
    got["rows"][0], got["scores"][0] = [0, 1, 4], [5, 4, 0]
    with pytest.raises(AssertionError, match="missed by 4"):
        compare.good_results("missed", got, scores, passes, 1e-6)


def test_same_compares_bits():
    compare.same("nan", np.array([np.nan]), np.array([np.nan]))
    with pytest.raises(AssertionError, match="1 of 2 differ"):
        compare.same("zero", np.array([1.0, -0.0]), np.array([1.0, 0.0]))


# ---- Building and running.


def test_plan_builds_the_library_and_every_test(tmp_path):
    plan = build.make_plan(tmp_path, (9, 0), nvcc="the-nvcc", cxx="the-cxx")
    by_name = {step.output.name: step for step in plan.objects}
    assert by_name["gpu_knn.cu.o"].command[0] == "the-nvcc"
    assert build.gencode((9, 0)) in by_name["gpu_knn.cu.o"].command
    assert by_name["masked_knn.o"].command[0] == "the-cxx"
    assert "gpu_emulator.o" not in by_name
    assert "masked_knn_test.o" not in by_name
    library = next(s for s in plan.links if s.output.name == build.LIBRARY)
    assert "-shared" in library.command
    assert by_name["masked_knn.o"].output in library.inputs
    names = {path.name for path in plan.tests}
    assert "gpu_emulator_test" in names
    sources = {
        path.stem for path in (build.ROOT / build.CORE).glob("gpu_*_test.cc")
    }
    assert names == sources


def test_plan_for_the_emulator_needs_no_nvcc(tmp_path):
    plan = build.make_plan(tmp_path, None, nvcc="no-such-compiler")
    steps = plan.objects + plan.links
    assert all(step.command[0] == "g++" for step in steps)
    by_name = {step.output.name: step for step in plan.objects}
    assert "-DLINTF_GPU_EMULATOR" in by_name["gpu_knn.cu.o"].command
    assert "gpu_emulator.o" in by_name


def test_steps_run_once_and_failures_are_told(tmp_path):
    source, output = tmp_path / "source", tmp_path / "out" / "copy"
    source.write_text("1", encoding="utf-8")
    copy = build.Step(output, (source,), ("cp", str(source), str(output)))
    bad = build.Step(tmp_path / "bad", (source,), ("false",))
    last = build.Step(tmp_path / "last", (bad.output,), ("false",))
    failures = build.run_plan(build.Plan([copy, bad], [last]), 2, tmp_path)
    assert output.read_text(encoding="utf-8") == "1"
    assert failures == ["false\n"]
    assert not build.is_stale(copy)
    assert build.is_stale(bad)


def test_capability_must_look_like_one():
    with pytest.raises(ValueError, match='like "9.0", got "nine"'):
        build.parse_capability("nine")


def test_parts_end_as_their_commands_do():
    python = sys.executable
    passed = run.run_part("a", [python, "-c", "print('said')"], 100)
    assert (passed.status, passed.output) == ("passed", "said\n")
    failed = run.run_part("b", [python, "-c", "raise SystemExit(3)"], 100)
    assert failed.status == "FAILED"
    absent = run.run_part("c", ["no-such-program"], 100)
    assert absent.status == "FAILED"
    assert run.run_part("d", [python], 0.5).status == "left out: no time"
    said = run.run_part(
        "e", [python, "-c", "print('a fault')"], 100, bad_output="a fault"
    )
    assert said.status == "FAILED"


def test_sanitizers_run_reduced_tests():
    command = run.sanitizer_command("racecheck", pathlib.Path("t/gpu_x_test"))
    assert command[1] == "--tool=racecheck"
    assert command[-1] == "t/gpu_x_test"
    assert "--error-exitcode=9" in command
    assert run.sanitizer_complaint("racecheck") == ""
    assert run.sanitizer_complaint("initcheck")
    assert "LINTF_GPU_REDUCED" in run.sanitizer_environment("memcheck")
    assert "LINTF_GPU_NO_POISON" in run.sanitizer_environment("initcheck")
    assert "LINTF_GPU_NO_POISON" not in run.sanitizer_environment("memcheck")


# ---- The table.


def test_table_says_what_was_reached(tmp_path):
    card = {"name": "NVIDIA H100", "copy_bandwidth": 2.0e12}
    rows = [
        report.Row("fast", 0.5, bar=1.0, bytes=10**9, seconds=0.0005),
        report.Row("slow", 3.0, bar=1.0, peers={"torch": 0.006}, seconds=0.003),
        report.Row("ratio", 7.0, "x", bar=5.0, at_least=True),
        report.Row("broken", error="Error: no\nmemory | left"),
    ]
    report.write(tmp_path, rows, card)
    text = (tmp_path / "gpu.md").read_text(encoding="utf-8")
    lines = text.splitlines()[4:]
    assert lines[0].startswith("| fast | 0.5 ms | <= 1 ms | yes | 100% |")
    assert "| NO |" in lines[1] and "torch 6 ms (2.0x)" in lines[1]
    assert lines[2].startswith("| ratio | 7 x | >= 5 x | yes |")
    assert "| FAILED |" in lines[3] and "memory / left" in lines[3]
    data = json.loads((tmp_path / "gpu.json").read_text(encoding="utf-8"))
    assert [row["reached"] for row in data["rows"]] == [
        "yes",
        "NO",
        "yes",
        "FAILED",
    ]


def test_bars_follow_the_bandwidth_of_other_cards():
    half = report.H100_COPY_BANDWIDTH / 2
    assert report.Row("a", 1.9, bar=1.0).verdict(half) == "yes"
    assert report.Row("b", 2.1, bar=1.0).verdict(half) == "NO"
    rate = report.Row("c", 550.0, "QPS", bar=1000.0, at_least=True)
    assert rate.verdict(half) == "yes"
    memory = report.Row("d", 13.0, "GB", bar=12.0)
    assert memory.verdict(half) == "NO"
