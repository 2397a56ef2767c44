# SPDX-License-Identifier: Apache-2.0
"""Leave-one-out: each user's last item is the test, the one before validates.

Every interaction counts as positive, whatever its rating. The protocol of the
published full-ranking results on MovieLens (SASRec, HSTU), with a validation
item of its own.
"""

import dataclasses
from typing import Literal

import numpy as np
import numpy.typing as npt

Part = Literal["validation", "test"]


@dataclasses.dataclass(frozen=True)
class LeaveOneOut:
    """Each user's items, oldest first, with the last two held out.

    Attributes:
      user_id: `[num_users]` int64, ascending.
      item_id: `[num_interactions]` int64: the users' sequences one after the
        other.
      row_splits: `[num_users + 1]` int64: user `u` has the items
        `row_splits[u]:row_splits[u + 1]`.
    """

    user_id: npt.NDArray[np.int64]
    item_id: npt.NDArray[np.int64]
    row_splits: npt.NDArray[np.int64]

    @property
    def num_users(self) -> int:
        return len(self.user_id)

    def target(self, part: Part) -> npt.NDArray[np.int64]:
        """Returns the held-out item of each user, `[num_users]` int64."""
        return self.item_id[self.row_splits[1:] - _held_out(part)]

    def seen(self, user: int, part: Part) -> npt.NDArray[np.int64]:
        """Returns what a user (by row) did before the held-out item.

        These are the history that a model may use, oldest first, and the items
        that are excluded from the ranking. For the test item they include the
        validation item.
        """
        begin, end = self.row_splits[user : user + 2]
        return self.item_id[begin : end - _held_out(part)]

    def sequences(self, part: Part) -> list[npt.NDArray[np.int64]]:
        """Returns `seen(user, part)` of every user: what a model trains on."""
        return [self.seen(user, part) for user in range(self.num_users)]


def leave_one_out(
    user_id: npt.NDArray[np.int64],
    item_id: npt.NDArray[np.int64],
    timestamp: npt.NDArray[np.int64],
) -> LeaveOneOut:
    """Sorts each user's interactions by time and holds out the last two.

    The sort is stable: interactions of the same second keep their order in the
    arrays.

    Args:
      user_id: `[N]` int64.
      item_id: `[N]` int64.
      timestamp: `[N]` int64, any unit.

    Returns:
      The split.

    Raises:
      ValueError: the arrays' shapes differ, or a user has fewer than three
        interactions (one to train on, one to validate, one to test).

    Example:
      >>> split = leave_one_out(
      ...   np.array([7, 7, 7, 7]), np.array([1, 2, 3, 4]),
      ...   np.array([30, 10, 20, 20]),
      ... )
      >>> split.seen(0, "validation"), split.target("validation")
      (array([2, 3]), array([4]))
      >>> split.target("test")
      array([1])
    """
    if not user_id.shape == item_id.shape == timestamp.shape:
        raise ValueError(
            "user_id, item_id and timestamp must have one shape [N], got "
            f"{user_id.shape}, {item_id.shape} and {timestamp.shape}"
        )
    order = np.lexsort((timestamp, user_id))
    users, counts = np.unique(user_id, return_counts=True)
    if len(users) and counts.min() < 3:
        raise ValueError(
            "every user needs at least 3 interactions for leave-one-out, but "
            f"user {users[counts.argmin()]} has {counts.min()}; drop such "
            "users first"
        )
    return LeaveOneOut(
        user_id=users.astype(np.int64),
        item_id=item_id[order].astype(np.int64),
        row_splits=np.concatenate([[0], np.cumsum(counts)]).astype(np.int64),
    )


def _held_out(part: Part) -> int:
    """How many items from the end the part's item is."""
    if part not in ("validation", "test"):
        raise ValueError(f"part must be 'validation' or 'test', got {part!r}")
    return 2 if part == "validation" else 1
