# SPDX-License-Identifier: Apache-2.0
"""A new index without export data: from a config and the whole change log."""

from __future__ import annotations

import dataclasses
import pathlib
from typing import Any, Literal

import numpy as np
import yaml

from export import snapshot
from export.config import (
    BatchingConfig,
    IndexConfig,
    LimitsConfig,
    QuantizationConfig,
    RetrieveConfig,
    UpdateConfig,
    to_shards,
)
from export.errors import JobError
from export.parse import ConfigError, to_dataclass
from lintf.index import restore
from lintf.index.batching import Batching
from lintf.index.schema import (
    Attribute,
    IndexSchema,
    check_attribute_name,
    infer_attribute,
)
from lintf.index.sharded import new_index
from lintf.index.shards import Shards
from lintf.similarity import saved
from lintf.similarity.spec import SimilaritySpec


@dataclasses.dataclass(frozen=True)
class AttributeConfig:
    """One filterable attribute. No items tell how to store it.

    Attributes:
        name: As filters call it.
        kind: What its values are.
        vocabulary: The known strings; another one is stored as "other".
            Without it strings are stored as hashes, which filters find and
            results cannot show.
        encoding: Forces an encoding of strings; by default the cheapest.
        dtype: Forces the stored dtype.
        width: Tags that are not stored as bits: room for so many an item.
    """

    name: str
    kind: Literal["category", "tags", "int", "float", "timestamp", "bool"]
    vocabulary: tuple[str, ...] = ()
    encoding: Literal["vocabulary", "hash", "bits"] | None = None
    dtype: str | None = None
    width: int | None = None

    def __post_init__(self) -> None:
        check_attribute_name(self.name)
        attribute = self.attribute()
        if (
            attribute.kind == "tags"
            and attribute.encoding != "bits"
            and self.width is None
        ):
            raise ValueError(
                f"attribute {self.name!r}: `width` is required for tags that "
                f"are stored as {attribute.encoding}: the most of one item"
            )

    def attribute(self) -> Attribute:
        """The schema's form."""
        words = self.vocabulary
        strings = self.kind in ("category", "tags")
        if words and not strings:
            raise ValueError(
                f"attribute {self.name!r}: kind {self.kind} has no vocabulary"
            )
        encoding = self.encoding
        if strings and encoding is None and not words:
            encoding = "hash"
        return infer_attribute(
            self.name,
            self.kind,
            [words] if self.kind == "tags" else words,
            encoding=encoding,
            dtype=self.dtype,
            width=self.width,
        )


@dataclasses.dataclass(frozen=True)
class BootstrapConfig:
    """A new index; the classes of the fields are those of an export job.

    Attributes:
        dim: Length of the embeddings.
        index: `capacity` is required, here or on the command line.
        attributes: Of the items.
        quantization: Makes codes.
        retrieve: What a retrieval returns.
        filter_limits: What a filter may cost.
        batching: Batches concurrent requests.
        update: Live updates.
        shards: How the index is divided; by default as what it is to be like,
            or in one piece.
        similarity: A directory that `lintf.similarity.saved.save` wrote: what
            compares a query with an item, whose vectors have `dim` numbers
            then. By default that of what it is to be like; else the metric.
    """

    dim: int
    index: IndexConfig = IndexConfig()
    attributes: tuple[AttributeConfig, ...] = ()
    quantization: QuantizationConfig | None = None
    retrieve: RetrieveConfig = RetrieveConfig()
    filter_limits: LimitsConfig = LimitsConfig()
    batching: BatchingConfig | None = None
    update: UpdateConfig = UpdateConfig()
    shards: int | Shards | None = None
    similarity: str | None = None

    def __post_init__(self) -> None:
        if self.similarity is None:
            # With one, `bootstrap` does.
            self.schema()
        # Says now if they are wrong.
        _ = self.sharding

    @property
    def sharding(self) -> Shards | None:
        """How the index is divided, where the config says so."""
        return None if self.shards is None else to_shards(self.shards)

    def schema(self, similarity: SimilaritySpec | None = None) -> IndexSchema:
        """The schema of the index.

        Args:
            similarity: What scores its items, if it is not the metric.

        Raises:
            ValueError: The similarity does not fit the config.
        """
        codes = self.quantization
        coded = self.dim if similarity is None else similarity.components_dim
        return IndexSchema(
            dim=self.dim,
            metric=self.index.metric,
            id_dtype=self.index.id_dtype,
            attributes=tuple(a.attribute() for a in self.attributes),
            limits=self.filter_limits.limits(),
            dtype=self.index.dtype,
            quantization=(
                None if codes is None else codes.resolve(coded, self.retrieve.k)
            ),
            similarity=similarity,
        )

    def settings(self) -> dict[str, Any]:
        """Arguments of `ServedIndex`."""
        retrieve, batching = self.retrieve, self.batching
        return {
            "k": retrieve.k,
            "algorithm": retrieve.algorithm,
            "candidates": retrieve.candidates,
            "budget": retrieve.budget,
            "variants": retrieve.variants,
            "return_attributes": retrieve.return_attributes,
            "max_request_rows": retrieve.max_request_rows,
            "batching": batching and Batching(**dataclasses.asdict(batching)),
            "read_only": not self.update.enabled,
            "max_update_rows": self.update.max_request_rows,
        }


def load_config(path: pathlib.Path) -> BootstrapConfig:
    """Reads a config file.

    Raises:
        ConfigError: It is missing or not YAML, or the config is wrong.
    """
    try:
        data = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(
            f"cannot read the config {path}: {error.strerror or error}"
        ) from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is not valid YAML: {error}") from error
    return to_dataclass(BootstrapConfig, data)


def bootstrap(
    base: pathlib.Path,
    log: snapshot.Log,
    *,
    config: BootstrapConfig | None = None,
    like: pathlib.Path | None = None,
    capacity: int | None = None,
) -> pathlib.Path:
    """Writes the first version of a model, or another one from nothing.

    Args:
        base: The model's base path.
        log: The whole log: of a compacted one at least the last record of
            every item.
        config: What the index is to be; None for what `like` is.
        like: A version whose towers are taken.
        capacity: Rows to allocate; None for as many as `config` or `like` has.

    Returns:
        The version's directory.

    Raises:
        JobError: It can't be done; nothing was published.
        SourceError: The log can't be read, or has lost its beginning.
        ValueError: The config and the version do not fit.
    """
    towers: dict[str, Any] = {}
    settings: dict[str, Any] = {}
    sharding = Shards()
    spec: SimilaritySpec | None = None
    weights: dict[str, np.ndarray] = {}
    if like is not None:
        loaded, settings = restore.load(like)
        sharding = restore.sharding_of(like)
        towers, shape = restore.towers(loaded), restore.shape_of(loaded)
        schema, capacity = shape.schema, capacity or shape.capacity
        spec, weights = schema.similarity, restore.similarity_weights(loaded)
        del loaded
    if config is not None:
        if config.similarity is not None:
            spec, weights = _load_similarity(config.similarity)
        schema, settings = config.schema(spec), config.settings()
        sharding = config.sharding or sharding
        capacity = capacity or config.index.capacity
    elif like is None:
        raise JobError("a config or a version to be like must be given")
    if capacity is None:
        raise JobError(
            "the index needs a capacity: give --capacity, or index.capacity "
            "in the config"
        )
    index = new_index(
        schema,
        capacity,
        sharding,
        log_partitions=len(log.source.partitions()),
    )
    if spec is not None:
        index.set_similarity_weights(weights)
    return snapshot.write_first(base, index, {**settings, **towers}, log)


def _load_similarity(
    path: str,
) -> tuple[SimilaritySpec, dict[str, np.ndarray]]:
    try:
        return saved.load(path)
    except (OSError, ValueError) as error:
        raise JobError(f"similarity: {error}") from error
