// SPDX-License-Identifier: Apache-2.0
// What an op on a GPU takes from TensorFlow: its stream and its memory.
//
// Kernels of GPU ops are compiled where the library has GPU code. For tests
// they are compiled once more with LINTF_GPU_EMULATOR, against a core that runs
// on the CPU, and then stand in for the CPU's kernels.
#ifndef LINTF_CUSTOM_OPS_KERNELS_GPU_DEVICE_H_
#define LINTF_CUSTOM_OPS_KERNELS_GPU_DEVICE_H_

#if defined(LINTF_WITH_CUDA) || defined(LINTF_GPU_EMULATOR)
#define LINTF_HAS_GPU_KERNELS 1

#include <cstdint>
#include <vector>

#include "absl/status/status.h"
#include "custom_ops/core/gpu_context.h"
#include "tensorflow/core/framework/op_kernel.h"
#include "tensorflow/core/framework/tensor.h"

namespace lintf {

// What the kernels are registered for.
#ifdef LINTF_GPU_EMULATOR
inline constexpr char kGpuDevice[] = "CPU";
#else
inline constexpr char kGpuDevice[] = "GPU";
#endif

// Temporary tensors of one op. They may be freed when its Compute returns,
// before the GPU has come to the work that uses them: TensorFlow gives their
// memory to work that is queued later on the same stream.
class TensorMemory : public gpu::Memory {
 public:
  explicit TensorMemory(tensorflow::OpKernelContext* ctx) : ctx_(ctx) {}

  void* Allocate(int64_t bytes) override;

  // Takes memory now, so that the next calls of Allocate, which together ask
  // for no more than `bytes`, cannot fail. RESOURCE_EXHAUSTED if there is not
  // enough.
  absl::Status Reserve(int64_t bytes, int64_t allocations);

  // Whether there was not enough memory.
  bool is_exhausted() const { return is_exhausted_; }

 private:
  char* Take(int64_t bytes);

  tensorflow::OpKernelContext* const ctx_;
  std::vector<tensorflow::Tensor> tensors_;
  char* reserved_ = nullptr;
  int64_t reserved_bytes_ = 0;
  bool is_exhausted_ = false;
};

// The work of one op: a context on the op's stream.
class GpuWork {
 public:
  explicit GpuWork(tensorflow::OpKernelContext* ctx);

  gpu::Context* context() { return &context_; }
  TensorMemory& memory() { return memory_; }

  // What went wrong: RESOURCE_EXHAUSTED where memory was missing, INTERNAL
  // otherwise.
  absl::Status status() const;

 private:
  TensorMemory memory_;
  gpu::Context context_;
};

// A copy of host memory of TensorFlow's on the GPU. That memory may be
// page-locked, and would then be read only after the op has given it back.
template <typename T>
const T* UploadInput(const T* values, int64_t count, GpuWork* work) {
  const std::vector<T> copy(values, values + count);
  return work->context()->Upload(copy.data(), count);
}

}  // namespace lintf

#endif  // LINTF_WITH_CUDA || LINTF_GPU_EMULATOR

#endif  // LINTF_CUSTOM_OPS_KERNELS_GPU_DEVICE_H_
