// SPDX-License-Identifier: Apache-2.0
// The inner loops of the search by codes, one table of functions for each
// instruction set. Scores are integers, so that all of them give the same.
//
// The vectorised ones score by look-ups, 64 rows at a time: a block of codes is
// split into planes, plane n with the value of nibble n (4 bits) of each row, a
// byte a row, and one byte shuffle looks up what the rows of a plane score in
// the query's table for that nibble. Splitting a block costs about as much as
// three queries, which all use the same planes.
#ifndef LINTF_CUSTOM_OPS_CORE_CODE_KNN_KERNELS_H_
#define LINTF_CUSTOM_OPS_CORE_CODE_KNN_KERNELS_H_

#include <cstdint>

#include "custom_ops/core/code_knn_hits.h"
#include "custom_ops/core/code_knn_tables.h"

namespace lintf {

// 64 rows to score for one query.
struct CodeBlock {
  // What CodeKernels::split wrote; or, for functions that need no splitting,
  // the codes, [words, 64].
  const void* data = nullptr;
  uint64_t mask = 0;  // the rows that pass; not 0
  int64_t first_row = 0;
};

struct CodeScan {
  const CodeQuery* query = nullptr;
  CodeScoring scoring = CodeScoring::kSymmetric;
  int64_t words = 0;
  const CodeBlock* blocks = nullptr;  // in ascending order
  int64_t num_blocks = 0;
  // How far ahead the codes are that will probably be wanted next, for
  // scan_codes.
  int64_t ahead_bytes = 0;
  HitList* hits = nullptr;
  HitHistogram* histogram = nullptr;
};

struct CodeKernels {
  // Writes the planes of a block of codes, kPlaneBytesOfWord bytes a word,
  // aligned to 64, and fetches what is `ahead_bytes` further on. Null: `scan`
  // takes the codes themselves.
  void (*split)(const uint64_t* codes, int64_t words, int64_t ahead_bytes,
                uint8_t* planes);
  // Adds the rows that reach the threshold to the hits.
  void (*scan)(const CodeScan& scan);
  // The same from the codes themselves, symmetric only: the paper's XOR and
  // count of bits. Cheaper for one query, as nothing is split. May be null.
  void (*scan_codes)(const CodeScan& scan);
};

inline constexpr int64_t kPlaneBytesOfWord = kNibblesOfWord * kRowsPerWord;

enum class CodePath : uint8_t { kPlain, kAvx2, kAvx512 };

// Null if this build or this CPU does not have the path.
const CodeKernels* PlainCodeKernels();
const CodeKernels* Avx2CodeKernels();
const CodeKernels* Avx512CodeKernels();
const CodeKernels* CodeKernelsOf(CodePath path);

// The kernels of the best path that the CPU has, or of the forced one.
const CodeKernels& ActiveCodeKernels();

// Forces a path, which the CPU must have, for all later searches. For tests.
void SetCodePathForTesting(CodePath path);
void ResetCodePathForTesting();

}  // namespace lintf

#endif  // LINTF_CUSTOM_OPS_CORE_CODE_KNN_KERNELS_H_
