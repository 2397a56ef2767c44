# SPDX-License-Identifier: Apache-2.0
"""The loaders on the packages' own files: sizes and ranges, never rows."""

import numpy as np
import pytest

from lintf import datasets

pytestmark = pytest.mark.data


def test_movielens_sizes(movielens):
    assert len(movielens.users) == 943
    assert len(movielens.films) == 1682
    assert len(movielens.ratings) == 100_000
    np.testing.assert_array_equal(movielens.films.id, np.arange(1, 1683))
    assert set(movielens.ratings.rating) == {1, 2, 3, 4, 5}
    assert set(movielens.users.gender) == {"F", "M"}
    assert len(set(movielens.users.occupation)) == 21


def test_movielens_films(movielens):
    films = movielens.films
    genres = set(films.genres.ravel()) - {""}
    assert len(genres) == 19
    # Every film but one has a year.
    assert (films.year == 0).sum() == 1
    assert films.year[films.year > 0].min() >= 1922
    assert films.year.max() <= 1998


def test_movielens_is_joined_with_films(movielens):
    films = movielens.films
    assert films.num_joined >= 1300
    has_country = (films.country != "").any(axis=1)
    assert not has_country[~films.joined].any()
    assert has_country[films.joined].mean() > 0.99
    assert "English" in films.language


def test_leave_one_out_of_movielens(movielens):
    ratings = movielens.ratings
    split = datasets.leave_one_out(
        ratings.user_id, ratings.item_id, ratings.timestamp
    )
    assert split.num_users == 943
    assert sum(map(len, split.sequences("test"))) == 99_057
    assert sum(map(len, split.sequences("validation"))) == 98_114


def test_films(films):
    assert len(films) >= 17_000
    assert films.year.min() >= 1940
    assert len(np.unique(films.id)) == len(films)


def test_glove(glove):
    assert glove.vectors.shape == (400_000, 50)
    assert glove.vectors.dtype == np.float32
    assert isinstance(glove.vectors, np.memmap)
    assert not glove.vectors.flags.writeable
    assert len(glove) == 400_000
    # Most frequent first.
    assert glove.words[0] == "the"


def test_wordnet(wordnet):
    assert len(wordnet) > 140_000
    assert "noun.animal" in wordnet["dog"]
    assert wordnet["sparrow"] == {"noun.animal"}
    assert max(map(len, wordnet.values())) <= 45
