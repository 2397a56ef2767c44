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
from typing import Any, Literal

import tensorflow as tf

import lintf
from export import memory, publish, towers, workdir
from export.config import JobConfig
from export.errors import JobError
from export.fill import OnEvent, fill
from export.items import Items, Scan, scan
from export.projector import write_projector
from export.warmup import write_warmup
from export.workdir import WorkDir
from lintf.index.index import Index
from lintf.index.schema import IndexSchema
from lintf.index.served import Batching, ServedIndex

Ops = Literal["native", "portable"]


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
    # Before hours of training; its dimension is at least 1.
    memory.check(_schema(config, found, found.dim or 1), capacity)
    work.claim(identity)
    if config.trains:
        _say("Training the towers")
        prepared, query_tower, item_tower = _towers(config, work, items)
    on_event("towers")

    dim = found.dim if item_tower is None else item_tower.dim
    assert dim is not None
    schema = _schema(config, found, dim)
    memory.check(schema, capacity)
    index = Index(schema, capacity)
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
    unfinished = publish.unfinished_directory(request.output_dir, work.path)
    _save(request, index, query_tower, build_id, unfinished)
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
    capacity = config.index.capacity or found.num_rows
    if capacity < found.num_rows:
        raise JobError(
            f"index.capacity: expected at least {found.num_rows}, the number "
            f"of items, got {capacity}"
        )
    if request.ops == "portable" and capacity > found.num_rows:
        _say(
            f"A portable index takes no updates: its capacity is the number "
            f"of items, {found.num_rows:,}, not {capacity:,}"
        )
        capacity = found.num_rows
    return capacity


def _schema(config: JobConfig, found: Scan, dim: int) -> IndexSchema:
    return IndexSchema(
        dim=dim,
        metric=config.index.metric,
        id_dtype=config.index.id_dtype,
        attributes=found.attributes,
        limits=config.filter_limits.limits(),
    )


def _save(
    request: Request,
    index: Index,
    query_tower: towers.LoadedTower | None,
    build_id: str,
    path: pathlib.Path,
) -> None:
    """Writes the SavedModel, its warm-up requests and the build's record."""
    config, on_event = request.config, request.on_event
    batching = None
    if config.batching is not None:
        batching = Batching(**dataclasses.asdict(config.batching))
    _say("Writing the SavedModel")
    served = ServedIndex(
        index,
        query_tower,
        k=config.retrieve.k,
        algorithm=config.retrieve.algorithm,
        return_attributes=config.retrieve.return_attributes,
        batching=batching,
        portable=request.ops == "portable",
        max_request_rows=config.retrieve.max_request_rows,
        build_id=build_id,
    )
    served.save(path)
    on_event("saved")
    write_warmup(path, config.name)
    on_event("warmup")
    build = {
        "build_id": build_id,
        "name": config.name,
        "ops": request.ops,
        "num_items": int(index.num_rows),
        "lintf": lintf.__version__,
        "tensorflow": tf.__version__,
        "config": config.identity(),
    }
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
