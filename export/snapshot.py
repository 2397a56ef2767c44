# SPDX-License-Identifier: Apache-2.0
"""A new version from the last one and the change log, made offline.

It holds what the last version held plus the log up to some offsets, with the
same towers, signatures and schema. So that the log may be cut there, and a
server that loads it has little to catch up with.
"""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import json
import pathlib
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import tensorflow as tf

import lintf
from export import memory, publish, workdir
from export.errors import JobError
from export.replay import OnPoison, Replay
from export.warmup import write_warmup
from lintf.index import restore
from lintf.index.served import ServedIndex
from lintf.index.sharded import AnyIndex, ShardedIndex
from lintf.index.shards import Shards
from lintf.ingest.records import Decoder, JsonDecoder
from lintf.ingest.source import LogTruncatedError, Source

_WORK = ".snapshot"


def _nothing(event: str) -> None:
    del event


def _complain(record: Any, reason: str) -> None:
    _say(
        f"Skipping offset {record.offset} of partition {record.partition}: "
        f"{reason}"
    )


@dataclasses.dataclass(frozen=True)
class Log:
    """The change log to apply, and how.

    Attributes:
        source: The log.
        decoder: Of its values.
        until: The last offset to apply of each partition; None for all that
            there is when the job starts.
        on_poison: Told of records that no index can apply.
    """

    source: Source
    decoder: Decoder = dataclasses.field(default_factory=JsonDecoder)
    until: Sequence[int] | None = None
    on_poison: OnPoison = _complain


def snapshot(
    base: pathlib.Path,
    log: Log,
    *,
    capacity: int | None = None,
    on_event: Any = _nothing,
) -> pathlib.Path:
    """Writes the next version of a model.

    Args:
        base: The model's base path.
        log: What to apply.
        capacity: Rows to allocate; None for as many as before.
        on_event: Told the steps as they are done; tests stop the job there.

    Returns:
        The version's directory; that of the last version where it holds all
        of this already.

    Raises:
        JobError: It can't be done; nothing was published.
        SourceError: The log can't be read, or no longer reaches back to the
            last version.
        ValueError: The last version can't be read.
    """
    with _locked(base):
        numbers = publish.versions(base)
        if not numbers:
            raise JobError(
                f"there is no version under {base} to make the next one of; "
                "`lintf build-index` and `lintf bootstrap` write the first"
            )
        last = base / str(numbers[-1])
        # Before gigabytes are loaded.
        stored = restore.log_offsets_of(last)
        until = _until(log, stored)
        _say(f"Loading {last}")
        restored = restore.restore(last, at_least=capacity)
        index = restored.index
        capacity = capacity or restored.saved_capacity
        memory.check(index.schema, index.capacity, _sharding(index))
        item_tower = restored.towers.get("item_tower")
        index = _replay(index, item_tower, log, until, capacity)
        on_event("replayed")
        # The log may have gaps in place of records up to `until`.
        reached = index.log_offsets.numpy().tolist()
        if reached == stored and capacity == restored.saved_capacity:
            _say(f"Nothing to do: {last} holds the log up to {until} already")
            return last
        parent = publish.read_build(last)
        build = {
            **parent,
            "build_id": _build_id(parent, index, last.name),
            "snapshot_of": {
                "version": numbers[-1],
                "build_id": parent.get("build_id", ""),
            },
        }
        served = ServedIndex(
            index, build_id=build["build_id"], **restored.arguments
        )
        return _write(served, build, base, numbers[-1] + 1, on_event)


def write_first(
    base: pathlib.Path,
    index: AnyIndex,
    arguments: Mapping[str, Any],
    log: Log,
    *,
    on_event: Any = _nothing,
) -> pathlib.Path:
    """Writes a version from an empty index and the whole log.

    Args:
        base: The model's base path.
        index: An empty one.
        arguments: Those of `ServedIndex`, but for the index and its build id.
        log: What to apply.
        on_event: As for `snapshot`.

    Returns:
        The version's directory.

    Raises:
        JobError: As for `snapshot`.
        SourceError: As for `snapshot`; also if the log has lost its beginning.
    """
    base.mkdir(parents=True, exist_ok=True)
    with _locked(base):
        memory.check(index.schema, index.capacity, _sharding(index))
        until = _until(log, index.log_offsets.numpy().tolist())
        index = _replay(
            index, arguments.get("item_tower"), log, until, index.capacity
        )
        on_event("replayed")
        build_id = _build_id({}, index, index.schema.to_json())
        build = {"build_id": build_id, "bootstrap": True}
        served = ServedIndex(index, build_id=build_id, **arguments)
        numbers = publish.versions(base)
        number = numbers[-1] + 1 if numbers else 1
        return _write(served, build, base, number, on_event)


def _until(log: Log, stored: Sequence[int]) -> list[int]:
    """The last offset to apply of each partition, checked."""
    partitions = list(log.source.partitions())
    if len(partitions) != len(stored):
        raise JobError(
            f"the index follows a log of {len(stored)} partitions, but this "
            f"one has {len(partitions)}; name the right log, or export the "
            "index with as many (`log.partitions`)"
        )
    until = log.until
    if until is None:
        until = [log.source.end(p) - 1 for p in partitions]
    elif len(until) != len(stored):
        raise JobError(
            f"--until must have {len(stored)} offsets, one for each "
            f"partition, got {len(until)}"
        )
    for partition, (after, last) in enumerate(zip(stored, until, strict=True)):
        if last < after:
            raise JobError(
                f"partition {partition}: the index holds the log up to offset "
                f"{after} already, which is beyond {last}; "
                + (
                    "the log has lost its end, or is another one"
                    if log.until is None
                    else "give --until a later one"
                )
            )
        if last >= log.source.end(partition):
            raise JobError(
                f"partition {partition}: --until names offset {last}, but the "
                f"log ends before {log.source.end(partition)}"
            )
        begin = log.source.begin(partition)
        if begin > after + 1 and last > after:
            raise LogTruncatedError(partition, after, begin)
    return list(until)


def _replay(
    index: AnyIndex,
    item_tower: Any,
    log: Log,
    until: Sequence[int],
    capacity: int,
) -> AnyIndex:
    """The index with the log applied, without holes, of some capacity."""
    replay = Replay(index, item_tower, log.decoder, log.on_poison)
    tally = replay.run(log.source, until)
    if capacity == index.capacity:
        restore.compact(index)
    else:
        index = restore.resized(index, capacity)
    _say(
        f"Applied {tally.records:,} records up to {list(until)}"
        + (f", {tally.poison:,} of them skipped" if tally.poison else "")
        + f": {int(index.num_rows):,} items"
    )
    return index


def _sharding(index: AnyIndex) -> Shards:
    return index.sharding if isinstance(index, ShardedIndex) else Shards()


def _build_id(parent: Mapping[str, Any], index: AnyIndex, source: str) -> str:
    return workdir.build_id(
        {
            "parent": parent.get("build_id", ""),
            "source": source,
            "log_offsets": index.log_offsets.numpy().tolist(),
            "capacity": index.capacity,
        }
    )


def _write(
    served: ServedIndex,
    build: Mapping[str, Any],
    base: pathlib.Path,
    number: int,
    on_event: Any,
) -> pathlib.Path:
    """Saves, checks and publishes a version."""
    index = served.index
    build = {
        **build,
        "ops": "native",
        "num_items": int(index.num_rows),
        "log_offsets": index.log_offsets.numpy().tolist(),
        "lintf": lintf.__version__,
        "tensorflow": tf.__version__,
    }
    unfinished = publish.unfinished_directory(base, base / _WORK)
    served.save(unfinished)
    on_event("saved")
    write_warmup(unfinished, str(build.get("name", base.name)))
    path = unfinished / publish.BUILD_FILE
    text = json.dumps(build, indent=2, sort_keys=True) + "\n"
    path.write_text(text, encoding="utf-8")
    on_event("described")
    _check(unfinished, build)
    on_event("checked")
    # A number of its own: another job's newer version must not be hidden.
    target = publish.publish(unfinished, base, number)
    on_event("published")
    _say(f"Published build {build['build_id']} as {target}")
    return target


def _check(path: pathlib.Path, build: Mapping[str, Any]) -> None:
    """Loads what was written as a server does, and asks it."""
    from tensorflow_serving.apis import predict_pb2

    from lintf.serving.errors import ServingError
    from lintf.serving.servable import Servable

    request = predict_pb2.PredictRequest()
    request.model_spec.signature_name = "index_stats"
    request.inputs["probe"].CopyFrom(tf.make_tensor_proto([0], tf.int64))
    try:
        servable = Servable(str(path))
        try:
            servable.warm_up()
            stats = servable.predict(request)
        finally:
            servable.close()
    except ServingError as error:
        raise JobError(
            f"the written version does not load, and was not published; it is "
            f"in {path}: {error}"
        ) from error
    rows, items = int(stats["num_rows"][0]), int(stats["live_rows"][0])
    offsets = stats["log_offsets"][0].tolist()
    if (
        rows != items
        or items != build["num_items"]
        or offsets != (build["log_offsets"])
    ):
        raise JobError(
            f"the written version must hold {build['num_items']} items and "
            f"the log up to {build['log_offsets']}, but has {items} items in "
            f"{rows} rows, up to {offsets}; it was not published and is in "
            f"{path}"
        )


@contextlib.contextmanager
def _locked(base: pathlib.Path) -> Iterator[None]:
    """Holds a model for one snapshot at a time."""
    if not base.is_dir():
        raise JobError(f"{base} must be a model's base path, and is none")
    with (base / f"{_WORK}.lock").open("w") as file:
        try:
            # The kernel frees it when the process ends, however it ends.
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise JobError(
                f"another snapshot of {base} is being made; wait for it"
            ) from None
        yield


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
