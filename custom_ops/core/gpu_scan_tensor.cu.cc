// SPDX-License-Identifier: Apache-2.0
// The scan on the tensor cores: inner products of bfloat16 and float16 rows,
// and rounded ones of float32 rows.
//
// A warp multiplies 32 rows with 8 queries at a time. Rows go from global
// memory straight into the registers that the multiplication reads, 16 bytes a
// load: since a sum may take its dimensions in any order, lane 4 g + t takes
// dimensions [8 t, 8 t + 8) of each 32 of row g, and the queries are laid out
// to match. Rows of up to 128 dimensions stay in registers while all queries
// of the group pass by in shared memory; longer ones are read again, from the
// first cache, for each few queries.
//
// float32 rows come here where tf32 products will do: 16 dimensions a chunk, 8
// a multiplication, and otherwise the same.
//
// Queries are float32. Their parts (gpu_knn.h) are multiplied one after
// another into the same sum: chunk by chunk of 32 dimensions, for each the
// parts in descending magnitude, for each two multiplications of 16
// dimensions. That order is the same whatever the batch.
#include <algorithm>
#include <cstdint>

#include "custom_ops/core/gpu.h"
#include "custom_ops/core/gpu_candidates.h"
#include "custom_ops/core/gpu_elements.h"
#include "custom_ops/core/gpu_scan.h"

namespace lintf::gpu {
namespace {

constexpr int kThreads = 256;
constexpr int kWarps = kThreads / kWarpSize;
constexpr int kWarpRows = 32;
constexpr int kTileRows = kWarps * kWarpRows;
constexpr int kTileQueries = 8;
// A row is taken in chunks of 64 bytes, of which each lane of a row has 16.
constexpr int kChunkBytes = 64;
constexpr int kUnitBytes = 16;
template <ElementType type>
constexpr int kUnitDims = type == ElementType::kFloat32 ? 4 : 8;
template <ElementType type>
constexpr int kChunkDims = 4 * kUnitDims<type>;
// Rows of up to so many chunks stay in registers.
constexpr int kHeldChunks = 4;
// Of one part of 8 queries: 16 bytes a lane.
constexpr int64_t kFragmentBytes = 16 * kWarpSize;
// Longer rows would leave no room for 8 queries in shared memory.
constexpr int64_t kMaxDim = 4096;
// float16 reaches neither as high nor as low as the queries do.
template <ElementType type, int parts>
constexpr bool kIsScaled = type == ElementType::kFloat16 && parts > 1;

template <ElementType type>
__device__ __forceinline__ void Multiply(float (&sum)[4],
                                         const uint32_t (&rows)[4],
                                         const uint32_t (&queries)[2]) {
  if constexpr (type == ElementType::kFloat32) {
    MultiplyTf32(sum, rows, queries);
  } else if constexpr (type == ElementType::kFloat16) {
    MultiplyFloat16(sum, rows, queries);
  } else {
    MultiplyBfloat16(sum, rows, queries);
  }
}

// Adds one part of one chunk: rows g and g + 8 of `low` and `high`, the two
// multiplications of 16 dimensions.
template <ElementType type>
__device__ __forceinline__ void MultiplyChunk(float (&sum)[4], const uint4& low,
                                              const uint4& high,
                                              const uint4& queries) {
  const uint32_t first_rows[4] = {low.x, high.x, low.y, high.y};
  const uint32_t first_queries[2] = {queries.x, queries.y};
  Multiply<type>(sum, first_rows, first_queries);
  const uint32_t second_rows[4] = {low.z, high.z, low.w, high.w};
  const uint32_t second_queries[2] = {queries.z, queries.w};
  Multiply<type>(sum, second_rows, second_queries);
}

// `is_held`: rows of at most kHeldChunks chunks. `query_tiles`, a multiple of
// `unroll`, is how many times 8 queries a group has room for.
template <ElementType type, int parts, bool is_held, int unroll>
__global__ void __launch_bounds__(kThreads, is_held&& unroll > 1 ? 1 : 2)
    ScanTensorKernel(const ScanTask task, int chunks, int query_tiles) {
  constexpr int64_t kElementBytes = kUnitBytes / kUnitDims<type>;
  uint4* const fragments = reinterpret_cast<uint4*>(DynamicShared());
  const int num_fragments = query_tiles * parts * chunks * kWarpSize;
  __shared__ FloorScratch scratch;
  Offers offers(task, query_tiles * kTileQueries,
                reinterpret_cast<char*>(fragments + num_fragments));
  const int64_t group = blockIdx.y;
  {
    const uint4* const from =
        static_cast<const uint4*>(task.queries) + group * num_fragments;
    for (int i = threadIdx.x; i < num_fragments; i += kThreads) {
      fragments[i] = __ldg(from + i);
    }
  }
  __syncthreads();

  // Of the group's queries, places without one included.
  const float* const scale =
      task.query_scales + group * query_tiles * kTileQueries;
  const int warp = threadIdx.x / kWarpSize;
  const int lane = threadIdx.x % kWarpSize;
  const int first_row = lane / 4;  // g
  const int quarter = lane % 4;    // t
  const int64_t num_places = task.rows.NumPlaces(group);
  const int64_t num_tiles = (num_places + kTileRows - 1) / kTileRows;
  const int64_t row_bytes = task.dim * kElementBytes;
  const int dim = static_cast<int>(task.dim);
  const char* const items =
      static_cast<const char*>(task.items.data) + quarter * kUnitBytes;

  int64_t unchecked = 0;
  for (TileWalk walk(task, num_tiles); walk.IsIn(); walk.Next()) {
    const int64_t first_place = walk.tile() * kTileRows + warp * kWarpRows;
    if (first_place < num_places) {
      // Rows g, g + 8, g + 16 and g + 24 of the warp's.
      const char* source[4];
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const int64_t place = first_place + first_row + 8 * i;
        source[i] = place < num_places
                        ? items + (task.rows.first_row +
                                   task.rows.RowAt(group, place)) *
                                      row_bytes
                        : nullptr;
      }
      const auto load = [&](int i, int chunk) {
        const bool is_in =
            source[i] != nullptr &&
            chunk * kChunkDims<type> + quarter * kUnitDims<type> < dim;
        if (!is_in) return make_uint4(0, 0, 0, 0);
        const char* const from = source[i] + chunk * kChunkBytes;
        return is_held ? LoadOnce(from)
                       : __ldg(reinterpret_cast<const uint4*>(from));
      };
      uint4 held[4][is_held ? kHeldChunks : 1];
      if constexpr (is_held) {
#pragma unroll
        for (int i = 0; i < 4; ++i) {
#pragma unroll
          for (int c = 0; c < kHeldChunks; ++c) held[i][c] = load(i, c);
        }
      }
      for (int tile = 0; tile < query_tiles; tile += unroll) {
        float sums[unroll][2][4] = {};
        const auto add_chunk = [&](int c, const uint4(&rows)[4]) {
#pragma unroll
          for (int p = 0; p < parts; ++p) {
#pragma unroll
            for (int n = 0; n < unroll; ++n) {
              const uint4 queries =
                  fragments[(((tile + n) * parts + p) * chunks + c) *
                                kWarpSize +
                            lane];
              MultiplyChunk<type>(sums[n][0], rows[0], rows[1], queries);
              MultiplyChunk<type>(sums[n][1], rows[2], rows[3], queries);
            }
          }
        };
        if constexpr (is_held) {
#pragma unroll
          for (int c = 0; c < kHeldChunks; ++c) {
            if (c >= chunks) break;
            const uint4 rows[4] = {held[0][c], held[1][c], held[2][c],
                                   held[3][c]};
            add_chunk(c, rows);
          }
        } else {
#pragma unroll 2
          for (int c = 0; c < chunks; ++c) {
            const uint4 rows[4] = {load(0, c), load(1, c), load(2, c),
                                   load(3, c)};
            add_chunk(c, rows);
          }
        }
#pragma unroll
        for (int n = 0; n < unroll; ++n) {
          const int query = (tile + n) * kTileQueries + 2 * quarter;
          float2 scales = make_float2(1.0f, 1.0f);
          if constexpr (kIsScaled<type, parts>) {
            scales = *reinterpret_cast<const float2*>(scale + query);
          }
          const float floors[2] = {offers.floor_score(query),
                                   offers.floor_score(query + 1)};
          bool is_hit = false;
#pragma unroll
          for (int i = 0; i < 8; ++i) {
            float& score = sums[n][i / 4][i % 4];
            if constexpr (kIsScaled<type, parts>) {
              score = __fmul_rn(score, i % 2 == 0 ? scales.x : scales.y);
            }
            is_hit |= !(score < floors[i % 2]);
          }
          if (!is_hit) continue;
#pragma unroll
          for (int i = 0; i < 8; ++i) {
            const float score = sums[n][i / 4][i % 4];
            const int64_t place = first_place + first_row + 8 * (i / 2);
            if (place < num_places && !(score < floors[i % 2])) {
              offers.Add(query + i % 2, score, place);
            }
          }
        }
      }
    }
    if (++unchecked == task.check_tiles) {
      unchecked = 0;
      offers.template MakeRoom<kThreads>(&scratch);
    }
  }
  offers.template MakeRoom<kThreads>(&scratch);
  offers.Store();
}

// The next part of x, which becomes what is left.
template <ElementType type, int parts>
__device__ __forceinline__ uint32_t TakePart(float* x) {
  uint32_t bits;
  if constexpr (type == ElementType::kFloat16) {
    bits = ToFloat16(*x);
    *x = __fsub_rn(*x, FromFloat16(bits));
  } else {
    // Cut off rather than rounded: no part then is beyond the type's range.
    bits = parts == 1 ? ToBfloat16(*x) : CutToBfloat16(*x);
    *x = __fsub_rn(*x, FromBfloat16(bits));
  }
  return bits;
}

// A power of two that brings `largest` into float16's upper range, if it can.
__device__ __forceinline__ float ScaleFor(float largest) {
  if (largest == 0.0f) return 1.0f;
  const int exponent =
      static_cast<int>(__float_as_uint(largest) >> 23) - 127;  // largest >= 0
  int scale = 14 - exponent;
  scale = scale > 126 ? 126 : scale;
  return __uint_as_float(static_cast<uint32_t>(scale + 127) << 23);
}

// Fragments, [groups, query tiles, parts, chunks, lanes]; zeros where a group
// has no query. One block a query or such a place.
template <ElementType type, int parts>
__global__ void PrepareQueriesKernel(const float* queries, int64_t num_queries,
                                     int64_t dim, int64_t group_queries,
                                     int64_t num_groups, int query_tiles,
                                     int chunks, uint4* fragments,
                                     float* scales) {
  __shared__ float maxima[32];
  const int64_t slots = query_tiles * kTileQueries;
  for (int64_t s = blockIdx.x; s < num_groups * slots; s += gridDim.x) {
    const int64_t group = s / slots;
    const int64_t slot = s % slots;
    const int64_t q = group * group_queries + slot;
    const bool is_used = slot < group_queries && q < num_queries;
    const float* const query = queries + q * dim;
    float scale = 1.0f;
    if constexpr (kIsScaled<type, parts>) {
      float largest = 0.0f;
      for (int64_t d = threadIdx.x; is_used && d < dim; d += blockDim.x) {
        largest = fmaxf(largest, fabsf(query[d]));
      }
      for (int step = kWarpSize / 2; step > 0; step /= 2) {
        largest = fmaxf(largest, __shfl_xor_sync(kWarp, largest, step));
      }
      if (threadIdx.x % kWarpSize == 0) {
        maxima[threadIdx.x / kWarpSize] = largest;
      }
      __syncthreads();
      for (int w = 0; w < static_cast<int>(blockDim.x) / kWarpSize; ++w) {
        largest = fmaxf(largest, maxima[w]);
      }
      __syncthreads();
      scale = ScaleFor(largest);
    }
    const int64_t tile = slot / kTileQueries;
    const int row = static_cast<int>(slot % kTileQueries);
    // A thread makes what one lane has of a chunk.
    constexpr int kDims = kUnitDims<type>;
    for (int64_t i = threadIdx.x; i < chunks * 4; i += blockDim.x) {
      const int64_t chunk = i / 4;
      const int64_t first = chunk * kChunkDims<type> + i % 4 * kDims;
      float rest[kDims];
      for (int d = 0; d < kDims; ++d) {
        rest[d] = is_used && first + d < dim
                      ? __fmul_rn(query[first + d], scale)
                      : 0.0f;
      }
      for (int p = 0; p < parts; ++p) {
        uint32_t words[4];
        for (int w = 0; w < 4; ++w) {
          if constexpr (type == ElementType::kFloat32) {
            words[w] = ToTf32(rest[w]);
          } else {
            const uint32_t low = TakePart<type, parts>(&rest[2 * w]);
            const uint32_t high = TakePart<type, parts>(&rest[2 * w + 1]);
            words[w] = low | (high << 16);
          }
        }
        fragments[(((group * query_tiles + tile) * parts + p) * chunks +
                   chunk) *
                      kWarpSize +
                  row * 4 + i % 4] =
            make_uint4(words[0], words[1], words[2], words[3]);
      }
    }
    // The scale's inverse, a power of two as well.
    if (threadIdx.x == 0) scales[s] = __fdiv_rn(1.0f, scale);
  }
}

template <ElementType type, int parts>
class TensorScanner : public Scan {
 public:
  ScanShape Shape(const ItemMatrix&, Metric, int64_t num_queries,
                  bool one_by_one, int64_t dim,
                  Context* context) const override {
    ScanShape shape;
    shape.tile_rows = kTileRows;
    shape.group_queries = 1;
    if (!one_by_one) {
      const int64_t tile_bytes = parts * NumChunks(dim) * kFragmentBytes +
                                 Offers::SharedBytes(kTileQueries);
      const int64_t room = context->max_shared_bytes() - kOwnShared;
      int64_t most = std::max<int64_t>(room / tile_bytes, 1);
      if (most > 1) most -= most % 2;
      const int64_t tiles = (num_queries + kTileQueries - 1) / kTileQueries;
      const int64_t groups = (tiles + most - 1) / most;
      const int64_t group_tiles = (tiles + groups - 1) / groups;
      // The last group of several must not lack the room of the others.
      shape.group_queries =
          groups == 1
              ? num_queries
              : std::min(most, group_tiles + group_tiles % 2) * kTileQueries;
    }
    ForKernel(dim, shape.group_queries, [&](auto kernel, int tiles) {
      shape.resident_blocks = int64_t{context->num_multiprocessors()} *
                              BlocksPerMultiprocessor(context, kernel, kThreads,
                                                      SharedBytes(dim, tiles));
    });
    return shape;
  }

  void PrepareQueries(const float* queries, ScanTask* task,
                      Context* context) const override {
    const int tiles = QueryTiles(task->group_queries);
    const int64_t chunks = NumChunks(task->dim);
    const int64_t groups =
        (task->num_queries + task->group_queries - 1) / task->group_queries;
    const int64_t count = groups * tiles * parts * chunks * kWarpSize;
    uint4* const fragments = context->Allocate<uint4>(count);
    const int64_t slots = groups * tiles * kTileQueries;
    float* const scales = context->Allocate<float>(slots);
    Launch(context, PrepareQueriesKernel<type, parts>,
           static_cast<unsigned>(std::min<int64_t>(slots, 65535)), 128, 0,
           queries, task->num_queries, task->dim, task->group_queries, groups,
           tiles, static_cast<int>(chunks), fragments, scales);
    task->queries = fragments;
    task->query_scales = scales;
  }

  void Run(const ScanTask& task, int64_t blocks,
           Context* context) const override {
    const int64_t groups =
        (task.num_queries + task.group_queries - 1) / task.group_queries;
    const dim3 grid(static_cast<unsigned>(blocks),
                    static_cast<unsigned>(groups));
    ForKernel(task.dim, task.group_queries, [&](auto kernel, int tiles) {
      Launch(context, kernel, grid, kThreads, SharedBytes(task.dim, tiles),
             task, static_cast<int>(NumChunks(task.dim)), tiles);
    });
  }

 private:
  // What kernels declare, and some more.
  static constexpr int64_t kOwnShared = 10 << 10;

  static int64_t NumChunks(int64_t dim) {
    return (dim + kChunkDims<type> - 1) / kChunkDims<type>;
  }

  // Few queries are bound by memory, and two blocks share a multiprocessor;
  // many are bound by the multiplications, two of which run at once.
  static constexpr int kManyTiles = 4;

  // Even, if there are many.
  static int QueryTiles(int64_t group_queries) {
    const int64_t tiles = (group_queries + kTileQueries - 1) / kTileQueries;
    return static_cast<int>(tiles < kManyTiles ? tiles : tiles + tiles % 2);
  }

  static int64_t SharedBytes(int64_t dim, int tiles) {
    return tiles * parts * NumChunks(dim) * kFragmentBytes +
           Offers::SharedBytes(int64_t{tiles} * kTileQueries);
  }

  template <typename F>
  static void ForKernel(int64_t dim, int64_t group_queries, const F& f) {
    const int tiles = QueryTiles(group_queries);
    const bool is_held = NumChunks(dim) <= kHeldChunks;
    if (is_held && tiles < kManyTiles) {
      f(&ScanTensorKernel<type, parts, true, 1>, tiles);
    } else if (is_held) {
      f(&ScanTensorKernel<type, parts, true, 2>, tiles);
    } else if (tiles < kManyTiles) {
      f(&ScanTensorKernel<type, parts, false, 1>, tiles);
    } else {
      f(&ScanTensorKernel<type, parts, false, 2>, tiles);
    }
  }
};

}  // namespace

bool TensorScanFits(const ItemMatrix& items, int64_t dim, Metric metric,
                    QueryPrecision precision) {
  // Of float32 they would see 11 bits.
  const bool is_type_fine = items.type == ElementType::kFloat32
                                ? precision == QueryPrecision::kStorage
                                : items.type != ElementType::kInt8;
  const int64_t row_bytes = dim * ElementSize(items.type);
  return is_type_fine && metric == Metric::kInnerProduct &&
         row_bytes % kUnitBytes == 0 && dim <= kMaxDim &&
         reinterpret_cast<uintptr_t>(items.data) % kUnitBytes == 0;
}

const Scan& TensorScan(ElementType type, QueryPrecision precision) {
  static const TensorScanner<ElementType::kBfloat16, 3> bfloat16;
  static const TensorScanner<ElementType::kBfloat16, 1> rounded_bfloat16;
  static const TensorScanner<ElementType::kFloat16, 2> float16;
  static const TensorScanner<ElementType::kFloat16, 1> rounded_float16;
  static const TensorScanner<ElementType::kFloat32, 1> tf32;
  const bool is_full = precision == QueryPrecision::kFull;
  switch (type) {
    case ElementType::kBfloat16:
      return is_full ? static_cast<const Scan&>(bfloat16) : rounded_bfloat16;
    case ElementType::kFloat16:
      return is_full ? static_cast<const Scan&>(float16) : rounded_float16;
    default:
      return tf32;
  }
}

}  // namespace lintf::gpu
