// SPDX-License-Identifier: Apache-2.0
// Sums over a warp; for .cu.cc files alone.
#ifndef LINTF_CUSTOM_OPS_CORE_GPU_SUMS_H_
#define LINTF_CUSTOM_OPS_CORE_GPU_SUMS_H_

#include <cstdint>

#include "custom_ops/core/gpu.h"

namespace lintf::gpu {

// The sum over the warp; all lanes get it.
__device__ __forceinline__ uint32_t WarpSum(uint32_t value) {
  return __reduce_add_sync(kWarp, value);
}

// The sum over the lanes up to this one.
__device__ __forceinline__ uint32_t InclusiveWarpSum(uint32_t value) {
  const unsigned lane = threadIdx.x % kWarpSize;
#pragma unroll
  for (unsigned step = 1; step < kWarpSize; step *= 2) {
    const uint32_t before = __shfl_up_sync(kWarp, value, step);
    if (lane >= step) value += before;
  }
  return value;
}

// The sum over the threads of the block before this one, and over all of them.
struct BlockSums {
  uint32_t before;
  uint32_t total;
};

// `partial` is shared memory for a value a warp; it is free again after the
// next barrier.
__device__ __forceinline__ BlockSums SumBlock(uint32_t value,
                                              uint32_t* partial) {
  const int warp = threadIdx.x / kWarpSize;
  const uint32_t up_to = InclusiveWarpSum(value);
  if (threadIdx.x % kWarpSize == kWarpSize - 1) partial[warp] = up_to;
  __syncthreads();
  BlockSums sums = {up_to - value, 0};
  for (int i = 0; i < static_cast<int>(blockDim.x) / kWarpSize; ++i) {
    const uint32_t other = partial[i];
    if (i < warp) sums.before += other;
    sums.total += other;
  }
  return sums;
}

}  // namespace lintf::gpu

#endif  // LINTF_CUSTOM_OPS_CORE_GPU_SUMS_H_
