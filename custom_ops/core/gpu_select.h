// SPDX-License-Identifier: Apache-2.0
// The k best candidates of each query, from the regions of a scan.
#ifndef LINTF_CUSTOM_OPS_CORE_GPU_SELECT_H_
#define LINTF_CUSTOM_OPS_CORE_GPU_SELECT_H_

#include <cstdint>

#include "custom_ops/core/gpu_candidates.h"
#include "custom_ops/core/gpu_context.h"
#include "custom_ops/core/masked_knn.h"

namespace lintf::gpu {

// Which row a candidate's place stands for: one of these, or the place itself.
struct PlaceRows {
  const uint32_t* rows32 = nullptr;  // of one list, for all queries
  // If not null, `rows32` are several lists, [.., stride], and this names that
  // of each query; -1: the place itself.
  const int32_t* list_of_query = nullptr;
  const int64_t* rows64 = nullptr;  // [num_queries, stride]
  int64_t stride = 0;
  int64_t first_row = 0;  // is added
};

// For each query a key that at least k candidates are not below, and not many
// more; 0 where there are fewer than k.
void FindThresholds(const Regions& regions, int64_t k, Context* context,
                    uint64_t* thresholds);

// The k best candidates, best first, as KnnOutput has them. What a region has
// past its count must be 0 if k is greater than kMaxBlockK; the regions' keys
// are lost then.
void SelectBest(const Regions& regions, int64_t k, const PlaceRows& rows,
                Context* context, const KnnOutput& output);

// Up to here one block sorts the results of a query in shared memory.
inline constexpr int64_t kMaxBlockK = 4096;

// The k best of results of `num_parts` searches, each as a KnnOutput of k slots
// a query: `scores` and `rows` are [num_parts, num_queries, k], `counts`
// [num_parts, num_queries]. Equal scores stay in the order of the parts.
void MergeResults(const float* scores, const int64_t* rows,
                  const int32_t* counts, int64_t num_parts, int64_t num_queries,
                  int64_t k, Context* context, const KnnOutput& output);

// Results of a search that found nothing.
void FillNoResults(int64_t num_queries, int64_t k, Context* context,
                   const KnnOutput& output);

}  // namespace lintf::gpu

#endif  // LINTF_CUSTOM_OPS_CORE_GPU_SELECT_H_
