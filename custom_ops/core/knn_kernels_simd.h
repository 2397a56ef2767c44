// SPDX-License-Identifier: Apache-2.0
// The vector kernels, written once over a vector type. Included by
// knn_kernels_avx2.cc and knn_kernels_avx512.cc alone, each of which first
// defines, in namespace lintf and an anonymous namespace:
//   LINTF_SIMD           attributes of every function (the target, inlining)
//   LINTF_SIMD_ENTRY     attributes of the two entry points (the target)
//   Vec, kLanes          a vector of floats
//   Zero Load Store Set1 Sub Negate Fma
//   NotLessEqual(a, b)   a bit for each lane where !(a <= b)
//   LoadTransposed(rows, d, out): out[i] lane r = rows[r][d + i], i < kLanes
//   CopyTail(row, n, out): out[0..kLanes) = row[0..n), zeros; 0 < n < kLanes
//   RowsOf(vectors)      rows of a block of query lanes
//   AppendDenseWord(word, base, rows): as append_rows does, for one word with
//       more than kSparseWord bits
//   kMaxVectors, kQueryLanesRows, kCosts
#ifndef LINTF_CUSTOM_OPS_CORE_KNN_KERNELS_SIMD_H_
#define LINTF_CUSTOM_OPS_CORE_KNN_KERNELS_SIMD_H_

namespace lintf {
namespace {

template <Metric kMetric>
LINTF_SIMD Vec Accumulate(Vec query, Vec row, Vec sum) {
  if (kMetric == Metric::kInnerProduct) return Fma(query, row, sum);
  const Vec difference = Sub(query, row);
  return Fma(difference, difference, sum);
}

template <Metric kMetric>
LINTF_SIMD Vec Finish(Vec sum) {
  return kMetric == Metric::kL2 ? Negate(sum) : sum;
}

constexpr int kLineFloats = 16;  // in a cache line

LINTF_SIMD void FetchToL1(const float* p) {
  _mm_prefetch(reinterpret_cast<const char*>(p), _MM_HINT_T0);
}

LINTF_SIMD void FetchToL2(const float* p) {
  _mm_prefetch(reinterpret_cast<const char*>(p), _MM_HINT_T1);
}

// Adds dimension `d` of each row.
template <Metric kMetric, int kRows, int kVectors>
LINTF_SIMD void AccumulateQueries(const float* packed, const float* const* rows,
                                  int64_t d, Vec (*sums)[kVectors]) {
  // Keeps the compiler from loading ahead, for which there are no registers.
  asm volatile("" ::: "memory");
  Vec queries[kVectors];
#pragma GCC unroll 4
  for (int v = 0; v < kVectors; ++v) queries[v] = Load(packed + v * kLanes);
#pragma GCC unroll 16
  for (int r = 0; r < kRows; ++r) {
    const Vec element = Set1(rows[r] + d);
#pragma GCC unroll 4
    for (int v = 0; v < kVectors; ++v) {
      sums[r][v] = Accumulate<kMetric>(queries[v], element, sums[r][v]);
    }
  }
}

// Query lanes: blocks of kRows rows by kVectors vectors of queries, whose
// sums all stay in registers.
template <Metric kMetric, int kVectors>
LINTF_SIMD_ENTRY void QueryLanesOf(const QueryLanesCall& call,
                                   TopKCollector* collector) {
  constexpr int kRows = RowsOf(kVectors);
  constexpr uint32_t kAllLanes = (uint32_t{1} << kLanes) - 1;
  const float* const thresholds = collector->thresholds() + call.first_slot;
  const int64_t dim = call.dim;
  const int64_t count = call.rows.count;
  for (int64_t first = 0; first < count; first += kRows) {
    const float* rows[kRows];
    const int64_t block = count - first < kRows ? count - first : kRows;
#pragma GCC unroll 16
    for (int r = 0; r < kRows; ++r) {
      rows[r] = call.rows.data[first + (r < block ? r : block - 1)];
    }
    Vec sums[kRows][kVectors];
#pragma GCC unroll 16
    for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 4
      for (int v = 0; v < kVectors; ++v) sums[r][v] = Zero();
    }
    // A cache line of each row at a time, while the same line of a row ahead
    // is fetched. The fetches are spread out, as only few can be under way.
    const float* const* const next = call.rows.data + first + kFetchDistance;
    const float* packed = call.packed;
    int64_t d = 0;
    for (; d + kLineFloats <= dim; d += kLineFloats) {
#pragma GCC unroll 16
      for (int i = 0; i < kLineFloats; ++i) {
        if (i < kRows) FetchToL2(next[i] + d);
        AccumulateQueries<kMetric, kRows, kVectors>(packed, rows, i, sums);
        packed += kVectors * kLanes;
      }
#pragma GCC unroll 16
      for (int r = 0; r < kRows; ++r) rows[r] += kLineFloats;
    }
#pragma GCC unroll 16
    for (int r = 0; r < kRows; ++r) {
      if (d < dim) FetchToL2(next[r] + d);
    }
    for (; d < dim; ++d) {
      AccumulateQueries<kMetric, kRows, kVectors>(packed, rows, 0, sums);
      packed += kVectors * kLanes;
#pragma GCC unroll 16
      for (int r = 0; r < kRows; ++r) ++rows[r];
    }
#pragma GCC unroll 16
    for (int r = 0; r < kRows; ++r) {
      if (r >= block) break;
      const uint64_t lanes = call.lanes_of_row == nullptr
                                 ? call.active
                                 : call.lanes_of_row[first + r] & call.active;
#pragma GCC unroll 4
      for (int v = 0; v < kVectors; ++v) {
        const Vec scores = Finish<kMetric>(sums[r][v]);
        const uint32_t hits =
            NotLessEqual(scores, Load(thresholds + v * kLanes)) &
            static_cast<uint32_t>(lanes >> (v * kLanes)) & kAllLanes;
        if (__builtin_expect(hits != 0, 0)) {
          alignas(64) float stored[kLanes];
          Store(stored, scores);
          collector->AddSlotHits(call.first_slot + v * kLanes, hits, stored,
                                 call.rows.ids[first + r]);
        }
      }
    }
  }
}

// Adds the next kLanes dimensions, from `d` of the queries and `row_d` of the
// rows on.
template <Metric kMetric, int kQueries>
LINTF_SIMD void AccumulateRows(const float* const* rows, int64_t row_d,
                               const float* queries, int64_t query_stride,
                               int64_t d, Vec* sums) {
  Vec columns[kLanes];
  LoadTransposed(rows, row_d, columns);
#pragma GCC unroll 16
  for (int i = 0; i < kLanes; ++i) {
#pragma GCC unroll 8
    for (int q = 0; q < kQueries; ++q) {
      sums[q] = Accumulate<kMetric>(Set1(queries + q * query_stride + d + i),
                                    columns[i], sums[q]);
    }
  }
}

// Row lanes are bound by memory, not arithmetic, and fetch into L1. Query lanes
// fetch into L2: their fetches would wait for L1's few fill buffers and hold up
// the arithmetic.
constexpr int kRowsAhead = 16;

// Row lanes: blocks of kLanes rows by kQueries queries.
template <Metric kMetric, int kQueries>
LINTF_SIMD_ENTRY void RowLanesOf(const RowLanesCall& call,
                                 TopKCollector* collector) {
  const float* const thresholds = collector->thresholds() + call.first_slot;
  const int64_t dim = call.dim;
  const int64_t count = call.rows.count;
  const int64_t whole = dim / kLanes * kLanes;
  const int64_t tail = dim - whole;
  for (int64_t first = 0; first < count; first += kLanes) {
    const int64_t block = count - first < kLanes ? count - first : kLanes;
    const float* padded[kLanes];
    const float* const* rows = call.rows.data + first;
    if (block < kLanes) {
      for (int r = 0; r < kLanes; ++r) {
        padded[r] = rows[r < block ? r : block - 1];
      }
      rows = padded;
    }
    const float* const* const next = call.rows.data + first + kRowsAhead;
    Vec sums[kQueries];
#pragma GCC unroll 8
    for (int q = 0; q < kQueries; ++q) sums[q] = Zero();
    for (int64_t d = 0; d < whole; d += kLanes) {
      if (d % kLineFloats == 0) {
#pragma GCC unroll 16
        for (int r = 0; r < kLanes; ++r) FetchToL1(next[r] + d);
      }
      AccumulateRows<kMetric, kQueries>(rows, d, call.queries,
                                        call.query_stride, d, sums);
    }
    if (tail != 0) {
      // Zeros in both the rows and the queries leave the sums as they are.
      alignas(64) float tails[kLanes][kLanes];
      const float* tail_rows[kLanes];
      for (int r = 0; r < kLanes; ++r) {
        FetchToL1(next[r] + whole);
        CopyTail(rows[r] + whole, tail, tails[r]);
        tail_rows[r] = tails[r];
      }
      AccumulateRows<kMetric, kQueries>(tail_rows, 0, call.queries,
                                        call.query_stride, whole, sums);
    }
    const uint32_t valid = (uint32_t{1} << block) - 1;
#pragma GCC unroll 8
    for (int q = 0; q < kQueries; ++q) {
      const Vec scores = Finish<kMetric>(sums[q]);
      const uint32_t hits = NotLessEqual(scores, Set1(thresholds + q)) & valid;
      if (__builtin_expect(hits != 0, 0)) {
        alignas(64) float stored[kLanes];
        Store(stored, scores);
        collector->AddRowHits(call.first_slot + q, hits, stored,
                              call.rows.ids + first);
      }
    }
  }
}

template <Metric kMetric>
LINTF_SIMD_ENTRY void QueryLanesOfMetric(const QueryLanesCall& call,
                                         TopKCollector* collector) {
  switch (call.vectors) {
    case 1:
      return QueryLanesOf<kMetric, 1>(call, collector);
    case 2:
      return QueryLanesOf<kMetric, 2>(call, collector);
    case 3:
      return QueryLanesOf < kMetric, kMaxVectors<3 ? 1 : 3>(call, collector);
    case 4:
      return QueryLanesOf < kMetric, kMaxVectors<4 ? 1 : 4>(call, collector);
  }
}

template <Metric kMetric>
LINTF_SIMD_ENTRY void RowLanesOfMetric(const RowLanesCall& call,
                                       TopKCollector* collector) {
  switch (call.num_queries) {
    case 1:
      return RowLanesOf<kMetric, 1>(call, collector);
    case 2:
      return RowLanesOf<kMetric, 2>(call, collector);
    case 3:
      return RowLanesOf<kMetric, 3>(call, collector);
    case 4:
      return RowLanesOf<kMetric, 4>(call, collector);
    case 5:
      return RowLanesOf<kMetric, 5>(call, collector);
    case 6:
      return RowLanesOf<kMetric, 6>(call, collector);
    case 7:
      return RowLanesOf<kMetric, 7>(call, collector);
    case 8:
      return RowLanesOf<kMetric, 8>(call, collector);
  }
}

void QueryLanes(const QueryLanesCall& call, TopKCollector* collector) {
  if (call.metric == Metric::kL2) {
    QueryLanesOfMetric<Metric::kL2>(call, collector);
  } else {
    QueryLanesOfMetric<Metric::kInnerProduct>(call, collector);
  }
}

void RowLanes(const RowLanesCall& call, TopKCollector* collector) {
  if (call.metric == Metric::kL2) {
    RowLanesOfMetric<Metric::kL2>(call, collector);
  } else {
    RowLanesOfMetric<Metric::kInnerProduct>(call, collector);
  }
}

LINTF_SIMD_ENTRY int64_t CountBits(const uint64_t* bits, int64_t words) {
  int64_t count = 0;
  for (int64_t w = 0; w < words; ++w) count += __builtin_popcountll(bits[w]);
  return count;
}

LINTF_SIMD_ENTRY int64_t AppendRows(const uint64_t* bits, int64_t words,
                                    uint32_t first_row, uint32_t* rows) {
  int64_t count = 0;
  for (int64_t w = 0; w < words; ++w) {
    const uint32_t base = first_row + static_cast<uint32_t>(w * kRowsPerWord);
    uint64_t word = bits[w];
    if (__builtin_popcountll(word) > kSparseWord) {
      count += AppendDenseWord(word, base, rows + count);
      continue;
    }
    for (; word != 0; word &= word - 1) {
      rows[count++] = base + static_cast<uint32_t>(__builtin_ctzll(word));
    }
  }
  return count;
}

const KnnKernels& SimdKernels() {
  static const KnnKernels kernels = {kLanes,    kMaxVectors, kQueryLanesRows,
                                     kCosts,    QueryLanes,  RowLanes,
                                     CountBits, AppendRows};
  return kernels;
}

}  // namespace
}  // namespace lintf

#endif  // LINTF_CUSTOM_OPS_CORE_KNN_KERNELS_SIMD_H_
