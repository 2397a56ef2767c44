// SPDX-License-Identifier: Apache-2.0
// The vector kernels, written once over a vector type. Included by
// knn_kernels_avx2.cc and knn_kernels_avx512.cc alone, each of which first
// defines, in namespace lintf and an anonymous namespace:
//   LINTF_SIMD           attributes of every function (the target, inlining)
//   LINTF_SIMD_ENTRY     attributes of the two entry points (the target)
//   Vec, kLanes          a vector of floats
//   Zero Load Store Set1 Sub Negate Fma
//   NotLessEqual(a, b)   a bit for each lane where !(a <= b)
//   LoadHalves(p)        kLanes float16 numbers
//   LoadBfloats(p)       kLanes bfloat16 numbers
//   EvenBfloats(v), OddBfloats(v): of the pairs in each lane
//   LoadTransposed<kHalves>(rows, at, out): lane r of out[i] is number i from
//       byte `at` of rows[r] on, i < kLanes: float32, or float16 if kHalves
//   CopyTail(row, n, out): n bytes, then zeros up to 4 * kLanes bytes; n > 0
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

LINTF_SIMD void FetchToL1(const char* p) { _mm_prefetch(p, _MM_HINT_T0); }

LINTF_SIMD void FetchToL2(const char* p) { _mm_prefetch(p, _MM_HINT_T1); }

constexpr int kLineBytes = 64;

// Adds dimension `d` of each row.
template <Metric kMetric, int kRows, int kVectors>
LINTF_SIMD void AccumulateQueries(const float* packed, const float* const* rows,
                                  int64_t d, Vec (*sums)[kVectors]) {
  Vec queries[kVectors];
#pragma GCC unroll 4
  for (int v = 0; v < kVectors; ++v) queries[v] = Load(packed + v * kLanes);
#pragma GCC unroll 16
  for (int r = 0; r < kRows; ++r) {
    // Keeps the compiler from loading ahead, for which there are no registers.
    asm volatile("" ::: "memory");
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
      rows[r] = reinterpret_cast<const float*>(
          call.rows.data[first + (r < block ? r : block - 1)]);
    }
    Vec sums[kRows][kVectors];
#pragma GCC unroll 16
    for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 4
      for (int v = 0; v < kVectors; ++v) sums[r][v] = Zero();
    }
    // A cache line of each row at a time, while the same line of a row ahead
    // is fetched. The fetches are spread out, as only few can be under way.
    const char* const* const next = call.ahead + first + kFetchDistance;
    int64_t at = 0;
    const float* packed = call.packed;
    int64_t d = 0;
    for (; d + kLineFloats <= dim; d += kLineFloats) {
#pragma GCC unroll 16
      for (int i = 0; i < kLineFloats; ++i) {
        if (i < kRows) FetchToL2(next[i] + at);
        AccumulateQueries<kMetric, kRows, kVectors>(packed, rows, i, sums);
        packed += kVectors * kLanes;
      }
      at += call.ahead_bytes;
#pragma GCC unroll 16
      for (int r = 0; r < kRows; ++r) rows[r] += kLineFloats;
    }
#pragma GCC unroll 16
    for (int r = 0; r < kRows; ++r) {
      if (d < dim) FetchToL2(next[r] + at);
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

// How row lanes read a type: in steps of so many bytes and elements of a row.
template <ElementType kType>
struct Storage {
  static constexpr bool kHalves = kType == ElementType::kFloat16;
  static constexpr bool kPairs = kType == ElementType::kBfloat16;
  static constexpr int kStepBytes = (kHalves ? 2 : 4) * kLanes;
  static constexpr int kStep = (kPairs ? 2 : 1) * kLanes;
  static constexpr int kBytes = kStepBytes / kStep;
};

template <Metric kMetric, int kQueries>
LINTF_SIMD void AccumulateColumn(Vec column, const float* queries,
                                 int64_t query_stride, Vec* sums) {
#pragma GCC unroll 8
  for (int q = 0; q < kQueries; ++q) {
    sums[q] =
        Accumulate<kMetric>(Set1(queries + q * query_stride), column, sums[q]);
  }
}

// Adds the next step of the rows, from byte `at` on, for the queries from
// `queries` on.
template <Metric kMetric, int kQueries, ElementType kType>
LINTF_SIMD void AccumulateRows(const char* const* rows, int64_t at,
                               const float* queries, int64_t query_stride,
                               Vec* sums) {
  Vec columns[kLanes];
  LoadTransposed<Storage<kType>::kHalves>(rows, at, columns);
  // Loops that are not unrolled go through memory, which costs little beside
  // the transposition and keeps the code, and the time to compile it, small.
  if (Storage<kType>::kPairs) {
#pragma GCC unroll 1
    for (int i = 0; i < kLanes; ++i) {
      AccumulateColumn<kMetric, kQueries>(EvenBfloats(columns[i]),
                                          queries + 2 * i, query_stride, sums);
      AccumulateColumn<kMetric, kQueries>(
          OddBfloats(columns[i]), queries + 2 * i + 1, query_stride, sums);
    }
  } else if (Storage<kType>::kHalves) {
#pragma GCC unroll 1
    for (int i = 0; i < kLanes; ++i) {
      AccumulateColumn<kMetric, kQueries>(columns[i], queries + i, query_stride,
                                          sums);
    }
  } else {
#pragma GCC unroll 16
    for (int i = 0; i < kLanes; ++i) {
      AccumulateColumn<kMetric, kQueries>(columns[i], queries + i, query_stride,
                                          sums);
    }
  }
}

// Row lanes are bound by memory, not arithmetic, and fetch into L1. Query lanes
// fetch into L2: their fetches would wait for L1's few fill buffers and hold up
// the arithmetic. Small rows are fetched further ahead.
constexpr int64_t kBytesAhead = 8192;

LINTF_SIMD int64_t RowsAhead(int64_t row_bytes) {
  const int64_t rows = kBytesAhead / row_bytes / 16 * 16;
  return rows < 16 ? 16 : rows > 64 ? 64 : rows;
}

// The rows of a block. Where there are fewer than kLanes, the last one stands
// in for those that are missing, in `padded`.
LINTF_SIMD const char* const* BlockRows(const char* const* rows, int64_t block,
                                        const char** padded) {
  if (block == kLanes) return rows;
  for (int r = 0; r < kLanes; ++r) {
    padded[r] = rows[r < block ? r : block - 1];
  }
  return padded;
}

// The last `tail` bytes of each row, from byte `at` on, with zeros after them.
__attribute__((noinline)) LINTF_SIMD_ENTRY void CopyTails(
    const char* const* rows, int64_t at, int64_t tail,
    char (*tails)[4 * kLanes], const char** tail_rows) {
  for (int r = 0; r < kLanes; ++r) {
    CopyTail(rows[r] + at, tail, tails[r]);
    tail_rows[r] = tails[r];
  }
}

// Row lanes: blocks of kLanes rows by kQueries queries.
template <Metric kMetric, ElementType kType, int kQueries>
LINTF_SIMD_ENTRY void RowLanesOf(const RowLanesCall& call,
                                 TopKCollector* collector) {
  using Of = Storage<kType>;
  const float* const thresholds = collector->thresholds() + call.first_slot;
  const int64_t count = call.rows.count;
  const int64_t row_bytes = call.dim * Of::kBytes;
  const int64_t whole = row_bytes / Of::kStepBytes * Of::kStepBytes;
  const int64_t tail = row_bytes - whole;
  const int64_t rows_ahead = RowsAhead(row_bytes);
  for (int64_t first = 0; first < count; first += kLanes) {
    const int64_t block = count - first < kLanes ? count - first : kLanes;
    const char* padded[kLanes];
    const char* const* const rows =
        BlockRows(call.rows.data + first, block, padded);
    alignas(64) char tails[kLanes][4 * kLanes];
    const char* tail_rows[kLanes];
    const char* const* const next = call.rows.data + first + rows_ahead;
    const float* queries = call.queries;
    Vec sums[kQueries];
#pragma GCC unroll 8
    for (int q = 0; q < kQueries; ++q) sums[q] = Zero();
    for (int64_t at = 0; at < row_bytes; at += Of::kStepBytes) {
      if (at % kLineBytes == 0) {
#pragma GCC unroll 16
        for (int r = 0; r < kLanes; ++r) FetchToL1(next[r] + at);
      }
      const char* const* from = rows;
      int64_t from_at = at;
      if (at == whole) {
        // Zeros in both the rows and the queries leave the sums as they are.
        CopyTails(rows, at, tail, tails, tail_rows);
        from = tail_rows;
        from_at = 0;
      }
      AccumulateRows<kMetric, kQueries, kType>(from, from_at, queries,
                                               call.query_stride, sums);
      queries += Of::kStep;
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

// Elements of bfloat16 or float16 rows as float32.
template <bool kHalves>
LINTF_SIMD_ENTRY void ExpandRows(const ExpandCall& call) {
  const int64_t whole = call.dim / kLanes * kLanes;
  const int64_t tail = call.dim - whole;
  float* out = static_cast<float*>(call.out);
  for (int64_t r = 0; r < call.count; ++r, out += call.dim) {
    const char* const row = call.rows[r];
    for (int64_t d = 0; d < whole; d += kLanes) {
      Store(out + d,
            kHalves ? LoadHalves(row + 2 * d) : LoadBfloats(row + 2 * d));
    }
    if (tail != 0) {
      // The numbers after the tail are overwritten by the next row.
      alignas(64) char copy[4 * kLanes];
      CopyTail(row + 2 * whole, 2 * tail, copy);
      Store(out + whole, kHalves ? LoadHalves(copy) : LoadBfloats(copy));
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

template <Metric kMetric, ElementType kType>
LINTF_SIMD_ENTRY void RowLanesOfType(const RowLanesCall& call,
                                     TopKCollector* collector) {
  switch (call.num_queries) {
    case 1:
      return RowLanesOf<kMetric, kType, 1>(call, collector);
    case 2:
      return RowLanesOf<kMetric, kType, 2>(call, collector);
    case 3:
      return RowLanesOf<kMetric, kType, 3>(call, collector);
    case 4:
      return RowLanesOf<kMetric, kType, 4>(call, collector);
    case 5:
      return RowLanesOf<kMetric, kType, 5>(call, collector);
    case 6:
      return RowLanesOf<kMetric, kType, 6>(call, collector);
    case 7:
      return RowLanesOf<kMetric, kType, 7>(call, collector);
    case 8:
      return RowLanesOf<kMetric, kType, 8>(call, collector);
  }
}

template <Metric kMetric>
void RowLanesOfMetric(const RowLanesCall& call, TopKCollector* collector) {
  switch (call.type) {
    case ElementType::kFloat32:
      return RowLanesOfType<kMetric, ElementType::kFloat32>(call, collector);
    case ElementType::kBfloat16:
      return RowLanesOfType<kMetric, ElementType::kBfloat16>(call, collector);
    case ElementType::kFloat16:
      return RowLanesOfType<kMetric, ElementType::kFloat16>(call, collector);
    case ElementType::kInt8:
      return;  // RowLanesInt8
  }
}

[[maybe_unused]] void QueryLanes(const QueryLanesCall& call,
                                 TopKCollector* collector) {
  if (call.metric == Metric::kL2) {
    QueryLanesOfMetric<Metric::kL2>(call, collector);
  } else {
    QueryLanesOfMetric<Metric::kInnerProduct>(call, collector);
  }
}

[[maybe_unused]] void RowLanes(const RowLanesCall& call,
                               TopKCollector* collector) {
  if (call.metric == Metric::kL2) {
    RowLanesOfMetric<Metric::kL2>(call, collector);
  } else {
    RowLanesOfMetric<Metric::kInnerProduct>(call, collector);
  }
}

[[maybe_unused]] LINTF_SIMD_ENTRY int64_t CountBits(const uint64_t* bits,
                                                    int64_t words) {
  int64_t count = 0;
  for (int64_t w = 0; w < words; ++w) count += __builtin_popcountll(bits[w]);
  return count;
}

[[maybe_unused]] LINTF_SIMD_ENTRY int64_t AppendRows(const uint64_t* bits,
                                                     int64_t words,
                                                     uint32_t first_row,
                                                     uint32_t* rows) {
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

}  // namespace
}  // namespace lintf

#endif  // LINTF_CUSTOM_OPS_CORE_KNN_KERNELS_SIMD_H_
