// SPDX-License-Identifier: Apache-2.0
// KNN kernels in plain C++, for CPUs without the other instruction sets.
#include <algorithm>
#include <cstdint>
#include <cstring>

#include "custom_ops/core/knn_kernels.h"

namespace lintf {
namespace {

constexpr int kLanes = 8;

#ifdef __FP_FAST_FMAF
inline float Fma(float a, float b, float c) { return __builtin_fmaf(a, b, c); }
#else
// The fused multiply-add without the instruction, several times faster than
// the C library's. The product of two floats is exact in double. The sum is
// rounded to odd (if inexact, the last bit is made 1), and a value rounded to
// odd with this many spare bits rounds to float as the exact value would.
// No branches, so that the compiler can vectorise it over lanes.
inline float Fma(float a, float b, float c) {
  const double product = static_cast<double>(a) * static_cast<double>(b);
  const double addend = c;
  const double sum = product + addend;
  // Knuth's two-sum: `error` is exactly what `sum` lost.
  const double shadow = sum - product;
  const double error = (product - (sum - shadow)) + (addend - shadow);
  int64_t bits;
  std::memcpy(&bits, &sum, sizeof(bits));
  // An infinite sum has a NaN error, which compares false with everything.
  const int64_t inexact = (error < 0.0) | (error > 0.0);
  const int64_t is_even = ~bits & 1;
  // One step away from zero if the error points there, else towards zero.
  const int64_t grows = (error < 0.0) == (sum < 0.0);
  bits += (inexact & is_even) * (2 * grows - 1);
  double odd;
  std::memcpy(&odd, &bits, sizeof(odd));
  return static_cast<float>(odd);
}
#endif

inline float Accumulate(Metric metric, float query, float row, float sum) {
  if (metric == Metric::kInnerProduct) return Fma(query, row, sum);
  const float difference = query - row;
  return Fma(difference, difference, sum);
}

template <Metric kMetric>
inline void ScoreQueryLanes(const float* packed, int64_t dim, const float* row,
                            float* scores) {
  float sums[kLanes] = {};
  for (int64_t d = 0; d < dim; ++d) {
    const float element = row[d];
    for (int i = 0; i < kLanes; ++i) {
      sums[i] = Accumulate(kMetric, packed[d * kLanes + i], element, sums[i]);
    }
  }
  for (int i = 0; i < kLanes; ++i) {
    scores[i] = kMetric == Metric::kL2 ? -sums[i] : sums[i];
  }
}

template <Metric kMetric>
inline void ScoreRowLanes(const float* query, int64_t dim,
                          const float* const* rows, float* scores) {
  float sums[kLanes] = {};
  for (int64_t d = 0; d < dim; ++d) {
    const float element = query[d];
    for (int i = 0; i < kLanes; ++i) {
      sums[i] = Accumulate(kMetric, element, rows[i][d], sums[i]);
    }
  }
  for (int i = 0; i < kLanes; ++i) {
    scores[i] = kMetric == Metric::kL2 ? -sums[i] : sums[i];
  }
}

// A bit for each lane whose score may be among the best.
inline uint32_t Hits(const float* scores, const float* thresholds,
                     int64_t threshold_step) {
  uint32_t hits = 0;
  for (int i = 0; i < kLanes; ++i) {
    hits |=
        static_cast<uint32_t>(!(scores[i] <= thresholds[i * threshold_step]))
        << i;
  }
  return hits;
}

void QueryLanes(const QueryLanesCall& call, TopKCollector* collector) {
  const float* thresholds = collector->thresholds() + call.first_slot;
  for (int64_t r = 0; r < call.rows.count; ++r) {
    float scores[kLanes];
    if (call.metric == Metric::kL2) {
      ScoreQueryLanes<Metric::kL2>(call.packed, call.dim, call.rows.data[r],
                                   scores);
    } else {
      ScoreQueryLanes<Metric::kInnerProduct>(call.packed, call.dim,
                                             call.rows.data[r], scores);
    }
    uint32_t hits = Hits(scores, thresholds, 1) & call.active;
    if (call.lanes_of_row != nullptr) hits &= call.lanes_of_row[r];
    if (hits != 0) {
      collector->AddSlotHits(call.first_slot, hits, scores, call.rows.ids[r]);
    }
  }
}

void RowLanes(const RowLanesCall& call, TopKCollector* collector) {
  for (int64_t r = 0; r < call.rows.count; r += kLanes) {
    const float* rows[kLanes];
    const int64_t count = std::min<int64_t>(kLanes, call.rows.count - r);
    for (int64_t i = 0; i < kLanes; ++i) {
      rows[i] = call.rows.data[r + std::min(i, count - 1)];
    }
    const uint32_t valid = (uint32_t{1} << count) - 1;
    for (int q = 0; q < call.num_queries; ++q) {
      const float* query = call.queries + q * call.query_stride;
      const int64_t slot = call.first_slot + q;
      float scores[kLanes];
      if (call.metric == Metric::kL2) {
        ScoreRowLanes<Metric::kL2>(query, call.dim, rows, scores);
      } else {
        ScoreRowLanes<Metric::kInnerProduct>(query, call.dim, rows, scores);
      }
      const uint32_t hits =
          Hits(scores, collector->thresholds() + slot, 0) & valid;
      if (hits != 0) {
        collector->AddRowHits(slot, hits, scores, call.rows.ids + r);
      }
    }
  }
}

int64_t CountBits(const uint64_t* bits, int64_t words) {
  int64_t count = 0;
  for (int64_t w = 0; w < words; ++w) count += __builtin_popcountll(bits[w]);
  return count;
}

int64_t AppendRows(const uint64_t* bits, int64_t words, uint32_t first_row,
                   uint32_t* rows) {
  int64_t count = 0;
  for (int64_t w = 0; w < words; ++w) {
    const uint32_t base = first_row + static_cast<uint32_t>(w * kRowsPerWord);
    for (uint64_t word = bits[w]; word != 0; word &= word - 1) {
      rows[count++] = base + static_cast<uint32_t>(__builtin_ctzll(word));
    }
  }
  return count;
}

}  // namespace

const KnnKernels* PlainKnnKernels() {
  static const KnnKernels kernels = {
      /*lanes=*/kLanes,
      /*max_vectors=*/1,
      /*query_lanes_rows=*/1,
      /*costs=*/{8.0f, 0.0f, 1.0f},
      QueryLanes,
      RowLanes,
      CountBits,
      AppendRows,
  };
  return &kernels;
}

}  // namespace lintf
