// SPDX-License-Identifier: Apache-2.0
// Search by 1-bit codes, then exact rescoring of a shortlist (LiNR's V3 with
// its second stage, figure 3 of arXiv 2407.13218).
#ifndef LINTF_CUSTOM_OPS_CORE_QUANTIZED_KNN_H_
#define LINTF_CUSTOM_OPS_CORE_QUANTIZED_KNN_H_

#include <cstdint>

#include "custom_ops/core/code_knn.h"
#include "custom_ops/core/mask_source.h"
#include "custom_ops/core/masked_knn.h"
#include "custom_ops/core/parallel.h"

namespace lintf {

struct CodeSide {
  const float* samples = nullptr;   // [num_queries, 64 * words]
  const uint64_t* codes = nullptr;  // as sign_oporp.h lays them out
  int64_t words = 0;
  CodeScoring scoring = CodeScoring::kSymmetric;
  // Rows kept for rescoring; raised to k where it is less.
  int64_t shortlist = 0;
};

// With input.items.data null the codes are all there is: the k best by code,
// with the scores of code_knn.h.
void QuantizedKnn(const KnnInput& input, const CodeSide& code,
                  const MaskSource& masks, const int32_t* mask_of_query,
                  const Parallel& parallel, const KnnOutput& output);

}  // namespace lintf

#endif  // LINTF_CUSTOM_OPS_CORE_QUANTIZED_KNN_H_
