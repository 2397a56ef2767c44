// SPDX-License-Identifier: Apache-2.0
// Scores of a tile of rows by a learned similarity, as the threads of a block
// compute them; for gpu_similarity_scan.cu.cc, which says how.
//
// A thread has `rows` of the tile's rows, kThreads apart from the one of its
// own number on.
#ifndef LINTF_CUSTOM_OPS_CORE_GPU_SIMILARITY_TILE_H_
#define LINTF_CUSTOM_OPS_CORE_GPU_SIMILARITY_TILE_H_

#include <cstdint>

#include "custom_ops/core/gpu.h"
#include "custom_ops/core/gpu_elements.h"
#include "custom_ops/core/gpu_scan.h"
#include "custom_ops/core/gpu_similarity.h"
#include "custom_ops/core/gpu_similarity_scan.h"
#include "custom_ops/core/item_matrix.h"
#include "custom_ops/core/similarity.h"

namespace lintf::gpu::similarity_tile {

inline constexpr int kThreads = 128;
// Numbers of a component at a time, and the distance of rows in the stage: an
// odd number of 16-byte units, so that threads meet in no bank.
inline constexpr int kChunk = 32;
inline constexpr int kPitch = kChunk + 4;
inline constexpr int kFour = 4;

// What a kernel works with beside the task.
struct SimilarityTask {
  SimilarityLayout layout;
  int64_t item_dim;
  QueryLists lists;
  bool is_bounded;
  const float* gate;
  unsigned long long* num_scored;
  const uint64_t* uncounted;
  int64_t uncounted_stride;
  bool is_aligned;  // so that four numbers may be loaded at once
  bool gate_fits;   // in shared memory, like the query
  bool query_fits;
};

__device__ __forceinline__ float4 Multiply(float4 x, float scale) {
  return make_float4(__fmul_rn(x.x, scale), __fmul_rn(x.y, scale),
                     __fmul_rn(x.z, scale), __fmul_rn(x.w, scale));
}

__device__ __forceinline__ float FromInt8(uint32_t byte) {
  return static_cast<float>(static_cast<int8_t>(byte & 0xFFu));
}

// Number `at` of the items, and four from there on, aligned.
template <ElementType type>
__device__ __forceinline__ float LoadNumber(const void* data, int64_t at,
                                            float scale) {
  if constexpr (type == ElementType::kFloat32) {
    return static_cast<const float*>(data)[at];
  } else if constexpr (type == ElementType::kBfloat16) {
    return FromBfloat16(static_cast<const uint16_t*>(data)[at]);
  } else if constexpr (type == ElementType::kFloat16) {
    return FromFloat16(static_cast<const uint16_t*>(data)[at]);
  } else {
    return __fmul_rn(static_cast<float>(static_cast<const int8_t*>(data)[at]),
                     scale);
  }
}

template <ElementType type>
__device__ __forceinline__ float4 LoadFour(const void* data, int64_t at,
                                           float scale) {
  if constexpr (type == ElementType::kFloat32) {
    return reinterpret_cast<const float4*>(data)[at / kFour];
  } else if constexpr (type == ElementType::kInt8) {
    const uint32_t four = reinterpret_cast<const uint32_t*>(data)[at / kFour];
    return Multiply(make_float4(FromInt8(four), FromInt8(four >> 8),
                                FromInt8(four >> 16), FromInt8(four >> 24)),
                    scale);
  } else {
    const uint2 two = reinterpret_cast<const uint2*>(data)[at / kFour];
    if constexpr (type == ElementType::kBfloat16) {
      return make_float4(
          FromBfloat16(two.x & 0xFFFFu), FromBfloat16(two.x >> 16),
          FromBfloat16(two.y & 0xFFFFu), FromBfloat16(two.y >> 16));
    }
    return make_float4(FromFloat16(two.x & 0xFFFFu), FromFloat16(two.x >> 16),
                       FromFloat16(two.y & 0xFFFFu), FromFloat16(two.y >> 16));
  }
}

// Brings numbers [begin, begin + n), at most kChunk, of the tile's rows into
// the stage. Slots from `count` on become zeros.
template <ElementType type, int tile>
__device__ void StageAs(const ScanTask& task, const SimilarityTask& similarity,
                        const uint32_t* rows, int count, int begin, int n,
                        float* stage) {
  const bool by_fours = similarity.is_aligned && (begin | n) % kFour == 0;
  const auto scale_of = [&](int64_t row) {
    return type == ElementType::kInt8 ? task.items.scales[row] : 0.0f;
  };
  if (by_fours) {
    constexpr int kUnits = kChunk / kFour;
#pragma unroll 4
    for (int i = threadIdx.x; i < tile * kUnits; i += kThreads) {
      const int slot = i / kUnits;
      const int d = i % kUnits * kFour;
      if (d >= n) continue;
      float4 four = make_float4(0.0f, 0.0f, 0.0f, 0.0f);
      if (slot < count) {
        const int64_t row = task.rows.first_row + rows[slot];
        four = LoadFour<type>(task.items.data,
                              row * similarity.item_dim + begin + d,
                              scale_of(row));
      }
      *reinterpret_cast<float4*>(stage + slot * kPitch + d) = four;
    }
    return;
  }
#pragma unroll 4
  for (int i = threadIdx.x; i < tile * kChunk; i += kThreads) {
    const int slot = i / kChunk;
    const int d = i % kChunk;
    if (d >= n) continue;
    float number = 0.0f;
    if (slot < count) {
      const int64_t row = task.rows.first_row + rows[slot];
      number = LoadNumber<type>(task.items.data,
                                row * similarity.item_dim + begin + d,
                                scale_of(row));
    }
    stage[slot * kPitch + d] = number;
  }
}

// The same with barriers around it: nobody reads the stage before it, and all
// see it after.
template <int tile>
__device__ __forceinline__ void Stage(const ScanTask& task,
                                      const SimilarityTask& similarity,
                                      const uint32_t* rows, int count,
                                      int begin, int n, float* stage) {
  __syncthreads();
  switch (task.items.type) {
    case ElementType::kFloat32:
      StageAs<ElementType::kFloat32, tile>(task, similarity, rows, count, begin,
                                           n, stage);
      break;
    case ElementType::kBfloat16:
      StageAs<ElementType::kBfloat16, tile>(task, similarity, rows, count,
                                            begin, n, stage);
      break;
    case ElementType::kFloat16:
      StageAs<ElementType::kFloat16, tile>(task, similarity, rows, count, begin,
                                           n, stage);
      break;
    case ElementType::kInt8:
      StageAs<ElementType::kInt8, tile>(task, similarity, rows, count, begin, n,
                                        stage);
      break;
  }
  __syncthreads();
}

// A part of a group: `n` dimensions from `d` on, as far as they are staged.
struct Chunk {
  int group;
  int d;
  int n;
  bool is_first;
  bool is_last;
};

// Adds the chunk's products with vectors [first, first + count) of its group.
// Where the chunk is the last, sums become logits or, of a joint MLP, go into
// `joint`.
template <int count, int rows>
__device__ __forceinline__ void AddProducts(const SimilarityLayout& layout,
                                            const float* query,
                                            const Chunk& chunk, int first,
                                            const float* stage, float* logits,
                                            float* sums, float (&joint)[rows]) {
  constexpr int kTileRows = rows * kThreads;
  const bool is_joint = layout.component == PairSimilarity::kHadamard;
  // Where a sum waits between chunks: a logit at its own place.
  const auto place_of = [&](int v) {
    return is_joint ? sums + v * kTileRows
                    : logits + (v * layout.item_components + chunk.group) *
                                   kTileRows;
  };
  float sum[rows][count];
#pragma unroll
  for (int v = 0; v < count; ++v) {
#pragma unroll
    for (int r = 0; r < rows; ++r) {
      if (!chunk.is_first) {
        sum[r][v] = place_of(first + v)[threadIdx.x + r * kThreads];
      } else {
        sum[r][v] = is_joint ? query[layout.bias_at() + first + v] : 0.0f;
      }
    }
  }
  const float* const vectors =
      query + layout.vectors_at() +
      (layout.FirstVector(chunk.group) + first) * layout.vector_stride() +
      chunk.d;
  const float* const own = stage + threadIdx.x * kPitch;
  int d = 0;
  for (; d + kFour <= chunk.n; d += kFour) {
    float4 x[rows];
#pragma unroll
    for (int r = 0; r < rows; ++r) {
      x[r] = *reinterpret_cast<const float4*>(own + r * kThreads * kPitch + d);
    }
#pragma unroll
    for (int v = 0; v < count; ++v) {
      const float4 u = *reinterpret_cast<const float4*>(
          vectors + v * layout.vector_stride() + d);
#pragma unroll
      for (int r = 0; r < rows; ++r) {
        float s = sum[r][v];
        s = __fmaf_rn(u.x, x[r].x, s);
        s = __fmaf_rn(u.y, x[r].y, s);
        s = __fmaf_rn(u.z, x[r].z, s);
        sum[r][v] = __fmaf_rn(u.w, x[r].w, s);
      }
    }
  }
  for (; d < chunk.n; ++d) {
#pragma unroll
    for (int v = 0; v < count; ++v) {
      const float u = vectors[v * layout.vector_stride() + d];
#pragma unroll
      for (int r = 0; r < rows; ++r) {
        sum[r][v] = __fmaf_rn(u, own[r * kThreads * kPitch + d], sum[r][v]);
      }
    }
  }
#pragma unroll
  for (int v = 0; v < count; ++v) {
#pragma unroll
    for (int r = 0; r < rows; ++r) {
      if (is_joint && chunk.is_last) {
        joint[r] = __fmaf_rn(query[layout.output_at() + first + v],
                             Relu(sum[r][v]), joint[r]);
      } else {
        place_of(first + v)[threadIdx.x + r * kThreads] = sum[r][v];
      }
    }
  }
}

// The logits of the tile's rows, each thread's own columns.
template <int rows>
__device__ void ComputeLogits(const ScanTask& task,
                              const SimilarityTask& similarity,
                              const float* query, const uint32_t* tile_rows,
                              int count, float* stage, float* logits,
                              float* sums) {
  constexpr int kTileRows = rows * kThreads;
  const SimilarityLayout& layout = similarity.layout;
  const int vectors = layout.group_vectors();
  int staged = -1;  // where the stage's numbers begin in a row
  for (int group = 0; group < layout.num_groups(); ++group) {
    float joint[rows];
#pragma unroll
    for (int r = 0; r < rows; ++r) joint[r] = query[layout.offset_at()];
    for (int d = 0; d < layout.component_dim; d += kChunk) {
      const int left = layout.component_dim - d;
      Chunk chunk;
      chunk.group = group;
      chunk.d = d;
      chunk.n = left < kChunk ? left : kChunk;
      chunk.is_first = d == 0;
      chunk.is_last = left <= kChunk;
      const int begin = layout.ComponentOf(group) * layout.component_dim + d;
      if (begin != staged) {
        Stage<kTileRows>(task, similarity, tile_rows, count, begin, chunk.n,
                         stage);
        staged = begin;
      }
      int v = 0;
      for (; v + 8 <= vectors; v += 8) {
        AddProducts<8, rows>(layout, query, chunk, v, stage, logits, sums,
                             joint);
      }
      if (v + 4 <= vectors) {
        AddProducts<4, rows>(layout, query, chunk, v, stage, logits, sums,
                             joint);
        v += 4;
      }
      for (; v < vectors; ++v) {
        AddProducts<1, rows>(layout, query, chunk, v, stage, logits, sums,
                             joint);
      }
    }
    if (layout.component != PairSimilarity::kHadamard) continue;
    // Groups are by item component, logits by query component.
    const int pair = group % layout.query_components * layout.item_components +
                     layout.ComponentOf(group);
#pragma unroll
    for (int r = 0; r < rows; ++r) {
      logits[pair * kTileRows + threadIdx.x + r * kThreads] = joint[r];
    }
  }
}

// similarity.h's LogitBound of a row's logits.
template <int rows>
__device__ float Bound(const SimilarityLayout& layout, const float* logits) {
  float largest = logits[0];
  float magnitudes = 0.0f;
  for (int l = 0; l < layout.pairs; ++l) {
    const float logit = logits[l * rows * kThreads];
    largest = logit > largest ? logit : largest;
    magnitudes = __fadd_rn(magnitudes, fabsf(logit));
  }
  if (!(magnitudes < kBoundLargest)) return __uint_as_float(0x7F800000u);
  return __fmaf_rn(__fadd_rn(magnitudes, kBoundLeast), kBoundMargin, largest);
}

// Adds the pair gate to z, kUnits hidden units at a time.
template <int padded, int rows>
__device__ __forceinline__ void AddPairGate(const SimilarityLayout& layout,
                                            const float* gate,
                                            const float* logits,
                                            float (&z)[rows][padded]) {
  constexpr int kUnits = SimilarityLayout::kUnits;
  for (int j = 0; j < layout.gate_hidden; j += kUnits) {
    float y[rows][kUnits];
#pragma unroll
    for (int i = 0; i < kUnits; ++i) {
#pragma unroll
      for (int r = 0; r < rows; ++r) {
        y[r][i] = gate[layout.gate_bias_at() + j + i];
      }
    }
#pragma unroll 4
    for (int l = 0; l < layout.pairs; ++l) {
      float s[rows];
#pragma unroll
      for (int r = 0; r < rows; ++r) {
        s[r] = logits[(l * rows + r) * kThreads];
      }
      const float* const weights = gate + l * layout.kernel_stride() + j;
#pragma unroll
      for (int i = 0; i < kUnits; i += kFour) {
        const float4 w = *reinterpret_cast<const float4*>(weights + i);
#pragma unroll
        for (int r = 0; r < rows; ++r) {
          y[r][i] = __fmaf_rn(w.x, s[r], y[r][i]);
          y[r][i + 1] = __fmaf_rn(w.y, s[r], y[r][i + 1]);
          y[r][i + 2] = __fmaf_rn(w.z, s[r], y[r][i + 2]);
          y[r][i + 3] = __fmaf_rn(w.w, s[r], y[r][i + 3]);
        }
      }
    }
#pragma unroll
    for (int i = 0; i < kUnits; ++i) {
      if (j + i >= layout.gate_hidden) break;
      float unit[rows];
#pragma unroll
      for (int r = 0; r < rows; ++r) unit[r] = Silu(y[r][i]);
      const float* const weights =
          gate + layout.gate_output_at() + (j + i) * padded;
      // What there is no pair for is not used.
#pragma unroll
      for (int l = 0; l < padded; l += kFour) {
        if (l % 8 == 0 && l >= layout.pairs) break;
        const float4 v = *reinterpret_cast<const float4*>(weights + l);
#pragma unroll
        for (int r = 0; r < rows; ++r) {
          z[r][l] = __fmaf_rn(v.x, unit[r], z[r][l]);
          z[r][l + 1] = __fmaf_rn(v.y, unit[r], z[r][l + 1]);
          z[r][l + 2] = __fmaf_rn(v.z, unit[r], z[r][l + 2]);
          z[r][l + 3] = __fmaf_rn(v.w, unit[r], z[r][l + 3]);
        }
      }
    }
  }
}

// The score of a row from its logits, `stride` apart, and z.
template <int padded, int stride>
__device__ __forceinline__ float Combine(const SimilarityLayout& layout,
                                         const float* logits,
                                         float (&z)[padded]) {
  float sum = 0.0f;
  if (layout.gate == Gate::kRelu || layout.gate == Gate::kSigmoid) {
#pragma unroll
    for (int l = 0; l < padded; ++l) {
      if (l >= layout.pairs) break;
      const float weight =
          layout.gate == Gate::kRelu ? Relu(z[l]) : Sigmoid(z[l]);
      sum = __fmaf_rn(weight, logits[l * stride], sum);
    }
    return sum;
  }
  if (layout.gate == Gate::kSiluSoftmax) {
#pragma unroll
    for (int l = 0; l < padded; ++l) {
      if (l >= layout.pairs) break;
      z[l] = Silu(z[l]);
    }
  }
  float most = z[0];
#pragma unroll
  for (int l = 1; l < padded; ++l) {
    if (l >= layout.pairs) break;
    most = z[l] > most ? z[l] : most;
  }
  float total = 0.0f;
#pragma unroll
  for (int l = 0; l < padded; ++l) {
    if (l >= layout.pairs) break;
    const float e = Exp(__fsub_rn(z[l], most));
    sum = __fmaf_rn(e, logits[l * stride], sum);
    total = __fadd_rn(total, e);
  }
  return __fdiv_rn(sum, total);
}

// The scores of the tile's rows, from their logits.
template <int padded, int rows>
__device__ void ComputeScores(const ScanTask& task,
                              const SimilarityTask& similarity,
                              const float* query, const float* gate,
                              const uint32_t* tile_rows, int count,
                              float* stage, const float* logits,
                              float (&scores)[rows]) {
  constexpr int kTileRows = rows * kThreads;
  const SimilarityLayout& layout = similarity.layout;
  if constexpr (padded == 1) {
#pragma unroll
    for (int r = 0; r < rows; ++r) {
      scores[r] = logits[threadIdx.x + r * kThreads];
    }
    return;
  } else {
    const int gate_begin = layout.item_components * layout.component_dim;
    float z[rows][padded];
#pragma unroll
    for (int r = 0; r < rows; ++r) {
#pragma unroll
      for (int l = 0; l < padded; ++l) z[r][l] = 0.0f;
    }
#pragma unroll
    for (int first = 0; first < padded; first += kChunk) {
      if (first >= layout.pairs) break;
      const int left = layout.pairs - first;
      Stage<kTileRows>(task, similarity, tile_rows, count, gate_begin + first,
                       left < kChunk ? left : kChunk, stage);
#pragma unroll
      for (int l = first; l < first + kChunk && l < padded; ++l) {
        if (l >= layout.pairs) break;
        const float a = query[l];
#pragma unroll
        for (int r = 0; r < rows; ++r) {
          const float b =
              stage[(threadIdx.x + r * kThreads) * kPitch + l - first];
          z[r][l] = gate == nullptr
                        ? __fmul_rn(a, b)
                        : __fmaf_rn(a, b, gate[layout.gate_offset_at() + l]);
        }
      }
    }
    const float* const own = logits + threadIdx.x;
    if (gate != nullptr) AddPairGate<padded, rows>(layout, gate, own, z);
#pragma unroll
    for (int r = 0; r < rows; ++r) {
      scores[r] = Combine<padded, kTileRows>(layout, own + r * kThreads, z[r]);
    }
  }
}

}  // namespace lintf::gpu::similarity_tile

#endif  // LINTF_CUSTOM_OPS_CORE_GPU_SIMILARITY_TILE_H_
