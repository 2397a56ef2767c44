// SPDX-License-Identifier: Apache-2.0
// The vector kernels for kInt8, written once over a vector type. Included
// after knn_kernels_simd.h, and after these have been defined too:
//   Ints                 a vector of 32-bit integers
//   ZeroInts AddInts LoadInts StoreInts Set1Int AsInts(Vec) ToFloats
//   Set1Float(x) Mul Add
//   MaxOf(a, b)          a > b ? a : b
//   kInt8Parts, kInt8Offset   as KnnKernels has them
//   ToSteps(raw, steps)  raw: 4 int8 a lane; steps[kInt8Parts]
//   Dot(row, query, sum) adds the products of a step
//   DotSelf(raw, sum)    adds the squares of 4 int8 a lane
//   ReduceInts(v)        the sum of the lanes
#ifndef LINTF_CUSTOM_OPS_CORE_KNN_KERNELS_SIMD_INT8_H_
#define LINTF_CUSTOM_OPS_CORE_KNN_KERNELS_SIMD_INT8_H_

namespace lintf {
namespace {

constexpr int kPlanes = 2;

// From the sums of the two planes to the score; masked_knn.h has the formula.
LINTF_SIMD Vec Int8Score(bool is_l2, Ints high, Ints low, Vec query_scale,
                         Vec query_norm, Vec row_scale, Vec row_norm) {
  const Vec sum = Fma(Set1Float(256.0f), ToFloats(high), ToFloats(low));
  const Vec product = Mul(Mul(sum, query_scale), row_scale);
  if (!is_l2) return product;
  const Vec distance =
      Fma(Set1Float(-2.0f), product, Add(query_norm, row_norm));
  return Negate(MaxOf(Zero(), distance));
}

// Adds one step of each row.
template <int kRows, int kVectors>
LINTF_SIMD void AccumulateInt8Queries(const int32_t* packed,
                                      const int32_t* const* rows, int64_t step,
                                      Ints (*sums)[kVectors][kPlanes]) {
  Ints queries[kVectors][kPlanes];
#pragma GCC unroll 8
  for (int i = 0; i < kVectors * kPlanes; ++i) {
    queries[i / kPlanes][i % kPlanes] = LoadInts(packed + i * kLanes);
  }
#pragma GCC unroll 16
  for (int r = 0; r < kRows; ++r) {
    asm volatile("" ::: "memory");  // as in AccumulateQueries
    const Ints element = Set1Int(rows[r] + step);
#pragma GCC unroll 8
    for (int i = 0; i < kVectors * kPlanes; ++i) {
      Ints& sum = sums[r][i / kPlanes][i % kPlanes];
      sum = Dot(element, queries[i / kPlanes][i % kPlanes], sum);
    }
  }
}

template <int kVectors>
LINTF_SIMD_ENTRY void QueryLanesInt8Of(const QueryLanesCall& call,
                                       TopKCollector* collector) {
  constexpr int kRows = RowsOf(kPlanes * kVectors);
  constexpr int kStride = kVectors * kPlanes * kLanes;
  constexpr int kFetchSteps = 16;
  constexpr uint32_t kAllLanes = (uint32_t{1} << kLanes) - 1;
  const float* const thresholds = collector->thresholds() + call.first_slot;
  const bool is_l2 = call.metric == Metric::kL2;
  const int64_t steps = call.dim;
  const int64_t count = call.rows.count;
  for (int64_t first = 0; first < count; first += kRows) {
    const int32_t* rows[kRows];
    const int64_t block = count - first < kRows ? count - first : kRows;
#pragma GCC unroll 16
    for (int r = 0; r < kRows; ++r) {
      rows[r] = reinterpret_cast<const int32_t*>(
          call.rows.data[first + (r < block ? r : block - 1)]);
    }
    Ints sums[kRows][kVectors][kPlanes];
#pragma GCC unroll 8
    for (int i = 0; i < kVectors * kPlanes; ++i) {
      const Ints start = LoadInts(call.int8.start[i % kPlanes] +
                                  call.first_slot + i / kPlanes * kLanes);
#pragma GCC unroll 16
      for (int r = 0; r < kRows; ++r) {
        sums[r][i / kPlanes][i % kPlanes] = start;
      }
    }
    const char* const* const next = call.ahead + first + kFetchDistance;
    int64_t at = 0;
    const int32_t* packed = call.int8_packed;
    int64_t step = 0;
    for (; step + kFetchSteps <= steps; step += kFetchSteps) {
#pragma GCC unroll 1
      for (int fetch = 0; fetch < kFetchSteps; fetch += 4) {
#pragma GCC unroll 4
        for (int i = 0; i < 4; ++i) {
          if (fetch + i < kRows) FetchToL2(next[fetch + i] + at);
          AccumulateInt8Queries<kRows, kVectors>(packed, rows, fetch + i, sums);
          packed += kStride;
        }
      }
      at += call.ahead_bytes;
#pragma GCC unroll 16
      for (int r = 0; r < kRows; ++r) rows[r] += kFetchSteps;
    }
#pragma GCC unroll 16
    for (int r = 0; r < kRows; ++r) {
      if (step < steps) FetchToL2(next[r] + at);
    }
    for (; step < steps; ++step) {
      AccumulateInt8Queries<kRows, kVectors>(packed, rows, 0, sums);
      packed += kStride;
#pragma GCC unroll 16
      for (int r = 0; r < kRows; ++r) ++rows[r];
    }
#pragma GCC unroll 16
    for (int r = 0; r < kRows; ++r) {
      if (r >= block) break;
      const uint64_t lanes = call.lanes_of_row == nullptr
                                 ? call.active
                                 : call.lanes_of_row[first + r] & call.active;
      const Vec scale = Set1(call.row_scales + first + r);
      Vec norm = Zero();
      if (is_l2) {
        norm = Mul(Mul(ToFloats(Set1Int(call.row_norms + first + r)), scale),
                   scale);
      }
#pragma GCC unroll 4
      for (int v = 0; v < kVectors; ++v) {
        const int64_t slot = call.first_slot + v * kLanes;
        const Vec scores = Int8Score(is_l2, sums[r][v][0], sums[r][v][1],
                                     Load(call.int8.scales + slot),
                                     Load(call.int8.norms + slot), scale, norm);
        const uint32_t hits =
            NotLessEqual(scores, Load(thresholds + v * kLanes)) &
            static_cast<uint32_t>(lanes >> (v * kLanes)) & kAllLanes;
        if (__builtin_expect(hits != 0, 0)) {
          alignas(64) float stored[kLanes];
          Store(stored, scores);
          collector->AddSlotHits(slot, hits, stored, call.rows.ids[first + r]);
        }
      }
    }
  }
}

// Adds the next kLanes quads of the rows, from byte `at` on. `queries` has
// pairs of planes.
template <int kQueries>
LINTF_SIMD void AccumulateInt8Rows(bool is_l2, const char* const* rows,
                                   int64_t at, const int32_t* queries,
                                   int64_t query_stride, Ints (*sums)[kPlanes],
                                   Ints* norm) {
  Vec columns[kLanes];
  LoadTransposed<false>(rows, at, columns);
  // For one query, two chains of additions, as each has to wait for the last.
  constexpr int kChains = kQueries == 1 ? 2 : 1;
  Ints chains[kChains][kQueries][kPlanes];
#pragma GCC unroll 16
  for (int i = 0; i < kQueries * kPlanes; ++i) {
    const int q = i / kPlanes;
    const int p = i % kPlanes;
    chains[0][q][p] = sums[q][p];
    if (kChains == 2) chains[kChains - 1][q][p] = ZeroInts();
  }
#pragma GCC unroll 1
  for (int first = 0; first < kLanes; first += kChains) {
#pragma GCC unroll 2
    for (int chain = 0; chain < kChains; ++chain) {
      const int i = first + chain;
      const Ints raw = AsInts(columns[i]);
      if (is_l2) *norm = DotSelf(raw, *norm);
      Ints steps[kInt8Parts];
      ToSteps(raw, steps);
#pragma GCC unroll 2
      for (int part = 0; part < kInt8Parts; ++part) {
        const int32_t* const step = queries + kPlanes * (part * kLanes + i);
#pragma GCC unroll 16
        for (int j = 0; j < kQueries * kPlanes; ++j) {
          const int q = j / kPlanes;
          const int p = j % kPlanes;
          Ints& sum = chains[chain][q][p];
          sum = Dot(steps[part], Set1Int(step + q * kPlanes * query_stride + p),
                    sum);
        }
      }
    }
  }
#pragma GCC unroll 16
  for (int i = 0; i < kQueries * kPlanes; ++i) {
    const int q = i / kPlanes;
    const int p = i % kPlanes;
    sums[q][p] = chains[0][q][p];
    if (kChains == 2)
      sums[q][p] = AddInts(sums[q][p], chains[kChains - 1][q][p]);
  }
}

template <int kQueries>
LINTF_SIMD_ENTRY void RowLanesInt8Of(const RowLanesCall& call,
                                     TopKCollector* collector) {
  constexpr int kStepBytes = 4 * kLanes;
  const float* const thresholds = collector->thresholds() + call.first_slot;
  const bool is_l2 = call.metric == Metric::kL2;
  const int64_t count = call.rows.count;
  const int64_t row_bytes = call.dim;
  const int64_t whole = row_bytes / kStepBytes * kStepBytes;
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
    const int32_t* queries = call.int8_queries;
    Ints sums[kQueries][kPlanes];
#pragma GCC unroll 8
    for (int q = 0; q < kQueries; ++q) {
      sums[q][0] = Set1Int(call.int8.start[0] + call.first_slot + q);
      sums[q][1] = Set1Int(call.int8.start[1] + call.first_slot + q);
    }
    Ints norm = ZeroInts();
    for (int64_t at = 0; at < row_bytes; at += kStepBytes) {
      if (at % kLineBytes == 0) {
#pragma GCC unroll 16
        for (int r = 0; r < kLanes; ++r) FetchToL1(next[r] + at);
      }
      const char* const* from = rows;
      int64_t from_at = at;
      if (at == whole) {
        // Zeros in the queries leave the sums as they are.
        CopyTails(rows, at, tail, tails, tail_rows);
        from = tail_rows;
        from_at = 0;
      }
      AccumulateInt8Rows<kQueries>(is_l2, from, from_at, queries,
                                   call.query_stride, sums, &norm);
      queries += kPlanes * kInt8Parts * kLanes;
    }
    alignas(64) float row_scales[kLanes];
    const uint32_t* const ids = call.rows.ids + first;
    for (int r = 0; r < kLanes; ++r) {
      row_scales[r] = call.scales[ids[r < block ? r : block - 1]];
    }
    const Vec scale = Load(row_scales);
    const Vec row_norm = Mul(Mul(ToFloats(norm), scale), scale);
    const uint32_t valid = (uint32_t{1} << block) - 1;
#pragma GCC unroll 8
    for (int q = 0; q < kQueries; ++q) {
      const int64_t slot = call.first_slot + q;
      const Vec scores = Int8Score(
          is_l2, sums[q][0], sums[q][1], Set1(call.int8.scales + slot),
          Set1(call.int8.norms + slot), scale, row_norm);
      const uint32_t hits = NotLessEqual(scores, Set1(thresholds + q)) & valid;
      if (__builtin_expect(hits != 0, 0)) {
        alignas(64) float stored[kLanes];
        Store(stored, scores);
        collector->AddRowHits(slot, hits, stored, ids);
      }
    }
  }
}

LINTF_SIMD_ENTRY void ExpandInt8(const ExpandCall& call) {
  constexpr int kStepBytes = 4 * kLanes;
  const int64_t whole = call.dim / kStepBytes * kStepBytes;
  const int64_t tail = call.dim - whole;
  const int64_t quads = (call.dim + 3) / 4;
  const int64_t steps =
      kInt8Parts == 1 ? quads : (quads + kLanes - 1) / kLanes * kLanes * 2;
  int32_t* const out = static_cast<int32_t*>(call.out);
  for (int64_t r = 0; r < call.count; ++r) {
    const char* const row = call.rows[r];
    int32_t* next = out + r * steps;
    Ints norm = ZeroInts();
    for (int64_t at = 0; at < call.dim; at += kStepBytes) {
      alignas(64) char copy[kStepBytes];
      const char* from = row + at;
      if (at == whole) {
        CopyTail(row + at, tail, copy);
        from = copy;
      }
      const Ints raw = LoadInts(reinterpret_cast<const int32_t*>(from));
      norm = DotSelf(raw, norm);
      // What is stored past the end is overwritten by the next row.
      Ints parts[kInt8Parts];
      ToSteps(raw, parts);
#pragma GCC unroll 2
      for (int part = 0; part < kInt8Parts; ++part) {
        StoreInts(next, parts[part]);
        next += kLanes;
      }
    }
    if (call.norms != nullptr) call.norms[r] = ReduceInts(norm);
  }
}

void QueryLanesInt8(const QueryLanesCall& call, TopKCollector* collector) {
  switch (call.vectors) {
    case 1:
      return QueryLanesInt8Of<1>(call, collector);
    case 2:
      return QueryLanesInt8Of<2>(call, collector);
    case 3:
      return QueryLanesInt8Of<(kMaxVectors < 3 ? 1 : 3)>(call, collector);
    case 4:
      return QueryLanesInt8Of<(kMaxVectors < 4 ? 1 : 4)>(call, collector);
  }
}

void RowLanesInt8(const RowLanesCall& call, TopKCollector* collector) {
  switch (call.num_queries) {
    case 1:
      return RowLanesInt8Of<1>(call, collector);
    case 2:
      return RowLanesInt8Of<2>(call, collector);
    case 3:
      return RowLanesInt8Of<3>(call, collector);
    case 4:
      return RowLanesInt8Of<4>(call, collector);
    case 5:
      return RowLanesInt8Of<5>(call, collector);
    case 6:
      return RowLanesInt8Of<6>(call, collector);
    case 7:
      return RowLanesInt8Of<7>(call, collector);
    case 8:
      return RowLanesInt8Of<8>(call, collector);
  }
}

void Expand(const ExpandCall& call) {
  switch (call.type) {
    case ElementType::kFloat32:
      return;  // needs none
    case ElementType::kBfloat16:
      return ExpandRows<false>(call);
    case ElementType::kFloat16:
      return ExpandRows<true>(call);
    case ElementType::kInt8:
      return ExpandInt8(call);
  }
}

}  // namespace
}  // namespace lintf

#endif  // LINTF_CUSTOM_OPS_CORE_KNN_KERNELS_SIMD_INT8_H_
