// SPDX-License-Identifier: Apache-2.0
#include "custom_ops/core/gpu_code_knn_queries.h"

#include <algorithm>
#include <cmath>
#include <cstdint>

#include "custom_ops/core/gpu.h"

namespace lintf::gpu {
namespace {

constexpr int kThreads = 256;
constexpr int kNibbleValues = 16;
// The greatest entry of a table.
constexpr double kLevels = 63.0;

// The sample's magnitude; an infinite one counts as the greatest float, NaN as
// 0. By its bits: no flag of the compiler changes what they say.
__device__ __forceinline__ double Magnitude(float sample) {
  const uint32_t bits = __float_as_uint(sample) & 0x7FFFFFFFu;
  if (bits > 0x7F800000u) return 0.0;
  return static_cast<double>(
      __uint_as_float(bits == 0x7F800000u ? 0x7F7FFFFFu : bits));
}

// Of four magnitudes, doubled, those that `chosen` names.
__device__ __forceinline__ double SumOf(const double (&magnitudes)[4],
                                        uint32_t chosen) {
  double sum = 0.0;
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    // Doubling is exact, so that it may be fused.
    if ((chosen >> i & 1) != 0) sum = __dadd_rn(sum, 2.0 * magnitudes[i]);
  }
  return sum;
}

// A block a query.
__global__ __launch_bounds__(kThreads) void SymmetricQueriesKernel(
    const float* __restrict__ samples, int64_t num_queries, int64_t words,
    uint32_t* __restrict__ codes, double* __restrict__ scales) {
  const int halves = 2 * static_cast<int>(words);
  for (int64_t query = blockIdx.x; query < num_queries; query += gridDim.x) {
    const float* const own = samples + query * halves * kWarpSize;
    for (int half = threadIdx.x / kWarpSize; half < halves;
         half += kThreads / kWarpSize) {
      const float sample = own[half * kWarpSize + threadIdx.x % kWarpSize];
      const uint32_t signs = __ballot_sync(kWarp, sample >= 0.0f);
      if (threadIdx.x % kWarpSize == 0) codes[query * halves + half] = ~signs;
    }
    if (threadIdx.x == 0) {
      scales[2 * query] = 0.0;
      scales[2 * query + 1] = 1.0;
    }
  }
}

// A block a query; its samples in shared memory.
__global__ __launch_bounds__(kThreads) void AsymmetricQueriesKernel(
    const float* __restrict__ samples, int64_t num_queries, int64_t words,
    uint8_t* __restrict__ tables, double* __restrict__ scales) {
  __shared__ unsigned long long most_bits;
  float* const own = reinterpret_cast<float*>(DynamicShared());
  const int num_samples = static_cast<int>(64 * words);
  for (int64_t query = blockIdx.x; query < num_queries; query += gridDim.x) {
    if (threadIdx.x == 0) most_bits = 0;
    for (int i = threadIdx.x; i < num_samples; i += kThreads) {
      own[i] = samples[query * num_samples + i];
    }
    __syncthreads();
    for (int first = 4 * static_cast<int>(threadIdx.x); first < num_samples;
         first += 4 * kThreads) {
      double magnitudes[4];
#pragma unroll
      for (int i = 0; i < 4; ++i) magnitudes[i] = Magnitude(own[first + i]);
      // Doubles that are not negative order as their bits do.
      atomicMax(&most_bits, static_cast<unsigned long long>(
                                __double_as_longlong(SumOf(magnitudes, 15))));
    }
    __syncthreads();
    const double most = __longlong_as_double(static_cast<long long>(most_bits));
    const double scale = most == 0.0 ? 0.0 : kLevels / most;
    for (int first = 4 * static_cast<int>(threadIdx.x); first < num_samples;
         first += 4 * kThreads) {
      double magnitudes[4];
      uint32_t signs = 0;
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        magnitudes[i] = Magnitude(own[first + i]);
        signs |= own[first + i] >= 0.0f ? 1u << i : 0u;
      }
      uint8_t* const table =
          tables + (query * num_samples + first) / 4 * kNibbleValues;
      for (uint32_t bits = 0; bits < kNibbleValues; ++bits) {
        const double level = floor(__dadd_rn(
            __dmul_rn(SumOf(magnitudes, ~(signs ^ bits)), scale), 0.5));
        table[bits] = static_cast<uint8_t>(level);
      }
    }
    if (threadIdx.x == kThreads - 1) {
      double offset = 0.0;
      for (int i = 0; i < num_samples; ++i) {
        offset = __dadd_rn(offset, -Magnitude(own[i]));
      }
      scales[2 * query] = offset;
      scales[2 * query + 1] = most / kLevels;
    }
    __syncthreads();  // the shared memory is written again
  }
}

}  // namespace

CodeQueries MakeCodeQueries(const float* samples, int64_t num_queries,
                            int64_t words, CodeScoring scoring,
                            Context* context) {
  CodeQueries queries;
  double* const scales = context->Allocate<double>(2 * num_queries);
  queries.scales = scales;
  const unsigned blocks =
      static_cast<unsigned>(std::clamp<int64_t>(num_queries, 1, 4096));
  if (scoring == CodeScoring::kSymmetric) {
    uint64_t* const codes = context->Allocate<uint64_t>(num_queries * words);
    queries.codes = codes;
    Launch(context, SymmetricQueriesKernel, blocks, kThreads, 0, samples,
           num_queries, words, reinterpret_cast<uint32_t*>(codes), scales);
    return queries;
  }
  uint8_t* const tables =
      context->Allocate<uint8_t>(num_queries * words * 16 * kNibbleValues);
  queries.tables = tables;
  Launch(context, AsymmetricQueriesKernel, blocks, kThreads,
         64 * words * static_cast<int64_t>(sizeof(float)), samples, num_queries,
         words, tables, scales);
  return queries;
}

}  // namespace lintf::gpu
