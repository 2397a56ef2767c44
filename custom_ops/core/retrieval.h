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

namespace lintf {

enum class Algorithm : uint8_t { kAuto, kMasked, kPrefiltered, kQuantized };

struct RetrievalInput {
  KnnInput knn;   // items.data may be null: codes are all there is
  CodeSide code;  // codes may be null: there are none
  Algorithm algorithm = Algorithm::kAuto;
  PlannerCosts costs;
};

// Queries that were answered by each algorithm.
struct RetrievalCounts {
  int64_t masked = 0;
  int64_t prefiltered = 0;
  int64_t quantized = 0;
};

// The k best rows of each query among those that pass, as KnnOutput has them.
// kQuantized needs codes; the exact algorithms need items.
RetrievalCounts RetrieveRows(const RetrievalInput& input,
                             const MaskSource& masks,
                             const int32_t* mask_of_query,
                             const Parallel& parallel, const KnnOutput& output);

}  // namespace lintf

#endif  // LINTF_CUSTOM_OPS_CORE_RETRIEVAL_H_
