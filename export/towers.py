# SPDX-License-Identifier: Apache-2.0
"""The towers of a job: trained here, or loaded from disk.

Towers trained here are saved first and used from there, so that a job that was
cut off goes on with the very same function.
"""

from __future__ import annotations

import dataclasses
import hashlib
import pathlib
import shutil
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from export.config import (
    JobConfig,
    SavedSimilarity,
    SavedTower,
    TowersConfig,
)
from export.errors import JobError
from export.parse import to_dataclass
from export.publish import fsync_tree
from export.sources import file_digest
from lintf.similarity import saved
from lintf.similarity.spec import SimilaritySpec

OUTPUT = "embedding"


class Similarity(NamedTuple):
    """A learned similarity.

    Attributes:
        spec: Its shape.
        weights: Float32 arrays by the names of `spec.weight_shapes()`.
    """

    spec: SimilaritySpec
    weights: Mapping[str, np.ndarray]


class LoadedTower(tf.Module):
    """A saved tower, called on a dict of features.

    Attributes:
        feature_specs: Input name -> `tf.TensorSpec` with a leading None.
        dim: Length of the embeddings.
    """

    feature_specs: dict[str, tf.TensorSpec]
    dim: int

    def __call__(self, features: Mapping[str, Any]) -> tf.Tensor:
        """`{feature: [batch, ...]}` -> `[batch, dim]` float32."""
        raise NotImplementedError


class SavedModelTower(LoadedTower):
    """A signature of a SavedModel."""

    def __init__(self, tower: SavedTower) -> None:
        super().__init__()
        path = tower.path
        try:
            self._model = tf.saved_model.load(path)
        except (OSError, tf.errors.OpError) as error:
            raise JobError(
                f"cannot load the SavedModel {path}: {error}"
            ) from error
        known = sorted(self._model.signatures)
        if tower.signature not in known:
            raise JobError(
                f"{path}: no signature {tower.signature!r}; there are: "
                f"{', '.join(known) or 'none'}"
            )
        self._function = self._model.signatures[tower.signature]
        inputs = self._function.structured_input_signature[1]
        self.feature_specs = {
            name: tf.TensorSpec(spec.shape, spec.dtype, name=name)
            for name, spec in sorted(inputs.items())
        }
        outputs = self._function.structured_outputs
        self._output = tower.output or _only(outputs, path)
        if self._output not in outputs:
            raise JobError(
                f"{path}: the signature {tower.signature!r} has no output "
                f"{self._output!r}; there are: {', '.join(sorted(outputs))}"
            )
        self.dim = _dim(outputs[self._output].shape, path)
        _check_specs(self.feature_specs, path)

    def __call__(self, features: Mapping[str, Any]) -> tf.Tensor:
        inputs = {
            name: tf.convert_to_tensor(features[name], spec.dtype)
            for name, spec in self.feature_specs.items()
        }
        return tf.cast(self._function(**inputs)[self._output], tf.float32)


class KerasTower(LoadedTower):
    """A Keras model from a `.keras` file."""

    def __init__(self, tower: SavedTower) -> None:
        super().__init__()
        path = tower.path
        try:
            self._model = tf.keras.models.load_model(path, compile=False)
        except Exception as error:
            raise JobError(
                f"cannot load the Keras model {path} (custom layers need a "
                f"SavedModel: model.export): {error}"
            ) from error
        self.feature_specs = {
            tensor.name.split(":")[0]: tf.TensorSpec(
                tensor.shape, tensor.dtype, name=tensor.name.split(":")[0]
            )
            for tensor in self._model.inputs
        }
        self._takes_dict = isinstance(self._model.input, dict)
        if self._takes_dict:
            self.feature_specs = {
                name: tf.TensorSpec(tensor.shape, tensor.dtype, name=name)
                for name, tensor in sorted(self._model.input.items())
            }
        shape = tf.TensorShape(self._model.output_shape)
        self.dim = _dim(shape, path)
        _check_specs(self.feature_specs, path)

    def __call__(self, features: Mapping[str, Any]) -> tf.Tensor:
        inputs: Any = {
            name: tf.convert_to_tensor(features[name], spec.dtype)
            for name, spec in self.feature_specs.items()
        }
        if not self._takes_dict:
            inputs = list(inputs.values())
            inputs = inputs[0] if len(inputs) == 1 else inputs
        return tf.cast(self._model(inputs, training=False), tf.float32)


@dataclasses.dataclass(frozen=True)
class Towers:
    """Where a job's towers lie, if it has them, and their similarity."""

    query: SavedTower | None = None
    item: SavedTower | None = None
    similarity: SavedSimilarity | None = None

    def fingerprint(self) -> str:
        """The same for the same files.

        Raises:
            JobError: One of them cannot be read.
        """
        digests = [
            _digest("query", self.query),
            _digest("item", self.item),
        ]
        if self.similarity is not None:
            digests.append(_digest("similarity", self.similarity))
        return hashlib.sha256("".join(digests).encode()).hexdigest()


def _digest(name: str, part: SavedTower | SavedSimilarity | None) -> str:
    if part is None:
        return ""
    try:
        return file_digest(pathlib.Path(part.path))
    except OSError as error:
        raise JobError(
            f"towers.{name}: `path` must be what can be read, got {part.path}: "
            f"{error}"
        ) from error


def load(tower: SavedTower) -> LoadedTower:
    """Loads a SavedModel directory or a `.keras` file.

    Raises:
        JobError: It is not there, or does not map features to an embedding.
    """
    path = pathlib.Path(tower.path)
    if path.suffix == ".keras" and path.is_file():
        return KerasTower(tower)
    if not (path / "saved_model.pb").is_file():
        raise JobError(
            f"no tower at {path}: expected a SavedModel directory or a .keras "
            "file"
        )
    return SavedModelTower(tower)


def load_similarity(
    prepared: Towers,
    query_tower: LoadedTower | None,
    item_tower: LoadedTower | None,
) -> Similarity | None:
    """Loads the similarity that the towers' outputs are for, if there is one.

    Raises:
        JobError: It is not there, or does not fit the towers.
    """
    if prepared.similarity is None:
        return None
    path = prepared.similarity.path
    try:
        spec, weights = saved.load(path)
    except (OSError, ValueError) as error:
        raise JobError(f"towers.similarity: {error}") from error
    for side, tower, dim in (
        ("query", query_tower, spec.query_dim),
        ("item", item_tower, spec.item_dim),
    ):
        if tower is None or tower.dim != dim:
            got = "no tower" if tower is None else f"one of {tower.dim}"
            raise JobError(
                f"towers.similarity: {path} needs a {side} tower with an "
                f"output of {dim} numbers, got {got}"
            )
    return Similarity(spec, weights)


def prepare(config: JobConfig, work: pathlib.Path) -> Towers:
    """Finds the towers of a job, training them first if it says so.

    Args:
        config: The job's.
        work: A folder for checkpoints and trained towers; what it holds from
            an earlier, cut off run is taken up.
    """
    towers = config.towers
    if towers is None:
        return Towers()
    if towers.recipe is None:
        similarity = towers.similarity
        assert not isinstance(similarity, str)
        return Towers(towers.query, towers.item, similarity)
    folder = work / _settings(towers)
    prepared = Towers(
        SavedTower(str(folder / "query")),
        SavedTower(str(folder / "item")),
        SavedSimilarity(str(folder / "similarity"))
        if towers.is_learned
        else None,
    )
    parts = (prepared.query, prepared.item, prepared.similarity)
    if not all(p is None or pathlib.Path(p.path).is_dir() for p in parts):
        trained = _train(towers, training_folder(towers, work))
        save_tower(trained.query, folder / "query")
        save_tower(trained.item, folder / "item")
        if trained.similarity is not None:
            save_similarity(trained.similarity, folder / "similarity")
    return prepared


def training_folder(towers: TowersConfig, work: pathlib.Path) -> pathlib.Path:
    """Where a job trains these towers.

    Args:
        towers: With a recipe.
        work: As `prepare` takes it.
    """
    return work / _settings(towers) / "training"


def _settings(towers: TowersConfig) -> str:
    """A short name for these training settings."""
    text = repr(dataclasses.asdict(towers))
    return f"{towers.recipe}-{hashlib.sha256(text.encode()).hexdigest()[:12]}"


def _train(towers: TowersConfig, folder: pathlib.Path) -> Any:
    from lintf import towers as library
    from lintf.datasets import movielens_100k

    settings: dict[str, Any] = {**towers.options, "seed": towers.seed}
    if towers.epochs is not None:
        settings["epochs"] = towers.epochs
    if towers.similarity is not None:
        settings["similarity"] = towers.similarity
    recipe = to_dataclass(library.TowerConfig, settings, "towers.options")
    data = movielens_100k()
    trained = library.train(recipe, data, folder, part=towers.part)
    if towers.fine_tune is None:
        return trained
    return library.fine_tune(
        trained,
        recipe,
        data,
        folder / "fine_tuning_logs",
        part=towers.part,
        **dataclasses.asdict(towers.fine_tune),
    )


def save_similarity(similarity: Any, path: pathlib.Path) -> None:
    """Saves a similarity trained here; complete or not at all."""
    unfinished = path.with_name(path.name + ".part")
    shutil.rmtree(unfinished, ignore_errors=True)
    from lintf.similarity.layers import weight_values

    weights = weight_values(similarity.scoring_weights())
    saved.save(similarity.spec, weights, unfinished)
    fsync_tree(unfinished)
    shutil.rmtree(path, ignore_errors=True)
    unfinished.rename(path)


def save_tower(tower: Any, path: pathlib.Path) -> None:
    """Saves a tower trained here; complete or not at all."""
    unfinished = path.with_name(path.name + ".part")
    shutil.rmtree(unfinished, ignore_errors=True)

    def embed(**features: tf.Tensor) -> dict[str, tf.Tensor]:
        return {OUTPUT: tower(features, training=False)}

    # Its weights are all that the function needs; tracking the model itself
    # would save Keras' notion of it too, which nothing here reads.
    module = tf.Module()
    module.weights = list(tower.weights)
    signature = tf.function(embed, autograph=False).get_concrete_function(
        **{
            name: tf.TensorSpec(spec.shape, spec.dtype, name=name)
            for name, spec in tower.feature_specs.items()
        }
    )
    tf.saved_model.save(
        module, str(unfinished), signatures={"serving_default": signature}
    )
    fsync_tree(unfinished)
    shutil.rmtree(path, ignore_errors=True)
    unfinished.rename(path)


def _only(outputs: Mapping[str, Any], path: str) -> str:
    if len(outputs) != 1:
        raise JobError(
            f"{path}: the signature has the outputs "
            f"{', '.join(sorted(outputs))}; say in the config which one is "
            "the embedding (`output`)"
        )
    return next(iter(outputs))


def _dim(shape: tf.TensorShape, path: str) -> int:
    if shape.rank != 2 or shape[1] is None:
        raise JobError(
            f"{path}: expected an output [batch, dim] with a known dim, got "
            f"shape {shape}"
        )
    return int(shape[1])


def _check_specs(specs: Mapping[str, tf.TensorSpec], path: str) -> None:
    for name, spec in specs.items():
        if spec.shape.rank is None or spec.shape.rank < 1 or spec.shape[0]:
            raise JobError(
                f"{path}: expected the input {name!r} to have a known rank and "
                f"a leading batch dimension of any size, got shape {spec.shape}"
            )
