# SPDX-License-Identifier: Apache-2.0
"""17,472 films of 1940-2014 from Wikidata, as bokeh-sampledata carries them.

Licence of the data: CC0-1.0 from version 2026.1 on (older versions held other
data under CC-BY-NC, hence the pin). Rows may be redistributed.
"""

import dataclasses
import pathlib
import re
import sqlite3
import unicodedata
from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from lintf.datasets import _packages, _strings

INSTALL = 'pip install --no-deps "bokeh-sampledata>=2026.1"'

# Catalogues move a leading article to the end: "Birdcage, The".
_TRAILING_ARTICLE = re.compile(
    r"^(?P<rest>.*), "
    r"(?P<article>the|a|an|la|le|les|l'|il|lo|el|los|das|der|die)$"
)
_NOT_A_WORD = re.compile(r"[^a-z0-9]+")


@dataclasses.dataclass(frozen=True)
class Films:
    """Films by row; arrays share their first dimension `[num_films]`.

    Attributes:
      id: `[num_films]` int64, the number in the `omdb` table.
      title: `[num_films]` str.
      year: `[num_films]` int64, year of publication.
      genres: `[num_films, G]` str, padded with "".
      language: `[num_films, L]` str, padded with "".
      country: `[num_films, C]` str, padded with "".
      director: `[num_films, D]` str, padded with "".
    """

    id: npt.NDArray[np.int64]
    title: _strings.StringArray
    year: npt.NDArray[np.int64]
    genres: _strings.StringArray
    language: _strings.StringArray
    country: _strings.StringArray
    director: _strings.StringArray

    def __len__(self) -> int:
        return len(self.id)

    def attributes(self) -> Mapping[str, npt.NDArray[np.generic]]:
        """Returns the columns by name, `id` included."""
        return {
            field.name: getattr(self, field.name)
            for field in dataclasses.fields(self)
        }


def wikidata_films(path: pathlib.Path | None = None) -> Films:
    """Loads the films.

    Args:
      path: the sqlite file; the installed package's where not given. It is
        opened read-only.

    Returns:
      The films in the file's order.

    Raises:
      MissingDataError: the package bokeh-sampledata is not installed.
    """
    if path is None:
        path = _packages.package_file(
            "bokeh_sampledata", "_data/movies.db", INSTALL
        )
    # `immutable`: in a read-only folder sqlite must not look for a journal.
    uri = f"{path.resolve().as_uri()}?mode=ro&immutable=1"
    connection = sqlite3.connect(uri, uri=True)
    try:
        rows = connection.execute(
            "SELECT ID, Title, Year, Genre, Language, Country, Director"
            " FROM omdb ORDER BY rowid"
        ).fetchall()
    finally:
        connection.close()
    many = [
        _strings.pad_strings(
            [_strings.split_names(row[column]) for row in rows]
        )
        for column in range(3, 7)
    ]
    return Films(
        id=np.array([row[0] for row in rows], dtype=np.int64),
        title=np.array([row[1] or "" for row in rows], dtype=np.str_),
        year=np.array([row[2] or 0 for row in rows], dtype=np.int64),
        genres=many[0],
        language=many[1],
        country=many[2],
        director=many[3],
    )


def normalised_title(title: str) -> str:
    """Brings a film's title to the form that catalogues are joined on.

    Accents, case and punctuation go; a trailing article moves to the front.

    Example:
      >>> normalised_title("Cité des enfants perdus, La")
      'la cite des enfants perdus'
      >>> normalised_title("Romeo & Juliet")
      'romeo and juliet'
    """
    text = (
        unicodedata.normalize("NFKD", title).encode("ascii", "ignore").decode()
    )
    text = text.lower().replace("&", " and ").strip()
    moved = _TRAILING_ARTICLE.match(text)
    if moved:
        text = f"{moved['article']} {moved['rest']}"
    return _NOT_A_WORD.sub(" ", text).strip()


def match_titles(
    titles: _strings.StringArray, years: npt.NDArray[np.int64], films: Films
) -> npt.NDArray[np.int64]:
    """Finds each title in the films, by normalised title and year.

    A second title in brackets ("Seven (Se7en)") counts as another name. The
    year may differ by one (catalogues date a film by its first showing or by
    its release), but the same year wins; the first film wins a tie.

    Args:
      titles: `[N]` str.
      years: `[N]` int64; 0 where unknown, which matches nothing.
      films: where to look.

    Returns:
      `[N]` int64: row in `films`, or -1.
    """
    rows: dict[tuple[str, int], int] = {}
    for row, (title, year) in enumerate(
        zip(films.title.tolist(), films.year.tolist(), strict=True)
    ):
        rows.setdefault((normalised_title(title), year), row)
    found = np.full(len(titles), -1, dtype=np.int64)
    for number, (title, year) in enumerate(
        zip(titles.tolist(), years.tolist(), strict=True)
    ):
        names = [normalised_title(name) for name in _names(title)]
        keys = ((name, year + d) for d in (0, -1, 1) for name in names)
        found[number] = next((rows[key] for key in keys if key in rows), -1)
    return found


def _names(title: str) -> list[str]:
    """Splits "Seven (Se7en)" into its two names."""
    both = re.match(r"^(.*?) \((.*)\)$", title)
    return [both[1], both[2]] if both else [title]
