// SPDX-License-Identifier: Apache-2.0
// The queries of a search by codes, made ready on the GPU: the arithmetic of
// code_knn_tables.h, operation by operation.
#ifndef LINTF_CUSTOM_OPS_CORE_GPU_CODE_KNN_QUERIES_H_
#define LINTF_CUSTOM_OPS_CORE_GPU_CODE_KNN_QUERIES_H_

#include <cstdint>

#include "custom_ops/core/code_knn.h"
#include "custom_ops/core/gpu_context.h"

namespace lintf::gpu {

// All device memory.
struct CodeQueries {
  // kSymmetric: [num_queries, words], the complements of the queries' codes,
  // so that the bits of `codes ^ row` are those that match.
  const uint64_t* codes = nullptr;
  // kAsymmetric: [num_queries, words, 16, 16], what each value of each four
  // bits of a row's code adds.
  const uint8_t* tables = nullptr;
  // [num_queries, 2]: a score s is reported as [0] + [1] * s.
  const double* scales = nullptr;
};

// No row of any query scores more.
constexpr int64_t MaxCodeScore(int64_t words, CodeScoring scoring) {
  return (scoring == CodeScoring::kSymmetric ? 64 : 1008) * words;
}

// `samples` is device memory, [num_queries, 64 * words].
CodeQueries MakeCodeQueries(const float* samples, int64_t num_queries,
                            int64_t words, CodeScoring scoring,
                            Context* context);

}  // namespace lintf::gpu

#endif  // LINTF_CUSTOM_OPS_CORE_GPU_CODE_KNN_QUERIES_H_
