# SPDX-License-Identifier: Apache-2.0
"""One server, one ingester, one log, and what is done to them."""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import json
import pathlib
import random
import shutil
import threading
import time
from collections.abc import Callable, Collection, Iterator

import grpc

from export import publish
from lintf.serving import Client
from tests.serving.servers import free_port
from tests.soak import changes, model
from tests.soak.changes import Difference, Generator
from tests.soak.logs import ChangeLog, FileChanges, KafkaChanges, open_log
from tests.soak.processes import Downtime, Process, wait_until
from tests.soak.queries import Watcher, looked_up

# Enough that many changes are the last of their item, and must be there.
ITEMS = 5000
CAPACITY = 7000
PARTITIONS = 4
WATCHERS = 2
# Ids beyond those of the generator, for filling the index.
FILLERS = range(ITEMS + 1, ITEMS + CAPACITY + 1)
_LOOKUP_ROWS = 500


@dataclasses.dataclass
class Result:
    """What a phase has come to.

    Attributes:
      faults: how often each kind of fault was made.
      sent: records in the log.
      applied: of those, the ones whose offset the index has passed.
      queries: that were answered.
      difference: between the index and the log.
      errors: everything else that must not have happened.
    """

    faults: collections.Counter[str] = dataclasses.field(
        default_factory=collections.Counter
    )
    sent: int = 0
    applied: int = 0
    queries: int = 0
    difference: Difference = dataclasses.field(default_factory=Difference)
    errors: list[str] = dataclasses.field(default_factory=list)

    def __add__(self, other: Result) -> Result:
        return Result(
            self.faults + other.faults,
            self.sent + other.sent,
            self.applied + other.applied,
            self.queries + other.queries,
            self.difference + other.difference,
            self.errors + other.errors,
        )

    @property
    def is_good(self) -> bool:
        """Whether nothing was lost, repeated, torn or refused."""
        return (
            self.difference == Difference()
            and not self.errors
            and self.sent == self.applied > 0
            and self.queries > 0
        )

    def __str__(self) -> str:
        faults = ", ".join(f"{n} {c}" for n, c in sorted(self.faults.items()))
        return (
            f"faults: {faults or 'none'}; {self.queries} queries; changes "
            f"sent {self.sent}, applied {self.applied}, {self.difference}"
        )


class Producer(threading.Thread):
    """Appends changes at an even rate until it is told to stop."""

    def __init__(
        self, log: ChangeLog, generator: Generator, rate: float
    ) -> None:
        super().__init__(name="producer", daemon=True)
        self.failure: BaseException | None = None
        # Held while a generated record is not in the log yet.
        self.lock = threading.Lock()
        self._log, self._generator, self._rate = log, generator, rate
        self._stopping = threading.Event()

    def run(self) -> None:
        try:
            began, count = time.monotonic(), 0
            while not self._stopping.wait(0.05):
                while count < (time.monotonic() - began) * self._rate:
                    with self.lock:
                        self._log.append(*self._generator.change())
                    count += 1
        except BaseException as error:
            self.failure = error

    def stop(self) -> None:
        """Ends it."""
        self._stopping.set()
        self.join()
        if self.failure is not None:
            raise self.failure


class Phase:
    """Runs one phase; `run` does it all."""

    def __init__(
        self, kind: str, folder: pathlib.Path, rate: float, seed: int
    ) -> None:
        """Prepares a phase.

        Args:
          kind: of the log: "file" or "kafka".
          folder: an empty one for everything.
          rate: changes a second.
          seed: of every random choice.
        """
        self.result = Result()
        self._kind, self._folder, self._rate = kind, folder, rate
        self._random = random.Random(seed)
        self._base = folder / "models"
        self._config = folder / "models.config"
        self._dead_letters = folder / "dead_letters"
        self._target = f"127.0.0.1:{free_port()}"
        self._generator = Generator(ITEMS, self._random.getrandbits(32))
        self._downtime = Downtime()
        self._snapshots = 0

    def run(self, seconds: float, due: Collection[str] = frozenset()) -> Result:
        """Makes faults for some time, then compares the index with the log.

        Args:
          seconds: for which it makes faults.
          due: faults that are made at least once, even if it takes longer.
        """
        self._folder.mkdir(parents=True)
        model.publish_first(self._base, CAPACITY, PARTITIONS)
        with contextlib.ExitStack() as stack:
            self._log = open_log(self._kind, self._folder, PARTITIONS)
            stack.callback(self._log.close)
            self._server = self._serve(stack)
            self._ingester = self._ingest(stack)
            self._client = stack.enter_context(
                Client(
                    self._target, model.NAME, label=model.LABEL, timeout_s=60.0
                )
            )
            self._start_server()
            self._ingester.start()
            producer = Producer(self._log, self._generator, self._rate)
            self._producer = producer
            watchers = [
                Watcher(
                    self._target,
                    ITEMS,
                    self._downtime,
                    self._random.getrandbits(32),
                )
                for _ in range(WATCHERS)
            ]
            for thread in (producer, *watchers):
                thread.start()
            self._make_faults(seconds, due, producer)
            producer.stop()
            self._log.flush()
            self._wait_until_caught_up()
            self._check_answers(watchers)
            self._compare()
            self._check_dead_letters()
            self._ingester.stop()
            self._server.stop()
        return self.result

    # The processes.

    def _serve(self, stack: contextlib.ExitStack) -> Process:
        server = Process(
            "server",
            self._folder,
            [
                "serve",
                f"--port={self._target.rpartition(':')[2]}",
                f"--model_config_file={self._config}",
                "--file_system_poll_wait_seconds=0.2",
                "--allow_version_labels_for_unavailable_models",
            ],
        )
        stack.callback(server.abandon)
        return server

    def _ingest(self, stack: contextlib.ExitStack) -> Process:
        ingester = Process(
            "ingester",
            self._folder,
            [
                "ingest",
                *self._log.flags,
                f"--server={self._target}",
                f"--model_name={model.NAME}",
                f"--dead_letter_file={self._dead_letters}",
                f"--set_label={model.LABEL}",
                f"--model_config_file={self._config}",
            ],
        )
        stack.callback(ingester.abandon)
        return ingester

    def _start_server(self) -> None:
        # What it is restarted with serves at once, as old as it is.
        model.write_config(
            self._config, self._base, publish.versions(self._base)[-1]
        )
        self._server.start()
        wait_until(
            lambda: self._server.check() and self._stats() is not None,
            "the server answers",
        )
        self._downtime.end()

    def _stats(self) -> object:
        try:
            return self._client.stats()
        except grpc.RpcError as error:
            if error.code() != grpc.StatusCode.UNAVAILABLE:
                raise
            return None

    def _current_version(self) -> int:
        return self._client.stats().version

    def _wait_until_caught_up(self) -> None:
        wanted = tuple(self._log.ends())
        wait_until(
            lambda: (
                self._ingester.check()
                and self._server.check()
                and self._client.stats().log_offsets >= wanted
            ),
            f"the index holds the log up to {wanted}",
        )

    # The faults.

    def faults(self) -> dict[str, Callable[[], None]]:
        """What can be done to this phase, by name."""
        faults = {
            "server_killed": self._kill_server,
            "ingester_killed": self._kill_ingester,
            "version_swapped": self._swap_version,
            "index_filled": self._fill_index,
            "malformed": self._send_malformed,
        }
        if self._kind == "file":
            faults["log_torn"] = self._tear_log
        else:
            faults["broker_paused"] = self._pause_broker
        return faults

    def _make_faults(
        self, seconds: float, due: Collection[str], producer: Producer
    ) -> None:
        deadline = time.monotonic() + seconds
        for name in self._order():
            left = set(due) - set(self.result.faults)
            if time.monotonic() > deadline:
                if not left:
                    return
                if name not in left:
                    continue
            # Not to wait for anything: faults come at random moments.
            pause = threading.Event()
            pause.wait(self._random.uniform(0.2, 3.0))
            if producer.failure is not None:
                raise producer.failure
            print(f"soak: {self._kind}: {name}", flush=True)
            self.faults()[name]()
            self.result.faults[name] += 1

    def _order(self) -> Iterator[str]:
        """All kinds of faults in a random order, again and again."""
        names = sorted(self.faults())
        while True:
            self._random.shuffle(names)
            yield from names

    def _kill_server(self) -> None:
        self._downtime.begin()
        self._server.kill()
        self._start_server()

    def _kill_ingester(self) -> None:
        self._ingester.kill()
        self._ingester.start()

    def _swap_version(self, capacity: int = CAPACITY) -> None:
        self._snapshots += 1
        snapshot = Process(
            f"snapshot-{self._snapshots}",
            self._folder,
            [
                "snapshot",
                f"--model_base_path={self._base}",
                f"--capacity={capacity}",
                # It may pass poison that the ingester has not come to yet.
                f"--dead_letter_file={self._dead_letters}",
                *self._log.flags,
            ],
        )
        self._log.flush()
        snapshot.run()
        newest = publish.versions(self._base)[-1]
        # In the middle of the swap, or after it.
        for fault in (self._kill_ingester, self._kill_server):
            if self._random.random() < 0.2:
                fault()
        wait_until(
            lambda: (
                self._ingester.check()
                and self._server.check()
                and self._current_version() == newest
            ),
            f"version {newest} is caught up and current",
        )
        # Otherwise it would be fed, too, and from its start after a restart.
        for version in publish.versions(self._base):
            if version != newest:
                shutil.rmtree(self._base / str(version))

    def _fill_index(self) -> None:
        with self._producer.lock:
            for id in FILLERS:
                self._log.append(*self._generator.insert(id))
        self._log.flush()
        wait_until(
            lambda: (
                self._ingester.check()
                and self._client.stats().live_rows == CAPACITY
            ),
            "the index is full",
        )
        # Its last row is free only once the larger one serves.
        self._swap_version(2 * CAPACITY + ITEMS)
        with self._producer.lock:
            for id in FILLERS:
                self._log.append(*self._generator.delete(id))
        self._log.flush()
        self._wait_until_caught_up()
        self._swap_version()

    def _send_malformed(self) -> None:
        for _ in range(self._random.randint(1, 20)):
            self._log.append(*self._generator.malformed())

    def _tear_log(self) -> None:
        assert isinstance(self._log, FileChanges)
        # The reader goes up to the torn record, and not into it.
        self._log.tear(
            self._random.randrange(PARTITIONS),
            self._random.randint(1, 60),
            self._wait_until_caught_up,
        )

    def _pause_broker(self) -> None:
        assert isinstance(self._log, KafkaChanges)
        self._log.broker.pause()
        try:
            # The index answers without it.
            self._client.stats()
            threading.Event().wait(self._random.uniform(1.0, 5.0))
        finally:
            self._log.broker.resume()
        self._log.flush()

    # The end.

    def _check_answers(self, watchers: list[Watcher]) -> None:
        """Waits until each watcher has an answer again, and ends them."""
        for watcher in watchers:
            before = watcher.queries
            wait_until(
                lambda watcher=watcher, before=before: (
                    watcher.queries > before or watcher.errors
                ),
                f"{watcher.name} gets an answer",
            )
            watcher.stop()
            self.result.queries += watcher.queries
            self.result.difference.torn += watcher.torn
            self.result.errors += watcher.errors

    def _compare(self) -> None:
        wanted = self._log.replay().rows
        ids = [*range(1, ITEMS + 1), *FILLERS]
        stored: dict[int, tuple[list[float], dict[str, object]]] = {}
        for start in range(0, len(ids), _LOOKUP_ROWS):
            for row in looked_up(
                self._client, ids[start : start + _LOOKUP_ROWS]
            ):
                id, embedding = row.pop("id"), row.pop("embedding")
                stored[id] = (embedding, row)
        stats = self._client.stats()
        self.result.difference += changes.compare(
            wanted, ids, [stored.get(id) for id in ids], stats.live_rows
        )
        records = self._log.acknowledged()
        self.result.sent = len(records)
        self.result.applied = sum(
            r.offset <= stats.log_offsets[r.partition] for r in records
        )
        if list(stats.log_offsets) != self._log.ends():
            self.result.errors.append(
                f"the index is at {stats.log_offsets}, the log ends at "
                f"{self._log.ends()}"
            )

    def _check_dead_letters(self) -> None:
        wanted = {
            (r.partition, r.offset)
            for r in self._log.acknowledged()
            if (r.key, r.value) in changes.MALFORMED
        }
        path = self._dead_letters
        lines = path.read_text("utf-8").splitlines() if path.exists() else []
        letters = [json.loads(line) for line in lines]
        found = {(letter["partition"], letter["offset"]) for letter in letters}
        if found != wanted:
            self.result.errors.append(
                f"dead letters: missing {sorted(wanted - found)[:5]}, too "
                f"many {sorted(found - wanted)[:5]}"
            )
