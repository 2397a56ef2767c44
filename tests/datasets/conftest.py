# SPDX-License-Identifier: Apache-2.0
"""The real data sets; a test that asks for an absent one is skipped."""

from collections.abc import Callable
from typing import Any

import pytest

from lintf import datasets


def _load(loader: Callable[[], Any]) -> Any:
    try:
        return loader()
    except datasets.MissingDataError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="session")
def movielens() -> datasets.MovieLens:
    return _load(datasets.movielens_100k)


@pytest.fixture(scope="session")
def films() -> datasets.Films:
    return _load(datasets.wikidata_films)


@pytest.fixture(scope="session")
def glove() -> datasets.Glove:
    return _load(datasets.glove_50d)


@pytest.fixture(scope="session")
def wordnet() -> dict[str, frozenset[str]]:
    return _load(datasets.wordnet_classes)
