# SPDX-License-Identifier: Apache-2.0
"""lintf's TensorFlow operations.

Importing this package loads the op library, so that SavedModels with lintf's
operations can be loaded. It needs TensorFlow of the minor version that the
library was built for; see `lintf.ops.library`.
"""

from lintf.ops.codes import quantized_knn, sign_oporp, sign_oporp_signs
from lintf.ops.filters import FilterMask, compile_filter, filter_mask
from lintf.ops.index import (
    IndexResource,
    IndexStats,
    assign_codes,
    assign_rows,
    index_stats,
    planner_costs,
)
from lintf.ops.knn import Neighbors, masked_knn, prefiltered_knn
from lintf.ops.lookup import LookedUp, lookup
from lintf.ops.retrieve import Retrieved, retrieve
from lintf.ops.retrieve_similar import (
    RetrievedSimilar,
    retrieve_similar,
    similarity_costs,
)
from lintf.ops.update import LogPosition, Updated, log_offsets, update
from lintf.ops.update_check import check_update

__all__ = [
    "FilterMask",
    "IndexResource",
    "IndexStats",
    "LogPosition",
    "LookedUp",
    "Neighbors",
    "Retrieved",
    "RetrievedSimilar",
    "Updated",
    "assign_codes",
    "assign_rows",
    "check_update",
    "compile_filter",
    "filter_mask",
    "index_stats",
    "log_offsets",
    "lookup",
    "masked_knn",
    "planner_costs",
    "prefiltered_knn",
    "quantized_knn",
    "retrieve",
    "retrieve_similar",
    "sign_oporp",
    "sign_oporp_signs",
    "similarity_costs",
    "update",
]
