// SPDX-License-Identifier: Apache-2.0
// Whether a batch of changes fits an index that is kept in several shards,
// asked before the first of them changes.
#ifndef LINTF_CUSTOM_OPS_CORE_UPDATE_CHECK_H_
#define LINTF_CUSTOM_OPS_CORE_UPDATE_CHECK_H_

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "custom_ops/core/item_matrix.h"
#include "custom_ops/core/row_writer.h"

namespace lintf {

// What is wrong with an embedding that is to be stored; empty if nothing is.
//
// normalize: the vector is scaled to length 1 before it is stored.
// type: that it is stored in; none if it is not.
std::string ItemError(const float* vector, int64_t dim, bool normalize,
                      std::optional<ElementType> type);

// By how many items each of `num_shards` grows, below 0 where it shrinks.
//
// updates: of which `ids`, `remove` and `attributes_only` are looked at.
// shard: where the item of each row belongs, in [0, num_shards).
// found: whether its shard has the item, before the batch.
std::vector<int64_t> ItemGrowth(const RowUpdates& updates, const int64_t* shard,
                                const bool* found, int64_t num_shards);

}  // namespace lintf

#endif  // LINTF_CUSTOM_OPS_CORE_UPDATE_CHECK_H_
