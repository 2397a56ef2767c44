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
#ifndef LINTF_CUSTOM_OPS_CORE_KNN_KERNELS_H_
#define LINTF_CUSTOM_OPS_CORE_KNN_KERNELS_H_

#include <cstdint>

#include "custom_ops/core/masked_knn.h"
#include "custom_ops/core/top_k.h"

namespace lintf {

// How far ahead of the row at hand kernels fetch rows, and how many rows past
// the end of a list they may fetch (the distance and up to two blocks more).
inline constexpr int kFetchDistance = 32;
inline constexpr int kLookahead = 64;

// Rows to score, in ascending order.
struct KnnRows {
  // [count + kLookahead], each of `dim` floats. Those past `count` are only
  // fetched into the cache: the rows that will probably be scored next.
  const float* const* data = nullptr;
  const uint32_t* ids = nullptr;  // [count], as reported to the collector
  int64_t count = 0;
};

struct QueryLanesCall {
  Metric metric = Metric::kInnerProduct;
  int64_t dim = 0;
  const float* packed = nullptr;  // [dim, vectors * lanes]
  int vectors = 0;                // 1 to max_vectors
  int64_t first_slot = 0;         // of the collector; thresholds follow
  // The lanes in use, a bit for each of the vectors * lanes (at most 64).
  uint64_t active = 0;
  // If not null: for row i of `rows`, the lanes whose query it passes for.
  const uint64_t* lanes_of_row = nullptr;
  KnnRows rows;
};

struct RowLanesCall {
  Metric metric = Metric::kInnerProduct;
  int64_t dim = 0;
  // [num_queries, query_stride], zeros from dim up to the stride, which is a
  // multiple of kQueryPadding.
  const float* queries = nullptr;
  int64_t query_stride = 0;
  int num_queries = 0;     // 1 to kMaxSharedQueries
  int64_t first_slot = 0;  // of the collector, one slot a query
  KnnRows rows;
};

inline constexpr int64_t kQueryPadding = 16;
inline constexpr int kMaxSharedQueries = 8;
// Upper limit of vectors * lanes.
inline constexpr int kMaxLanes = 64;

struct KnnKernels {
  int lanes;        // queries in a vector
  int max_vectors;  // of a QueryLanesCall
  // Query lanes take rows in blocks of a size that divides this one (row lanes
  // in blocks of `lanes`); part of a block costs as much as a whole one.
  int query_lanes_rows;
  KnnCosts costs;
  void (*query_lanes)(const QueryLanesCall& call, TopKCollector* collector);
  void (*row_lanes)(const RowLanesCall& call, TopKCollector* collector);
  int64_t (*count_bits)(const uint64_t* bits, int64_t words);
  // Appends first_row + i for each bit i and returns how many; up to
  // kRowsPerWord more elements of `rows` may be overwritten.
  int64_t (*append_rows)(const uint64_t* bits, int64_t words,
                         uint32_t first_row, uint32_t* rows);
};

enum class KnnPath : uint8_t { kPlain, kAvx2, kAvx512 };

// Null if this build or this CPU does not have the path.
const KnnKernels* PlainKnnKernels();
const KnnKernels* Avx2KnnKernels();
const KnnKernels* Avx512KnnKernels();
const KnnKernels* KnnKernelsOf(KnnPath path);

// The kernels of the best path that the CPU has, or of the forced one.
const KnnKernels& ActiveKnnKernels();

// Forces a path, which the CPU must have, for all later searches. For tests.
void SetKnnPathForTesting(KnnPath path);
void ResetKnnPathForTesting();

}  // namespace lintf

#endif  // LINTF_CUSTOM_OPS_CORE_KNN_KERNELS_H_
