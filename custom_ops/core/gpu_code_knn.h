// SPDX-License-Identifier: Apache-2.0
// The best rows by their 1-bit codes on the GPU: code_knn.h's CodeKnn, same
// results bit for bit.
#ifndef LINTF_CUSTOM_OPS_CORE_GPU_CODE_KNN_H_
#define LINTF_CUSTOM_OPS_CORE_GPU_CODE_KNN_H_

#include <cstdint>

#include "custom_ops/core/code_knn.h"
#include "custom_ops/core/gpu_context.h"
#include "custom_ops/core/gpu_masks.h"

namespace lintf::gpu {

// As lintf::CodeKnn. Samples, codes and `output` are device memory,
// `mask_of_query` is host memory; of the two scratch sizes the context's
// counts. `keep` may be tens of millions. Beside the outputs it takes a byte a
// row (two if a code has more than 192 bits, or for asymmetric scores) for each
// query that is searched at once; gpu_code_knn.cu.cc has the rest. More than
// kMaxSegmentRows rows are an error: such an index is cut into shards.
void CodeKnn(const CodeKnnInput& input, const Masks& masks,
             const int32_t* mask_of_query, CodeOrder order, Context* context,
             const CodeKnnOutput& output);

}  // namespace lintf::gpu

#endif  // LINTF_CUSTOM_OPS_CORE_GPU_CODE_KNN_H_
