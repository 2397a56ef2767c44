// SPDX-License-Identifier: Apache-2.0
// The inner loops of the KNN search, one table of functions for each
// instruction set. All of them do the arithmetic that masked_knn.h fixes, one
// (query, row) pair in each vector lane, so their results are the same bits.
//
// There are two layouts. With *query lanes*, a vector holds the same dimension
// of many queries and each row element is broadcast: no work is spent on the
// rows but loads, so it is best for many queries. With *row lanes*, a vector
// holds the same dimension of many rows, transposed in registers, and each
// query element is broadcast: best for a few queries, which share the
// transposed rows.
//
// Row lanes read rows as they are stored. Query lanes would convert each
// element again for each block of queries, and so take rows that `expand` has
// converted.
#ifndef LINTF_CUSTOM_OPS_CORE_KNN_KERNELS_H_
#define LINTF_CUSTOM_OPS_CORE_KNN_KERNELS_H_

#include <cstdint>

#include "custom_ops/core/item_matrix.h"
#include "custom_ops/core/masked_knn.h"
#include "custom_ops/core/top_k.h"

namespace lintf {

// How many rows past the end of a list kernels may fetch.
inline constexpr int kLookahead = 128;
// How many of them query lanes do: this distance and up to a block more.
inline constexpr int kFetchDistance = 32;

// Rows to score, in ascending order.
struct KnnRows {
  // [count + kLookahead], as they are stored. Those past `count` are only
  // fetched into the cache: the rows that will probably be scored next.
  const char* const* data = nullptr;
  const uint32_t* ids = nullptr;  // [count], as reported to the collector
  int64_t count = 0;
};

// What kInt8 needs to know of queries, by slot. The integers of a query are
// two planes (item_encoding.h); what a kernel adds up of each plane starts
// from `start`, which makes up for an offset of the rows.
struct Int8Queries {
  const int32_t* start[2] = {nullptr, nullptr};  // of the high and low plane
  const float* scales = nullptr;
  const float* norms = nullptr;  // squared lengths
};

struct QueryLanesCall {
  Metric metric = Metric::kInnerProduct;
  // Elements of a row. For kInt8, in this struct alone, its steps.
  int64_t dim = 0;
  // [dim, vectors * lanes], or for kInt8 [dim, vectors, 2 planes, lanes].
  const float* packed = nullptr;
  const int32_t* int8_packed = nullptr;
  int vectors = 0;         // 1 to max_vectors
  int64_t first_slot = 0;  // of the collector; thresholds follow
  // The lanes in use, a bit for each of the vectors * lanes (at most 64).
  uint64_t active = 0;
  // If not null: for row i of `rows`, the lanes whose query it passes for.
  const uint64_t* lanes_of_row = nullptr;
  // As float32, or for kInt8 as `expand` writes them; `rows.data` need not
  // have more than `count` rows.
  KnnRows rows;
  // Row i fetches row ahead[i + kFetchDistance], `ahead_bytes` for every 16
  // elements or steps.
  const char* const* ahead = nullptr;
  int64_t ahead_bytes = 0;
  // kInt8 alone.
  Int8Queries int8;
  const float* row_scales = nullptr;   // [count]
  const int32_t* row_norms = nullptr;  // [count], of the integers; for kL2
};

struct RowLanesCall {
  Metric metric = Metric::kInnerProduct;
  ElementType type = ElementType::kFloat32;
  int64_t dim = 0;
  // [num_queries, query_stride], zeros from dim up to the stride, which is a
  // multiple of kQueryPadding; for kInt8 [num_queries, query_stride] pairs of
  // high and low plane, one for each step.
  const float* queries = nullptr;
  const int32_t* int8_queries = nullptr;
  int64_t query_stride = 0;
  int num_queries = 0;     // 1 to kMaxSharedQueries
  int64_t first_slot = 0;  // of the collector, one slot a query
  KnnRows rows;
  // kInt8 alone.
  Int8Queries int8;
  const float* scales = nullptr;  // by id
};

// Rows that are not float32, for query lanes: bfloat16 and float16 become
// float32, `dim` elements a row.
//
// kInt8 becomes int32 *steps*, each of which a kernel multiplies and adds up
// at once with the same step of a query. Four elements, a quad, are
// int8_parts steps: one of four bytes, each plus int8_offset, or two of two
// 16-bit numbers (elements 0 and 2, then 1 and 3). Where there are two, the
// first steps of `lanes` quads precede their second ones.
struct ExpandCall {
  ElementType type = ElementType::kBfloat16;
  int64_t dim = 0;
  const char* const* rows = nullptr;  // [count]
  int64_t count = 0;
  // [count, dim] floats or [count, Int8Steps] integers, and room for
  // kExpandSlack more.
  void* out = nullptr;
  int32_t* norms = nullptr;  // [count], squared lengths; may be null
};

inline constexpr int64_t kExpandSlack = 32;
inline constexpr int64_t kQueryPadding = 32;
inline constexpr int kMaxSharedQueries = 8;
// Upper limit of vectors * lanes.
inline constexpr int kMaxLanes = 64;

struct KnnKernels {
  int lanes;        // queries in a vector
  int max_vectors;  // of a QueryLanesCall
  // Query lanes take rows in blocks of a size that divides this one (row lanes
  // in blocks of `lanes`); part of a block costs as much as a whole one.
  int query_lanes_rows;
  int int8_parts;       // 1 or 2
  int32_t int8_offset;  // 128 with 1 part, or 0
  KnnCosts costs[kNumElementTypes];
  void (*query_lanes)(const QueryLanesCall& call, TopKCollector* collector);
  void (*row_lanes)(const RowLanesCall& call, TopKCollector* collector);
  void (*query_lanes_int8)(const QueryLanesCall& call,
                           TopKCollector* collector);
  void (*row_lanes_int8)(const RowLanesCall& call, TopKCollector* collector);
  void (*expand)(const ExpandCall& call);
  int64_t (*count_bits)(const uint64_t* bits, int64_t words);
  // Appends first_row + i for each bit i and returns how many; up to
  // kRowsPerWord more elements of `rows` may be overwritten.
  int64_t (*append_rows)(const uint64_t* bits, int64_t words,
                         uint32_t first_row, uint32_t* rows);

  // Steps of a row or query of `quads` quads, and where one of them is.
  int64_t Int8Steps(int64_t quads) const {
    return int8_parts == 1 ? quads : (quads + lanes - 1) / lanes * lanes * 2;
  }
  int64_t Int8Step(int64_t quad, int part) const {
    if (int8_parts == 1) return quad;
    return quad / lanes * lanes * 2 + part * lanes + quad % lanes;
  }
};

enum class KnnPath : uint8_t { kPlain, kAvx2, kAvx512, kAvx512Vnni };

// Null if this build or this CPU does not have the path.
const KnnKernels* PlainKnnKernels();
const KnnKernels* Avx2KnnKernels();
const KnnKernels* Avx512KnnKernels();
const KnnKernels* Avx512VnniKnnKernels();
const KnnKernels* KnnKernelsOf(KnnPath path);

// The kernels of the best path that the CPU has, or of the forced one.
const KnnKernels& ActiveKnnKernels();

// Forces a path, which the CPU must have, for all later searches. For tests.
void SetKnnPathForTesting(KnnPath path);
void ResetKnnPathForTesting();

}  // namespace lintf

#endif  // LINTF_CUSTOM_OPS_CORE_KNN_KERNELS_H_
