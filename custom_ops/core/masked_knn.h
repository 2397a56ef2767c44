// SPDX-License-Identifier: Apache-2.0
// Filtered exact K nearest neighbours, fused: LiNR's V1 (arXiv
// 2407.13218) without its score matrix.
//
// What differs from the paper: a filtered row gets no score at all instead of
// score 0, so it can never be returned, and rows are scored, filtered and
// selected tile by tile while they are in cache.
//
// Numerics. The score of a query and a row is accumulated in float32 by fused
// multiply-add over the dimensions in ascending order, starting from 0:
//   kInnerProduct: s = fma(q[d], x[d], s)
//   kL2:           t = q[d] - x[d], s = fma(t, t, s); the score is -s
// bfloat16 and float16 rows are converted to float32, which is exact, and then
// scored in the same way. For int8 rows the query becomes integers too,
// Q[d] = 256 * high[d] + low[d] (EncodeInt8Query). With X the row's integers,
// and in float32, one operation at a time:
//   p = fma(256, sum of high * X, sum of low * X) * query scale * row scale
//   kInnerProduct: p
//   kL2:           n = (sum of X * X) * row scale * row scale,
//                  -max(0, fma(-2, p, query norm + n))
// The sums are exact integers (up to kMaxInt8Dim dimensions).
// Every code path (plain, AVX2, AVX-512, VNNI; one query or many) does exactly
// these operations, so a result never depends on the machine's path, the
// batch, the tiles or the threads. Subnormals are kept, whatever the calling
// thread's flush-to-zero mode. A NaN (from inf - inf) is reported as -inf, and
// -0 as +0.
//
// Error. A score is off that of the float32 row, computed exactly, by at most
// the following, where e is how far an element of the stored row is off:
//   kInnerProduct: sum of |q| e,   kL2: sum of 2 |q - x| e + e^2
// with e = 2^-8 |x| (bfloat16), 2^-11 |x| + 2^-25 (float16, in its range),
// 0.5001 * row scale (int8, scale = max |x| / 127); plus what the query's
// integers are off, up to 0.502 * max |q| / 32639 an element; plus the rounding
// of the float32 arithmetic: for n dimensions (n + 2) 2^-24 times the sum of
// the magnitudes that are added, or for int8 n 2^-21 max |q| max |x|
// (kL2: n 2^-21 (max |q| + max |x|)^2).
//
// Order. Higher score first; equal scores by lower row.
#ifndef LINTF_CUSTOM_OPS_CORE_MASKED_KNN_H_
#define LINTF_CUSTOM_OPS_CORE_MASKED_KNN_H_

#include <cstdint>

#include "custom_ops/core/item_matrix.h"
#include "custom_ops/core/mask_source.h"
#include "custom_ops/core/parallel.h"

namespace lintf {

enum class Metric : uint8_t { kInnerProduct, kL2 };

// How the queries of a batch whose filters differ are scored. kShared scores
// every row that passes for any of them for all of them, and drops what did
// not pass ("masked"); kOwn gathers the passing rows of each filter and scores
// no others ("prefiltered"). kAuto picks the cheaper one for each tile of
// rows. The results are the same bits.
enum class KnnLayout : uint8_t { kAuto, kShared, kOwn };

// Costs in nanoseconds for each row and dimension, as measured from end to
// end where memory takes its share; they steer the choice of layout.
struct KnnCosts {
  float query_lanes_vector;  // kShared: one vector of queries
  float row_lanes_row;       // kOwn: a row, whatever the number of queries
  float row_lanes_query;     // kOwn: each query on top
};

// What is compiled in for the kernels that this CPU runs.
KnnCosts DefaultKnnCosts(ElementType type);

// What the caller may fix instead of leaving it to the search; the results do
// not depend on it.
struct KnnTuning {
  KnnLayout layout = KnnLayout::kAuto;
  // If not null, steers kAuto instead of DefaultKnnCosts.
  const KnnCosts* costs = nullptr;
  // Rows are numbered by 32 bits inside a segment; larger inputs are searched
  // segment by segment. A multiple of 64.
  int64_t segment_rows = (int64_t{1} << 32) - 64;
  // Bytes of candidate buffers at once; large batches with a large k are cut
  // into slices that fit.
  int64_t candidate_bytes = int64_t{256} << 20;
};

// Cosine is the inner product of rows and queries normalised by the caller.
struct KnnInput {
  const float* queries = nullptr;  // [num_queries, dim], row-major, finite
  int64_t num_queries = 0;
  ItemMatrix items;
  int64_t num_rows = 0;
  int64_t dim = 0;
  Metric metric = Metric::kInnerProduct;
  int64_t k = 0;  // >= 1; may exceed num_rows
  KnnTuning tuning = {};
};

// Pairs of a row and a query that a search scored, by the layout it took.
struct KnnStats {
  int64_t shared = 0;
  int64_t own = 0;
};

// Row-major outputs, owned by the caller. Slots past counts[b] hold row -1
// and score -inf.
struct KnnOutput {
  float* scores = nullptr;    // [num_queries, k]
  int64_t* rows = nullptr;    // [num_queries, k]
  int32_t* counts = nullptr;  // [num_queries]
  KnnStats* stats = nullptr;  // may be null; set, not added to
  // [num_queries], rows whose full score was computed; may be null. Set by
  // searches by a learned similarity (retrieval.h) alone. With kBounded it
  // depends on the threads, unlike the results.
  int64_t* num_scored = nullptr;
};

// `mask_of_query[b]` names the mask of query b in `masks`.
void MaskedKnn(const KnnInput& input, const MaskSource& masks,
               const int32_t* mask_of_query, const Parallel& parallel,
               const KnnOutput& output);

// The same, scalar and obvious: every score, then a full sort.
void MaskedKnnReference(const KnnInput& input, const MaskSource& masks,
                        const int32_t* mask_of_query, const KnnOutput& output);

}  // namespace lintf

#endif  // LINTF_CUSTOM_OPS_CORE_MASKED_KNN_H_
