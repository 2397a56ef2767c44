# SPDX-License-Identifier: Apache-2.0
"""A small made-up data set in MovieLens' form, with a pattern to learn."""

import numpy as np

from lintf.datasets import movielens

NUM_USERS = 24
NUM_FILMS = 20


def toy_data(seed: int = 0) -> movielens.MovieLens:
    """Every user watches film after film in a circle, from some start.

    So the newest film says which one comes next. Film ids are 101, 102, ...,
    user ids 1, 2, ...
    """
    rng = np.random.default_rng(seed)
    users, items, times = [], [], []
    for user in range(NUM_USERS):
        start = rng.integers(NUM_FILMS)
        for step in range(rng.integers(8, 14)):
            users.append(user + 1)
            items.append(101 + (start + step) % NUM_FILMS)
            times.append(1000 * user + step)
    number = np.arange(NUM_FILMS)
    empty = np.full((NUM_FILMS, 1), "", dtype=np.str_)
    return movielens.MovieLens(
        users=movielens.Users(
            id=np.arange(1, NUM_USERS + 1),
            age=rng.integers(15, 70, NUM_USERS),
            gender=np.where(np.arange(NUM_USERS) % 2, "F", "M"),
            occupation=np.array(
                ["baker", "sailor", "smith"] * (NUM_USERS // 3)
            ),
        ),
        films=movielens.MovieLensFilms(
            id=101 + number,
            title=np.array([f"Film {n}" for n in number]),
            year=np.where(number % 5, 1980 + number, 0),
            genres=np.array(
                [["Noir", "Farce"], ["Farce", ""]] * (NUM_FILMS // 2)
            ),
            language=empty,
            country=empty,
            director=empty,
            joined=np.zeros(NUM_FILMS, np.bool_),
        ),
        ratings=movielens.Ratings(
            user_id=np.array(users),
            item_id=np.array(items),
            rating=np.full(len(users), 4, np.float32),
            timestamp=np.array(times),
        ),
    )
