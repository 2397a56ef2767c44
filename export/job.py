# SPDX-License-Identifier: Apache-2.0
"""One export job, from its config to a published version.

Every step either can be repeated or leaves what the next run needs; so a job
that was killed, at whatever point, is finished by running it again.
"""

from __future__ import annotations

import dataclasses
import json
import os
import pathlib
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal

import numpy as np
import tensorflow as tf

import lintf
from export import memory, publish, queries, recall, towers, workdir
from export.config import JobConfig
from export.errors import JobError
from export.fill import OnEvent, embeddings_of, fill
from export.items import Items, Scan, scan
from export.parse import ConfigError
from export.projector import write_projector
from export.warmup import write_warmup
from export.workdir import WorkDir
from lintf import ops
from lintf.index import columns
from lintf.index.batching import Batching
from lintf.index.plan import Plan, Variant, check_portable
from lintf.index.schema import IndexSchema
from lintf.index.served import ServedIndex
from lintf.index.sharded import (
    AnyIndex,
    new_index,
    rows_in_order,
    shards_of,
)
from lintf.index.signatures import ID
from lintf.index.updates import check_item_tower
from lintf.similarity.spec import SimilaritySpec

Ops = Literal["native", "portable"]

# Rows for new items, where the config does not say: this part of the items'
# number, but not too few for a small index.
_ROOM_SHARE = 8
_LEAST_ROOM = 1_024

# Below this many rows a search takes microseconds, whatever the planner picks.
_LEAST_MEASURED_ROWS = 10_000


@dataclasses.dataclass(frozen=True)
class Request:
    """What a job is to do.

    Attributes:
        config: What to build.
        output_dir: The model's base path; versions are its children.
        work_dir: What an unfinished job needs to go on lies here.
        version: The version's number; None takes the next free one.
        ops: "portable" builds from stock TensorFlow operations only.
        on_event: Told the steps as they are done; tests stop the job there.
    """

    config: JobConfig
    output_dir: pathlib.Path
    work_dir: pathlib.Path
    version: int | None = None
    ops: Ops = "native"
    on_event: OnEvent = lambda event: None


def run_job(request: Request) -> pathlib.Path:
    """Builds an index and publishes it.

    Returns:
        The version's directory. If this very build is published already, that
        one, and nothing is built.

    Raises:
        ItemsError: Something is wrong with the items.
        JobError: The job cannot go on; the message says why.
    """
    work = WorkDir(request.work_dir)
    with work.locked():
        return _run(request, work)


def _run(request: Request, work: WorkDir) -> pathlib.Path:
    config, on_event = request.config, request.on_event
    if request.ops == "portable" and config.sharding.count > 1:
        raise ConfigError(
            f"shards: a portable index is in one piece, got "
            f"{config.sharding.count} shards; leave `shards` out (or --set "
            "shards=1), or export it with lintf's operations"
        )
    if request.ops == "native" and config.lacks_queries:
        raise ConfigError(
            "retrieve.recall_features: required to measure what two-stage "
            "searches find with saved towers; give the `path` of a .npz file "
            "of query features, or take the algorithm exact or bounded, or "
            "set retrieve.recall_floor to 0"
        )
    _say(f"Reading the items of {config.name!r}")
    items = Items(config)
    prepared, query_tower, item_tower = towers.Towers(), None, None
    if not config.trains:
        prepared, query_tower, item_tower = _towers(config, work, items)
    found = scan(items, config)
    identity = _identity(request, found, prepared)
    build_id = workdir.build_id(identity)
    published = _published(request, build_id)
    if published is not None:
        _say(f"Nothing to do: {published} is build {build_id} already")
        work.finish(identity)
        return published
    capacity = _capacity(request, found)
    # Before hours of training. What towers will give has at least 1 dimension.
    if found.dim is None:
        known = IndexSchema(1, attributes=found.attributes)
    else:
        known = _schema(request, found, found.dim)
    memory.check(known, capacity, config.sharding)
    work.claim(identity)
    if config.trains:
        _say("Training the towers")
        prepared, query_tower, item_tower = _towers(config, work, items)
    on_event("towers")

    dim = found.dim if item_tower is None else item_tower.dim
    assert dim is not None
    similarity = towers.load_similarity(prepared, query_tower, item_tower)
    spec = similarity and similarity.spec
    schema = _schema(request, found, dim, spec)
    for name, plan in _plans(request, schema).items():
        try:
            plan.check(schema)
        except ValueError as error:
            raise ConfigError(f"{name}: {error}") from error
    if config.quantization is not None and schema.quantization is None:
        _say("A portable index searches exactly: it gets no codes")
    memory.check(schema, capacity, config.sharding)
    if config.update.enabled and request.ops == "native":
        _check_item_features(config, item_tower, schema)
    offsets = config.log.initial_offsets()
    index = new_index(
        schema, capacity, config.sharding, log_partitions=len(offsets)
    )
    index.log_offsets.assign(offsets)
    if similarity is not None:
        index.set_similarity_weights(similarity.weights)
    logs = work.tensorboard / build_id[:8]
    _say(
        f"Filling the index: {found.num_rows:,} items, "
        f"{index.schema.dim} dimensions (tensorboard --logdir "
        f"{work.tensorboard})"
    )
    fill(
        index,
        items,
        found.num_rows,
        item_tower,
        config,
        work.fill,
        logs,
        on_event,
    )
    if config.projector.rows:
        write_projector(index, logs, config.projector.rows)
    on_event("filled")
    reports = _measure_recall(request, index, items, item_tower, query_tower)
    for report in reports:
        if report.passes:
            _say(report.to_text())
    if not all(report.passes for report in reports):
        # Another config may now use the directory.
        work.finish(identity)
        recall.check(reports)
    on_event("measured")
    unfinished = publish.unfinished_directory(request.output_dir, work.path)
    both = {"query_tower": query_tower, "item_tower": item_tower}
    _save(request, index, both, build_id, reports, unfinished)
    _write_job(work.job_file, config, prepared)
    _verify(unfinished, work.job_file)
    on_event("verified")
    target = publish.publish(unfinished, request.output_dir, request.version)
    on_event("published")
    work.finish(identity)
    _say(f"Published build {build_id} as {target}")
    return target


def _towers(
    config: JobConfig, work: WorkDir, items: Items
) -> tuple[towers.Towers, towers.LoadedTower | None, towers.LoadedTower | None]:
    """Where the towers lie, and both of them loaded; trains them if needed."""
    prepared = towers.prepare(config, work.towers)
    query_tower = towers.load(prepared.query) if prepared.query else None
    item_tower = towers.load(prepared.item) if prepared.item else None
    if item_tower is not None:
        items.take_features(item_tower.feature_specs)
    return prepared, query_tower, item_tower


def _identity(
    request: Request, found: Scan, prepared: towers.Towers
) -> dict[str, Any]:
    """All that the built index depends on, for the build id."""
    return {
        "config": request.config.identity(),
        "items_fingerprint": found.fingerprint,
        "towers_fingerprint": prepared.fingerprint(),
        "ops": request.ops,
        "lintf": lintf.__version__,
    }


def _published(request: Request, build_id: str) -> pathlib.Path | None:
    """The version that holds this build, where it need not be made again."""
    if request.version is None:
        return publish.find_build(request.output_dir, build_id)
    target = request.output_dir / str(request.version)
    if not os.path.lexists(target):
        return None
    if publish.read_build(target).get("build_id") == build_id:
        return target
    raise JobError(publish.version_taken(target))


def _capacity(request: Request, found: Scan) -> int:
    """The rows to allocate."""
    config = request.config
    portable = request.ops == "portable"
    room = 0
    if config.update.enabled and not portable:
        # So that the first upsert of a new item finds a row.
        room = max(found.num_rows // _ROOM_SHARE, _LEAST_ROOM)
    capacity = config.index.capacity or found.num_rows + room
    if capacity < found.num_rows:
        raise JobError(
            f"index.capacity: expected at least {found.num_rows}, the number "
            f"of items, got {capacity}"
        )
    if portable and capacity > found.num_rows:
        _say(
            f"A portable index takes no updates: its capacity is the number "
            f"of items, {found.num_rows:,}, not {capacity:,}"
        )
        capacity = found.num_rows
    return capacity


def _schema(
    request: Request,
    found: Scan,
    dim: int,
    similarity: SimilaritySpec | None = None,
) -> IndexSchema:
    config, codes = request.config, None
    alone = config.index.dtype == "none"
    if config.quantization is not None and (alone or request.ops == "native"):
        try:
            coded = dim if similarity is None else similarity.components_dim
            codes = config.quantization.resolve(coded, config.retrieve.k)
        except ValueError as error:
            raise ConfigError(str(error)) from error
    schema = IndexSchema(
        dim=dim,
        metric=config.index.metric,
        id_dtype=config.index.id_dtype,
        attributes=found.attributes,
        limits=config.filter_limits.limits(),
        dtype=config.index.dtype,
        quantization=codes,
        similarity=similarity,
    )
    if request.ops == "portable":
        check_portable(schema)
    return schema


def _check_item_features(
    config: JobConfig,
    item_tower: towers.LoadedTower | None,
    schema: IndexSchema,
) -> None:
    """Checks that the item tower's features can be inputs of `update`."""
    if item_tower is None:
        return
    try:
        check_item_tower(item_tower, schema)
        if ID in item_tower.feature_specs:
            column = config.items.features.get(ID, ID)
            if column != config.items.id:
                raise ValueError(
                    f"the item tower's feature {ID!r} must be the item's id, "
                    f"of the column {config.items.id!r}, but it is read from "
                    f"{column!r}"
                )
    except ValueError as error:
        raise JobError(
            f"the index cannot take raw features in updates: {error}; rename "
            "the feature, or set update.enabled to false"
        ) from error


def _plans(request: Request, schema: IndexSchema) -> dict[str, Plan]:
    """How each retrieve signature searches."""
    plans = request.config.retrieve.plans(schema)
    if schema.quantization is not None:
        return plans
    # A portable index has no codes, where the config says so.
    return {
        name: dataclasses.replace(plan, algorithm="auto")
        if plan.algorithm == "quantized"
        else plan
        for name, plan in plans.items()
    }


def _measure_recall(
    request: Request,
    index: AnyIndex,
    items: Items,
    item_tower: towers.LoadedTower | None,
    query_tower: towers.LoadedTower | None,
) -> tuple[recall.Report, ...]:
    """Recall of each signature that may answer by codes."""
    config, schema = request.config, index.schema
    if schema.similarity is not None:
        return _measure_two_stage(request, index, query_tower)
    codes = config.quantization
    if codes is None or schema.quantization is None:
        return ()
    _say("Measuring the recall of the codes")
    count, alone = codes.recall_queries, schema.dtype == "none"
    places = _places(index, items, config) if alone else None
    features = None
    if query_tower is not None:
        features = queries.recipe_features(
            config, query_tower.feature_specs, count, codes.seed
        )
    if query_tower is not None and features is not None:
        asked = queries.of_tower(query_tower(features))
    else:
        rows = queries.sample(int(index.num_rows), count, codes.seed)
        if places is None:
            vectors = index.vectors(rows)
        else:
            vectors = _read_rows(index, items, item_tower, config, rows)
            rows = places[rows]
        asked = queries.of_items(vectors, rows)
    return recall.measure(
        index,
        _plans(request, schema),
        asked,
        codes.floor(rescored=not alone),
        _vectors(index, items, item_tower, config) if alone else None,
        places,
    )


def _measure_two_stage(
    request: Request,
    index: AnyIndex,
    query_tower: towers.LoadedTower | None,
) -> tuple[recall.Report, ...]:
    """Recall of each signature that may search in two stages."""
    config, retrieve = request.config, request.config.retrieve
    plans = _plans(request, index.schema)
    unmeasured = not config.trains and retrieve.recall_features is None
    # A portable index searches exactly.
    if request.ops == "portable" or unmeasured:
        return ()
    if not any(p.algorithm in ("auto", "two_stage") for p in plans.values()):
        return ()
    _say("Measuring the recall of two-stage searches")
    assert query_tower is not None
    specs, count = query_tower.feature_specs, retrieve.learned_queries
    if retrieve.recall_features is not None:
        source = "queries of a file"
        features = queries.features_from_file(
            retrieve.recall_features.path, specs, count, 0
        )
    else:
        source = "held-out users"
        drawn = queries.recipe_features(config, specs, count, 0)
        assert drawn is not None
        features = drawn
    asked = queries.of_tower(query_tower(features), source)
    return recall.measure_learned(index, plans, asked, retrieve.learned_floor)


def _places(index: AnyIndex, items: Items, config: JobConfig) -> np.ndarray:
    """The row of each item, in the items' order."""
    ids = []
    for batch in items.batches(config.fill.batch_size):
        if index.schema.id_dtype == "string":
            ids.append(columns.fingerprints(batch.ids))
        else:
            ids.append(np.asarray(batch.ids, np.int64))
    return rows_in_order(index, np.concatenate(ids))


def _read_rows(
    index: AnyIndex,
    items: Items,
    item_tower: towers.LoadedTower | None,
    config: JobConfig,
    rows: np.ndarray,
) -> np.ndarray:
    """The embeddings of some items, which are not stored, read again."""
    parts, start = [], 0
    for batch in items.batches(config.fill.batch_size):
        here = rows[(rows >= start) & (rows < start + len(batch))] - start
        if len(here):
            vectors = np.asarray(embeddings_of(batch, item_tower))
            parts.append(index.checked_embeddings(vectors)[here])
        start += len(batch)
    return np.concatenate(parts)


def _vectors(
    index: AnyIndex,
    items: Items,
    item_tower: towers.LoadedTower | None,
    config: JobConfig,
) -> Iterator[np.ndarray]:
    """The embeddings of all items, as they were before they became codes."""
    for batch in items.batches(config.fill.batch_size):
        yield index.checked_embeddings(embeddings_of(batch, item_tower))


def _planner_costs(index: AnyIndex, plans: Mapping[str, Plan]) -> list[float]:
    """What searches cost here, where a signature lets the planner choose.

    Differs from run to run, and is no part of the build's identity: it changes
    how fast an answer comes, and which of two right ones where codes are used.
    """
    # Of one shard: searches go to each of them.
    shard = max(shards_of(index), key=lambda one: int(one.num_rows))
    if int(shard.num_rows) < _LEAST_MEASURED_ROWS or not any(
        plan.algorithm == "auto" for plan in plans.values()
    ):
        return []
    _say("Measuring what searches cost on this machine")
    if shard.schema.similarity is not None:
        costs = ops.similarity_costs(
            shard.resource,
            shard.ids,
            shard.embeddings,
            shard.num_rows,
            spec=shard.schema.similarity,
            weights=index.similarity_weights,
            scales=shard.scales,
            codes=shard.codes,
            quantization=shard.schema.quantization,
        )
        return [float(cost) for cost in costs.numpy()]
    costs = ops.planner_costs(
        shard.resource,
        shard.ids,
        shard.embeddings,
        shard.num_rows,
        scales=shard.scales,
        codes=shard.codes,
        quantization=shard.schema.quantization,
        dim=shard.schema.dim,
    )
    return [float(cost) for cost in costs.numpy()]


def _save(
    request: Request,
    index: AnyIndex,
    both: Mapping[str, towers.LoadedTower | None],
    build_id: str,
    reports: Sequence[recall.Report],
    path: pathlib.Path,
) -> None:
    """Writes the SavedModel, its warm-up requests and the build's record."""
    config, on_event = request.config, request.on_event
    batching = None
    if config.batching is not None:
        batching = Batching(**dataclasses.asdict(config.batching))
    portable = request.ops == "portable"
    plans = _plans(request, index.schema)
    costs = [] if portable else _planner_costs(index, plans)
    _say("Writing the SavedModel")
    main = plans.pop("retrieve")
    served = ServedIndex(
        index,
        **both,
        k=main.k,
        algorithm=main.algorithm,
        variants=[
            Variant(name, **dataclasses.asdict(plan))
            for name, plan in plans.items()
        ],
        costs=costs,
        return_attributes=config.retrieve.return_attributes,
        batching=batching,
        portable=portable,
        max_request_rows=config.retrieve.max_request_rows,
        read_only=not config.update.enabled,
        max_update_rows=config.update.max_request_rows,
        build_id=build_id,
    )
    served.save(path)
    on_event("saved")
    write_warmup(path, config.name)
    on_event("warmup")
    build: dict[str, Any] = {
        "build_id": build_id,
        "name": config.name,
        "ops": request.ops,
        "num_items": int(index.num_rows),
        "lintf": lintf.__version__,
        "tensorflow": tf.__version__,
        "config": config.identity(),
    }
    if reports:
        build["recall"] = [dataclasses.asdict(r) for r in reports]
    text = json.dumps(build, indent=2, sort_keys=True) + "\n"
    (path / publish.BUILD_FILE).write_text(text, encoding="utf-8")
    on_event("described")


def _write_job(
    path: pathlib.Path, config: JobConfig, prepared: towers.Towers
) -> None:
    item = prepared.item
    data = {
        "config": json.loads(config.canonical()),
        "item_tower": item and dataclasses.asdict(item),
    }
    path.write_text(json.dumps(data, indent=2), encoding="utf-8")


def _verify(model: pathlib.Path, job_file: pathlib.Path) -> None:
    """Checks the written model in a fresh process, as a server loads it."""
    _say("Verifying in a fresh process")
    root = str(pathlib.Path(__file__).resolve().parents[1])
    paths = [root, *filter(None, [os.environ.get("PYTHONPATH")])]
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "export.verify",
            str(model),
            f"--job={job_file}",
        ],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        lines = done.stderr.strip().splitlines()
        found = [i for i, t in enumerate(lines) if t.startswith("MISMATCH")]
        told = "\n".join(lines[found[0] :] if found else lines[-20:])
        raise JobError(
            f"the written index failed its check and was not published; it is "
            f"in {model}:\n{told}"
        )
    _say(done.stdout.strip().splitlines()[-1])


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
