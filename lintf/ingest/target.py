# SPDX-License-Identifier: Apache-2.0
"""A served version of an index, as the ingester sees it."""

from __future__ import annotations

import abc
import enum
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lintf.serving.changes import Change, ChangeEncoder


class Fault(enum.Enum):
    """Why a call failed, by what to do about it."""

    # Whether it had an effect is not known. Ask where the index stands, and go
    # on from there, after a while.
    RETRY = "retry"
    # The change does not follow the stored offset: the same, at once.
    CONFLICT = "conflict"
    # A row can't be applied, ever: find it.
    POISON = "poison"
    # The index has no room for a row: halt before it.
    FULL = "full"
    # The version is not served (any more).
    GONE = "gone"
    # The server does not let us; a person has to do something.
    REFUSED = "refused"


class TargetError(Exception):
    """A call that failed.

    Attributes:
      fault: what to do.
      message: what the server said.
    """

    def __init__(self, fault: Fault, message: str) -> None:
        super().__init__(message)
        self.fault = fault
        self.message = message


class Target(abc.ABC):
    """One version of the model on one server.

    Attributes:
      replica: the server's address.
      version: the version's number.
    """

    replica: str
    version: int

    @abc.abstractmethod
    def encoder(self) -> ChangeEncoder:
        """What turns changes into requests for this version.

        Raises:
          TargetError: REFUSED if the version takes no updates, and others.
        """

    @abc.abstractmethod
    def offsets(self) -> Sequence[int]:
        """How far each partition of the log is applied.

        Raises:
          TargetError: the call failed.
        """

    @abc.abstractmethod
    def send(self, signature: str, changes: Sequence[Change]) -> Sequence[int]:
        """Applies changes, all or none; returns a status for each.

        Raises:
          TargetError: the call failed.
        """


class Replica(abc.ABC):
    """A server of the model.

    Attributes:
      address: its address.
    """

    address: str

    @abc.abstractmethod
    def versions(self) -> Sequence[int]:
        """The versions that it serves, ascending.

        Raises:
          TargetError: the call failed.
        """

    @abc.abstractmethod
    def target(self, version: int) -> Target:
        """One of them. Nothing is sent."""

    @abc.abstractmethod
    def set_label(self, label: str, version: int) -> None:
        """Makes a version label name a version.

        Raises:
          TargetError: the call failed.
        """

    @abc.abstractmethod
    def close(self) -> None:
        """Closes the connection."""
