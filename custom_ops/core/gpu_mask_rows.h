// SPDX-License-Identifier: Apache-2.0
// The masks of a batch, query by query.
#ifndef LINTF_CUSTOM_OPS_CORE_GPU_MASK_ROWS_H_
#define LINTF_CUSTOM_OPS_CORE_GPU_MASK_ROWS_H_

#include <cstdint>

#include "custom_ops/core/gpu_context.h"
#include "custom_ops/core/gpu_masks.h"

namespace lintf::gpu {

// Writes the mask of each query, bits [num_queries, MaskWords(num_rows)], and
// how many rows it passes, [num_queries]. `mask_of_query` is host memory.
void CopyMasks(const Masks& masks, const int32_t* mask_of_query,
               int64_t num_queries, int64_t num_rows, Context* context,
               uint64_t* bits, int64_t* passing);

}  // namespace lintf::gpu

#endif  // LINTF_CUSTOM_OPS_CORE_GPU_MASK_ROWS_H_
