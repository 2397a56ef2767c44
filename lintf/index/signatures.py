# SPDX-License-Identifier: Apache-2.0
"""The signatures that change an index.

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
