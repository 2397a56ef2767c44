// SPDX-License-Identifier: Apache-2.0
// One thread has a row, or two: it sums up the row's logits and its gate in
// registers, in similarity.h's order, so that scores have the CPU's bits.
//
// A tile of rows is scored in three steps. Components of the tile come into
// shared memory, kChunk numbers at a time, already as float32; each thread
// multiplies its rows with all vectors of the query that the component is
// compared with. The logits, which are numbered by a variable there, lie in
// shared memory, a column a row: no thread reads another's. For the gate a
// thread has all z of its rows in registers (so kernels are made for some
// numbers of pairs), and goes over the hidden units eight at a time, which need
// every logit once and change every z. Weights and vectors are read by all
// threads at the same place; they are in shared memory if they fit.
//
// Where rows are bounded, a first step has the logits alone. Rows whose bound
// reaches the floor wait in a queue, and are scored as a tile when there are
// enough of them; their logits are computed again, which is little next to
// the gate.
#include "custom_ops/core/gpu_similarity_scan.h"

#include <algorithm>
#include <cstdint>

#include "custom_ops/core/gpu.h"
#include "custom_ops/core/gpu_candidates.h"
#include "custom_ops/core/gpu_elements.h"
#include "custom_ops/core/gpu_scan.h"
#include "custom_ops/core/gpu_similarity.h"
#include "custom_ops/core/gpu_sums.h"

namespace lintf::gpu {
namespace {

constexpr int kThreads = 128;
constexpr int kWarps = kThreads / kWarpSize;
// Numbers of a component at a time, and the distance of rows in the stage: an
// odd number of 16-byte units, so that threads meet in no bank.
constexpr int kChunk = 32;
constexpr int kPitch = kChunk + 4;
constexpr int kFour = 4;

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

template <int padded_pairs>
constexpr int kRows = padded_pairs > 32 ? 1 : 2;
template <int padded_pairs>
constexpr int kTile = kRows<padded_pairs> * kThreads;

// In shared memory, of 4 bytes each.
constexpr int kOfferNumbers =
    (static_cast<int>(Offers::SharedBytes(1)) + 3) / 4;

// Shared memory of a block, in bytes from its start.
struct SharedLayout {
  int stage;   // [tile, kPitch] floats
  int logits;  // [padded pairs, tile]
  int sums;    // [hidden, tile]: of the joint MLP, if a component has chunks
  int rows;    // [tile]
  int places;  // [tile]
  int queue;   // [2 tile], if rows are bounded
  int offers;
  int gate;  // if they fit
  int query;
  int bytes;
};

// What does not fit is left out: the query first.
__host__ __device__ inline SharedLayout SharedLayoutOf(
    const SimilarityLayout& layout, int tile, bool is_bounded, bool gate_fits,
    bool query_fits) {
  SharedLayout shared;
  int next = 0;
  const auto take = [&](int numbers) {
    const int at = next;
    next += SimilarityLayout::Align(numbers) * kFour;
    return at;
  };
  shared.offers = take(kOfferNumbers);
  shared.stage = take(tile * kPitch);
  shared.logits = take(tile * layout.padded_pairs);
  const bool has_sums = layout.component == PairSimilarity::kHadamard &&
                        layout.component_dim > kChunk;
  shared.sums = take(has_sums ? tile * layout.hidden : 0);
  shared.rows = take(tile);
  shared.places = take(tile);
  shared.queue = take(is_bounded ? 2 * tile : 0);
  shared.gate = take(gate_fits ? layout.gate_floats() : 0);
  shared.query = take(query_fits ? layout.query_floats() : 0);
  shared.bytes = next;
  return shared;
}

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

// Copies whole groups of four floats.
__device__ __forceinline__ void CopyFloats(const float* from, int count,
                                           float* to) {
  for (int i = threadIdx.x; i < count / kFour; i += kThreads) {
    reinterpret_cast<float4*>(to)[i] = reinterpret_cast<const float4*>(from)[i];
  }
}

// blockIdx.y is the query.
template <int padded>
__global__ void __launch_bounds__(kThreads, 2)
    ScanSimilarityKernel(const ScanTask task, const SimilarityTask similarity) {
  constexpr int kOwnRows = kRows<padded>;
  constexpr int kTileRows = kTile<padded>;
  const SimilarityLayout& layout = similarity.layout;
  char* const shared = DynamicShared();
  __shared__ FloorScratch scratch;
  __shared__ uint32_t partial[kWarps];
  const SharedLayout places_in =
      SharedLayoutOf(layout, kTileRows, similarity.is_bounded,
                     similarity.gate_fits, similarity.query_fits);
  float* const stage = reinterpret_cast<float*>(shared + places_in.stage);
  float* const logits = reinterpret_cast<float*>(shared + places_in.logits);
  float* const sums = reinterpret_cast<float*>(shared + places_in.sums);
  uint32_t* const rows = reinterpret_cast<uint32_t*>(shared + places_in.rows);
  uint32_t* const places =
      reinterpret_cast<uint32_t*>(shared + places_in.places);
  uint32_t* const queue = reinterpret_cast<uint32_t*>(shared + places_in.queue);
  Offers offers(task, 1, shared + places_in.offers);

  const int64_t group = blockIdx.y;
  const float* query =
      static_cast<const float*>(task.queries) + group * layout.query_floats();
  const float* gate = similarity.gate;
  if (similarity.query_fits) {
    float* const copy = reinterpret_cast<float*>(shared + places_in.query);
    CopyFloats(query, layout.query_floats(), copy);
    query = copy;
  }
  if (similarity.gate_fits && gate != nullptr) {
    float* const copy = reinterpret_cast<float*>(shared + places_in.gate);
    CopyFloats(gate, layout.gate_floats(), copy);
    gate = copy;
  }
  __syncthreads();

  const int64_t searched = task.first_query + group;
  const int32_t list = similarity.lists.list_of_query[searched];
  const uint32_t* const listed =
      list < 0 ? nullptr
               : similarity.lists.rows + list * similarity.lists.stride;
  int64_t num_places = task.rows.num_places;
  if (list >= 0 && similarity.lists.counts[list] < num_places) {
    num_places = similarity.lists.counts[list];
  }
  const int64_t num_tiles = (num_places + kTileRows - 1) / kTileRows;
  const uint64_t* const uncounted =
      similarity.uncounted == nullptr
          ? nullptr
          : similarity.uncounted + searched * similarity.uncounted_stride;

  TileWalk walk(task, num_tiles);
  int queued = 0;
  int64_t unchecked = 0;
  uint32_t scored = 0;
  // Every decision here is the same for all threads.
  while (walk.IsIn() || queued > 0) {
    const bool is_from_queue = queued >= kTileRows || !walk.IsIn();
    const bool is_scored = is_from_queue || !similarity.is_bounded;
    int count = kTileRows;
    const int64_t first = walk.tile() * kTileRows;
    if (is_from_queue) {
      if (queued < count) count = queued;
    } else if (num_places - first < count) {
      count = static_cast<int>(num_places - first);
    }
    // Nobody reads the tile before any more.
    __syncthreads();
    for (int slot = threadIdx.x; slot < count; slot += kThreads) {
      const uint32_t place = is_from_queue
                                 ? queue[queued - count + slot]
                                 : static_cast<uint32_t>(first + slot);
      places[slot] = place;
      rows[slot] = listed == nullptr ? place : listed[place];
    }
    if (is_from_queue) {
      queued -= count;
    } else {
      walk.Next();
    }
    ComputeLogits<kOwnRows>(task, similarity, query, rows, count, stage, logits,
                            sums);
    if (!is_scored) {
      const float floor = offers.floor_score(0);
      uint32_t found = 0;
#pragma unroll
      for (int r = 0; r < kOwnRows; ++r) {
        const int slot = threadIdx.x + r * kThreads;
        if (slot < count && !(Bound<kOwnRows>(layout, logits + slot) < floor)) {
          found |= 1u << r;
        }
      }
      const BlockSums block_sums =
          SumBlock(static_cast<uint32_t>(__popc(found)), partial);
      int at = queued + static_cast<int>(block_sums.before);
#pragma unroll
      for (int r = 0; r < kOwnRows; ++r) {
        if ((found >> r & 1) != 0) {
          queue[at++] = places[threadIdx.x + r * kThreads];
        }
      }
      queued += static_cast<int>(block_sums.total);
      continue;
    }
    float scores[kOwnRows];
    ComputeScores<padded, kOwnRows>(task, similarity, query, gate, rows, count,
                                    stage, logits, scores);
#pragma unroll
    for (int r = 0; r < kOwnRows; ++r) {
      const int slot = threadIdx.x + r * kThreads;
      if (slot >= count) continue;
      if (!(scores[r] < offers.floor_score(0))) {
        offers.Add(0, scores[r], places[slot]);
      }
      const int64_t row = task.rows.first_row + rows[slot];
      if (uncounted == nullptr ||
          (uncounted[row / 64] >> (row % 64) & 1) == 0) {
        ++scored;
      }
    }
    if (++unchecked == task.check_tiles) {
      unchecked = 0;
      offers.template MakeRoom<kThreads>(&scratch);
    }
  }
  offers.template MakeRoom<kThreads>(&scratch);
  offers.Store();
  scored = WarpSum(scored);
  if (similarity.num_scored != nullptr && scored != 0 &&
      threadIdx.x % kWarpSize == 0) {
    atomicAdd(&similarity.num_scored[searched],
              static_cast<unsigned long long>(scored));
  }
}

// Calls f(kernel, tile) with what the layout takes.
template <typename F>
void Dispatch(const SimilarityLayout& layout, const F& f) {
  switch (layout.padded_pairs) {
    case 1:
      return f(&ScanSimilarityKernel<1>, kTile<1>);
    case 8:
      return f(&ScanSimilarityKernel<8>, kTile<8>);
    case 16:
      return f(&ScanSimilarityKernel<16>, kTile<16>);
    case 32:
      return f(&ScanSimilarityKernel<32>, kTile<32>);
    default:
      return f(&ScanSimilarityKernel<64>, kTile<64>);
  }
}

// What of the numbers is in shared memory, and how much of that there is then.
struct Fit {
  bool gate;
  bool query;
  int64_t bytes;
};

Fit FitOf(const SimilarityLayout& layout, int tile, bool is_bounded,
          const Context& context) {
  // A kernel declares some by itself.
  const int64_t most = context.max_shared_bytes() -
                       static_cast<int64_t>(sizeof(FloorScratch)) - 1024;
  const Fit fits[] = {{true, true, 0}, {true, false, 0}, {false, false, 0}};
  for (Fit fit : fits) {
    // Sizes may be beyond an int: a query has up to 2^22 numbers.
    if (fit.query && layout.query_floats() > most / kFour) continue;
    fit.bytes =
        SharedLayoutOf(layout, tile, is_bounded, fit.gate, fit.query).bytes;
    if (fit.bytes <= most || !fit.gate) return fit;
  }
  return fits[2];
}

}  // namespace

SimilarityScan::SimilarityScan(const Similarity& similarity,
                               const QueryLists& lists, bool is_bounded,
                               Context* context)
    : similarity_(similarity),
      layout_(similarity.shape),
      lists_(lists),
      is_bounded_(is_bounded),
      gate_(LayOutGate(similarity, context)) {}

ScanShape SimilarityScan::Shape(const ItemMatrix& items, Metric metric,
                                int64_t num_queries, bool one_by_one,
                                int64_t dim, Context* context) const {
  static_cast<void>(items);
  static_cast<void>(metric);
  static_cast<void>(num_queries);
  static_cast<void>(one_by_one);
  static_cast<void>(dim);
  ScanShape shape;
  shape.group_queries = 1;
  Dispatch(layout_, [&](auto kernel, int tile) {
    shape.tile_rows = tile;
    shape.resident_blocks =
        int64_t{context->num_multiprocessors()} *
        BlocksPerMultiprocessor(
            context, kernel, kThreads,
            FitOf(layout_, tile, is_bounded_, *context).bytes);
  });
  return shape;
}

void SimilarityScan::PrepareQueries(const float* queries, ScanTask* task,
                                    Context* context) const {
  task->queries = FoldQueries(similarity_, queries, task->num_queries, context);
}

void SimilarityScan::Run(const ScanTask& task, int64_t blocks,
                         Context* context) const {
  const int64_t four_bytes = kFour * ElementSize(task.items.type);
  const dim3 grid(static_cast<unsigned>(blocks),
                  static_cast<unsigned>(task.num_queries));
  Dispatch(layout_, [&](auto kernel, int tile) {
    const Fit fit = FitOf(layout_, tile, is_bounded_, *context);
    SimilarityTask similarity{
        layout_,
        task.dim,
        lists_,
        is_bounded_,
        gate_,
        num_scored_,
        uncounted_,
        uncounted_stride_,
        task.dim % kFour == 0 &&
            reinterpret_cast<uintptr_t>(task.items.data) % four_bytes == 0,
        fit.gate,
        fit.query};
    Launch(context, kernel, grid, kThreads, fit.bytes, task, similarity);
  });
}

}  // namespace lintf::gpu
