// SPDX-License-Identifier: Apache-2.0
// KNN kernels in plain C++, for CPUs without the other instruction sets.
#include <algorithm>
#include <cstdint>
#include <cstring>

#include "custom_ops/core/item_encoding.h"
#include "custom_ops/core/knn_kernels.h"
#include "custom_ops/core/plain_fma.h"

namespace lintf {
namespace {

constexpr int kLanes = 8;

inline float Accumulate(Metric metric, float query, float row, float sum) {
  if (metric == Metric::kInnerProduct) return PlainFma(query, row, sum);
  const float difference = query - row;
  return PlainFma(difference, difference, sum);
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

template <ElementType kType>
inline float Element(const char* row, int64_t d) {
  if (kType == ElementType::kFloat32) {
    return reinterpret_cast<const float*>(row)[d];
  }
  const uint16_t bits = reinterpret_cast<const uint16_t*>(row)[d];
  return kType == ElementType::kBfloat16 ? DecodeBfloat16(bits)
                                         : DecodeFloat16(bits);
}

template <Metric kMetric, ElementType kType>
inline void ScoreRowLanes(const float* query, int64_t dim,
                          const char* const* rows, float* scores) {
  float sums[kLanes] = {};
  for (int64_t d = 0; d < dim; ++d) {
    const float element = query[d];
    for (int i = 0; i < kLanes; ++i) {
      sums[i] =
          Accumulate(kMetric, element, Element<kType>(rows[i], d), sums[i]);
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
    const float* row = reinterpret_cast<const float*>(call.rows.data[r]);
    if (call.metric == Metric::kL2) {
      ScoreQueryLanes<Metric::kL2>(call.packed, call.dim, row, scores);
    } else {
      ScoreQueryLanes<Metric::kInnerProduct>(call.packed, call.dim, row,
                                             scores);
    }
    uint32_t hits = Hits(scores, thresholds, 1) & call.active;
    if (call.lanes_of_row != nullptr) hits &= call.lanes_of_row[r];
    if (hits != 0) {
      collector->AddSlotHits(call.first_slot, hits, scores, call.rows.ids[r]);
    }
  }
}

template <ElementType kType>
void RowLanesOf(const RowLanesCall& call, TopKCollector* collector) {
  for (int64_t r = 0; r < call.rows.count; r += kLanes) {
    const char* rows[kLanes];
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
        ScoreRowLanes<Metric::kL2, kType>(query, call.dim, rows, scores);
      } else {
        ScoreRowLanes<Metric::kInnerProduct, kType>(query, call.dim, rows,
                                                    scores);
      }
      const uint32_t hits =
          Hits(scores, collector->thresholds() + slot, 0) & valid;
      if (hits != 0) {
        collector->AddRowHits(slot, hits, scores, call.rows.ids + r);
      }
    }
  }
}

void RowLanes(const RowLanesCall& call, TopKCollector* collector) {
  switch (call.type) {
    case ElementType::kFloat32:
      return RowLanesOf<ElementType::kFloat32>(call, collector);
    case ElementType::kBfloat16:
      return RowLanesOf<ElementType::kBfloat16>(call, collector);
    case ElementType::kFloat16:
      return RowLanesOf<ElementType::kFloat16>(call, collector);
    case ElementType::kInt8:
      return;  // RowLanesInt8
  }
}

// The sum of the products of a step: two 16-bit numbers each.
inline int32_t Dot(int32_t a, int32_t b) {
  return static_cast<int16_t>(a) * static_cast<int16_t>(b) +
         (a >> 16) * (b >> 16);
}

// The two steps of four elements.
inline void ToSteps(const int8_t* quad, int32_t* steps) {
  for (int part = 0; part < 2; ++part) {
    const auto low = static_cast<uint16_t>(int16_t{quad[part]});
    const auto high = static_cast<uint16_t>(int16_t{quad[part + 2]});
    steps[part] =
        static_cast<int32_t>(low | (static_cast<uint32_t>(high) << 16));
  }
}

// From the sums of the two planes to the score; masked_knn.h has the formula.
float Int8Score(const Int8Queries& queries, int64_t slot, Metric metric,
                int32_t high, int32_t low, float row_scale, int32_t row_norm) {
  const float sum =
      PlainFma(256.0f, static_cast<float>(high), static_cast<float>(low));
  const float product = sum * queries.scales[slot] * row_scale;
  if (metric == Metric::kInnerProduct) return product;
  const float norm = static_cast<float>(row_norm) * row_scale * row_scale;
  const float distance = PlainFma(-2.0f, product, queries.norms[slot] + norm);
  return -(0.0f > distance ? 0.0f : distance);
}

void QueryLanesInt8(const QueryLanesCall& call, TopKCollector* collector) {
  const float* thresholds = collector->thresholds() + call.first_slot;
  for (int64_t r = 0; r < call.rows.count; ++r) {
    const auto* row = reinterpret_cast<const int32_t*>(call.rows.data[r]);
    const int32_t* packed = call.int8_packed;
    int32_t sums[2][kLanes] = {};
    for (int64_t step = 0; step < call.dim; ++step) {
      const int32_t element = row[step];
      for (int32_t (&plane)[kLanes] : sums) {
        for (int i = 0; i < kLanes; ++i) plane[i] += Dot(element, packed[i]);
        packed += kLanes;
      }
    }
    const int32_t norm =
        call.metric == Metric::kL2 ? call.row_norms[r] : int32_t{0};
    float scores[kLanes];
    for (int i = 0; i < kLanes; ++i) {
      scores[i] = Int8Score(call.int8, call.first_slot + i, call.metric,
                            sums[0][i], sums[1][i], call.row_scales[r], norm);
    }
    uint32_t hits = Hits(scores, thresholds, 1) & call.active;
    if (call.lanes_of_row != nullptr) hits &= call.lanes_of_row[r];
    if (hits != 0) {
      collector->AddSlotHits(call.first_slot, hits, scores, call.rows.ids[r]);
    }
  }
}

void RowLanesInt8(const RowLanesCall& call, TopKCollector* collector) {
  const int64_t quads = (call.dim + 3) / 4;
  for (int64_t r = 0; r < call.rows.count; ++r) {
    const auto* row = reinterpret_cast<const int8_t*>(call.rows.data[r]);
    int32_t sums[kMaxSharedQueries][2] = {};
    int32_t norm = 0;
    for (int64_t quad = 0; quad < quads; ++quad) {
      int8_t elements[4] = {};
      const int64_t count = std::min<int64_t>(4, call.dim - 4 * quad);
      std::memcpy(elements, row + 4 * quad, count);
      int32_t steps[2];
      ToSteps(elements, steps);
      for (int part = 0; part < 2; ++part) {
        norm += Dot(steps[part], steps[part]);
        const int64_t step = quad / kLanes * kLanes * 2 + part * kLanes +
                             quad % kLanes;  // KnnKernels::Int8Step
        for (int q = 0; q < call.num_queries; ++q) {
          const int32_t* query =
              call.int8_queries + 2 * (q * call.query_stride + step);
          for (int p = 0; p < 2; ++p) {
            sums[q][p] += Dot(steps[part], query[p]);
          }
        }
      }
    }
    const uint32_t id = call.rows.ids[r];
    for (int q = 0; q < call.num_queries; ++q) {
      const int64_t slot = call.first_slot + q;
      const float score = Int8Score(call.int8, slot, call.metric, sums[q][0],
                                    sums[q][1], call.scales[id], norm);
      if (!(score <= collector->thresholds()[slot])) {
        collector->AddRowHits(slot, 1, &score, &id);
      }
    }
  }
}

void Expand(const ExpandCall& call) {
  const int64_t quads = (call.dim + 3) / 4;
  const int64_t steps = (quads + kLanes - 1) / kLanes * kLanes * 2;
  for (int64_t r = 0; r < call.count; ++r) {
    const char* const row = call.rows[r];
    if (call.type == ElementType::kInt8) {
      int32_t* out = static_cast<int32_t*>(call.out) + r * steps;
      int32_t norm = 0;
      for (int64_t quad = 0; quad < steps / 2; ++quad) {
        int8_t elements[4] = {};
        const int64_t count = std::clamp<int64_t>(call.dim - 4 * quad, 0, 4);
        std::memcpy(elements, row + 4 * quad, count);
        int32_t both[2];
        ToSteps(elements, both);
        for (int part = 0; part < 2; ++part) {
          norm += Dot(both[part], both[part]);
          out[quad / kLanes * kLanes * 2 + part * kLanes + quad % kLanes] =
              both[part];
        }
      }
      if (call.norms != nullptr) call.norms[r] = norm;
      continue;
    }
    float* out = static_cast<float*>(call.out) + r * call.dim;
    for (int64_t d = 0; d < call.dim; ++d) {
      out[d] = call.type == ElementType::kBfloat16
                   ? Element<ElementType::kBfloat16>(row, d)
                   : Element<ElementType::kFloat16>(row, d);
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
      /*int8_parts=*/2,
      /*int8_offset=*/0,
      /*costs=*/
      {{8.0f, 0.0f, 1.0f},
       {8.0f, 0.0f, 1.2f},
       {8.0f, 0.0f, 2.0f},
       {6.0f, 0.5f, 1.0f}},
      QueryLanes,
      RowLanes,
      QueryLanesInt8,
      RowLanesInt8,
      Expand,
      CountBits,
      AppendRows,
  };
  return &kernels;
}

}  // namespace lintf
