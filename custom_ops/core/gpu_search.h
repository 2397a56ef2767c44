// SPDX-License-Identifier: Apache-2.0
// A search by any scan: how rows and queries are cut up, and the steps from
// the scan to the results. For .cu.cc files alone.
#ifndef LINTF_CUSTOM_OPS_CORE_GPU_SEARCH_H_
#define LINTF_CUSTOM_OPS_CORE_GPU_SEARCH_H_

#include <cstdint>
#include <vector>

#include "custom_ops/core/gpu_context.h"
#include "custom_ops/core/gpu_scan.h"
#include "custom_ops/core/gpu_select.h"
#include "custom_ops/core/masked_knn.h"

namespace lintf::gpu {

// What is searched, by which scan. All pointers are device memory.
struct ScanSearch {
  const Scan* scan = nullptr;
  // The items and k; the queries, [num_queries, query_dim], are the scan's.
  KnnInput input;
  int64_t query_dim = 0;
  ScanRows rows;
  // What the places of `rows` stand for.
  PlaceRows place_rows;
  // Each query is a group of its own: it may have a list of its own.
  bool one_by_one = false;
  // The words of each query's mask (null: nothing to check), host memory, or
  // empty.
  std::vector<const uint64_t*> masks;
  // Keys, [num_queries], that the k-th best of each query is not below; may be
  // null: then a sample of the rows finds such.
  const uint64_t* floors = nullptr;
};

// The k best of the rows that are scanned, as KnnOutput has them.
void SearchRows(const ScanSearch& search, Context* context,
                const KnnOutput& output);

}  // namespace lintf::gpu

#endif  // LINTF_CUSTOM_OPS_CORE_GPU_SEARCH_H_
