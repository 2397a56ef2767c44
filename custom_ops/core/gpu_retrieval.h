// SPDX-License-Identifier: Apache-2.0
// One search on the GPU by any algorithm: retrieval.h's RetrieveRows.
#ifndef LINTF_CUSTOM_OPS_CORE_GPU_RETRIEVAL_H_
#define LINTF_CUSTOM_OPS_CORE_GPU_RETRIEVAL_H_

#include <cstdint>

#include "custom_ops/core/gpu_context.h"
#include "custom_ops/core/gpu_knn.h"
#include "custom_ops/core/gpu_masks.h"
#include "custom_ops/core/retrieval.h"

namespace lintf::gpu {

// As lintf::RetrieveRows; all pointers of `input` and `output` are device
// memory, `mask_of_query` is host memory. kAuto scores exactly where there are
// items: how many rows pass is known to the device alone, and a scan of the
// passing rows is at the memory's speed whatever their number. For a learned
// similarity see gpu_learned_knn.h.
RetrievalCounts RetrieveRows(const RetrievalInput& input, const Masks& masks,
                             const int32_t* mask_of_query,
                             const KnnOptions& options, Context* context,
                             const KnnOutput& output);

}  // namespace lintf::gpu

#endif  // LINTF_CUSTOM_OPS_CORE_GPU_RETRIEVAL_H_
