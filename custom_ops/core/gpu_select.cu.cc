// SPDX-License-Identifier: Apache-2.0
#include "custom_ops/core/gpu_select.h"

#include <algorithm>
#include <cstdint>

#include "custom_ops/core/gpu.h"
#include "custom_ops/core/gpu_candidates.h"
#include "custom_ops/core/gpu_sort.h"

namespace lintf::gpu {
namespace {

constexpr int kThreads = 1024;
constexpr int kFillThreads = 256;

// Calls f(key, is_one) with this thread's share of a query's candidates, for
// all lanes of a warp together: a warp goes over the regions of one block after
// another. Keys come from memory, a few of a lane at a time.
template <typename F>
__device__ void ForEachCandidate(const Regions& regions, int64_t query, F&& f) {
  constexpr int kWarps = kThreads / kWarpSize;
  constexpr int kAtOnce = 4;
  const int warp = threadIdx.x / kWarpSize;
  const int lane = threadIdx.x % kWarpSize;
  for (int64_t first = warp; first < regions.num_blocks;
       first += kWarps * kWarpSize) {
    // The counts of the next regions, one a lane.
    const int64_t own = first + lane * kWarps;
    const uint32_t own_count =
        own < regions.num_blocks ? *regions.CountOf(query, own) : 0;
    for (int r = 0; r < kWarpSize; ++r) {
      const int64_t block = first + r * kWarps;
      if (block >= regions.num_blocks) break;
      const uint64_t* const keys = regions.KeysOf(query, block);
      const uint32_t count = __shfl_sync(kWarp, own_count, r);
      for (uint32_t begin = 0; begin < count; begin += kAtOnce * kWarpSize) {
        uint64_t loaded[kAtOnce];
#pragma unroll
        for (int i = 0; i < kAtOnce; ++i) {
          const uint32_t at = begin + i * kWarpSize + lane;
          loaded[i] = at < count ? keys[at] : 0;
        }
#pragma unroll
        for (int i = 0; i < kAtOnce; ++i) {
          if (begin + i * kWarpSize >= count) break;
          f(loaded[i], begin + i * kWarpSize + lane < count);
        }
      }
    }
  }
}

// How many candidates a query has; the same for all threads.
__device__ uint32_t CountCandidates(const Regions& regions, int64_t query,
                                    FloorScratch* scratch) {
  if (threadIdx.x == 0) scratch->above = 0;
  __syncthreads();
  uint32_t count = 0;
  for (int64_t b = threadIdx.x; b < regions.num_blocks; b += kThreads) {
    count += *regions.CountOf(query, b);
  }
  if (count > 0) atomicAdd(&scratch->above, count);
  __syncthreads();
  const uint32_t total = scratch->above;
  __syncthreads();
  return total;
}

__global__ void __launch_bounds__(kThreads, 1)
    FindThresholdsKernel(Regions regions, uint32_t k, uint64_t* thresholds) {
  __shared__ FloorScratch scratch;
  for (int64_t q = blockIdx.x; q < regions.num_queries; q += gridDim.x) {
    const uint32_t total = CountCandidates(regions, q, &scratch);
    uint64_t floor = 0;
    if (total >= k) {
      const auto for_each = [&](auto&& f) { ForEachCandidate(regions, q, f); };
      floor = FindFloor<kThreads>(for_each, k, k + k / 8, &scratch, nullptr);
    }
    if (threadIdx.x == 0) thresholds[q] = floor;
    __syncthreads();
  }
}

// Greatest first; `size` is a power of two.
__device__ void SortShared(uint64_t* keys, int size) {
  for (int width = 2; width <= size; width *= 2) {
    for (int step = width / 2; step > 0; step /= 2) {
      for (int i = threadIdx.x; i < size / 2; i += kThreads) {
        // i with a 0 put in where `step` has its bit.
        const int low = ((i & -step) << 1) | (i & (step - 1));
        const int high = low + step;
        const bool descending = (low & width) == 0;
        const uint64_t a = keys[low];
        const uint64_t b = keys[high];
        if ((a < b) == descending) {
          keys[low] = b;
          keys[high] = a;
        }
      }
      __syncthreads();
    }
  }
}

__device__ int64_t RowOf(const PlaceRows& rows, int64_t query, uint32_t place) {
  if (rows.list_of_query != nullptr) {
    const int32_t list = rows.list_of_query[query];
    if (list < 0) return rows.first_row + place;
    return rows.first_row + rows.rows32[list * rows.stride + place];
  }
  if (rows.rows32 != nullptr) return rows.first_row + rows.rows32[place];
  if (rows.rows64 != nullptr) {
    return rows.first_row + rows.rows64[query * rows.stride + place];
  }
  return rows.first_row + place;
}

// Slot `slot` of a query's results; key 0 is none.
__device__ void WriteResult(uint64_t key, int64_t query, int64_t slot,
                            int64_t k, const PlaceRows& rows,
                            const KnnOutput& output) {
  const bool is_real = key != 0;
  output.scores[query * k + slot] =
      is_real ? KeyScore(key) : __uint_as_float(0xFF800000u);
  output.rows[query * k + slot] =
      is_real ? RowOf(rows, query, KeyPlace(key)) : -1;
}

__global__ void __launch_bounds__(kThreads, 1)
    SelectBestKernel(Regions regions, int64_t k, PlaceRows rows,
                     KnnOutput output) {
  uint64_t* const sorted = reinterpret_cast<uint64_t*>(DynamicShared());
  __shared__ FloorScratch scratch;
  for (int64_t q = blockIdx.x; q < regions.num_queries; q += gridDim.x) {
    const uint32_t total = CountCandidates(regions, q, &scratch);
    const uint32_t wanted = total < k ? total : static_cast<uint32_t>(k);
    const auto for_each = [&](auto&& f) { ForEachCandidate(regions, q, f); };
    uint64_t floor = 0;
    uint32_t kept = total;
    // To sort few keys is worth a look at all of them.
    const uint32_t enough = wanted + wanted / 8;
    if (wanted > 0 && kept > enough && kept > 256) {
      floor = FindFloor<kThreads>(for_each, wanted, enough, &scratch, &kept);
    }
    int size = 2;
    while (size < static_cast<int>(kept)) size *= 2;
    if (threadIdx.x == 0) scratch.in_bin = 0;
    for (int i = threadIdx.x; i < size; i += kThreads) sorted[i] = 0;
    __syncthreads();
    for_each([&](uint64_t key, bool is_one) {
      if (is_one && key >= floor) sorted[atomicAdd(&scratch.in_bin, 1u)] = key;
    });
    __syncthreads();
    SortShared(sorted, size);
    for (int64_t i = threadIdx.x; i < k; i += kThreads) {
      WriteResult(i < wanted ? sorted[i] : 0, q, i, k, rows, output);
    }
    if (threadIdx.x == 0) output.counts[q] = static_cast<int32_t>(wanted);
    __syncthreads();
  }
}

// For queries [first, first + 1): keys that are sorted, zeros last.
__global__ void WriteSortedKernel(const uint64_t* sorted, int64_t num_keys,
                                  Regions regions, int64_t query, int64_t k,
                                  PlaceRows rows, KnnOutput output) {
  const int64_t stride = static_cast<int64_t>(gridDim.x) * blockDim.x;
  const int64_t first = static_cast<int64_t>(blockIdx.x) * blockDim.x;
  for (int64_t i = first + threadIdx.x; i < k; i += stride) {
    WriteResult(i < num_keys ? sorted[i] : 0, query, i, k, rows, output);
  }
  if (first + threadIdx.x == 0) {
    int64_t total = 0;
    for (int64_t b = 0; b < regions.num_blocks; ++b) {
      total += *regions.CountOf(query, b);
    }
    output.counts[query] = static_cast<int32_t>(total < k ? total : k);
  }
}

// One thread a result of one part: its place among all parts is its own plus
// how many of each other part are better.
__global__ void MergeKernel(const float* scores, const int64_t* rows,
                            const int32_t* counts, int64_t num_parts,
                            int64_t num_queries, int64_t k, KnnOutput output) {
  const int64_t total = num_parts * num_queries * k;
  const int64_t stride = static_cast<int64_t>(gridDim.x) * blockDim.x;
  for (int64_t i = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
       i < total; i += stride) {
    const int64_t slot = i % k;
    const int64_t query = i / k % num_queries;
    const int64_t part = i / k / num_queries;
    if (slot >= counts[part * num_queries + query]) continue;
    const float score = scores[i];
    int64_t place = slot;
    for (int64_t p = 0; p < num_parts && place < k; ++p) {
      if (p == part) continue;
      const float* const others = scores + (p * num_queries + query) * k;
      // Results of an earlier part come first among equals.
      int64_t low = 0;
      int64_t high = counts[p * num_queries + query];
      while (low < high) {
        const int64_t middle = (low + high) / 2;
        const bool is_better =
            p < part ? others[middle] >= score : others[middle] > score;
        if (is_better) {
          low = middle + 1;
        } else {
          high = middle;
        }
      }
      place += low;
    }
    if (place >= k) continue;
    output.scores[query * k + place] = score;
    output.rows[query * k + place] = rows[i];
  }
}

// The slots that stay empty, and the counts.
__global__ void FinishMergeKernel(const int32_t* counts, int64_t num_parts,
                                  int64_t num_queries, int64_t k,
                                  KnnOutput output) {
  for (int64_t query = blockIdx.x; query < num_queries; query += gridDim.x) {
    int64_t total = 0;
    for (int64_t p = 0; p < num_parts; ++p) {
      total += counts[p * num_queries + query];
    }
    if (total > k) total = k;
    for (int64_t i = total + threadIdx.x; i < k; i += blockDim.x) {
      output.scores[query * k + i] = __uint_as_float(0xFF800000u);
      output.rows[query * k + i] = -1;
    }
    if (threadIdx.x == 0) output.counts[query] = static_cast<int32_t>(total);
  }
}

unsigned BlocksFor(int64_t work, int64_t most) {
  return static_cast<unsigned>(std::clamp<int64_t>(work, 1, most));
}

}  // namespace

void FindThresholds(const Regions& regions, int64_t k, Context* context,
                    uint64_t* thresholds) {
  Launch(context, FindThresholdsKernel, BlocksFor(regions.num_queries, 65535),
         kThreads, 0, regions, static_cast<uint32_t>(k), thresholds);
}

void SelectBest(const Regions& regions, int64_t k, const PlaceRows& rows,
                Context* context, const KnnOutput& output) {
  if (k <= kMaxBlockK) {
    // A power of two at or above k + k / 8, and above 256.
    int64_t keys = 512;
    while (keys < k + k / 8) keys *= 2;
    Launch(context, SelectBestKernel, BlocksFor(regions.num_queries, 65535),
           kThreads, keys * static_cast<int64_t>(sizeof(uint64_t)), regions, k,
           rows, output);
    return;
  }
  const int64_t num_keys = regions.num_blocks * regions.capacity;
  uint64_t* const sorted = context->Allocate<uint64_t>(num_keys);
  for (int64_t q = 0; q < regions.num_queries; ++q) {
    SortDescending(regions.keys + q * num_keys, num_keys, context, sorted);
    Launch(context, WriteSortedKernel,
           BlocksFor((k + kFillThreads - 1) / kFillThreads, 4096), kFillThreads,
           0, sorted, num_keys, regions, q, k, rows, output);
  }
}

void MergeResults(const float* scores, const int64_t* rows,
                  const int32_t* counts, int64_t num_parts, int64_t num_queries,
                  int64_t k, Context* context, const KnnOutput& output) {
  const int64_t total = num_parts * num_queries * k;
  Launch(context, MergeKernel,
         BlocksFor((total + kFillThreads - 1) / kFillThreads, 4096),
         kFillThreads, 0, scores, rows, counts, num_parts, num_queries, k,
         output);
  Launch(context, FinishMergeKernel, BlocksFor(num_queries, 4096), kFillThreads,
         0, counts, num_parts, num_queries, k, output);
}

void FillNoResults(int64_t num_queries, int64_t k, Context* context,
                   const KnnOutput& output) {
  Launch(context, FinishMergeKernel, BlocksFor(num_queries, 4096), kFillThreads,
         0, static_cast<const int32_t*>(nullptr), int64_t{0}, num_queries, k,
         output);
}

}  // namespace lintf::gpu
