# SPDX-License-Identifier: Apache-2.0
"""What is predicted, from what, and what is left out of the ranking.

Leave-one-out over all films: the test item of each user is ranked among all
films that the user has not seen; no user is dropped.
"""

import dataclasses

import numpy as np
import numpy.typing as npt

from lintf import metrics
from lintf.datasets import LeaveOneOut, MovieLens, leave_one_out
from lintf.datasets.splits import Part


@dataclasses.dataclass(frozen=True)
class Task:
    """One held-out item a user, with everything as rows of the catalogue.

    Attributes:
        split: Each user's sequence.
        part: Which held-out item is predicted.
        seen: `[num_users, num_items]` bool: the user's earlier items.
        target: `[num_users]` int64: row of the held-out item.
    """

    split: LeaveOneOut
    part: Part
    seen: npt.NDArray[np.bool_]
    target: npt.NDArray[np.int64]

    def rank(self, scores: npt.NDArray[np.floating]) -> metrics.Ranks:
        """Ranks the targets by scores `[num_users, num_items]`."""
        masked = np.where(self.seen, -np.inf, scores)
        return metrics.ranks(masked, self.target)


def make_task(data: MovieLens, part: Part) -> Task:
    """Makes the task of predicting `part` for every user.

    Args:
      data: users, films (ids ascending) and ratings.
      part: "validation" or "test".
    """
    ratings = data.ratings
    split = leave_one_out(ratings.user_id, ratings.item_id, ratings.timestamp)
    if not np.array_equal(split.user_id, data.users.id):
        raise ValueError("every user must have ratings, in ascending order")
    seen = np.zeros((split.num_users, len(data.films)), dtype=np.bool_)
    for user, items in enumerate(split.sequences(part)):
        seen[user, np.searchsorted(data.films.id, items)] = True
    return Task(
        split=split,
        part=part,
        seen=seen,
        target=np.searchsorted(data.films.id, split.target(part)),
    )
