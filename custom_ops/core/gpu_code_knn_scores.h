// SPDX-License-Identifier: Apache-2.0
// The first pass of a search by codes: the score of every row that passes.
#ifndef LINTF_CUSTOM_OPS_CORE_GPU_CODE_KNN_SCORES_H_
#define LINTF_CUSTOM_OPS_CORE_GPU_CODE_KNN_SCORES_H_

#include <cstdint>

#include "custom_ops/core/code_knn.h"
#include "custom_ops/core/gpu_code_knn_queries.h"
#include "custom_ops/core/gpu_context.h"
#include "custom_ops/core/gpu_masks.h"

namespace lintf::gpu {

// Queries of one slice.
inline constexpr int64_t kMaxCodeQueries = 64;
// Rows of scores are a multiple of this; those past the table do not pass.
inline constexpr int64_t kScoreRows = 512;

// Short codes have scores that fit a byte.
constexpr bool ScoresAreBytes(int64_t words, CodeScoring scoring) {
  return MaxCodeScore(words, scoring) < 255;
}

// What a row scores that does not pass.
template <typename Score>
inline constexpr uint32_t kNoScore = static_cast<Score>(~Score{0});

struct CodeScoreInput {
  const uint64_t* codes = nullptr;
  int64_t words = 0;
  int64_t num_rows = 0;
  CodeScoring scoring = CodeScoring::kSymmetric;
  CodeQueries queries;  // those of the slice
  int64_t num_queries = 0;
  const uint64_t* masks = nullptr;  // words, [masks, mask_stride]
  int64_t mask_stride = 0;
  int32_t mask_of_query[kMaxCodeQueries] = {};  // -1: all rows pass
};

// Writes `scores`, [num_queries, row_stride] of uint8_t or uint16_t, and adds
// to `histogram`, [num_queries, MaxCodeScore + 1], how many rows have each
// score. `row_stride` is num_rows rounded up to kScoreRows.
void ScoreCodes(const CodeScoreInput& input, int64_t row_stride,
                Context* context, void* scores, uint32_t* histogram);

}  // namespace lintf::gpu

#endif  // LINTF_CUSTOM_OPS_CORE_GPU_CODE_KNN_SCORES_H_
