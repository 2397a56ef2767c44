// SPDX-License-Identifier: Apache-2.0
#include "custom_ops/core/gpu_masks.h"

#include <algorithm>
#include <cstdint>

#include "custom_ops/core/gpu.h"
#include "custom_ops/core/gpu_sums.h"

namespace lintf::gpu {
namespace {

constexpr int kThreads = 256;
constexpr int kWarps = kThreads / kWarpSize;

constexpr int64_t CeilDiv(int64_t a, int64_t b) { return (a + b - 1) / b; }

// Blocks for `work` pieces, of which the device holds `at_once` a
// multiprocessor.
int GridFor(const Context& context, int64_t work, int64_t at_once) {
  return static_cast<int>(
      std::clamp<int64_t>(work, 1, context.num_multiprocessors() * at_once));
}

// ---------------------------------------------------------------------------
// Packing

// Words that a warp makes at a time: enough loads are in flight.
constexpr int64_t kPackWords = 8;

// A warp makes kPackWords words by votes: a lane looks at 2 rows of each.
__global__ __launch_bounds__(kThreads) void PackKernel(
    const uint8_t* __restrict__ passes, int64_t num_masks, int64_t num_rows,
    int64_t stride, uint64_t* __restrict__ words) {
  const int64_t num_words = (num_rows + kRowsPerWord - 1) / kRowsPerWord;
  const int64_t groups = (num_words + kPackWords - 1) / kPackWords;
  const int lane = threadIdx.x % kWarpSize;
  for (int64_t item =
           static_cast<int64_t>(blockIdx.x) * kWarps + threadIdx.x / kWarpSize;
       item < num_masks * groups;
       item += static_cast<int64_t>(gridDim.x) * kWarps) {
    const int64_t mask = item / groups;
    const int64_t first = item % groups * kPackWords;
    const uint8_t* const bytes = passes + mask * num_rows;
    bool low[kPackWords];
    bool high[kPackWords];
#pragma unroll
    for (int i = 0; i < kPackWords; ++i) {
      const int64_t row = (first + i) * kRowsPerWord + lane;
      low[i] = row < num_rows && bytes[row] != 0;
      high[i] = row + kWarpSize < num_rows && bytes[row + kWarpSize] != 0;
    }
#pragma unroll
    for (int i = 0; i < kPackWords; ++i) {
      const uint64_t word = __ballot_sync(kWarp, low[i]) |
                            static_cast<uint64_t>(__ballot_sync(kWarp, high[i]))
                                << 32;
      if (lane == i && first + i < num_words) {
        words[mask * stride + first + i] = word;
      }
    }
  }
}

// ---------------------------------------------------------------------------
// Union

// As many masks as are named in a kernel's arguments.
constexpr int kUniteMasks = 64;

struct ChosenMasks {
  int32_t masks[kUniteMasks];
};

__global__ __launch_bounds__(kThreads) void UniteKernel(
    const uint64_t* __restrict__ words, int64_t stride, ChosenMasks chosen,
    int num_chosen, bool add, int64_t num_words,
    uint64_t* __restrict__ united) {
  for (int64_t w = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
       w < num_words; w += static_cast<int64_t>(gridDim.x) * kThreads) {
    uint64_t word = add ? united[w] : 0;
#pragma unroll 8
    for (int i = 0; i < num_chosen; ++i) {
      word |= words[chosen.masks[i] * stride + w];
    }
    united[w] = word;
  }
}

// ---------------------------------------------------------------------------
// Lists. A block counts the bits of a tile of words; then a block writes the
// rows of a tile, behind the sum of the counts before it. No more than
// kMaxTiles counts are there to be summed.

constexpr int64_t kMaxTiles = 2048;
// A thread has one word of a round.
constexpr int64_t kMinTileWords = 2 * kThreads;

// The sum over the block; all threads get it. `partial` is shared memory for
// kWarps values and is free again after the next barrier.
__device__ __forceinline__ uint32_t BlockSum(uint32_t value,
                                             uint32_t* partial) {
  value = WarpSum(value);
  if (threadIdx.x % kWarpSize == 0) partial[threadIdx.x / kWarpSize] = value;
  __syncthreads();
  uint32_t sum = 0;
#pragma unroll
  for (int warp = 0; warp < kWarps; ++warp) sum += partial[warp];
  return sum;
}

// Tiles are [num_lists, tiles].
__global__ __launch_bounds__(kThreads) void CountKernel(
    const uint64_t* __restrict__ words, int64_t num_lists, int64_t stride,
    int64_t num_words, int64_t tile_words, int64_t tiles,
    uint32_t* __restrict__ tile_counts) {
  __shared__ uint32_t partial[kWarps];
  for (int64_t item = blockIdx.x; item < num_lists * tiles; item += gridDim.x) {
    const uint64_t* const list = words + item / tiles * stride;
    const int64_t begin = item % tiles * tile_words;
    const int64_t limit = begin + tile_words;
    const int64_t end = limit < num_words ? limit : num_words;
    uint32_t count = 0;
#pragma unroll 4
    for (int64_t w = begin + threadIdx.x; w < end; w += kThreads) {
      count += __popcll(list[w]);
    }
    const uint32_t sum = BlockSum(count, partial);
    if (threadIdx.x == 0) tile_counts[item] = sum;
    __syncthreads();  // `partial` is written again
  }
}

// A warp gathers the places of its rows in shared memory, so that they leave
// in whole sectors; 16 bits hold a place among the rows of a warp's words.
constexpr int64_t kWarpRows = kWarpSize * kRowsPerWord;

__global__ __launch_bounds__(kThreads) void ListKernel(
    const uint64_t* __restrict__ words, int64_t num_lists, int64_t stride,
    int64_t num_words, int64_t tile_words, int64_t tiles,
    const uint32_t* __restrict__ tile_counts, uint32_t* __restrict__ rows,
    int64_t rows_stride, uint32_t* __restrict__ counts) {
  __shared__ uint32_t partial[kWarps];
  __shared__ uint32_t warp_counts[kWarps];
  __shared__ uint16_t places[kWarps * kWarpRows];
  const int lane = threadIdx.x % kWarpSize;
  const int warp = threadIdx.x / kWarpSize;
  uint16_t* const mine = places + warp * kWarpRows;
  for (int64_t item = blockIdx.x; item < num_lists * tiles; item += gridDim.x) {
    const int64_t list = item / tiles;
    const int64_t tile = item % tiles;
    uint32_t before = 0;
    for (int64_t i = threadIdx.x; i < tile; i += kThreads) {
      before += tile_counts[list * tiles + i];
    }
    uint32_t next = BlockSum(before, partial);
    if (tile == tiles - 1 && threadIdx.x == 0) {
      counts[list] = next + tile_counts[item];
    }
    const int64_t limit = (tile + 1) * tile_words;
    const int64_t end = limit < num_words ? limit : num_words;
    for (int64_t begin = tile * tile_words; begin < end; begin += kThreads) {
      const int64_t w = begin + threadIdx.x;
      uint64_t word = w < end ? words[list * stride + w] : 0;
      const uint32_t count = static_cast<uint32_t>(__popcll(word));
      const uint32_t up_to = InclusiveWarpSum(count);
      const uint32_t of_warp = __shfl_sync(kWarp, up_to, kWarpSize - 1);
      if (lane == 0) warp_counts[warp] = of_warp;
      uint32_t place = up_to - count;
      while (word != 0) {
        mine[place++] =
            static_cast<uint16_t>(lane * kRowsPerWord + __ffsll(word) - 1);
        word &= word - 1;
      }
      __syncthreads();
      uint32_t out = next;
#pragma unroll
      for (int i = 0; i < kWarps; ++i) {
        const uint32_t of_other = warp_counts[i];
        if (i < warp) out += of_other;
        next += of_other;
      }
      const uint32_t first_row = static_cast<uint32_t>(
          (begin + static_cast<int64_t>(warp) * kWarpSize) * kRowsPerWord);
      for (uint32_t i = lane; i < of_warp; i += kWarpSize) {
        const int64_t to = static_cast<int64_t>(out) + i;
        if (to < rows_stride) {
          rows[list * rows_stride + to] = first_row + mine[i];
        }
      }
      __syncthreads();  // the shared memory is written again
    }
    __syncthreads();  // so is `partial`
  }
}

}  // namespace

void PackMasks(const bool* passes, int64_t num_masks, int64_t num_rows,
               int64_t stride, Context* context, uint64_t* words) {
  if (num_masks == 0 || num_rows == 0) return;
  const int64_t groups = CeilDiv(MaskWords(num_rows), kPackWords);
  Launch(context, PackKernel,
         GridFor(*context, CeilDiv(num_masks * groups, kWarps), 8), kThreads, 0,
         reinterpret_cast<const uint8_t*>(passes), num_masks, num_rows, stride,
         words);
}

void UniteMasks(const Masks& masks, const int32_t* chosen, int64_t num_chosen,
                int64_t num_rows, Context* context, uint64_t* words) {
  const int64_t num_words = MaskWords(num_rows);
  if (num_words == 0) return;
  if (num_chosen == 0) {
    context->Fill(words, 0, num_words * static_cast<int64_t>(sizeof(uint64_t)));
    return;
  }
  for (int64_t first = 0; first < num_chosen; first += kUniteMasks) {
    const int64_t count = std::min<int64_t>(num_chosen - first, kUniteMasks);
    ChosenMasks some = {};
    std::copy_n(chosen + first, count, some.masks);
    Launch(context, UniteKernel,
           GridFor(*context, CeilDiv(num_words, kThreads), 8), kThreads, 0,
           masks.words, masks.stride, some, static_cast<int>(count), first > 0,
           num_words, words);
  }
}

void ListRows(const uint64_t* words, int64_t num_lists, int64_t stride,
              int64_t num_rows, Context* context, uint32_t* rows,
              int64_t rows_stride, uint32_t* counts) {
  if (num_lists == 0) return;
  const int64_t num_words = MaskWords(num_rows);
  if (num_words == 0) {
    context->Fill(counts, 0,
                  num_lists * static_cast<int64_t>(sizeof(uint32_t)));
    return;
  }
  const int64_t tile_words =
      std::max(kMinTileWords,
               CeilDiv(CeilDiv(num_words, kMaxTiles), kThreads) * kThreads);
  const int64_t tiles = CeilDiv(num_words, tile_words);
  uint32_t* const tile_counts = context->Allocate<uint32_t>(num_lists * tiles);
  Launch(context, CountKernel, GridFor(*context, num_lists * tiles, 32),
         kThreads, 0, words, num_lists, stride, num_words, tile_words, tiles,
         tile_counts);
  Launch(context, ListKernel, GridFor(*context, num_lists * tiles, 32),
         kThreads, 0, words, num_lists, stride, num_words, tile_words, tiles,
         static_cast<const uint32_t*>(tile_counts), rows, rows_stride, counts);
}

}  // namespace lintf::gpu
