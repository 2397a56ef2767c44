# SPDX-License-Identifier: Apache-2.0
"""The two towers for MovieLens: history and user, film and attributes."""

import dataclasses
import typing
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from lintf.datasets.movielens import MovieLens
from lintf.towers import layers
from lintf.towers.options import (
    ClusterOptions,
    HadamardOptions,
    MixtureOptions,
    NegativeOptions,
    SimilarityKind,
)
from lintf.towers.tower import Tower

# Film years come in bands that hold about as many ratings each; ages come in
# the seven groups that MovieLens' own later releases use.
_YEAR_BANDS = (
    *range(1930, 1980, 10),
    *(1975, 1980, 1983, 1986, 1988),
    *range(1990, 1999),
)
_AGE_BANDS = (18, 25, 35, 45, 50, 56)


@dataclasses.dataclass(frozen=True)
class TowerConfig:
    """Shape and training of the two towers.

    The inner product's defaults were chosen on the validation items of
    MovieLens-100K.

    Attributes:
        dim: Width of both embeddings, the bias's dimension included.
        hidden: Width of the query tower's hidden layer.
        history_length: Newest items that the query tower looks at.
        num_newest: How many of these enter one by one, besides the pooled
            vector.
        dropout: Share of a layer's inputs dropped at training; by default
            what was chosen for the similarity.
        id_dropout: Share of user ids forgotten at training, so that the tower
            serves unknown users.
        epochs: Passes over the training examples; by default what was chosen
            for the similarity.
        pretrain_epochs: Passes before these, which train the towers by their
            inner product; by default what was chosen for the similarity.
        batch_size: Examples a step.
        learning_rate: Where the cosine decay starts from; by default what was
            chosen for the similarity.
        weight_decay: AdamW's, relative to the learning rate.
        mask_seen: Leave the items of the history out of the softmax, as they
            are left out of what is retrieved.
        item_ids: Whether a film's id tells anything.
        item_traits: Whether its genres and year do.
        item_id_dropout: Share of films' ids forgotten at training, so that
            their traits learn to do without.
        similarity: What compares a query with an item: "dot", the inner
            product of these towers, or a learned one on top of them.
        mixture: Of "mixture_of_logits".
        hadamard: Of "hadamard_mlp".
        clusters: Of either.
        negatives: What a positive is compared with at training.
        seed: Of every random draw.
    """

    dim: int = 64
    hidden: int = 64
    history_length: int = 50
    num_newest: int = 3
    dropout: float | None = None
    id_dropout: float = 0.1
    epochs: int | None = None
    pretrain_epochs: int | None = None
    batch_size: int = 512
    learning_rate: float | None = None
    weight_decay: float = 1e-4
    mask_seen: bool = True
    item_ids: bool = True
    item_traits: bool = True
    item_id_dropout: float = 0.0
    similarity: SimilarityKind = "dot"
    mixture: MixtureOptions = MixtureOptions()
    hadamard: HadamardOptions = HadamardOptions()
    clusters: ClusterOptions = ClusterOptions()
    negatives: NegativeOptions = NegativeOptions()
    seed: int = 0

    def __post_init__(self) -> None:
        # As they come from a command line or a config file.
        for name, kind in _NESTED.items():
            value = getattr(self, name)
            if isinstance(value, Mapping):
                object.__setattr__(self, name, _options(kind, name, value))
        self._check_similarity()
        for name, chosen in _CHOSEN[self.similarity].items():
            if getattr(self, name) is None:
                object.__setattr__(self, name, chosen)
        self._check_pretraining()
        for name in ("hidden", "history_length", "num_newest", "batch_size"):
            if getattr(self, name) < 1:
                raise ValueError(
                    f"`{name}` must be at least 1, got {getattr(self, name)}"
                )
        if self.dim < 2 or self.num_epochs < 0:
            raise ValueError(
                "`dim` must be at least 2 (one dimension is the bias) and "
                f"`epochs` at least 0, got {self.dim} and {self.epochs}"
            )
        if self.num_newest > self.history_length:
            raise ValueError(
                f"`num_newest` ({self.num_newest}) must not exceed "
                f"`history_length` ({self.history_length})"
            )
        if self.negatives.hard_epochs > self.num_epochs:
            raise ValueError(
                f"`negatives.hard_epochs` ({self.negatives.hard_epochs}) must "
                f"not exceed `epochs` ({self.num_epochs})"
            )

    @property
    def num_epochs(self) -> int:
        """`epochs`, which is set by now."""
        assert self.epochs is not None
        return self.epochs

    @property
    def num_pretrain_epochs(self) -> int:
        """`pretrain_epochs`, which is set by now."""
        assert self.pretrain_epochs is not None
        return self.pretrain_epochs

    def _check_pretraining(self) -> None:
        if self.num_pretrain_epochs < 0:
            raise ValueError(
                "`pretrain_epochs` must be at least 0, got "
                f"{self.pretrain_epochs}"
            )
        if self.similarity == "dot" and self.pretrain_epochs:
            raise ValueError(
                "`pretrain_epochs` train the inner product that a learned "
                'similarity starts from, but `similarity` is "dot"; set '
                f"`epochs`, got {self.pretrain_epochs}"
            )
        if self.clusters.count and not self.pretrain_epochs:
            raise ValueError(
                "`clusters` are found by towers that are trained: "
                "`pretrain_epochs` must be at least 1, got 0"
            )

    def _check_similarity(self) -> None:
        known = typing.get_args(SimilarityKind)
        if self.similarity not in known:
            raise ValueError(
                f"`similarity` must be one of {', '.join(known)}, got "
                f"{self.similarity!r}"
            )
        if self.similarity == "dot" and self.clusters.count:
            raise ValueError(
                "`clusters` are components of a learned similarity, but "
                '`similarity` is "dot"; choose another, or no clusters'
            )
        if self.mixture.newest_components > self.num_newest:
            raise ValueError(
                "`mixture.newest_components` "
                f"({self.mixture.newest_components}) must not exceed "
                f"`num_newest` ({self.num_newest})"
            )
        if not (self.item_ids or self.item_traits):
            raise ValueError(
                "`item_ids` and `item_traits` must not both be false: nothing "
                "would tell films apart"
            )


# What these mean where they are not given, chosen on the validation items of
# MovieLens-100K by one seed. A learned similarity takes up the training of the
# inner product where that ends, as the papers' take trained embeddings.
_CHOSEN: dict[str, dict[str, Any]] = {
    "dot": {
        "epochs": 13,
        "pretrain_epochs": 0,
        "learning_rate": 2e-3,
        "dropout": 0.3,
    },
    "hadamard_mlp": {
        "epochs": 4,
        "pretrain_epochs": 13,
        "learning_rate": 1e-3,
        "dropout": 0.3,
    },
    "mixture_of_logits": {
        "epochs": 2,
        "pretrain_epochs": 13,
        "learning_rate": 3e-4,
        "dropout": 0.5,
    },
}
_NESTED = {
    "mixture": MixtureOptions,
    "hadamard": HadamardOptions,
    "clusters": ClusterOptions,
    "negatives": NegativeOptions,
}


def _options(kind: Any, name: str, values: Mapping[str, Any]) -> Any:
    known = [field.name for field in dataclasses.fields(kind)]
    unknown = sorted(set(values) - set(known))
    if unknown:
        raise ValueError(
            f"`{name}` has no option {unknown[0]!r}; there are: "
            f"{', '.join(known)}"
        )
    return kind(**values)


class ItemTower(Tower):
    """A film's id, genres and year, as one vector and a bias.

    Features: `id` int64 `[B]`; `genres` string `[B, G]`, padded with "";
    `year` int64 `[B]`, 0 or less where missing. An unknown id, genre or a
    missing year adds nothing, so a new film gets what its other features say.
    """

    def __init__(
        self,
        config: TowerConfig,
        ids: Sequence[int],
        genres: Sequence[str],
        genres_per_item: int,
        **kwargs: Any,
    ):
        """Makes the tower with random weights.

        Args:
          config: the towers' shape and seed.
          ids: known films.
          genres: known genres.
          genres_per_item: width `G` of the feature `genres`.
          **kwargs: as for every Keras model.
        """
        super().__init__(config.dim, name="item_tower", **kwargs)
        seed = 1000 * config.seed
        width = config.dim - 1
        self._genres_per_item = genres_per_item
        self._uses_ids = config.item_ids
        self._uses_traits = config.item_traits
        self._id_lookup = layers.VocabularyLookup(ids, name="id_lookup")
        self._genre_lookup = layers.VocabularyLookup(
            genres, name="genre_lookup"
        )
        self._id = layers.OptionalEmbedding(
            len(ids), width, seed=seed + 1, name="id"
        )
        self._forget = layers.StatelessDropout(
            config.item_id_dropout, seed=seed + 7, scale=False, name="forget"
        )
        self._bias = layers.OptionalEmbedding(
            len(ids), 1, stddev=0.0, seed=seed + 3, name="bias"
        )
        self._traits = self.add_weight(
            shape=(self.num_traits, width),
            initializer=tf.keras.initializers.RandomNormal(
                stddev=0.05, seed=seed + 5
            ),
            name="traits",
        )
        self.built = True

    @property
    def num_traits(self) -> int:
        """How many genres and year bands there are."""
        return self._genre_lookup.vocabulary_size + len(_YEAR_BANDS) + 1

    @property
    def feature_specs(self) -> dict[str, tf.TensorSpec]:
        """Features by name."""
        return {
            "id": tf.TensorSpec([None], tf.int64, name="id"),
            "genres": tf.TensorSpec(
                [None, self._genres_per_item], tf.string, name="genres"
            ),
            "year": tf.TensorSpec([None], tf.int64, name="year"),
        }

    def embed(
        self, features: Mapping[str, tf.Tensor], training: bool
    ) -> tf.Tensor:
        """Adds up the features' vectors."""
        return self.parts(features, training).embedding

    def parts(
        self, features: Mapping[str, tf.Tensor], training: bool
    ) -> "ItemParts":
        """Makes the embedding, and what it is made of."""
        rows = self._id_lookup(features["id"])
        if training:
            # Never the row of another: a forgotten film is an unknown one.
            kept = self._forget(
                tf.ones(tf.shape(rows), tf.float32), training=True
            )
            rows = tf.where(kept > 0, rows, 0)
        traits = self.traits(features["genres"], features["year"])
        vector = self.vectors(rows, traits)
        if self._uses_ids:
            bias = self._bias(rows)
        else:
            bias = tf.zeros_like(vector[:, :1])
        return ItemParts(
            vector=vector,
            embedding=tf.concat([vector, bias], axis=1),
            traits=traits,
        )

    def vectors(self, rows: tf.Tensor, traits: tf.Tensor) -> tf.Tensor:
        """Adds up the vectors of films' ids and traits, without the bias.

        Args:
          rows: `[...]` int32, 0 for an unknown film.
          traits: `[..., num_traits]` float32, as `traits` makes them.

        Returns:
          `[..., dim - 1]` float32.
        """
        parts = []
        if self._uses_ids:
            parts.append(self._id(rows))
        if self._uses_traits:
            table = tf.convert_to_tensor(self._traits)
            parts.append(tf.tensordot(traits, table, axes=1))
        return tf.add_n(parts)

    def traits(self, genres: tf.Tensor, year: tf.Tensor) -> tf.Tensor:
        """Marks genres and year band with ones: `[N, num_traits]` float32.

        Args:
          genres: `[N, G]` string.
          year: `[N]` int64.
        """
        num_genres = self._genre_lookup.vocabulary_size
        # Number 0, unknown or missing, becomes -1, which has no one.
        genre_marks = tf.reduce_max(
            tf.one_hot(self._genre_lookup(genres) - 1, num_genres), axis=1
        )
        year_marks = tf.one_hot(
            _band(year, _YEAR_BANDS) - 1, len(_YEAR_BANDS) + 1
        )
        return tf.concat([genre_marks, year_marks], axis=1)


class ItemParts(NamedTuple):
    """What the item tower makes of features.

    Attributes:
      vector: `[B, dim - 1]`, without the bias.
      embedding: `[B, dim]`: the vector and the bias.
      traits: `[B, num_traits]`: ones at the film's genres and year band.
    """

    vector: tf.Tensor
    embedding: tf.Tensor
    traits: tf.Tensor


class QueryParts(NamedTuple):
    """What the query tower makes of features.

    Attributes:
      vector: `[B, dim - 1]`, without the 1 for the items' bias.
      inputs: `[B, num_inputs]`: what the vector is a linear function of, the
        hidden layer and the history.
      newest: `[B, num_newest, dim - 1]`: the newest films, newest first.
      user: `[B, dim - 1]`: what is known about the user but the history.
    """

    vector: tf.Tensor
    inputs: tf.Tensor
    newest: tf.Tensor
    user: tf.Tensor


class QueryTower(Tower):
    """A user's newest films, in order, and what is known about the user.

    Features: `user_id` int64 `[B]`; `history` int64 `[B, L]`, film ids, oldest
    first, padded with -1; `age` int64 `[B]`, years, 0 or less where missing;
    `gender` string `[B]`; `occupation` string `[B]`. Unknown films are skipped;
    other unknown values add nothing.

    The embedding is `W_p p + sum_k W_k h_k + MLP([p, h_0, h_1, ..., user])`,
    with `h_k` the vector of the newest film but `k` and `p` the pooled history
    (`layers.RecentItems`), and 1 in the bias's dimension. The films' vectors
    are those of the item tower, without the bias.
    """

    def __init__(
        self,
        config: TowerConfig,
        item_tower: ItemTower,
        catalogue: Mapping[str, np.ndarray],
        user_ids: Sequence[int],
        genders: Sequence[str],
        occupations: Sequence[str],
        **kwargs: Any,
    ):
        """Makes the tower with random weights.

        Args:
          config: the towers' shape and seed.
          item_tower: whose vectors the films of a history have.
          catalogue: the item tower's features of the films that a history may
            hold.
          user_ids: known users.
          genders: known values.
          occupations: known values.
          **kwargs: as for every Keras model.
        """
        super().__init__(config.dim, name="query_tower", **kwargs)
        seed = 1000 * config.seed + 500
        width = config.dim - 1
        self._history_length = config.history_length
        self._item_tower = item_tower
        self._item_lookup = layers.VocabularyLookup(
            catalogue["id"].tolist(), name="items"
        )
        self._item_traits = self._make_item_traits(catalogue)
        self._recent = layers.RecentItems(
            config.history_length, config.num_newest, name="recent"
        )
        self._user_lookup = layers.VocabularyLookup(user_ids, name="users")
        self._gender_lookup = layers.VocabularyLookup(genders, name="genders")
        self._occupation_lookup = layers.VocabularyLookup(
            occupations, name="occupations"
        )

        def user_feature(
            name: str, rows: int, number: int
        ) -> layers.OptionalEmbedding:
            return layers.OptionalEmbedding(
                rows,
                width,
                stddev=0.01,
                drop_rate=config.id_dropout if name == "user" else 0.0,
                seed=seed + 10 * number,
                name=name,
            )

        self._user = user_feature("user", len(user_ids), 1)
        self._gender = user_feature("gender", len(genders), 2)
        self._occupation = user_feature("occupation", len(occupations), 3)
        self._age = user_feature("age", len(_AGE_BANDS) + 1, 4)
        assert config.dropout is not None
        self._drop_inputs = layers.StatelessDropout(
            config.dropout, seed=seed + 50, name="drop_inputs"
        )
        self._drop_hidden = layers.StatelessDropout(
            config.dropout, seed=seed + 51, name="drop_hidden"
        )
        self._drop_skip = layers.StatelessDropout(
            config.dropout, seed=seed + 52, name="drop_skip"
        )
        num_history = width * (1 + config.num_newest)
        self._num_inputs = config.hidden + num_history
        self._hidden = _dense(
            num_history + 4 * width, config.hidden, "relu", seed + 60, "hidden"
        )
        self._output = _dense(config.hidden, width, None, seed + 61, "output")
        self._skip = _dense(num_history, width, None, seed + 62, "skip")
        self.built = True

    def _item_vectors(self, rows: tf.Tensor, training: bool) -> tf.Tensor:
        """Returns the vectors of a history's films, `[B, L, dim - 1]`."""
        traits = tf.convert_to_tensor(self._item_traits)
        if not training:
            return self._item_tower.vectors(rows, tf.gather(traits, rows))
        # A batch has far more films in its histories than the catalogue has:
        # one vector for each film is less work, in the gradients above all.
        everything = tf.range(tf.shape(traits)[0])
        return tf.gather(self._item_tower.vectors(everything, traits), rows)

    def _make_item_traits(self, catalogue: Mapping[str, np.ndarray]) -> Any:
        """Keeps the films' traits, after a row for an unknown film.

        A weight and not a constant, so that it does not weigh on the graph.
        """
        with tf.init_scope():
            known = self._item_tower.traits(
                tf.constant(catalogue["genres"]), tf.constant(catalogue["year"])
            )
        return self.add_weight(
            shape=(1 + known.shape[0], known.shape[1]),
            initializer=lambda shape, dtype=None: tf.pad(
                known, [[1, 0], [0, 0]]
            ),
            trainable=False,
            name="item_traits",
        )

    @property
    def num_inputs(self) -> int:
        """Width of `QueryParts.inputs`."""
        return self._num_inputs

    @property
    def feature_specs(self) -> dict[str, tf.TensorSpec]:
        """Features by name."""
        return {
            "user_id": tf.TensorSpec([None], tf.int64, name="user_id"),
            "history": tf.TensorSpec(
                [None, self._history_length], tf.int64, name="history"
            ),
            "age": tf.TensorSpec([None], tf.int64, name="age"),
            "gender": tf.TensorSpec([None], tf.string, name="gender"),
            "occupation": tf.TensorSpec([None], tf.string, name="occupation"),
        }

    def embed(
        self, features: Mapping[str, tf.Tensor], training: bool
    ) -> tf.Tensor:
        """Pools the history and passes it on with the user's features."""
        vector = self.parts(features, training).vector
        return tf.concat([vector, tf.ones_like(vector[:, :1])], axis=1)

    def parts(
        self, features: Mapping[str, tf.Tensor], training: bool
    ) -> QueryParts:
        """Makes the embedding without the 1, and what it is made of."""
        rows = self._item_lookup(features["history"])
        pooled, newest = self._recent(
            self._item_vectors(rows, training), rows > 0
        )
        width = self.dim - 1
        num_newest = newest.shape[1]
        history = tf.concat(
            [pooled, tf.reshape(newest, [-1, num_newest * width])], axis=1
        )
        user = [
            self._user(
                self._user_lookup(features["user_id"]), training=training
            ),
            self._gender(self._gender_lookup(features["gender"])),
            self._occupation(self._occupation_lookup(features["occupation"])),
            self._age(_band(features["age"], _AGE_BANDS)),
        ]
        inputs = tf.concat([history, *user], axis=1)
        hidden = self._hidden(self._drop_inputs(inputs, training=training))
        hidden = self._drop_hidden(hidden, training=training)
        history = self._drop_skip(history, training=training)
        vector = self._output(hidden) + self._skip(history)
        return QueryParts(
            vector=vector,
            inputs=tf.concat([hidden, history], axis=1),
            newest=newest,
            user=tf.add_n(user),
        )


def movielens_towers(
    config: TowerConfig, data: MovieLens
) -> tuple[QueryTower, ItemTower]:
    """Makes untrained towers whose vocabularies are those of the data.

    Their outputs are for the inner product, whatever the similarity;
    `lintf.towers.learned` makes those of a learned similarity from them.

    Args:
      config: the towers' shape and seed.
      data: users and films; the ratings are not looked at.

    Returns:
      The query tower and the item tower.
    """
    genres = _values(data.films.genres)
    item_tower = ItemTower(
        config, data.films.id.tolist(), genres, data.films.genres.shape[1]
    )
    query_tower = QueryTower(
        config,
        item_tower,
        item_features(data),
        data.users.id.tolist(),
        _values(data.users.gender),
        _values(data.users.occupation),
    )
    return query_tower, item_tower


def item_features(data: MovieLens) -> dict[str, np.ndarray]:
    """Returns the item tower's features of every film, in the films' order."""
    columns = data.films.attributes()
    return {name: columns[name] for name in ("id", "genres", "year")}


def pad_history(history: np.ndarray, length: int) -> np.ndarray:
    """Cuts a history to its newest items and pads it at the end with -1.

    Args:
      history: `[n]` item ids, oldest first.
      length: of the feature `history`.

    Returns:
      `[length]` int64.

    Example:
      >>> pad_history(np.array([5, 6, 7]), 2), pad_history(np.array([5]), 2)
      (array([6, 7]), array([ 5, -1]))
    """
    padded = np.full(length, -1, dtype=np.int64)
    newest = history[-length:]
    padded[: len(newest)] = newest
    return padded


def _values(column: np.ndarray) -> list[str]:
    """Returns the different values of a string column, "" left out."""
    return [value for value in np.unique(column).tolist() if value]


def _band(numbers: tf.Tensor, boundaries: Sequence[int]) -> tf.Tensor:
    """Maps numbers to bands 1, 2, ...; what is not positive to 0 (missing)."""
    bands = 1 + tf.searchsorted(
        tf.constant(boundaries, tf.int64), tf.cast(numbers, tf.int64), "right"
    )
    return tf.where(numbers > 0, bands, 0)


def _dense(
    num_inputs: int, units: int, activation: str | None, seed: int, name: str
) -> tf.keras.layers.Dense:
    """Makes a dense layer with its weights."""
    layer = tf.keras.layers.Dense(
        units,
        activation=activation,
        kernel_initializer=tf.keras.initializers.GlorotUniform(seed=seed),
        name=name,
    )
    layer.build((None, num_inputs))
    return layer
