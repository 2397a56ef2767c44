// SPDX-License-Identifier: Apache-2.0
// The best rows by a learned similarity on the GPU (retrieval.h's algorithms
// from kExact on, sections 3.3 of arXiv 2407.13218 and 3 of arXiv 2407.15462).
//
// Numerics. Scores of all types of rows have the CPU's bits, and so have the
// results of kExact and kBounded. Candidates are those of gpu_knn.h: of float32
// and int8 rows the CPU's, of bfloat16 and float16 rows those of the tensor
// cores' sums.
#ifndef LINTF_CUSTOM_OPS_CORE_GPU_LEARNED_KNN_H_
#define LINTF_CUSTOM_OPS_CORE_GPU_LEARNED_KNN_H_

#include <cstdint>

#include "custom_ops/core/gpu_context.h"
#include "custom_ops/core/gpu_knn.h"
#include "custom_ops/core/gpu_masks.h"
#include "custom_ops/core/retrieval.h"

namespace lintf::gpu {

// As lintf::RetrieveRows of an input with a similarity; all pointers of
// `input`, the similarity's weights too, and of `output` are device memory,
// `mask_of_query` is host memory.
//
// kBounded first scores the candidates, as kTwoStage does: what it leaves out
// cannot reach the k-th best of them. `output.num_scored` counts a row once;
// with kBounded it depends on the GPU and the batch, unlike the results.
//
// kAuto scores all passing rows of a query if there are at most
// AutoExactRows, else the candidates alone. How many pass is known to the
// device alone, so both are queued, each for its own queries; all count as
// two_stage unless the choice is the same for any number.
RetrievalCounts RetrieveLearned(const RetrievalInput& input, const Masks& masks,
                                const int32_t* mask_of_query,
                                const KnnOptions& options, Context* context,
                                const KnnOutput& output);

// How many passing rows kAuto scores exactly: as many as cost no more than
// their part of the first stage and the candidates' scores, by operations and
// bytes. It depends on the index and the budget alone.
int64_t AutoExactRows(const RetrievalInput& input);

}  // namespace lintf::gpu

#endif  // LINTF_CUSTOM_OPS_CORE_GPU_LEARNED_KNN_H_
