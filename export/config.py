# SPDX-License-Identifier: Apache-2.0
"""The config of an export job: what every key of the YAML file means."""

from __future__ import annotations

import dataclasses
import json
import math
import pathlib
import re
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import yaml

from export.parse import ConfigError, to_dataclass
from lintf.index.plan import (
    LEARNED_ALGORITHMS,
    PLAIN_ALGORITHMS,
    Algorithm,
    Candidates,
    Plan,
    Variant,
    check_variants,
)
from lintf.index.schema import (
    MAX_CODE_BITS,
    WORD_BITS,
    FilterLimits,
    IndexSchema,
    Quantization,
    check_attribute_name,
)
from lintf.index.shards import Shards
from lintf.similarity.spec import CONVEX_GATES

ROW_NUMBERS = "@row"

# A result takes 12 bytes and more a slot, used or not: with this many, one
# query's take about a gigabyte.
MAX_K = 50_000_000

_MODEL_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*\Z")


@dataclasses.dataclass(frozen=True)
class SavedTower:
    """A trained tower on disk.

    Attributes:
        path: A SavedModel directory, or a `.keras` file.
        signature: Of a SavedModel: the one that maps features to an embedding.
        output: The signature's output to take; needed if it has several.
    """

    path: str
    signature: str = "serving_default"
    output: str | None = None


@dataclasses.dataclass(frozen=True)
class SavedSimilarity:
    """A learned similarity on disk, which the saved towers' outputs are for.

    Attributes:
        path: A directory that `lintf.similarity.saved.save` wrote.
    """

    path: str


# Of the recipe: the inner product, and the learned ones.
SimilarityKind = Literal["dot", "hadamard_mlp", "mixture_of_logits"]


@dataclasses.dataclass(frozen=True)
class FineTuneConfig:
    """A last stage that trains the index's rows together with the query tower.

    Attributes:
        epochs: Passes over the training data.
        learning_rate: Adam's; small, because all has been trained before.
        k: Rows that the index retrieves for each query of a step, whose
            scores the gradients come from.
    """

    epochs: int = 1
    learning_rate: float = 1e-4
    k: int = 128

    def __post_init__(self) -> None:
        for name in ("epochs", "k"):
            if getattr(self, name) < 1:
                raise ValueError(
                    f"`{name}` must be at least 1, got {getattr(self, name)}"
                )
        if not 0 < self.learning_rate < math.inf:
            raise ValueError(
                "`learning_rate` must be positive and finite, got "
                f"{self.learning_rate:g}"
            )


@dataclasses.dataclass(frozen=True)
class TowersConfig:
    """Where the towers come from: trained here, or loaded.

    Attributes:
        recipe: Trains both towers as `lintf.towers` describes.
        epochs: Passes over the training data; by default the recipe's.
        seed: Of every random draw of the training.
        part: What the recipe holds out: each user's last item ("test") or
            last two ("validation").
        options: Further settings of the recipe: `lintf.towers.TowerConfig`.
        similarity: What compares a query with an item. Trained here: "dot",
            the inner product, or a learned one, by name. With saved towers:
            where it is saved; without it the inner product.
        fine_tune: Trains the index's rows through what it retrieves, after
            the recipe's own training; by default not.
        query: A saved query tower; without one (and without a recipe) clients
            send embeddings.
        item: A saved item tower; without one the items bring embeddings.
    """

    recipe: Literal["movielens_100k"] | None = None
    epochs: int | None = None
    seed: int = 1
    part: Literal["test", "validation"] = "test"
    options: dict[str, Any] = dataclasses.field(default_factory=dict)
    similarity: SimilarityKind | SavedSimilarity | None = None
    fine_tune: FineTuneConfig | None = None
    query: SavedTower | None = None
    item: SavedTower | None = None

    def __post_init__(self) -> None:
        saved = self.query is not None or self.item is not None
        if self.recipe is not None and saved:
            raise ValueError(
                "give a `recipe` (towers are trained here) or saved towers "
                "(`query`, `item`), got both"
            )
        if self.recipe is None and not saved:
            raise ValueError(
                "expected a `recipe`, or saved towers under `query` and "
                "`item`, got neither; leave `towers` out if the items bring "
                "embeddings and clients send embeddings"
            )
        if self.epochs is not None and self.epochs < 1:
            raise ValueError(f"`epochs` must be at least 1, got {self.epochs}")
        self._check_similarity()

    def _check_similarity(self) -> None:
        similarity = self.similarity
        if "similarity" in self.options:
            raise ValueError(
                "`options` must not have `similarity`; give it as "
                "`towers.similarity`"
            )
        trained = isinstance(similarity, str)
        if similarity is not None and trained != (self.recipe is not None):
            raise ValueError(
                "`similarity` must be a name where a `recipe` trains it, and "
                "`{path: DIR}` where the towers are saved ones, got "
                f"{similarity if trained else 'a path'!r} with "
                f"{'a recipe' if self.recipe else 'saved towers'}"
            )
        if self.fine_tune is not None and self.recipe is None:
            raise ValueError(
                "`fine_tune` needs a `recipe`, whose data it trains on; "
                "remove it"
            )
        if similarity is None or trained:
            return
        missing = [n for n in ("query", "item") if getattr(self, n) is None]
        if missing:
            raise ValueError(
                "`similarity` needs both towers, because it compares their "
                f"outputs; missing: {', '.join(missing)}"
            )

    @property
    def is_learned(self) -> bool:
        """Whether the similarity is a learned one."""
        return self.similarity not in (None, "dot")


@dataclasses.dataclass(frozen=True)
class EmbeddingConfig:
    """Embeddings that come with the items.

    Attributes:
        column: A column of the items: a list of `dim` numbers a row.
        path: A `.npy` file `[rows, dim]`, one row an item in the items' order.
    """

    column: str | None = None
    path: str | None = None

    def __post_init__(self) -> None:
        if (self.column is None) == (self.path is None):
            raise ValueError(
                "expected either `column` (of the items) or `path` (of a .npy "
                f"file), got {'both' if self.column else 'neither'}"
            )


@dataclasses.dataclass(frozen=True)
class ItemsConfig:
    """Where the items come from.

    Attributes:
        dataset: A data set of `lintf.datasets`.
        path: A `.parquet`, `.csv` or `.npz` file, or a folder of `.npy` files
            (one a column).
        id: The column of the ids; "@row" takes the row numbers.
        embedding: Embeddings given; absent: the item tower computes them.
        features: Item tower's input -> column, where the names differ.
        separator: CSV: between the tags, and between an embedding's numbers,
            of one cell.
    """

    dataset: Literal["movielens_100k"] | None = None
    path: str | None = None
    id: str = "id"
    embedding: EmbeddingConfig | None = None
    features: dict[str, str] = dataclasses.field(default_factory=dict)
    separator: str = "|"

    def __post_init__(self) -> None:
        if (self.dataset is None) == (self.path is None):
            raise ValueError(
                "expected either `dataset` or `path`, got "
                f"{'both' if self.dataset else 'neither'}"
            )
        if not self.separator:
            raise ValueError("`separator` must not be empty")


@dataclasses.dataclass(frozen=True)
class IndexConfig:
    """The index itself.

    Attributes:
        metric: How a query and an item are compared; "cosine" normalises.
        id_dtype: Of the item ids.
        capacity: Rows allocated; by default what the items take and, for
            updates, some more.
        dtype: Of the stored embeddings: rounded to 2 bytes a number, or to 1
            and a scale for each row (int8); "none" stores codes alone.
    """

    metric: Literal["inner_product", "cosine", "l2"] = "inner_product"
    id_dtype: Literal["int64", "string"] = "int64"
    capacity: int | None = None
    dtype: Literal["float32", "bfloat16", "float16", "int8", "none"] = "float32"

    def __post_init__(self) -> None:
        if self.capacity is not None and self.capacity < 1:
            raise ValueError(
                f"`capacity` must be at least 1, got {self.capacity}"
            )


# Enough for a recall of 0.9 and more with a shortlist of 10 times k.
_DEFAULT_BITS = 512
_DEFAULT_FLOOR = 0.9


@dataclasses.dataclass(frozen=True)
class QuantizationConfig:
    """1-bit codes of the items, and how searches use them.

    Attributes:
        bits: Of a code, a multiple of 64: `bins * repeats`; by default 512.
        bins: Of one repeat; see `lintf.index.schema.Quantization`. By
            default as many as the bits where the embeddings are at least as
            long, else an eighth to a sixteenth of their length.
        repeats: By default what the bits and the bins leave.
        seed: Of the codes' random draws, and of the queries sampled to
            measure the recall.
        scoring: "asymmetric" keeps the query in full and finds more;
            "symmetric" compares codes with codes and is faster.
        shortlist: Rows that codes select to be scored in full; by default 10
            times `retrieve.k`.
        recall_floor: Below this share of the exact results nothing is
            published; by default 0.9, without embeddings 0.
        recall_queries: Queries that the recall is measured with.
    """

    bits: int | None = None
    bins: int | None = None
    repeats: int | None = None
    seed: int = 0
    scoring: Literal["asymmetric", "symmetric"] = "asymmetric"
    shortlist: int | None = None
    recall_floor: float | None = None
    recall_queries: int = 256

    def __post_init__(self) -> None:
        for name in ("bits", "bins", "repeats", "shortlist", "recall_queries"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"`{name}` must be at least 1, got {value}")
        if self.bits is not None and (
            self.bits % WORD_BITS or self.bits > MAX_CODE_BITS
        ):
            raise ValueError(
                f"`bits` must be a multiple of {WORD_BITS} and at most "
                f"{MAX_CODE_BITS}, got {self.bits}"
            )
        if self.bins and self.repeats:
            product = self.bins * self.repeats
            if self.bits not in (None, product):
                raise ValueError(
                    f"`bits` must be `bins` * `repeats`, got {self.bits} and "
                    f"{self.bins} * {self.repeats} = {product}; leave one of "
                    "the three out"
                )
            if product % WORD_BITS or product > MAX_CODE_BITS:
                raise ValueError(
                    f"`bins` * `repeats` must be a multiple of {WORD_BITS} "
                    f"and at most {MAX_CODE_BITS}, got {self.bins} * "
                    f"{self.repeats} = {product}"
                )
        else:
            bits = self.bits or _DEFAULT_BITS
            for name in ("bins", "repeats"):
                value = getattr(self, name)
                if value is not None and bits % value:
                    raise ValueError(
                        f"`{name}` must divide the {bits} bits of a code, got "
                        f"{value}; give both `bins` and `repeats`, or other "
                        "`bits`"
                    )
        if not 0 <= self.seed < 1 << 63:
            raise ValueError(
                f"`seed` must be from 0 to {(1 << 63) - 1}, got {self.seed}"
            )
        floor = self.recall_floor
        if floor is not None and not 0 <= floor <= 1:
            raise ValueError(
                f"`recall_floor` must be from 0 to 1, got {floor:g}"
            )

    def resolve(self, dim: int, k: int) -> Quantization:
        """The codes of embeddings of length `dim`, for `k` results a query.

        >>> QuantizationConfig().resolve(dim=128, k=100).bins
        16
        """
        bits = self.bits
        if bits is None:
            bits = _DEFAULT_BITS
            if self.bins and self.repeats:
                bits = self.bins * self.repeats
        bins = self.bins
        if bins is None:
            bins = bits // self.repeats if self.repeats else _bins(bits, dim)
        codes = Quantization(
            bins=bins,
            repeats=bits // bins,
            seed=self.seed,
            scoring=self.scoring,
            shortlist=self.shortlist or 10 * k,
        )
        codes.check_dim(dim)
        return codes

    def floor(self, *, rescored: bool) -> float:
        """What the recall must reach.

        Args:
            rescored: Whether there are embeddings to rescore with.
        """
        if self.recall_floor is not None:
            return self.recall_floor
        return _DEFAULT_FLOOR if rescored else 0.0


def _bins(bits: int, dim: int) -> int:
    """Good bins for a code: one repeat, or several of few bins."""
    if bits <= dim:
        return bits
    fitting = [b for b in range(1, max(dim // 8, 1) + 1) if bits % b == 0]
    return fitting[-1]


@dataclasses.dataclass(frozen=True)
class AttributeConfig:
    """One filterable attribute.

    Attributes:
        name: As filters call it.
        kind: What its values are.
        column: Of the items; by default `name`.
        encoding: Forces an encoding of strings; by default the cheapest.
        dtype: Forces the stored dtype; by default the cheapest for strings,
            int64 for integers and times.
        width: Tags: room for so many an item; by default the most that occur.
        missing: A number or string that stands for "no value" in the column.
    """

    name: str
    kind: Literal["category", "tags", "int", "float", "timestamp", "bool"]
    column: str | None = None
    encoding: Literal["vocabulary", "hash", "bits"] | None = None
    dtype: str | None = None
    width: int | None = None
    missing: int | float | str | None = None

    def __post_init__(self) -> None:
        check_attribute_name(self.name)

    @property
    def source(self) -> str:
        """The column of the items that it is read from."""
        return self.column or self.name


# Of two-stage searches with a learned similarity.
_DEFAULT_LEARNED_FLOOR = 0.95
_DEFAULT_RECALL_QUERIES = 256

# What warm-up and verification ask in one request.
_LEAST_REQUEST_ROWS = 64


@dataclasses.dataclass(frozen=True)
class FeaturesFile:
    """Raw features of some queries.

    Attributes:
        path: A `.npz` file with an array for each of the query tower's
            features, a query a row.
    """

    path: str


@dataclasses.dataclass(frozen=True)
class RetrieveConfig:
    """What a retrieval returns.

    Attributes:
        k: Results a query.
        algorithm: "masked" scores all rows for a batch, "prefiltered" those
            that pass the filter, with the same result; "quantized" selects by
            codes and rescores; "auto" takes what costs least. With a learned
            similarity: "exact" scores all rows that pass, "bounded" gives the
            same and scores no more than it must, "two_stage" selects
            candidates by something cheaper and scores these.
        candidates: Of "two_stage": by the inner product of the "averaged"
            components, by the best of each pair of "components", or by
            "codes".
        budget: Candidates that "two_stage" scores, at least `k`; by default
            10 times `k`, at least 1,000.
        recall_floor: A learned similarity: nothing is published if
            "two_stage" finds less than this share of the exact results; by
            default 0.95.
        recall_queries: A learned similarity: queries that this is measured
            with: held-out users of the recipe's data, or those of
        recall_features: Queries in a file. Needed with saved towers where a
            signature may search in two stages.
        variants: Further pairs of signatures, `<name>` and
            `<name>_by_embedding`, each with a `name`, a `k`, an `algorithm`
            and a `shortlist` (by default as many times `k` as here), or
            `candidates` and a `budget`.
        return_attributes: Come back with the results.
        max_request_rows: Most rows of one request.
    """

    k: int = 100
    algorithm: Algorithm = "auto"
    candidates: Candidates | None = None
    budget: int | None = None
    recall_floor: float | None = None
    recall_queries: int | None = None
    recall_features: FeaturesFile | None = None
    variants: tuple[Variant, ...] = ()
    return_attributes: tuple[str, ...] = ()
    max_request_rows: int = 1024

    def __post_init__(self) -> None:
        if self.k < 1:
            raise ValueError(f"`k` must be at least 1, got {self.k}")
        for k in (self.k, *(v.k for v in self.variants)):
            if k > MAX_K:
                raise ValueError(f"`k` must be at most {MAX_K}, got {k}")
        for name in ("budget", "recall_queries"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"`{name}` must be at least 1, got {value}")
        floor = self.recall_floor
        if floor is not None and not 0 <= floor <= 1:
            raise ValueError(
                f"`recall_floor` must be from 0 to 1, got {floor:g}"
            )
        check_variants(self.variants)
        if self.max_request_rows < _LEAST_REQUEST_ROWS:
            raise ValueError(
                f"`max_request_rows` must be at least {_LEAST_REQUEST_ROWS}, "
                f"got {self.max_request_rows}"
            )

    @property
    def learned_floor(self) -> float:
        """What the recall of two-stage searches must reach."""
        if self.recall_floor is None:
            return _DEFAULT_LEARNED_FLOOR
        return self.recall_floor

    @property
    def learned_queries(self) -> int:
        """How many queries it is measured with."""
        return self.recall_queries or _DEFAULT_RECALL_QUERIES

    def plans(self, schema: IndexSchema) -> dict[str, Plan]:
        """How each retrieve signature searches, by name."""
        main = Plan(
            self.k,
            self.algorithm,
            candidates=self.candidates,
            budget=self.budget,
        )
        return {
            "retrieve": main,
            **{v.name: v.plan_beside(main, schema) for v in self.variants},
        }


@dataclasses.dataclass(frozen=True)
class BatchingConfig:
    """In-graph batching of queries across requests.

    Attributes:
        max_batch_size: Most queries in one batch.
        timeout_micros: How long the first query waits for others.
        num_threads: Batches worked on at once.
        max_enqueued_batches: Batches that may wait; more is UNAVAILABLE.
    """

    max_batch_size: int = 64
    timeout_micros: int = 500
    num_threads: int = 2
    max_enqueued_batches: int = 100

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            least = 0 if field.name == "timeout_micros" else 1
            if getattr(self, field.name) < least:
                raise ValueError(
                    f"`{field.name}` must be at least {least}, got "
                    f"{getattr(self, field.name)}"
                )
        room = self.max_batch_size * self.max_enqueued_batches
        if room < _LEAST_REQUEST_ROWS:
            raise ValueError(
                "`max_batch_size` times `max_enqueued_batches` must be at "
                f"least {_LEAST_REQUEST_ROWS}, got {room}"
            )


@dataclasses.dataclass(frozen=True)
class UpdateConfig:
    """Live updates of the served index.

    Attributes:
        enabled: False makes a read-only index: one without the signatures
            that change it.
        max_request_rows: Most changes of one request.
    """

    enabled: bool = True
    max_request_rows: int = 10_000

    def __post_init__(self) -> None:
        if self.max_request_rows < 1:
            raise ValueError(
                "`max_request_rows` must be at least 1, got "
                f"{self.max_request_rows}"
            )


@dataclasses.dataclass(frozen=True)
class LogConfig:
    """The change log that the served index follows.

    Attributes:
        partitions: Of the log; by default as many as there are `offsets`,
            or 1.
        offsets: The last record of each partition that the items already
            hold; by default -1, none.
    """

    partitions: int | None = None
    offsets: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        if self.partitions is not None and self.partitions < 1:
            raise ValueError(
                f"`partitions` must be at least 1, got {self.partitions}"
            )
        offsets = self.offsets
        if offsets is None:
            return
        if len(offsets) != (self.partitions or len(offsets)) or not offsets:
            raise ValueError(
                "`offsets` must have one entry for each of the "
                f"{self.partitions or 'partitions, at least 1'}, got "
                f"{len(offsets)}"
            )
        if min(offsets) < -1 or max(offsets) >= 1 << 63:
            raise ValueError(
                "`offsets` must be -1 (nothing) or offsets of the log, got "
                f"{list(offsets)}"
            )

    def initial_offsets(self) -> tuple[int, ...]:
        """The offsets that the index starts with, one a partition.

        >>> LogConfig(partitions=2).initial_offsets()
        (-1, -1)
        """
        if self.offsets is not None:
            return self.offsets
        return (-1,) * (self.partitions or 1)


@dataclasses.dataclass(frozen=True)
class LimitsConfig:
    """What one filter may cost; the defaults are those of `FilterLimits`."""

    max_length: int = FilterLimits.max_length
    max_depth: int = FilterLimits.max_depth
    max_words: int = FilterLimits.max_words

    def __post_init__(self) -> None:
        self.limits()

    def limits(self) -> FilterLimits:
        """The schema's form."""
        return FilterLimits(self.max_length, self.max_depth, self.max_words)


@dataclasses.dataclass(frozen=True)
class FillConfig:
    """The filling of the index.

    Attributes:
        batch_size: Rows a step.
    """

    batch_size: int = 8192

    def __post_init__(self) -> None:
        if self.batch_size < 1:
            raise ValueError(
                f"`batch_size` must be at least 1, got {self.batch_size}"
            )


@dataclasses.dataclass(frozen=True)
class CheckpointConfig:
    """Checkpoints of the filling.

    Attributes:
        every_steps: Steps between two. A checkpoint writes the whole capacity.
    """

    every_steps: int = 20

    def __post_init__(self) -> None:
        if self.every_steps < 1:
            raise ValueError(
                f"`every_steps` must be at least 1, got {self.every_steps}"
            )


@dataclasses.dataclass(frozen=True)
class ProjectorConfig:
    """TensorBoard's embedding projector.

    Attributes:
        rows: Items shown, spread over the index; 0 writes no files.
    """

    rows: int = 2000

    def __post_init__(self) -> None:
        if self.rows < 0:
            raise ValueError(f"`rows` must not be negative, got {self.rows}")


def to_shards(value: int | Shards) -> Shards:
    """How an index is divided, from `shards: 4` or a mapping.

    Raises:
        ConfigError: The number is out of range.

    >>> to_shards(2)
    Shards(count=2, devices=())
    """
    if isinstance(value, Shards):
        return value
    try:
        return Shards(value)
    except ValueError as error:
        raise ConfigError(f"shards: {error}") from error


@dataclasses.dataclass(frozen=True)
class JobConfig:
    """One export job; see the classes of the fields.

    `shards` is how many pieces the index has, each on a GPU of its own where
    there are enough; or a mapping with `count` and `devices`, as
    `lintf.index.shards.Shards` has them.
    """

    name: str
    items: ItemsConfig
    index: IndexConfig = IndexConfig()
    towers: TowersConfig | None = None
    attributes: tuple[AttributeConfig, ...] = ()
    quantization: QuantizationConfig | None = None
    retrieve: RetrieveConfig = RetrieveConfig()
    filter_limits: LimitsConfig = LimitsConfig()
    batching: BatchingConfig | None = None
    update: UpdateConfig = UpdateConfig()
    log: LogConfig = LogConfig()
    fill: FillConfig = FillConfig()
    checkpoint: CheckpointConfig = CheckpointConfig()
    projector: ProjectorConfig = ProjectorConfig()
    shards: int | Shards = 1

    def __post_init__(self) -> None:
        to_shards(self.shards)
        if not _MODEL_NAME.match(self.name):
            raise ConfigError(
                "name: expected letters, digits, and . _ - after the first, "
                f"got {self.name!r}; it is the model's name in requests"
            )
        names = [a.name for a in self.attributes]
        for i, name in enumerate(names):
            if name in names[:i]:
                raise ConfigError(
                    f"attributes[{i}].name: {name!r} is already the name of "
                    f"attributes[{names.index(name)}]"
                )
        for i, name in enumerate(self.retrieve.return_attributes):
            if name not in names:
                raise ConfigError(
                    f"retrieve.return_attributes[{i}]: no attribute {name!r}; "
                    f"there are: {', '.join(names) or 'none'}"
                )
        if self.is_learned:
            self._check_learned()
        else:
            self._check_inner_product()
            self._check_codes()
        self._check_towers()

    def _searches(self) -> list[tuple[str, RetrieveConfig | Variant]]:
        """Where the config says how a signature searches, and how."""
        return [
            ("retrieve", self.retrieve),
            *(
                (f"retrieve.variants[{i}]", variant)
                for i, variant in enumerate(self.retrieve.variants)
            ),
        ]

    def _check_learned(self) -> None:
        """Checks what goes with a learned similarity."""
        index, codes = self.index, self.quantization
        if index.metric != "inner_product":
            raise ConfigError(
                f"index.metric: {index.metric} compares embeddings, but "
                "towers.similarity is a learned one; remove one of them"
            )
        if index.dtype == "none":
            raise ConfigError(
                "index.dtype: none stores codes alone, but a learned "
                "similarity scores the items' components; store them"
            )
        self._check_gate()
        by_codes = False
        for where, search in self._searches():
            if search.algorithm in PLAIN_ALGORITHMS:
                raise ConfigError(
                    f"{where}.algorithm: {search.algorithm} searches by the "
                    "inner product, but towers.similarity is a learned one; "
                    f"take auto, {', '.join(LEARNED_ALGORITHMS)}"
                )
            if search.candidates == "codes":
                by_codes = True
                if codes is None:
                    raise ConfigError(
                        f"{where}.candidates: codes need a `quantization`; "
                        "give one"
                    )
        if codes is None:
            return
        if not by_codes:
            raise ConfigError(
                "quantization: given, but no retrieve signature selects "
                "candidates by codes; remove it, or set retrieve.candidates "
                "to codes"
            )
        for name in ("shortlist", "recall_floor"):
            if getattr(codes, name) is not None:
                other = "budget" if name == "shortlist" else name
                raise ConfigError(
                    f"quantization.{name}: given, but with a learned "
                    f"similarity it is retrieve.{other}"
                )

    def _check_gate(self) -> None:
        """Refuses bounds that the recipe's gate does not have."""
        towers = self.towers
        if towers is None or towers.similarity != "mixture_of_logits":
            return
        gate = dict(towers.options.get("mixture") or {}).get("gate")
        if gate is None or gate in CONVEX_GATES:
            return
        for where, search in self._searches():
            if search.algorithm == "bounded":
                raise ConfigError(
                    f"{where}.algorithm: bounded needs a convex gate "
                    f"({', '.join(CONVEX_GATES)}), got towers.options."
                    f"mixture.gate {gate}; take exact or two_stage"
                )

    @property
    def lacks_queries(self) -> bool:
        """Whether two-stage searches are to be measured with no queries."""
        retrieve = self.retrieve
        return (
            self.is_learned
            and not self.trains
            and retrieve.recall_features is None
            and retrieve.learned_floor > 0
            and any(
                search.algorithm in ("auto", "two_stage")
                for _, search in self._searches()
            )
        )

    def _check_inner_product(self) -> None:
        """Refuses what only learned similarities have."""
        for where, search in self._searches():
            if search.algorithm in LEARNED_ALGORITHMS:
                raise ConfigError(
                    f"{where}.algorithm: {search.algorithm} needs a learned "
                    "similarity; give towers.similarity, or take auto, "
                    f"{', '.join(PLAIN_ALGORITHMS)}"
                )
            for name in ("candidates", "budget"):
                if getattr(search, name) is not None:
                    raise ConfigError(
                        f"{where}.{name}: given, but without a learned "
                        "similarity nothing is searched in two stages so; "
                        "give towers.similarity, or remove it"
                    )
        for name in ("recall_floor", "recall_queries", "recall_features"):
            if getattr(self.retrieve, name) is not None:
                raise ConfigError(
                    f"retrieve.{name}: given, but it is of a learned "
                    f"similarity; that of codes is quantization.{name}"
                )

    def _check_codes(self) -> None:
        codes, alone = self.quantization, self.index.dtype == "none"
        if alone and codes is None:
            raise ConfigError(
                "quantization: required with index.dtype none, which stores "
                "codes alone; give it, or store the embeddings"
            )
        if alone and codes is not None and codes.shortlist is not None:
            raise ConfigError(
                "quantization.shortlist: given, but with index.dtype none "
                "there are no embeddings to rescore a shortlist with; remove "
                "it, or store the embeddings"
            )
        searches = self._searches()
        for i, variant in enumerate(self.retrieve.variants):
            where = f"retrieve.variants[{i}]"
            if variant.shortlist is not None and (alone or codes is None):
                raise ConfigError(
                    f"{where}.shortlist: given, but there are no "
                    f"{'embeddings to rescore it with' if alone else 'codes'}"
                    "; remove it"
                )
        for where, search in searches:
            if search.algorithm == "quantized" and codes is None:
                raise ConfigError(
                    f"{where}.algorithm: quantized needs codes; give a "
                    "`quantization`"
                )
            if search.algorithm in ("masked", "prefiltered") and alone:
                raise ConfigError(
                    f"{where}.algorithm: {search.algorithm} needs the "
                    "embeddings, but with index.dtype none codes are all that "
                    "is stored; take auto or quantized"
                )
        exact = all(
            s.algorithm in ("masked", "prefiltered") for _, s in searches
        )
        if codes is not None and exact:
            raise ConfigError(
                "quantization: given, but no retrieve signature reads the "
                "codes; remove it, or set retrieve.algorithm to auto or "
                "quantized"
            )

    def _check_towers(self) -> None:
        item_tower = self.towers is not None and (
            self.towers.recipe is not None or self.towers.item is not None
        )
        given = self.items.embedding is not None
        if given and item_tower:
            raise ConfigError(
                "items.embedding: given, but `towers` has an item tower that "
                "would compute embeddings; remove one of them"
            )
        if not given and not item_tower:
            raise ConfigError(
                "items.embedding: required without an item tower; name a "
                "`column` of the items or the `path` of a .npy file, or give "
                "`towers.item`"
            )
        if (
            self.towers is not None
            and self.towers.recipe is not None
            and self.items.dataset != self.towers.recipe
        ):
            raise ConfigError(
                f"items.dataset: the recipe {self.towers.recipe!r} trains on "
                f"the data set of that name, got {self.items.dataset!r}"
            )

    def canonical(self) -> str:
        """The config as JSON text, the same for equal configs."""
        return json.dumps(dataclasses.asdict(self), sort_keys=True)

    def identity(self) -> dict[str, Any]:
        """What the built index depends on.

        Where files lie is left out (their content counts), and so is how
        often the job writes checkpoints or what it shows.
        """
        data = json.loads(self.canonical())
        for key in ("checkpoint", "projector", "shards"):
            del data[key]
        # Configs without what came later are what they were before.
        for node, names in (
            (
                data["retrieve"],
                (
                    "candidates",
                    "budget",
                    "recall_floor",
                    "recall_queries",
                    "recall_features",
                ),
            ),
            (data["towers"] or {}, ("similarity", "fine_tune")),
            *(
                (v, ("candidates", "budget"))
                for v in data["retrieve"]["variants"]
            ),
        ):
            for name in names:
                if name in node and node[name] is None:
                    del node[name]
        # An index in one piece is what it was before there were shards.
        if self.sharding.count > 1:
            data["shards"] = dataclasses.asdict(self.sharding)
        towers = data["towers"] or {}
        for node in (
            data["items"],
            data["items"]["embedding"],
            towers.get("query"),
            towers.get("item"),
            towers.get("similarity"),
            data["retrieve"].get("recall_features"),
        ):
            if isinstance(node, dict) and node["path"]:
                node["path"] = "given"
        return data

    @property
    def sharding(self) -> Shards:
        """How the index is divided."""
        return to_shards(self.shards)

    @property
    def is_learned(self) -> bool:
        """Whether a learned similarity compares queries and items."""
        return self.towers is not None and self.towers.is_learned

    @property
    def trains(self) -> bool:
        """Whether towers are trained here."""
        return self.towers is not None and self.towers.recipe is not None


class _Loader(yaml.SafeLoader):
    """Refuses a key that stands twice, of which YAML would take the last."""

    def construct_mapping(self, node: Any, deep: bool = False) -> Any:
        keys = [self.construct_object(k, deep=True) for k, _ in node.value]
        for i, key in enumerate(keys):
            if key in keys[:i]:
                mark = node.value[i][0].start_mark
                raise yaml.constructor.ConstructorError(
                    None, None, f"the key {key!r} stands twice", mark
                )
        return super().construct_mapping(node, deep)


def load_config(
    path: str | pathlib.Path,
    overrides: Sequence[str] = (),
    seed: int | None = None,
) -> JobConfig:
    """Reads a config file.

    Args:
        path: The YAML file. Paths inside it are relative to its folder.
        overrides: `key.path=value`, the value in YAML; a list's entries are
            numbered (`attributes.0.dtype=int16`). Paths given here are
            relative to the working directory.
        seed: Replaces `towers.seed`.

    Raises:
        ConfigError: The file is missing or not YAML, or the config is wrong.
    """
    path = pathlib.Path(path)
    try:
        data = yaml.load(path.read_text(encoding="utf-8"), _Loader)
    except OSError as error:
        raise ConfigError(
            f"cannot read the config {path}: {error.strerror or error}"
        ) from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is not valid YAML: {error}") from error
    if not isinstance(data, dict):
        raise ConfigError(
            f"{path}: expected a mapping of keys to values, got "
            f"{type(data).__name__}"
        )
    _resolve_paths(data, path.resolve().parent)
    for override in overrides:
        _override(data, override)
    if seed is not None:
        if not isinstance(data.get("towers"), dict):
            raise ConfigError(
                "--seed: this config trains no towers, so nothing is random"
            )
        data["towers"]["seed"] = seed
    _resolve_paths(data, pathlib.Path.cwd())
    try:
        return to_dataclass(JobConfig, data)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from error


def _override(data: dict[str, Any], text: str) -> None:
    key, separator, value = text.partition("=")
    if not separator or not key:
        raise ConfigError(
            f"--set: expected key.path=value, got {text!r}; for example "
            "retrieve.k=50"
        )
    *parents, last = key.split(".")
    node: Any = data
    for i, part in enumerate(parents):
        node = _child(node, part, ".".join(parents[: i + 1]))
    try:
        parsed = yaml.safe_load(value)
    except yaml.YAMLError as error:
        raise ConfigError(
            f"--set {key}: not a YAML value: {value!r}"
        ) from error
    if isinstance(node, list):
        node[_position(node, last, key)] = parsed
    else:
        node[last] = parsed


def _child(node: Any, part: str, where: str) -> Any:
    if isinstance(node, list):
        return node[_position(node, part, where)]
    if node.get(part) is None:
        node[part] = {}
    child = node[part]
    if not isinstance(child, dict | list):
        raise ConfigError(
            f"--set: {where} is {child!r}, which has no keys below it"
        )
    return child


def _position(node: list[Any], part: str, where: str) -> int:
    if not part.isdigit() or int(part) >= len(node):
        raise ConfigError(
            f"--set {where}: expected the number of an entry, 0 to "
            f"{len(node) - 1}, got {part!r}"
        )
    return int(part)


def _resolve_paths(data: Mapping[str, Any], folder: pathlib.Path) -> None:
    """Makes the paths of the config absolute, where they are relative."""
    for keys in (
        ("items",),
        ("items", "embedding"),
        ("towers", "query"),
        ("towers", "item"),
        ("towers", "similarity"),
        ("retrieve", "recall_features"),
    ):
        node: Any = data
        for key in keys:
            node = node.get(key) if isinstance(node, dict) else None
        if isinstance(node, dict) and isinstance(node.get("path"), str):
            node["path"] = str((folder / node["path"]).resolve())
