// SPDX-License-Identifier: Apache-2.0
// What kernels are written with; for .cu.cc files alone.
//
// nvcc compiles them for the GPU. For tests, a C++ compiler compiles the same
// sources with LINTF_GPU_EMULATOR defined: gpu_emulator.h then has the names
// of CUDA that are used here, and runs kernels on the CPU, thread by thread.
// Kernels keep to that set: blocks are one-dimensional and a multiple of 32
// threads, warp operations take the whole warp (kWarp), dynamic shared memory
// comes from DynamicShared.
#ifndef LINTF_CUSTOM_OPS_CORE_GPU_H_
#define LINTF_CUSTOM_OPS_CORE_GPU_H_

#ifdef LINTF_GPU_EMULATOR
#include "custom_ops/core/gpu_emulator.h"
#else
#include <cuda_runtime.h>
#endif

#include <cstdint>
#include <utility>

#include "custom_ops/core/gpu_context.h"

namespace lintf::gpu {

inline constexpr unsigned kWarp = 0xFFFFFFFFu;
inline constexpr int kWarpSize = 32;

#ifndef LINTF_GPU_EMULATOR

// A block has 48 KiB without asking, some of it for what kernels declare.
inline constexpr int64_t kSafeSharedBytes = 32 << 10;

// The block's dynamic shared memory, aligned to 16 bytes.
__device__ __forceinline__ char* DynamicShared() {
  extern __shared__ __align__(16) char lintf_dynamic_shared[];
  return lintf_dynamic_shared;
}

// Queues a kernel, unless an error came before it. `grid` is cut by callers to
// what the device needs: kernels go over their work in strides.
template <typename... Parameters, typename... Arguments>
void Launch(Context* context, void (*kernel)(Parameters...), dim3 grid,
            int threads, int64_t shared_bytes, Arguments&&... arguments) {
  if (!context->ok()) return;
  if (shared_bytes > kSafeSharedBytes) {
    context->Check(
        cudaFuncSetAttribute(reinterpret_cast<const void*>(kernel),
                             cudaFuncAttributeMaxDynamicSharedMemorySize,
                             static_cast<int>(shared_bytes)),
        "reserving shared memory");
    if (!context->ok()) return;
  }
  kernel<<<grid, threads, shared_bytes, context->stream()>>>(
      std::forward<Arguments>(arguments)...);
  context->Check(cudaGetLastError(), "queueing a kernel");
}

// How many blocks of a kernel a multiprocessor holds at once; at least 1.
template <typename... Parameters>
int BlocksPerMultiprocessor(Context* context, void (*kernel)(Parameters...),
                            int threads, int64_t shared_bytes) {
  int blocks = 0;
  if (shared_bytes > kSafeSharedBytes) {
    context->Check(
        cudaFuncSetAttribute(reinterpret_cast<const void*>(kernel),
                             cudaFuncAttributeMaxDynamicSharedMemorySize,
                             static_cast<int>(shared_bytes)),
        "reserving shared memory");
  }
  context->Check(cudaOccupancyMaxActiveBlocksPerMultiprocessor(
                     &blocks, kernel, threads, shared_bytes),
                 "asking how many blocks fit");
  return blocks > 0 ? blocks : 1;
}

// 16 bytes that are read once: they leave no trace in the first cache.
__device__ __forceinline__ uint4 LoadOnce(const void* from) {
  uint4 value;
  asm volatile("ld.global.nc.L1::no_allocate.v4.u32 {%0, %1, %2, %3}, [%4];"
               : "=r"(value.x), "=r"(value.y), "=r"(value.z), "=r"(value.w)
               : "l"(from));
  return value;
}

// Starts a copy of 16 aligned bytes from global to shared memory; of zeros
// instead, reading nothing, if not `valid`.
__device__ __forceinline__ void CopyAsync(void* shared, const void* global,
                                          bool valid) {
  const unsigned to = static_cast<unsigned>(__cvta_generic_to_shared(shared));
  const int bytes = valid ? 16 : 0;
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(to),
               "l"(global), "r"(bytes)
               : "memory");
}

// Ends a group of this thread's copies.
__device__ __forceinline__ void CommitCopies() {
  asm volatile("cp.async.commit_group;" ::: "memory");
}

// Waits until at most `pending` groups of this thread's copies are not done;
// other threads see them after a barrier.
template <int pending>
__device__ __forceinline__ void WaitCopies() {
  asm volatile("cp.async.wait_group %0;" ::"n"(pending) : "memory");
}

// sum += a * b for tiles of a warp, 16 x 16 times 16 x 8, in float32. Lane
// 4 g + t holds of `a` row g, columns 2t and 2t + 1 in a[0], row g + 8 in a[1],
// and the columns 8 further on in a[2] and a[3]; of `b` rows 2t and 2t + 1 of
// column g in b[0], 8 rows further on in b[1]; of `sum` row g, columns 2t and
// 2t + 1, in sum[0] and sum[1], and row g + 8 in sum[2] and sum[3].
__device__ __forceinline__ void MultiplyBfloat16(float (&sum)[4],
                                                 const uint32_t (&a)[4],
                                                 const uint32_t (&b)[2]) {
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 "
      "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
      : "+f"(sum[0]), "+f"(sum[1]), "+f"(sum[2]), "+f"(sum[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

__device__ __forceinline__ void MultiplyFloat16(float (&sum)[4],
                                                const uint32_t (&a)[4],
                                                const uint32_t (&b)[2]) {
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 "
      "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
      : "+f"(sum[0]), "+f"(sum[1]), "+f"(sum[2]), "+f"(sum[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

// The same for 16 x 8 times 8 x 8 float32 numbers, of which the product takes
// the first 11 bits. Lane 4 g + t holds of `a` row g, column t in a[0], row
// g + 8 in a[1], and column t + 4 in a[2] and a[3]; of `b` row t of column g in
// b[0], row t + 4 in b[1].
__device__ __forceinline__ void MultiplyTf32(float (&sum)[4],
                                             const uint32_t (&a)[4],
                                             const uint32_t (&b)[2]) {
  asm volatile(
      "mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 "
      "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
      : "+f"(sum[0]), "+f"(sum[1]), "+f"(sum[2]), "+f"(sum[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

#endif  // LINTF_GPU_EMULATOR

}  // namespace lintf::gpu

#endif  // LINTF_CUSTOM_OPS_CORE_GPU_H_
