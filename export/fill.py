# SPDX-License-Identifier: Apache-2.0
"""Fills an index as a training job: steps, checkpoints, resumption."""

from __future__ import annotations

import pathlib
from collections.abc import Callable
from typing import Any

import tensorflow as tf

from export.config import JobConfig
from export.errors import JobError
from export.items import ItemBatch, Items
from export.progress import Progress
from export.scalars import ScalarWriter
from export.towers import LoadedTower
from lintf.index.sharded import AnyIndex

OnEvent = Callable[[str], None]


def fill(
    index: AnyIndex,
    items: Items,
    num_items: int,
    item_tower: LoadedTower | None,
    config: JobConfig,
    checkpoints: pathlib.Path,
    logs: pathlib.Path,
    on_event: OnEvent = lambda event: None,
) -> None:
    """Appends all items to the index, going on from the last checkpoint.

    The rows' order and the batches that the item tower sees do not depend on
    where a run was cut off, so neither does the index.

    Args:
        index: Empty; filled afterwards.
        items: Where the rows come from.
        num_items: How many there are.
        item_tower: Computes the embeddings that the items do not bring.
        config: Batch size and checkpoints.
        checkpoints: Folder of the checkpoints.
        logs: Folder of the TensorBoard event files.
        on_event: Told `step N` and `checkpoint N` as they are done.
    """
    batch_size = config.fill.batch_size
    steps = -(-num_items // batch_size)
    manager = tf.train.CheckpointManager(
        tf.train.Checkpoint(index=index), str(checkpoints), max_to_keep=2
    )
    step = _restore(manager, index, batch_size)
    rows = int(index.num_rows)
    progress = Progress(steps, num_items, rows)
    scalars = ScalarWriter(logs)
    for batch in items.batches(batch_size, start=rows):
        index.append(
            batch.ids, embeddings_of(batch, item_tower), batch.attributes
        )
        step += 1
        rows += len(batch)
        on_event(f"step {step}")
        rate = progress.update(step, rows)
        scalars.write(step, {"rows": rows, "rows_per_second": rate})
        if step % config.checkpoint.every_steps == 0 and step < steps:
            manager.save(checkpoint_number=step)
            on_event(f"checkpoint {step}")
    scalars.close()
    if rows != num_items:
        raise JobError(
            f"expected {num_items} items as counted at the start, got {rows}: "
            "did the items change while the job ran?"
        )
    index.check()


def embeddings_of(batch: ItemBatch, item_tower: LoadedTower | None) -> Any:
    """The embeddings that a batch brings, or those of the item tower."""
    if item_tower is None:
        return batch.embeddings
    return item_tower(batch.features).numpy()


def _restore(
    manager: tf.train.CheckpointManager, index: AnyIndex, batch_size: int
) -> int:
    """Restores the last checkpoint, if any; returns the steps done."""
    if manager.latest_checkpoint is None:
        return 0
    status = manager.checkpoint.restore(manager.latest_checkpoint)
    status.assert_existing_objects_matched()
    index.invalidate()
    rows = int(index.num_rows)
    print(f"Resuming after {rows:,} items: {manager.latest_checkpoint}")
    return rows // batch_size
