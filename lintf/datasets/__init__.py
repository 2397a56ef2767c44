# SPDX-License-Identifier: Apache-2.0
"""Real data from installed packages: MovieLens, films, GloVe, WordNet.

Nothing here downloads anything or imports TensorFlow. Where a package is absent
the loader raises `MissingDataError`, a `ModuleNotFoundError` that names the
command to run. Each module states the licence of its data.
"""

from lintf.datasets._packages import MissingDataError
from lintf.datasets.films import Films, wikidata_films
from lintf.datasets.glove import Glove, glove_50d
from lintf.datasets.movielens import MovieLens, movielens_100k
from lintf.datasets.splits import LeaveOneOut, leave_one_out
from lintf.datasets.wordnet import wordnet_classes

__all__ = [
    "Films",
    "Glove",
    "LeaveOneOut",
    "MissingDataError",
    "MovieLens",
    "glove_50d",
    "leave_one_out",
    "movielens_100k",
    "wikidata_films",
    "wordnet_classes",
]
