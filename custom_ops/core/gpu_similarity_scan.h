// SPDX-License-Identifier: Apache-2.0
// The scan that scores rows by a learned similarity; for .cu.cc files alone.
#ifndef LINTF_CUSTOM_OPS_CORE_GPU_SIMILARITY_SCAN_H_
#define LINTF_CUSTOM_OPS_CORE_GPU_SIMILARITY_SCAN_H_

#include <cstdint>

#include "custom_ops/core/gpu_context.h"
#include "custom_ops/core/gpu_scan.h"
#include "custom_ops/core/gpu_similarity.h"
#include "custom_ops/core/similarity.h"

namespace lintf::gpu {

// Rows of each query, ascending, on the device: one of several lists. Rows are
// counted from ScanRows::first_row.
struct QueryLists {
  const uint32_t* rows = nullptr;  // [.., stride]
  int64_t stride = 0;
  const uint32_t* counts = nullptr;  // [..]
  // [num_queries], the list of each query of the search; -1: all rows, which
  // ScanRows::num_places then counts.
  const int32_t* list_of_query = nullptr;
};

// Scores queries one by one, each on its list, and counts the rows whose full
// score was computed.
class SimilarityScan : public Scan {
 public:
  // Pointers of `similarity` are device memory, which must stay, as `context`
  // must. If `is_bounded`, which takes a convex gate, rows whose LogitBound is
  // below the candidates' floor have their gate left out.
  SimilarityScan(const Similarity& similarity, const QueryLists& lists,
                 bool is_bounded, Context* context);

  // Adds to `num_scored`, [num_queries of the search], the rows that are
  // scored. Not those whose bit is set in `uncounted`, [num_queries, stride]
  // words, if that is not null.
  void Count(unsigned long long* num_scored, const uint64_t* uncounted,
             int64_t stride) {
    num_scored_ = num_scored;
    uncounted_ = uncounted;
    uncounted_stride_ = stride;
  }

  ScanShape Shape(const ItemMatrix& items, Metric metric, int64_t num_queries,
                  bool one_by_one, int64_t dim,
                  Context* context) const override;
  void PrepareQueries(const float* queries, ScanTask* task,
                      Context* context) const override;
  void Run(const ScanTask& task, int64_t blocks,
           Context* context) const override;

 private:
  const Similarity similarity_;
  const SimilarityLayout layout_;
  const QueryLists lists_;
  const bool is_bounded_;
  const float* const gate_;  // as LayOutGate has it
  unsigned long long* num_scored_ = nullptr;
  const uint64_t* uncounted_ = nullptr;
  int64_t uncounted_stride_ = 0;
};

}  // namespace lintf::gpu

#endif  // LINTF_CUSTOM_OPS_CORE_GPU_SIMILARITY_SCAN_H_
