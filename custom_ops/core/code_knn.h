// SPDX-License-Identifier: Apache-2.0
// The best rows by their 1-bit codes: LiNR's V3 (section 3.1.3 of arXiv
// 2407.13218), filtered before the selection.
#ifndef LINTF_CUSTOM_OPS_CORE_CODE_KNN_H_
#define LINTF_CUSTOM_OPS_CORE_CODE_KNN_H_

#include <cstdint>

#include "custom_ops/core/mask_source.h"
#include "custom_ops/core/parallel.h"

namespace lintf {

// kSymmetric: the matched bits of the row's code and the query's, 0 to bits.
// kAsymmetric: the inner product of the row's code, as +1 and -1, with the
// query's samples, from tables of sums for 4 bits that are rounded to a few
// bits for each query (the rounding is part of the definition: the score is
// an integer, times a step, plus an offset of the query's).
enum class CodeScoring : uint8_t { kSymmetric, kAsymmetric };

struct CodeKnnInput {
  const float* samples = nullptr;  // [num_queries, 64 * words], of SignOporp
  int64_t num_queries = 0;
  const uint64_t* codes = nullptr;  // as sign_oporp.h lays them out
  int64_t num_rows = 0;
  int64_t words = 0;  // of a code
  CodeScoring scoring = CodeScoring::kSymmetric;
  int64_t keep = 0;  // >= 1; may exceed num_rows
};

// Row-major outputs, owned by the caller. Slots past counts[b] hold row -1
// and score -inf.
struct CodeKnnOutput {
  float* scores = nullptr;    // [num_queries, keep]; may be null
  int64_t* rows = nullptr;    // [num_queries, keep]
  int64_t* counts = nullptr;  // [num_queries]
};

enum class CodeOrder : uint8_t {
  kBestFirst,   // higher score first, equal scores by lower row
  kAscendingRow  // the same rows, by row: what rescoring wants
};

// The `keep` best rows of each query among those that pass; of equal scores
// the lower rows are kept. `mask_of_query[b]` names the mask of query b.
void CodeKnn(const CodeKnnInput& input, const MaskSource& masks,
             const int32_t* mask_of_query, CodeOrder order,
             const Parallel& parallel, const CodeKnnOutput& output);

// The same, scalar and obvious.
void CodeKnnReference(const CodeKnnInput& input, const MaskSource& masks,
                      const int32_t* mask_of_query, CodeOrder order,
                      const CodeKnnOutput& output);

}  // namespace lintf

#endif  // LINTF_CUSTOM_OPS_CORE_CODE_KNN_H_
