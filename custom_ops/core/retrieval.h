// SPDX-License-Identifier: Apache-2.0
// One search by any of LiNR's algorithms (section 3.1 of arXiv 2407.13218).
#ifndef LINTF_CUSTOM_OPS_CORE_RETRIEVAL_H_
#define LINTF_CUSTOM_OPS_CORE_RETRIEVAL_H_

#include <cstdint>

#include "custom_ops/core/mask_source.h"
#include "custom_ops/core/masked_knn.h"
#include "custom_ops/core/parallel.h"
#include "custom_ops/core/planner.h"
#include "custom_ops/core/quantized_knn.h"
#include "custom_ops/core/similarity.h"

namespace lintf {

struct RetrievalInput {
  // items.data may be null: codes are all there is. With a similarity, `dim`
  // is its item_dim, a query has query_dim numbers, and the metric is the
  // inner product.
  KnnInput knn;
  CodeSide code;  // codes may be null: there are none
  Algorithm algorithm = Algorithm::kAuto;
  PlannerCosts costs;
  // Of a learned similarity; null: there is none. It needs items.
  const Similarity* similarity = nullptr;
  Candidates candidates = Candidates::kAveraged;
  int64_t budget = 0;  // number of candidates; raised to k
  SimilarityCosts similarity_costs = {};
};

// Queries that were answered by each algorithm.
struct RetrievalCounts {
  int64_t masked = 0;
  int64_t prefiltered = 0;
  int64_t quantized = 0;
  int64_t exact = 0;
  int64_t bounded = 0;
  int64_t two_stage = 0;
};

// The k best rows of each query among those that pass, as KnnOutput has them.
// kQuantized needs codes, and so does kTwoStage with kCodes; the exact
// algorithms need items. With a similarity only kAuto and kExact to kTwoStage
// make sense, without one the others; which, the caller checks.
RetrievalCounts RetrieveRows(const RetrievalInput& input,
                             const MaskSource& masks,
                             const int32_t* mask_of_query,
                             const Parallel& parallel, const KnnOutput& output);

// Of a search by a similarity with kExact, the same, scalar and obvious: every
// score, then a full sort. `output.stats` is left as it is.
void RetrieveRowsReference(const RetrievalInput& input, const MaskSource& masks,
                           const int32_t* mask_of_query,
                           const KnnOutput& output);

}  // namespace lintf

#endif  // LINTF_CUSTOM_OPS_CORE_RETRIEVAL_H_
