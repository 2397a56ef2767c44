# SPDX-License-Identifier: Apache-2.0
"""Queries that never stop, and look at each returned row."""

from __future__ import annotations

import random
import threading
import time
from typing import Any

import grpc

from lintf.serving import Client
from tests.soak import model
from tests.soak.changes import NEWEST_FIRST, PARITIES, row_of
from tests.soak.processes import Downtime

_TIMEOUT_S = 60.0
# Between two queries: the machine has more to do than to answer them.
_PAUSE_S = 0.02
_LOOKED_UP = 20


class Watcher(threading.Thread):
    """Asks for the version that the label names until it is told to stop.

    A call may fail with UNAVAILABLE, if the server has been away since the
    last call that did not; that is the only error it may see.

    Attributes:
      queries: calls that were answered.
      refused: calls that failed as the server was away.
      rows: rows that were looked at.
      torn: those of them that mix two states.
      errors: what must not have happened.
    """

    def __init__(
        self, target: str, items: int, downtime: Downtime, seed: int
    ) -> None:
        super().__init__(name=f"watcher {seed}", daemon=True)
        self.queries = self.refused = self.rows = self.torn = 0
        self.errors: list[str] = []
        self._client = Client(
            target, model.NAME, label=model.LABEL, timeout_s=_TIMEOUT_S
        )
        self._items = items
        self._downtime = downtime
        self._random = random.Random(seed)
        self._stopping = threading.Event()

    def stop(self) -> None:
        """Ends it, after the call in progress."""
        self._stopping.set()
        self.join()
        self._client.close()

    def run(self) -> None:
        answered_at = time.monotonic()
        while not self._stopping.wait(_PAUSE_S):
            asked_at = time.monotonic()
            try:
                self.look(*self._ask())
            except grpc.RpcError as error:
                away = error.code() == grpc.StatusCode.UNAVAILABLE
                if away and self._downtime.since(answered_at):
                    self.refused += 1
                else:
                    self.errors.append(f"{error.code()}: {error.details()}")
                # Leaves the processor to the server that is starting.
                self._stopping.wait(0.1)
            except Exception as error:
                self.errors.append(repr(error))
            else:
                self.queries += 1
                answered_at = asked_at

    def look(
        self, rows: list[dict[str, Any]], parity: str | None, newest: bool
    ) -> None:
        """Checks rows, each of which has an `id` and attributes.

        Args:
          rows: with a `score` or an `embedding`.
          parity: what the filter asked for; None without a filter.
          newest: whether the newest were asked for first.
        """
        last = float("inf")
        for row in rows:
            self.rows += 1
            row = dict(row)
            id, score = row.pop("id"), row.pop("score", None)
            embedding = row.pop("embedding", None)
            known = row_of(id, row)
            if known is None:
                self.torn += 1
                self.errors.append(f"torn attributes: {id} {row}")
                continue
            if embedding is not None and list(embedding) != known.embedding():
                self.torn += 1
                self.errors.append(f"torn embedding: {known} {embedding}")
            if newest and score != known.embedded:
                self.torn += 1
                self.errors.append(f"torn score: {known} {score}")
            if parity is not None and row["parity"] != parity:
                self.torn += 1
                self.errors.append(f"not what was filtered: {known} {parity}")
            if newest:
                if score > last:
                    self.errors.append(f"scores ascend: {last} {score}")
                last = score

    def _ask(self) -> tuple[list[dict[str, Any]], str | None, bool]:
        if self._random.random() < 0.3:
            ids = self._random.sample(range(1, self._items + 1), _LOOKED_UP)
            return looked_up(self._client, ids), None, False
        parity = self._random.choice([None, *PARITIES])
        filter = "" if parity is None else f'parity == "{parity}"'
        found = self._client.retrieve_by_embedding(NEWEST_FIRST, filter)
        return list(found.rows()), parity, True


def looked_up(client: Client, ids: list[int]) -> list[dict[str, Any]]:
    """The items of some ids that there are, with embeddings."""
    found = client.lookup(ids)
    assert found.embedding is not None
    return [
        {
            "id": id,
            "embedding": found.embedding[i].tolist(),
            **found.attributes_of(i),
        }
        for i, id in enumerate(ids)
        if found.found[i]
    ]
