// SPDX-License-Identifier: Apache-2.0
// Candidates of a search on the GPU: how a scan keeps what may be among the k
// best, and how the k best are found among them.
//
// A candidate is one 64-bit key, as top_k.h has it: a greater key is a better
// candidate, and all keys of a query differ. So the k best are the same set
// whatever the order in which blocks come by, and results are deterministic
// although candidates are not in any order.
//
// Each block of a scan has a region of its own for each query, with room for
// the k best and for what comes between two looks at how full it is; a region
// that fills up is cut down to its k best. That bounds the memory whatever the
// data. A threshold, from a sample of the rows, lets few candidates in at all:
// the k-th best of the sample is no better than the k-th best of all.
#ifndef LINTF_CUSTOM_OPS_CORE_GPU_CANDIDATES_H_
#define LINTF_CUSTOM_OPS_CORE_GPU_CANDIDATES_H_

#include <cstdint>

#include "custom_ops/core/gpu.h"

namespace lintf::gpu {

// Keys of candidates of one batch of queries.
struct Regions {
  uint64_t* keys = nullptr;    // [num_queries, num_blocks, capacity]
  uint32_t* counts = nullptr;  // [num_queries, num_blocks]
  int64_t num_queries = 0;
  int64_t num_blocks = 0;
  int64_t capacity = 0;

  __device__ uint64_t* KeysOf(int64_t query, int64_t block) const {
    return keys + (query * num_blocks + block) * capacity;
  }
  __device__ uint32_t* CountOf(int64_t query, int64_t block) const {
    return counts + query * num_blocks + block;
  }
};

// See top_k.h's CandidateKey.
__device__ __forceinline__ uint64_t MakeKey(float score, uint32_t place) {
  uint32_t bits = __float_as_uint(score);
  const uint32_t magnitude = bits & 0x7FFFFFFFu;
  if (magnitude > 0x7F800000u) bits = 0xFF800000u;
  if (magnitude == 0) bits = 0;
  const uint32_t ordered = (bits >> 31) != 0 ? ~bits : bits | 0x80000000u;
  return (static_cast<uint64_t>(ordered) << 32) | static_cast<uint32_t>(~place);
}

__device__ __forceinline__ float KeyScore(uint64_t key) {
  const uint32_t ordered = static_cast<uint32_t>(key >> 32);
  return __uint_as_float((ordered >> 31) != 0 ? ordered & 0x7FFFFFFFu
                                              : ~ordered);
}

__device__ __forceinline__ uint32_t KeyPlace(uint64_t key) {
  return ~static_cast<uint32_t>(key);
}

// A score that no key of at least `floor` is below; what kernels compare with
// before they make a key. NaN, which counts as -inf, is not below anything.
__device__ __forceinline__ float FloorScore(uint64_t floor) {
  const uint32_t ordered = static_cast<uint32_t>(floor >> 32);
  // Patterns below that of -inf stand for no score.
  return ordered < 0x007FFFFFu ? __uint_as_float(0xFF800000u) : KeyScore(floor);
}

// What FindFloor needs of shared memory.
struct FloorScratch {
  static constexpr int kBins = 2048;
  uint32_t bins[kBins];
  uint32_t warps[32];
  uint32_t above;  // keys above the chosen bin
  uint32_t bin;
  uint32_t in_bin;
};

// Counts a key's digit, for a whole warp at once: `is_counted` says which lanes
// have one. Keys that are compared share their first digits, so lanes that
// have the same digit count as one: shared memory would take them one by one.
__device__ __forceinline__ void CountDigit(uint32_t digit, bool is_counted,
                                           uint32_t* bins) {
  constexpr int kRounds = 2;
  for (int round = 0; round < kRounds; ++round) {
    const unsigned left = __ballot_sync(kWarp, is_counted);
    if (left == 0) return;
    const int leader = __ffs(static_cast<int>(left)) - 1;
    const uint32_t first = __shfl_sync(kWarp, digit, leader);
    const bool is_same = is_counted && digit == first;
    const unsigned same = __ballot_sync(kWarp, is_same);
    if (static_cast<int>(threadIdx.x) % kWarpSize == leader) {
      atomicAdd(&bins[first], static_cast<uint32_t>(__popc(same)));
    }
    is_counted = is_counted && !is_same;
  }
  if (is_counted) atomicAdd(&bins[digit], 1u);
}

// A number that at least `k` keys are not below, and at most `enough` (>= k)
// keys where that can be had: digits are fixed from the top until it is so.
// With `enough` == k it is the k-th greatest key. There are at least k keys,
// k >= 1. `for_each(f)` goes over this thread's share of them, and calls
// f(key, is_one) with all lanes of a warp together, whether or not there is a
// key for each. All threads of the block take part and get the result;
// `num_kept`, if not null, gets how many keys are not below it.
template <int threads, typename ForEach>
__device__ uint64_t FindFloor(const ForEach& for_each, uint32_t k,
                              uint32_t enough, FloorScratch* scratch,
                              uint32_t* num_kept) {
  static_assert(FloorScratch::kBins % threads == 0 ||
                threads % FloorScratch::kBins == 0);
  constexpr int kDigitBits = 11;
  constexpr int kBins = FloorScratch::kBins;
  constexpr int kPerThread = kBins / threads;
  static_assert(kPerThread >= 1);
  const int thread = threadIdx.x;
  uint64_t floor = 0;
  uint32_t above = 0;  // keys above all that share the prefix
  int shift = 64;
  while (shift > 0) {
    const int bits = shift >= kDigitBits ? kDigitBits : shift;
    const int next = shift - bits;
    for (int i = thread; i < kBins; i += threads) scratch->bins[i] = 0;
    __syncthreads();
    for_each([&](uint64_t key, bool is_one) {
      // A shift by 64 is none.
      const bool is_counted =
          is_one && (shift == 64 || key >> shift == floor >> shift);
      CountDigit(static_cast<uint32_t>(key >> next) & ((1u << bits) - 1),
                 is_counted, scratch->bins);
    });
    __syncthreads();
    // Thread 0 has the greatest digits: how many keys are above each thread's.
    uint32_t own = 0;
    const int first = kBins - 1 - thread * kPerThread;
    for (int i = 0; i < kPerThread; ++i) own += scratch->bins[first - i];
    uint32_t sum = own;
    for (int step = 1; step < kWarpSize; step *= 2) {
      const uint32_t other = __shfl_up_sync(kWarp, sum, step);
      if (thread % kWarpSize >= step) sum += other;
    }
    if (thread % kWarpSize == kWarpSize - 1) {
      scratch->warps[thread / kWarpSize] = sum;
    }
    __syncthreads();
    for (int w = 0; w < thread / kWarpSize; ++w) sum += scratch->warps[w];
    const uint32_t need = k - above;
    uint32_t before = sum - own;
    if (before < need && sum >= need) {
      int bin = first;
      while (before + scratch->bins[bin] < need) before += scratch->bins[bin--];
      scratch->bin = bin;
      scratch->above = before;
      scratch->in_bin = scratch->bins[bin];
    }
    __syncthreads();
    floor |= static_cast<uint64_t>(scratch->bin) << next;
    above += scratch->above;
    const uint32_t kept = above + scratch->in_bin;
    shift = next;
    __syncthreads();
    if (num_kept != nullptr) *num_kept = kept;
    if (kept <= enough) break;
  }
  return floor;
}

// Cuts `count` keys of a region down to at least its k best, and at most
// `enough`; returns how many are left, and sets `*floor` to what they are not
// below. All threads of the block take part.
template <int threads>
__device__ uint32_t CutRegion(uint64_t* keys, uint32_t count, uint32_t k,
                              uint32_t enough, FloorScratch* scratch,
                              uint64_t* floor) {
  const auto for_each = [&](auto&& f) {
    for (uint32_t begin = 0; begin < count; begin += threads) {
      const uint32_t i = begin + threadIdx.x;
      f(i < count ? keys[i] : 0, i < count);
    }
  };
  *floor = FindFloor<threads>(for_each, k, enough, scratch, nullptr);
  if (threadIdx.x == 0) scratch->in_bin = 0;
  __syncthreads();
  // In place: a key moves to a place that was read, or is read in this round.
  for (uint32_t begin = 0; begin < count; begin += threads) {
    const uint32_t i = begin + threadIdx.x;
    const uint64_t key = i < count ? keys[i] : 0;
    __syncthreads();
    if (i < count && key >= *floor) keys[atomicAdd(&scratch->in_bin, 1u)] = key;
    __syncthreads();
  }
  const uint32_t left = scratch->in_bin;
  __syncthreads();
  return left;
}

}  // namespace lintf::gpu

#endif  // LINTF_CUSTOM_OPS_CORE_GPU_CANDIDATES_H_
