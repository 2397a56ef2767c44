# SPDX-License-Identifier: Apache-2.0
"""The signatures that change an index, and their inputs.

Servers guard them by name, warm-up leaves them out, and clients and the
ingester call them: all read the names here. Nothing here needs TensorFlow.
"""

from __future__ import annotations

# Upserts and deletes; the item tower makes the embeddings, if there is one.
UPDATE = "update"
# Upserts and deletes with given embeddings.
UPDATE_BY_EMBEDDING = "update_by_embedding"
# New attributes of known items.
UPDATE_ATTRIBUTES = "update_attributes"

MUTATING_SIGNATURES = frozenset(
    (UPDATE, UPDATE_BY_EMBEDDING, UPDATE_ATTRIBUTES)
)

# Their inputs, beside the item tower's features and one for each attribute.
ID = "id"
DELETE = "delete"
EMBEDDING = "embedding"
LOG_PARTITION = "log_partition"
LOG_PREVIOUS_OFFSET = "log_previous_offset"
LOG_OFFSET = "log_offset"

# What an item tower may call none of its features; `id` it may, if it means
# the item's.
RESERVED_INPUTS = frozenset(
    (DELETE, EMBEDDING, LOG_PARTITION, LOG_PREVIOUS_OFFSET, LOG_OFFSET)
)

_ATTRIBUTE_PREFIX = "attribute_"

# What `status` says of a row.
UNCHANGED, INSERTED, REPLACED, DELETED, NOT_FOUND = range(5)


def attribute_key(name: str) -> str:
    """The input or output that carries an attribute.

    >>> attribute_key("year")
    'attribute_year'
    """
    return _ATTRIBUTE_PREFIX + name
