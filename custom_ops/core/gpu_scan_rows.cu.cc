// SPDX-License-Identifier: Apache-2.0
// The scan that scores with the CPU's operations, and so gives its bits: one
// thread a row, dimension after dimension.
//
// Rows reach shared memory in chunks of 128 bytes, a few chunks ahead of the
// one that is scored, 16 bytes a copy; neighbouring threads copy neighbouring
// bytes. The 16-byte units of a row are stored in an order that depends on the
// row, so that threads that read the same unit of neighbouring rows meet in no
// bank. Of the queries the same dimensions lie behind the rows; all threads
// read the same of them.
#include <algorithm>
#include <cstdint>
#include <type_traits>

#include "custom_ops/core/gpu.h"
#include "custom_ops/core/gpu_candidates.h"
#include "custom_ops/core/gpu_elements.h"
#include "custom_ops/core/gpu_scan.h"

namespace lintf::gpu {
namespace {

constexpr int kThreads = 128;
constexpr int kStages = 3;
constexpr int kUnitBytes = 16;
constexpr int kChunkUnits = 8;
constexpr int kChunkBytes = kUnitBytes * kChunkUnits;

template <ElementType type>
struct Elements {
  static constexpr int kBytes = type == ElementType::kFloat32 ? 4
                                : type == ElementType::kInt8  ? 1
                                                              : 2;
  static constexpr int kOfChunk = kChunkBytes / kBytes;
  // Of a query's chunk: float32 dimensions, or two planes of int8.
  static constexpr int kQueryBytes =
      type == ElementType::kInt8 ? 2 * kOfChunk : 4 * kOfChunk;
};

// A block's shape: `queries` of a group, `rows` of a thread.
template <ElementType type, int queries, int rows>
struct BlockShape {
  static constexpr int kTileRows = rows * kThreads;
  static constexpr int kRowBytes = kTileRows * kChunkBytes;
  static constexpr int kStageBytes =
      kRowBytes + queries * Elements<type>::kQueryBytes;
  static constexpr int kSharedBytes =
      kStages * kStageBytes + static_cast<int>(Offers::SharedBytes(queries));
};

int64_t NumChunks(const ItemMatrix& items, int64_t dim) {
  return (dim * ElementSize(items.type) + kChunkBytes - 1) / kChunkBytes;
}

// What a thread sums up for one row and one query.
template <ElementType type>
struct Sum {
  using Type = float;
};
struct Int8Sum {
  int high;
  int low;
};
template <>
struct Sum<ElementType::kInt8> {
  using Type = Int8Sum;
};

// A unit's elements as float32.
template <ElementType type>
__device__ __forceinline__ void Unpack(const uint4& unit, float* values) {
  const uint32_t words[4] = {unit.x, unit.y, unit.z, unit.w};
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    if constexpr (type == ElementType::kFloat32) {
      values[i] = __uint_as_float(words[i]);
    } else if constexpr (type == ElementType::kBfloat16) {
      values[2 * i] = FromBfloat16(words[i] & 0xFFFFu);
      values[2 * i + 1] = FromBfloat16(words[i] >> 16);
    } else {
      values[2 * i] = FromFloat16(words[i] & 0xFFFFu);
      values[2 * i + 1] = FromFloat16(words[i] >> 16);
    }
  }
}

template <Metric metric>
__device__ __forceinline__ float Accumulate(float query, float value,
                                            float sum) {
  if constexpr (metric == Metric::kInnerProduct) {
    return __fmaf_rn(query, value, sum);
  } else {
    const float difference = __fsub_rn(query, value);
    return __fmaf_rn(difference, difference, sum);
  }
}

// See masked_knn.h. `squares` is the row's, for kL2.
template <Metric metric>
__device__ __forceinline__ float Int8Score(const Int8Sum& sum, int squares,
                                           float row_scale, float query_scale,
                                           float query_norm) {
  const float dot = __fmaf_rn(256.0f, static_cast<float>(sum.high),
                              static_cast<float>(sum.low));
  const float product = __fmul_rn(__fmul_rn(dot, query_scale), row_scale);
  if constexpr (metric == Metric::kInnerProduct) return product;
  const float norm =
      __fmul_rn(__fmul_rn(static_cast<float>(squares), row_scale), row_scale);
  const float distance = __fmaf_rn(-2.0f, product, __fadd_rn(query_norm, norm));
  return distance < 0.0f ? 0.0f : -distance;
}

// Copies 16 bytes of a row from `offset` on, as far as it goes; zeros past
// `row_bytes`. `piece` bytes divide the row's address and its length.
__device__ __forceinline__ void CopyUnaligned(char* to, const char* row,
                                              int64_t offset, int64_t row_bytes,
                                              int piece) {
  uint4 unit = make_uint4(0, 0, 0, 0);
  const int64_t left = row_bytes - offset;
  if (row != nullptr && piece == 8) {
    uint64_t words[2] = {0, 0};
    for (int i = 0; i < 2; ++i) {
      if (8 * i < left) {
        words[i] = __ldg(
            reinterpret_cast<const unsigned long long*>(row + offset) + i);
      }
    }
    unit = make_uint4(
        static_cast<uint32_t>(words[0]), static_cast<uint32_t>(words[0] >> 32),
        static_cast<uint32_t>(words[1]), static_cast<uint32_t>(words[1] >> 32));
  } else if (row != nullptr && piece == 4) {
    uint32_t words[4] = {0, 0, 0, 0};
    for (int i = 0; i < 4; ++i) {
      if (4 * i < left) {
        words[i] =
            __ldg(reinterpret_cast<const unsigned int*>(row + offset) + i);
      }
    }
    unit = make_uint4(words[0], words[1], words[2], words[3]);
  } else if (row != nullptr) {
    uint32_t words[4] = {0, 0, 0, 0};
    for (int i = 0; i < kUnitBytes; ++i) {
      if (i < left) {
        const uint32_t byte =
            __ldg(reinterpret_cast<const unsigned char*>(row + offset) + i);
        words[i / 4] |= byte << (8 * (i % 4));
      }
    }
    unit = make_uint4(words[0], words[1], words[2], words[3]);
  }
  *reinterpret_cast<uint4*>(to) = unit;
}

// `piece` is 16 where rows are aligned to that, else what they are aligned to.
template <ElementType type, Metric metric, int queries, int rows>
__global__ void __launch_bounds__(kThreads, queries == 1 ? 4 : 2)
    ScanRowsKernel(const ScanTask task, int64_t num_chunks, int piece) {
  using Shape = BlockShape<type, queries, rows>;
  using Element = Elements<type>;
  using SumType = typename Sum<type>::Type;
  constexpr int kCopies = Shape::kTileRows * kChunkUnits / kThreads;
  constexpr int kQueryUnits = queries * Element::kQueryBytes / kUnitBytes;

  char* const shared = DynamicShared();
  __shared__ FloorScratch scratch;
  Offers offers(task, queries, shared + kStages * Shape::kStageBytes);
  __syncthreads();

  const int64_t group = blockIdx.y;
  const int64_t num_places = task.rows.NumPlaces(group);
  const int64_t num_tiles =
      (num_places + Shape::kTileRows - 1) / Shape::kTileRows;
  const int64_t row_bytes = task.dim * Element::kBytes;
  const char* const items = static_cast<const char*>(task.items.data);
  const char* const group_queries =
      static_cast<const char*>(task.queries) +
      group * num_chunks * queries * Element::kQueryBytes;

  // Where the copies of this thread are.
  const int copied_unit = threadIdx.x % kChunkUnits;
  const int first_copied_row = threadIdx.x / kChunkUnits;
  TileWalk copied(task, num_tiles);
  int64_t copied_chunk = 0;
  int copied_stage = 0;
  const auto copy_chunk = [&] {
    if (copied.IsIn()) {
      char* const stage = shared + copied_stage * Shape::kStageBytes;
      const int64_t offset =
          copied_chunk * kChunkBytes + copied_unit * kUnitBytes;
      const int64_t first = copied.tile() * Shape::kTileRows;
#pragma unroll 4
      for (int i = 0; i < kCopies; ++i) {
        const int r = first_copied_row + i * (kThreads / kChunkUnits);
        const bool is_in = first + r < num_places && offset < row_bytes;
        const char* const row =
            is_in ? items + (task.rows.first_row +
                             task.rows.RowAt(group, first + r)) *
                                row_bytes
                  : items;
        char* const to = stage + r * kChunkBytes +
                         (copied_unit ^ (r % kChunkUnits)) * kUnitBytes;
        if (piece == kUnitBytes) {
          CopyAsync(to, is_in ? row + offset : row, is_in);
        } else {
          CopyUnaligned(to, is_in ? row : nullptr, offset, row_bytes, piece);
        }
      }
      const char* const from =
          group_queries + copied_chunk * queries * Element::kQueryBytes;
      for (int i = threadIdx.x; i < kQueryUnits; i += kThreads) {
        CopyAsync(stage + Shape::kRowBytes + i * kUnitBytes,
                  from + i * kUnitBytes, true);
      }
      copied_stage = copied_stage + 1 == kStages ? 0 : copied_stage + 1;
      if (++copied_chunk == num_chunks) {
        copied_chunk = 0;
        copied.Next();
      }
    }
    // Empty groups too: they are counted.
    CommitCopies();
  };
  for (int i = 0; i < kStages - 1; ++i) copy_chunk();

  int stage = 0;
  int64_t unchecked = 0;
  for (TileWalk walk(task, num_tiles); walk.IsIn(); walk.Next()) {
    SumType sums[rows][queries];
    int squares[rows];
#pragma unroll
    for (int r = 0; r < rows; ++r) {
      squares[r] = 0;
#pragma unroll
      for (int q = 0; q < queries; ++q) sums[r][q] = SumType{};
    }
    for (int64_t chunk = 0; chunk < num_chunks; ++chunk) {
      WaitCopies<kStages - 2>();
      // The chunk is there for all, and nobody reads the one before it.
      __syncthreads();
      copy_chunk();
      const char* const data = shared + stage * Shape::kStageBytes;
      const char* const query_data = data + Shape::kRowBytes;
      const int64_t units_left =
          (row_bytes - chunk * kChunkBytes + kUnitBytes - 1) / kUnitBytes;
      const int units =
          static_cast<int>(units_left < kChunkUnits ? units_left : kChunkUnits);
#pragma unroll 2
      for (int u = 0; u < units; ++u) {
        uint4 values[rows];
#pragma unroll
        for (int r = 0; r < rows; ++r) {
          const int row = threadIdx.x + r * kThreads;
          values[r] = *reinterpret_cast<const uint4*>(
              data + row * kChunkBytes +
              (u ^ (row % kChunkUnits)) * kUnitBytes);
        }
        if constexpr (type == ElementType::kInt8) {
          if constexpr (metric == Metric::kL2) {
#pragma unroll
            for (int r = 0; r < rows; ++r) {
              squares[r] = __dp4a(static_cast<int>(values[r].x),
                                  static_cast<int>(values[r].x), squares[r]);
              squares[r] = __dp4a(static_cast<int>(values[r].y),
                                  static_cast<int>(values[r].y), squares[r]);
              squares[r] = __dp4a(static_cast<int>(values[r].z),
                                  static_cast<int>(values[r].z), squares[r]);
              squares[r] = __dp4a(static_cast<int>(values[r].w),
                                  static_cast<int>(values[r].w), squares[r]);
            }
          }
#pragma unroll
          for (int q = 0; q < queries; ++q) {
            const char* const planes = query_data + q * Element::kQueryBytes;
            const int4 high =
                *reinterpret_cast<const int4*>(planes + u * kUnitBytes);
            const int4 low = *reinterpret_cast<const int4*>(
                planes + Element::kOfChunk + u * kUnitBytes);
#pragma unroll
            for (int r = 0; r < rows; ++r) {
              const int x = static_cast<int>(values[r].x);
              const int y = static_cast<int>(values[r].y);
              const int z = static_cast<int>(values[r].z);
              const int w = static_cast<int>(values[r].w);
              Int8Sum& sum = sums[r][q];
              sum.high = __dp4a(x, high.x, sum.high);
              sum.high = __dp4a(y, high.y, sum.high);
              sum.high = __dp4a(z, high.z, sum.high);
              sum.high = __dp4a(w, high.w, sum.high);
              sum.low = __dp4a(x, low.x, sum.low);
              sum.low = __dp4a(y, low.y, sum.low);
              sum.low = __dp4a(z, low.z, sum.low);
              sum.low = __dp4a(w, low.w, sum.low);
            }
          }
        } else {
          constexpr int kOfUnit = kUnitBytes / Element::kBytes;
          float numbers[rows][kOfUnit];
#pragma unroll
          for (int r = 0; r < rows; ++r) Unpack<type>(values[r], numbers[r]);
#pragma unroll
          for (int q = 0; q < queries; ++q) {
            const float4* const query = reinterpret_cast<const float4*>(
                query_data + q * Element::kQueryBytes + u * kOfUnit * 4);
#pragma unroll
            for (int d = 0; d < kOfUnit; d += 4) {
              const float4 four = query[d / 4];
#pragma unroll
              for (int r = 0; r < rows; ++r) {
                float& sum = sums[r][q];
                sum = Accumulate<metric>(four.x, numbers[r][d], sum);
                sum = Accumulate<metric>(four.y, numbers[r][d + 1], sum);
                sum = Accumulate<metric>(four.z, numbers[r][d + 2], sum);
                sum = Accumulate<metric>(four.w, numbers[r][d + 3], sum);
              }
            }
          }
        }
      }
      stage = stage + 1 == kStages ? 0 : stage + 1;
    }

#pragma unroll
    for (int r = 0; r < rows; ++r) {
      const int64_t place =
          walk.tile() * Shape::kTileRows + threadIdx.x + r * kThreads;
      if (place >= num_places) continue;
      float row_scale = 0.0f;
      if constexpr (type == ElementType::kInt8) {
        row_scale =
            task.items
                .scales[task.rows.first_row + task.rows.RowAt(group, place)];
      }
#pragma unroll
      for (int q = 0; q < queries; ++q) {
        float score;
        if constexpr (type == ElementType::kInt8) {
          const int64_t query = group * task.group_queries + q;
          const bool is_used = query < task.num_queries;
          score = Int8Score<metric>(sums[r][q], squares[r], row_scale,
                                    is_used ? task.query_scales[query] : 0.0f,
                                    is_used ? task.query_norms[query] : 0.0f);
        } else {
          score = metric == Metric::kL2 ? -sums[r][q] : sums[r][q];
        }
        if (!(score < offers.floor_score(q))) offers.Add(q, score, place);
      }
    }
    if (++unchecked == task.check_tiles) {
      unchecked = 0;
      offers.template MakeRoom<kThreads>(&scratch);
    }
  }
  WaitCopies<0>();
  offers.template MakeRoom<kThreads>(&scratch);
  offers.Store();
}

// Queries in the order in which stages are filled: [groups, chunks, queries of
// a group, chunk]; zeros where the last group has no query. One block a query
// or such a place.
template <ElementType type>
__global__ void PrepareFloatQueries(const float* queries, int64_t num_queries,
                                    int64_t dim, int64_t num_chunks, int slots,
                                    int64_t num_groups, float* prepared) {
  constexpr int64_t kDims = Elements<type>::kOfChunk;
  for (int64_t q = blockIdx.x; q < num_groups * slots; q += gridDim.x) {
    const int64_t group = q / slots;
    for (int64_t d = threadIdx.x; d < num_chunks * kDims; d += blockDim.x) {
      const int64_t chunk = d / kDims;
      prepared[((group * num_chunks + chunk) * slots + q % slots) * kDims +
               d % kDims] =
          q < num_queries && d < dim ? queries[q * dim + d] : 0.0f;
    }
  }
}

// The greater of a block's numbers.
__device__ float BlockMax(float value, float* shared) {
  for (int step = kWarpSize / 2; step > 0; step /= 2) {
    value = fmaxf(value, __shfl_xor_sync(kWarp, value, step));
  }
  if (threadIdx.x % kWarpSize == 0) shared[threadIdx.x / kWarpSize] = value;
  __syncthreads();
  for (int w = 0; w < static_cast<int>(blockDim.x) / kWarpSize; ++w) {
    value = fmaxf(value, shared[w]);
  }
  __syncthreads();
  return value;
}

// As EncodeInt8Query has it. One block a query.
__global__ void PrepareInt8Queries(const float* queries, int64_t num_queries,
                                   int64_t dim, int64_t num_chunks, int slots,
                                   int64_t num_groups, int8_t* prepared,
                                   float* scales, float* norms) {
  constexpr int kLargest = 127 * 256 + 127;
  constexpr int64_t kDims = Elements<ElementType::kInt8>::kOfChunk;
  __shared__ float maxima[32];
  __shared__ unsigned long long squares;
  for (int64_t q = blockIdx.x; q < num_groups * slots; q += gridDim.x) {
    if (threadIdx.x == 0) squares = 0;
    const bool is_used = q < num_queries;
    const float* const query = queries + q * dim;
    float largest = 0.0f;
    for (int64_t d = threadIdx.x; is_used && d < dim; d += blockDim.x) {
      largest = fmaxf(largest, fabsf(query[d]));
    }
    largest = BlockMax(largest, maxima);
    float scale = __fdiv_rn(largest, static_cast<float>(kLargest));
    // Below the least normal number it counts as zero.
    if (!(scale >= __uint_as_float(0x00800000u))) scale = 0.0f;
    unsigned long long own = 0;
    int8_t* const planes =
        prepared + ((q / slots) * num_chunks * slots + q % slots) * 2 * kDims;
    for (int64_t d = threadIdx.x; d < num_chunks * kDims; d += blockDim.x) {
      int value = 0;
      if (d < dim && scale > 0.0f) {
        value = __float2int_rn(__fdiv_rn(query[d], scale));
        value = value > kLargest ? kLargest : value;
        value = value < -kLargest ? -kLargest : value;
      }
      own += static_cast<unsigned long long>(static_cast<int64_t>(value) *
                                             static_cast<int64_t>(value));
      const int rounded = (value + 128) >> 8;
      int8_t* const at = planes + d / kDims * slots * 2 * kDims + d % kDims;
      at[0] = static_cast<int8_t>(rounded);
      at[kDims] = static_cast<int8_t>(value - 256 * rounded);
    }
    atomicAdd(&squares, own);
    __syncthreads();
    if (is_used && threadIdx.x == 0) {
      scales[q] = scale;
      const double wide = scale;
      norms[q] = static_cast<float>(
          __dmul_rn(__dmul_rn(wide, wide), static_cast<double>(squares)));
    }
    __syncthreads();
  }
}

int SlotsFor(int64_t num_queries, bool one_by_one) {
  return one_by_one || num_queries == 1 ? 1 : 16;
}

constexpr int RowsOf(int slots) { return slots == 16 ? 2 : 1; }

// Calls f.operator()<type, metric, queries>() for what the arguments say.
template <typename F>
void Dispatch(ElementType type, Metric metric, int slots, const F& f) {
  const auto with_slots = [&](auto type_constant, auto metric_constant) {
    constexpr ElementType kType = decltype(type_constant)::value;
    constexpr Metric kMetric = decltype(metric_constant)::value;
    switch (slots) {
      case 1:
        return f(type_constant, metric_constant,
                 &ScanRowsKernel<kType, kMetric, 1, RowsOf(1)>,
                 BlockShape<kType, 1, RowsOf(1)>{});
      default:
        return f(type_constant, metric_constant,
                 &ScanRowsKernel<kType, kMetric, 16, RowsOf(16)>,
                 BlockShape<kType, 16, RowsOf(16)>{});
    }
  };
  const auto with_metric = [&](auto type_constant) {
    if (metric == Metric::kL2) {
      with_slots(type_constant, std::integral_constant<Metric, Metric::kL2>{});
    } else {
      with_slots(type_constant,
                 std::integral_constant<Metric, Metric::kInnerProduct>{});
    }
  };
  switch (type) {
    case ElementType::kFloat32:
      return with_metric(
          std::integral_constant<ElementType, ElementType::kFloat32>{});
    case ElementType::kBfloat16:
      return with_metric(
          std::integral_constant<ElementType, ElementType::kBfloat16>{});
    case ElementType::kFloat16:
      return with_metric(
          std::integral_constant<ElementType, ElementType::kFloat16>{});
    case ElementType::kInt8:
      return with_metric(
          std::integral_constant<ElementType, ElementType::kInt8>{});
  }
}

// The greatest power of two, up to 16, that divides a row's address and size.
int PieceOf(const ItemMatrix& items, int64_t dim) {
  const uint64_t bits = reinterpret_cast<uintptr_t>(items.data) |
                        static_cast<uint64_t>(dim * ElementSize(items.type)) |
                        kUnitBytes;
  return static_cast<int>(bits & (~bits + 1));
}

class RowScanner : public Scan {
 public:
  ScanShape Shape(const ItemMatrix& items, Metric metric, int64_t num_queries,
                  bool one_by_one, int64_t dim,
                  Context* context) const override {
    (void)dim;
    ScanShape shape;
    shape.group_queries = SlotsFor(num_queries, one_by_one);
    Dispatch(items.type, metric, static_cast<int>(shape.group_queries),
             [&](auto, auto, auto kernel, auto block) {
               shape.tile_rows = block.kTileRows;
               shape.resident_blocks =
                   int64_t{context->num_multiprocessors()} *
                   BlocksPerMultiprocessor(context, kernel, kThreads,
                                           block.kSharedBytes);
             });
    return shape;
  }

  void PrepareQueries(const float* queries, ScanTask* task,
                      Context* context) const override {
    const int64_t chunks = NumChunks(task->items, task->dim);
    const int64_t slots = task->group_queries;
    const int64_t groups = (task->num_queries + slots - 1) / slots;
    const unsigned blocks =
        static_cast<unsigned>(std::min<int64_t>(task->num_queries, 65535));
    const auto prepare_floats = [&](auto type_constant) {
      constexpr ElementType kType = decltype(type_constant)::value;
      const int64_t count = groups * chunks * slots * Elements<kType>::kOfChunk;
      float* const prepared = context->Allocate<float>(count);
      Launch(context, PrepareFloatQueries<kType>, blocks, kThreads, 0, queries,
             task->num_queries, task->dim, chunks, static_cast<int>(slots),
             groups, prepared);
      task->queries = prepared;
    };
    switch (task->items.type) {
      case ElementType::kFloat32:
        return prepare_floats(
            std::integral_constant<ElementType, ElementType::kFloat32>{});
      case ElementType::kBfloat16:
        return prepare_floats(
            std::integral_constant<ElementType, ElementType::kBfloat16>{});
      case ElementType::kFloat16:
        return prepare_floats(
            std::integral_constant<ElementType, ElementType::kFloat16>{});
      case ElementType::kInt8:
        break;
    }
    const int64_t bytes =
        groups * chunks * slots * Elements<ElementType::kInt8>::kQueryBytes;
    int8_t* const prepared = context->Allocate<int8_t>(bytes);
    float* const scales = context->Allocate<float>(task->num_queries);
    float* const norms = context->Allocate<float>(task->num_queries);
    Launch(context, PrepareInt8Queries, blocks, kThreads, 0, queries,
           task->num_queries, task->dim, chunks, static_cast<int>(slots),
           groups, prepared, scales, norms);
    task->queries = prepared;
    task->query_scales = scales;
    task->query_norms = norms;
  }

  void Run(const ScanTask& task, int64_t blocks,
           Context* context) const override {
    const int64_t groups =
        (task.num_queries + task.group_queries - 1) / task.group_queries;
    const dim3 grid(static_cast<unsigned>(blocks),
                    static_cast<unsigned>(groups));
    Dispatch(task.items.type, task.metric, static_cast<int>(task.group_queries),
             [&](auto, auto, auto kernel, auto block) {
               Launch(context, kernel, grid, kThreads, block.kSharedBytes, task,
                      NumChunks(task.items, task.dim),
                      PieceOf(task.items, task.dim));
             });
  }
};

}  // namespace

const Scan& RowScan() {
  static const RowScanner scan;
  return scan;
}

}  // namespace lintf::gpu
