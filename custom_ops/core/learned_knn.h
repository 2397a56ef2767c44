// SPDX-License-Identifier: Apache-2.0
// The best rows by a learned similarity, of all that pass: the scan behind
// kExact and kBounded (retrieval.h), and behind the second stage of kTwoStage.
//
// Rows are scored tile by tile, as many at once as the CPU has lanes; those
// that pass are gathered first, so that the work is sized by their number.
//
// kBounded follows RAILS (arXiv 2407.15462): with a convex gate no score
// exceeds the largest logit of its row, and the logits are the smaller part of
// the work. Where the paper goes over the rows twice, this keeps the k-th best
// score so far and goes over them once, in an order that spreads the first
// blocks over the whole index, so that this score is soon close to the final
// one. Every row is read once: what changes meanwhile (live_search.h)
// was left out by the very score that is reported.
#ifndef LINTF_CUSTOM_OPS_CORE_LEARNED_KNN_H_
#define LINTF_CUSTOM_OPS_CORE_LEARNED_KNN_H_

#include <cstdint>

#include "custom_ops/core/mask_source.h"
#include "custom_ops/core/masked_knn.h"
#include "custom_ops/core/parallel.h"
#include "custom_ops/core/similarity.h"

namespace lintf {

struct LearnedKnnInput {
  const Similarity* similarity = nullptr;
  // [num_queries, query_dim]; `dim` is item_dim.
  KnnInput knn;
  // Leaves out the gate of rows that cannot be among the results; it needs a
  // convex gate.
  bool bounded = false;
  // About how many rows pass for a query, for the number of threads; -1: all.
  int64_t expected_rows = -1;
};

// `output.num_scored`, where it is not null, gets the number of rows whose full
// score was computed.
void LearnedKnn(const LearnedKnnInput& input, const MaskSource& masks,
                const int32_t* mask_of_query, const Parallel& parallel,
                const KnnOutput& output);

}  // namespace lintf

#endif  // LINTF_CUSTOM_OPS_CORE_LEARNED_KNN_H_
