# SPDX-License-Identifier: Apache-2.0
"""Configs: what is accepted, and how the rest is refused."""

import pathlib

import pytest
import yaml

from export.config import JobConfig, QuantizationConfig, load_config
from export.parse import ConfigError, to_dataclass
from lintf.index.schema import IndexSchema

ROOT = pathlib.Path(__file__).resolve().parents[2]

GIVEN = """
name: words
items: {path: items.parquet, id: word, embedding: {column: vector}}
index: {metric: cosine, id_dtype: string, capacity: 10}
attributes:
  - {name: classes, kind: tags}
  - {name: rank, kind: int, column: position, dtype: int16, missing: -5}
retrieve: {k: 5, return_attributes: [rank]}
batching: {max_batch_size: 8}
"""


def parse(text: str, **changes: object) -> JobConfig:
    data = yaml.safe_load(text)
    data.update(changes)
    return to_dataclass(JobConfig, data)


def write(folder: pathlib.Path, text: str) -> pathlib.Path:
    path = folder / "job.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def test_values_and_defaults():
    config = parse(GIVEN)
    assert config.index.capacity == 10
    assert config.attributes[1].source == "position"
    assert config.attributes[0].source == "classes"
    assert config.attributes[1].missing == -5
    assert config.retrieve.algorithm == "auto"
    assert config.batching is not None
    assert config.batching.max_batch_size == 8
    assert config.fill.batch_size == 8192
    assert config.towers is None


@pytest.mark.parametrize(
    ("given", "dim", "bins", "repeats"),
    [
        # Long codes: the most bins up to an eighth of the length that divide
        # the bits. The recall table behind it: arXiv 2407.13218 takes 512 bits
        # of 128 numbers.
        ({}, 128, 16, 32),
        ({}, 50, 4, 128),
        ({"bits": 192}, 100, 12, 16),
        ({"bits": 64}, 4, 1, 64),
        # Short ones: one repeat.
        ({"bits": 64}, 64, 64, 1),
        ({"bits": 128}, 300, 128, 1),
        ({"bits": 128, "bins": 32}, 300, 32, 4),
        ({"bits": 128, "repeats": 8}, 300, 16, 8),
        ({"bins": 48, "repeats": 4}, 300, 48, 4),
        ({"repeats": 64}, 300, 8, 64),
    ],
)
def test_codes_that_are_not_given_in_full(given, dim, bins, repeats):
    codes = to_dataclass(QuantizationConfig, given).resolve(dim, k=20)
    assert (codes.bins, codes.repeats) == (bins, repeats)
    assert codes.shortlist == 200
    assert codes.scoring == "asymmetric"


def test_codes_that_the_embeddings_cannot_have():
    with pytest.raises(ValueError, match="`bins` must be at most 16, .*got 32"):
        QuantizationConfig(bins=32).resolve(16, k=1)
    with pytest.raises(ValueError, match="same signs 8 times over"):
        QuantizationConfig(bins=64).resolve(64, k=1)


def test_the_floor_is_lower_without_rescoring():
    config = QuantizationConfig()
    assert config.floor(rescored=True) == 0.9
    assert config.floor(rescored=False) == 0
    config = QuantizationConfig(recall_floor=0.5)
    assert config.floor(rescored=True) == config.floor(rescored=False) == 0.5


def test_variants_search_beside_the_main_signature():
    config = parse(
        GIVEN,
        quantization={"bits": 64, "shortlist": 40},
        retrieve={
            "k": 5,
            "algorithm": "quantized",
            "variants": [{"name": "wide", "k": 12}],
        },
    )
    assert config.quantization is not None
    schema = IndexSchema(dim=8, quantization=config.quantization.resolve(8, 5))
    plans = config.retrieve.plans(schema)
    assert list(plans) == ["retrieve", "wide"]
    assert plans["retrieve"].algorithm == "quantized"
    assert plans["wide"].algorithm == "auto"
    assert plans["wide"].shortlist == 96


SHIPPED = ["movielens_100k", "glove_400k", "glove_400k_codes"]


@pytest.mark.parametrize("name", SHIPPED)
def test_shipped_configs_load(name):
    config = load_config(ROOT / "export" / "configs" / f"{name}.yaml")
    assert config.attributes


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"retreive": {}}, "retreive: no such key; did you mean 'retrieve'?"),
        (
            {"retrieve": {"kay": 5}},
            r"retrieve\.kay: no such key.*known here: k, algorithm",
        ),
        (
            {"retrieve": {"k": "5"}},
            r"retrieve\.k: expected an integer, got '5' \(str\)",
        ),
        ({"retrieve": {"k": True}}, r"retrieve\.k: expected an integer"),
        ({"retrieve": {"k": 0}}, "retrieve: `k` must be at least 1, got 0"),
        (
            {"retrieve": {"k": 10**11}},
            "retrieve: `k` must be at most 50000000, got 100000000000",
        ),
        (
            {"retrieve": {"algorithm": "maskd"}},
            r"retrieve\.algorithm: expected one of auto, masked, prefiltered, "
            "quantized, exact, bounded, two_stage, got 'maskd'"
            "; did you mean 'masked'?",
        ),
        (
            {"retrieve": {"return_attributes": ["rang"]}},
            r"retrieve\.return_attributes\[0\]: no attribute 'rang'",
        ),
        (
            {"index": {"metric": None}},
            r"index\.metric: expected one of .*, got None",
        ),
        ({"index": {"capacity": 1.5}}, r"index\.capacity: expected an integer"),
        (
            {"index": {"dtype": "int4"}},
            r"index\.dtype: expected one of float32, bfloat16, float16, int8, "
            "none, got 'int4'; did you mean 'int8'?",
        ),
        (
            {"index": {"dtype": "none"}},
            r"quantization: required with index\.dtype none",
        ),
        (
            {"quantization": {"bits": 100}},
            "quantization: `bits` must be a multiple of 64 and at most 4096",
        ),
        (
            {"quantization": {"bits": 128, "bins": 8, "repeats": 8}},
            r"quantization: `bits` must be `bins` \* `repeats`, got 128 and "
            r"8 \* 8 = 64; leave one of the three out",
        ),
        (
            {"quantization": {"bins": 10, "repeats": 7}},
            r"quantization: `bins` \* `repeats` must be a multiple of 64 and "
            r"at most 4096, got 10 \* 7 = 70",
        ),
        (
            {"quantization": {"bins": 10}},
            "quantization: `bins` must divide the 512 bits of a code, got 10",
        ),
        (
            {"quantization": {"bits": 128, "repeats": 48}},
            "quantization: `repeats` must divide the 128 bits of a code",
        ),
        (
            {"quantization": {"recall_floor": 1.5}},
            "quantization: `recall_floor` must be from 0 to 1, got 1.5",
        ),
        (
            {"quantization": {"recall_queries": 0}},
            "quantization: `recall_queries` must be at least 1, got 0",
        ),
        (
            {"quantization": {"scoring": "symetric"}},
            r"quantization\.scoring: expected one of .*'symmetric'",
        ),
        (
            {"quantization": {"recall": 0.5}},
            r"quantization\.recall: no such key; did you mean 'recall_floor'",
        ),
        (
            {"index": {"dtype": "none"}, "quantization": {"shortlist": 9}},
            r"quantization\.shortlist: given, but with index\.dtype none",
        ),
        (
            {"retrieve": {"algorithm": "quantized"}},
            r"retrieve\.algorithm: quantized needs codes",
        ),
        (
            {"retrieve": {"algorithm": "masked"}, "quantization": {}},
            "quantization: given, but no retrieve signature reads the codes",
        ),
        (
            {
                "index": {"dtype": "none"},
                "quantization": {},
                "retrieve": {
                    "variants": [
                        {"name": "a", "k": 1, "algorithm": "prefiltered"}
                    ]
                },
            },
            r"retrieve\.variants\[0\]\.algorithm: prefiltered needs the embed",
        ),
        (
            {"retrieve": {"variants": [{"name": "a", "k": 1, "shortlist": 5}]}},
            r"retrieve\.variants\[0\]\.shortlist: given, but there are no c",
        ),
        (
            {"retrieve": {"variants": [{"name": "a"}]}},
            r"retrieve\.variants\[0\]\.k: required, but missing",
        ),
        (
            {"retrieve": {"variants": [{"name": "a b", "k": 1}]}},
            r"retrieve\.variants\[0\]: a variant's name must be letters",
        ),
        (
            {"retrieve": {"variants": [{"name": "lookup", "k": 1}]}},
            "retrieve: variant 'lookup': its signature 'lookup' has the name",
        ),
        (
            {"retrieve": {"variants": [{"name": "a", "k": 10**9}]}},
            "retrieve: `k` must be at most 50000000, got 1000000000",
        ),
        ({"index": None}, "index: expected a mapping"),
        ({"items": {"id": "x"}}, "items: expected either `dataset` or `path`"),
        (
            {"items": {"path": "x.csv"}},
            r"items\.embedding: required without an item tower",
        ),
        (
            {"items": {"path": "x.csv", "embedding": {}}},
            r"items\.embedding: expected either `column`.*got neither",
        ),
        (
            {"attributes": [{"name": "a"}]},
            r"attributes\[0\]\.kind: required, but missing; expected one of",
        ),
        (
            {"attributes": [{"name": "not", "kind": "int"}]},
            r"attributes\[0\]: 'not' cannot name an attribute",
        ),
        (
            {
                "attributes": [
                    {"name": "a", "kind": "int"},
                    {"name": "a", "kind": "int"},
                ],
                "retrieve": {},
            },
            r"attributes\[1\]\.name: 'a' is already the name of",
        ),
        ({"attributes": {"a": 1}}, "attributes: expected a list"),
        ({"towers": {}}, "towers: expected a `recipe`, or saved towers"),
        (
            {"towers": {"recipe": "movielens_100k", "query": {"path": "x"}}},
            "towers: give a `recipe`.*got both",
        ),
        (
            {"towers": {"item": {"path": "x"}}},
            r"items\.embedding: given, but `towers` has an item tower",
        ),
        ({"towers": {"recipe": "imdb"}}, r"towers\.recipe: expected one of"),
        ({"name": "a/b"}, "name: expected letters, digits"),
        ({"name": None}, "name: expected a string, got nothing"),
        (
            {"filter_limits": {"max_depth": 0}},
            "filter_limits: `max_depth` must be a positive integer",
        ),
        (
            {"batching": {"num_threads": 0}},
            "batching: `num_threads` must be at least 1",
        ),
        ({"fill": {"batch_size": -1}}, "fill: `batch_size` must be at least 1"),
        ({"checkpoint": {"every_steps": 0}}, "checkpoint: `every_steps`"),
    ],
)
def test_wrong_configs_are_refused(changes, message):
    with pytest.raises(ConfigError, match=f"^{message}"):
        parse(GIVEN, **changes)


def test_recipe_trains_on_its_own_data():
    with pytest.raises(ConfigError, match=r"items\.dataset: the recipe"):
        to_dataclass(
            JobConfig,
            {
                "name": "a",
                "towers": {"recipe": "movielens_100k"},
                "items": {"path": "x.csv"},
            },
        )


def test_required_key_is_named():
    with pytest.raises(ConfigError, match="^items: required, but missing"):
        to_dataclass(JobConfig, {"name": "a"})


def test_file_errors_name_the_file(tmp_path):
    with pytest.raises(ConfigError, match=r"cannot read the config .*nope"):
        load_config(tmp_path / "nope.yaml")
    with pytest.raises(ConfigError, match="not valid YAML"):
        load_config(write(tmp_path, "a: ["))
    with pytest.raises(ConfigError, match="expected a mapping.*got list"):
        load_config(write(tmp_path, "- a"))
    with pytest.raises(ConfigError, match=r"job\.yaml: nam: no such key"):
        load_config(write(tmp_path, GIVEN + "\nnam: x"))
    with pytest.raises(ConfigError, match="'k' stands twice"):
        load_config(write(tmp_path, "retrieve:\n  k: 1\n  k: 2\n"))


def test_paths_are_relative_to_the_config(tmp_path, monkeypatch):
    config = load_config(write(tmp_path, GIVEN))
    assert config.items.path == str(tmp_path.resolve() / "items.parquet")
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    config = load_config(tmp_path / "job.yaml", ["items.path=other.parquet"])
    assert config.items.path == str(elsewhere.resolve() / "other.parquet")


def test_overrides(tmp_path):
    path = write(tmp_path, GIVEN)
    config = load_config(
        path,
        ["retrieve.k=7", "attributes.1.dtype=int64", "fill.batch_size=3"],
    )
    assert config.retrieve.k == 7
    assert config.attributes[1].dtype == "int64"
    assert config.fill.batch_size == 3
    assert load_config(path, ["batching=null"]).batching is None


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("retrieve.k", "--set: expected key.path=value"),
        ("attributes.9.dtype=int8", "expected the number of an entry, 0 to 1"),
        ("name.x=1", "--set: name is 'words', which has no keys below it"),
        ("retrieve.k=[", "--set retrieve.k: not a YAML value"),
        ("retrieve.kk=1", "retrieve.kk: no such key; did you mean 'k'?"),
    ],
)
def test_wrong_overrides(tmp_path, override, message):
    with pytest.raises(ConfigError) as error:
        load_config(write(tmp_path, GIVEN), [override])
    assert message in str(error.value)


def test_seed_is_for_training(tmp_path):
    with pytest.raises(ConfigError, match="--seed: this config trains no"):
        load_config(write(tmp_path, GIVEN), seed=3)
    config = load_config(
        ROOT / "export" / "configs" / "movielens_100k.yaml", seed=3
    )
    assert config.towers is not None
    assert config.towers.seed == 3


def test_identity_leaves_out_what_the_index_does_not_depend_on():
    config = parse(GIVEN)
    moved = parse(
        GIVEN.replace("items.parquet", "elsewhere/items.parquet"),
        checkpoint={"every_steps": 3},
        projector={"rows": 0},
    )
    assert config.identity() == moved.identity()
    assert config.identity() != parse(GIVEN, fill={"batch_size": 3}).identity()


def test_updates_and_the_log():
    config = parse(GIVEN)
    assert config.update.enabled and config.update.max_request_rows == 10_000
    assert config.log.initial_offsets() == (-1,)
    config = parse(GIVEN, update={"enabled": False}, log={"partitions": 3})
    assert not config.update.enabled
    assert config.log.initial_offsets() == (-1, -1, -1)
    config = parse(GIVEN, log={"offsets": [4, -1], "partitions": 2})
    assert config.log.initial_offsets() == (4, -1)
    assert config.identity() != parse(GIVEN).identity()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"update": {"max_request_rows": 0}}, "`max_request_rows`"),
        ({"update": {"enable": True}}, "did you mean 'enabled'"),
        ({"log": {"partitions": 0}}, "`partitions` must be at least 1"),
        ({"log": {"offsets": []}}, "`offsets` must have one entry"),
        ({"log": {"offsets": [1], "partitions": 2}}, "each of the 2, got 1"),
        ({"log": {"offsets": [-2]}}, "`offsets` must be -1"),
        ({"log": {"offsets": [1 << 63]}}, "`offsets` must be -1"),
    ],
)
def test_wrong_updates_and_logs(changes, message):
    with pytest.raises(ConfigError) as error:
        parse(GIVEN, **changes)
    assert message in str(error.value)
