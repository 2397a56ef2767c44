// SPDX-License-Identifier: Apache-2.0
// The best rows by their 1-bit codes: LiNR's V3 (arXiv 2407.13218), filtered
// before the selection.
#ifndef LINTF_CUSTOM_OPS_CORE_CODE_KNN_H_
#define LINTF_CUSTOM_OPS_CORE_CODE_KNN_H_

#include <cstdint>

#include "custom_ops/core/mask_source.h"
#include "custom_ops/core/parallel.h"
#include "custom_ops/core/sign_oporp.h"

namespace lintf {

// kSymmetric: the bits that the row's code and the query's have in common, 0
// to 64 * words; popcount(~query ^ row), the paper's XOR with the query's
// complement.
//
// kAsymmetric: the inner product of the row's code, as +1 and -1, with the
// query's samples, which are not cut down to signs. The samples s[0..] are
// taken four at a time. What four bits of a code add to the score of the
// opposite of the query's signs is t = sum of 2 |s[i]| over the bits that agree
// with the sign of s[i]; it is rounded to level(t) = floor(t * 63 / m + 1/2),
// m being the most that any four bits of this query can add. The score is the
// sum of the levels, an integer of at most 1008 * words; reported is
// sum * m / 63 - (sum of all |s[i]|). All of this is in double precision, sums
// in ascending order (m = 0 makes all levels 0; an infinite sample counts as
// the greatest float, NaN as 0).
enum class CodeScoring : uint8_t { kSymmetric, kAsymmetric };

struct CodeKnnInput {
  const float* samples = nullptr;  // [num_queries, 64 * words], of SignOporp
  int64_t num_queries = 0;
  const uint64_t* codes = nullptr;  // as sign_oporp.h lays them out
  int64_t num_rows = 0;
  int64_t words = 0;  // of a code, at most kMaxCodeBits / 64
  CodeScoring scoring = CodeScoring::kSymmetric;
  int64_t keep = 0;  // >= 1; may exceed num_rows
  // Bytes of hits held at once, beside one list of up to 1.5 * keep where
  // `keep` itself takes more: large batches are cut into slices that fit, the
  // rows into segments. The results do not depend on it.
  int64_t scratch_bytes = int64_t{256} << 20;
};

// Row-major outputs, owned by the caller. Slots past counts[b] hold row -1
// and score -inf.
struct CodeKnnOutput {
  float* scores = nullptr;    // [num_queries, keep]; may be null
  int64_t* rows = nullptr;    // [num_queries, keep]
  int64_t* counts = nullptr;  // [num_queries]
};

enum class CodeOrder : uint8_t {
  kBestFirst,     // higher score first, equal scores by lower row
  kAscendingRow,  // the same rows, by row: what rescoring wants
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
