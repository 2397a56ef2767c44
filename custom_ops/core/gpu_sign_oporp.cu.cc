// SPDX-License-Identifier: Apache-2.0
// A block projects kVectors vectors at a time, which it holds in shared memory
// side by side; a thread sums one sample of all of them, so that a place is
// looked up once. Sums are in the order of the places, each rounded: the CPU's.
#include "custom_ops/core/gpu_sign_oporp.h"

#include <algorithm>
#include <cstdint>
#include <vector>

#include "custom_ops/core/gpu.h"

namespace lintf::gpu {
namespace {

constexpr int kThreads = 256;
constexpr int kVectors = 8;
constexpr int kVectorQuads = kVectors / 4;
constexpr uint32_t kMinus = 0x80000000u;

// What both kernels of a projection read. A place is a coordinate, with
// kMinus for the sign.
struct Projection {
  const uint32_t* places;  // device, [repeats * dim]
  const float* vectors;    // device, [count, dim]
  int64_t count;
  int64_t dim;
  int64_t bits;
  int64_t bins;
};

// The places of sample s are [BeginOf(s), EndOf(s)).
__device__ __forceinline__ int64_t BeginOf(const Projection& projection,
                                           int64_t sample) {
  const int64_t repeat = sample / projection.bins;
  const int64_t bin = sample % projection.bins;
  return repeat * projection.dim + bin * projection.dim / projection.bins;
}
__device__ __forceinline__ int64_t EndOf(const Projection& projection,
                                         int64_t sample) {
  const int64_t repeat = sample / projection.bins;
  const int64_t bin = sample % projection.bins;
  return repeat * projection.dim + (bin + 1) * projection.dim / projection.bins;
}

__device__ __forceinline__ float AddSigned(float sum, float value,
                                           uint32_t sign) {
  return __fadd_rn(sum, __uint_as_float(__float_as_uint(value) ^ sign));
}

// Samples or, if `codes` is not null, codes as words of 32 bits. The bits are a
// multiple of a warp's lanes. If not kInShared the vectors are too long for
// shared memory, and read where they are.
template <bool kInShared>
__global__ __launch_bounds__(kThreads) void ProjectKernel(
    const Projection projection, float* __restrict__ samples,
    uint32_t* __restrict__ codes) {
  float* const own = reinterpret_cast<float*>(DynamicShared());
  const int lane = threadIdx.x % kWarpSize;
  const int64_t dim = projection.dim;
  const int64_t groups = (projection.count + kVectors - 1) / kVectors;
  for (int64_t group = blockIdx.x; group < groups; group += gridDim.x) {
    const int64_t first = group * kVectors;
    const int64_t left = projection.count - first;
    const int vectors = left < kVectors ? static_cast<int>(left) : kVectors;
    const float* const from = projection.vectors + first * dim;
    if (kInShared) {
      for (int v = 0; v < vectors; ++v) {
        for (int64_t d = threadIdx.x; d < dim; d += kThreads) {
          own[d * kVectors + v] = from[v * dim + d];
        }
      }
      for (int v = vectors; v < kVectors; ++v) {
        for (int64_t d = threadIdx.x; d < dim; d += kThreads) {
          own[d * kVectors + v] = 0.0f;
        }
      }
      __syncthreads();
    }
    for (int64_t sample = threadIdx.x; sample < projection.bits;
         sample += kThreads) {
      float sums[kVectors] = {};
      const int64_t end = EndOf(projection, sample);
      for (int64_t at = BeginOf(projection, sample); at < end; ++at) {
        const uint32_t place = __ldg(projection.places + at);
        const uint32_t sign = place & kMinus;
        const int64_t coordinate = place & ~kMinus;
        if (kInShared) {
          const float4* const quads =
              reinterpret_cast<const float4*>(own + coordinate * kVectors);
#pragma unroll
          for (int q = 0; q < kVectorQuads; ++q) {
            const float4 values = quads[q];
            sums[4 * q] = AddSigned(sums[4 * q], values.x, sign);
            sums[4 * q + 1] = AddSigned(sums[4 * q + 1], values.y, sign);
            sums[4 * q + 2] = AddSigned(sums[4 * q + 2], values.z, sign);
            sums[4 * q + 3] = AddSigned(sums[4 * q + 3], values.w, sign);
          }
        } else {
#pragma unroll
          for (int v = 0; v < kVectors; ++v) {
            if (v < vectors) {
              sums[v] = AddSigned(sums[v], from[v * dim + coordinate], sign);
            }
          }
        }
      }
#pragma unroll
      for (int v = 0; v < kVectors; ++v) {
        if (v >= vectors) break;
        if (codes != nullptr) {
          // The warp's 32 samples are all there or none of them is.
          const uint32_t signs = __ballot_sync(kWarp, sums[v] >= 0.0f);
          if (lane == v) {
            codes[((first + v) * projection.bits + sample) / kWarpSize] = signs;
          }
        } else {
          samples[(first + v) * projection.bits + sample] = sums[v];
        }
      }
    }
    if (kInShared) __syncthreads();  // it is written again
  }
}

void Project(const SignOporp& oporp, const float* vectors, int64_t count,
             Context* context, float* samples, uint32_t* codes) {
  if (count == 0) return;
  const OporpConfig& config = oporp.config();
  const int64_t num_places = config.repeats * config.dim;
  std::vector<uint32_t> places(num_places);
  for (int64_t i = 0; i < num_places; ++i) {
    places[i] = static_cast<uint32_t>(oporp.coordinates()[i]) |
                (oporp.signs()[i] < 0.0f ? kMinus : 0);
  }
  Projection projection = {};
  projection.places = context->Upload(places.data(), num_places);
  projection.vectors = vectors;
  projection.count = count;
  projection.dim = config.dim;
  projection.bits = config.bits();
  projection.bins = config.bins;
  const int64_t groups = (count + kVectors - 1) / kVectors;
  const int64_t shared_bytes =
      config.dim * kVectors * static_cast<int64_t>(sizeof(float));
  const auto launch = [&](auto kernel, int64_t bytes) {
    const int64_t blocks = std::min<int64_t>(
        groups, int64_t{context->num_multiprocessors()} *
                    BlocksPerMultiprocessor(context, kernel, kThreads, bytes));
    Launch(context, kernel, dim3(static_cast<unsigned>(blocks)), kThreads,
           bytes, projection, samples, codes);
  };
  if (shared_bytes <= context->max_shared_bytes()) {
    launch(ProjectKernel<true>, shared_bytes);
  } else {
    launch(ProjectKernel<false>, 16);
  }
}

}  // namespace

void ProjectBatch(const SignOporp& oporp, const float* vectors, int64_t count,
                  Context* context, float* samples) {
  Project(oporp, vectors, count, context, samples, nullptr);
}

void EncodeBatch(const SignOporp& oporp, const float* vectors, int64_t count,
                 Context* context, uint64_t* codes) {
  Project(oporp, vectors, count, context, nullptr,
          reinterpret_cast<uint32_t*>(codes));
}

}  // namespace lintf::gpu
