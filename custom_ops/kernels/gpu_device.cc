// SPDX-License-Identifier: Apache-2.0
#if defined(LINTF_WITH_CUDA) && !defined(LINTF_GPU_EMULATOR)
// Before any header: they then declare what the GPU's devices have.
#define EIGEN_USE_GPU
#endif

#include "custom_ops/kernels/gpu_device.h"

#ifdef LINTF_HAS_GPU_KERNELS

#include <cstdint>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "custom_ops/core/gpu_context.h"
#include "tensorflow/core/framework/op_kernel.h"
#include "tensorflow/core/framework/tensor.h"
#include "tensorflow/core/framework/tensor_shape.h"
#include "tensorflow/core/framework/types.h"

namespace lintf {
namespace {

constexpr int64_t kAlignment = 256;

int64_t RoundUp(int64_t bytes) {
  return (bytes + kAlignment - 1) / kAlignment * kAlignment;
}

gpu::Stream StreamOf(tensorflow::OpKernelContext* ctx) {
#ifdef LINTF_GPU_EMULATOR
  static_cast<void>(ctx);
  return nullptr;
#else
  return ctx->eigen_gpu_device().stream();
#endif
}

}  // namespace

char* TensorMemory::Take(int64_t bytes) {
  tensorflow::Tensor tensor;
  // TensorFlow aligns memory of GPUs to 256 bytes and of the host to less.
  const int64_t size = RoundUp(bytes) + kAlignment;
  const absl::Status status = ctx_->allocate_temp(
      tensorflow::DT_UINT8, tensorflow::TensorShape({size}), &tensor);
  if (!status.ok()) {
    is_exhausted_ = true;
    return nullptr;
  }
  tensors_.push_back(tensor);
  const uintptr_t begin = reinterpret_cast<uintptr_t>(tensor.data());
  return reinterpret_cast<char*>((begin + kAlignment - 1) / kAlignment *
                                 kAlignment);
}

void* TensorMemory::Allocate(int64_t bytes) {
  const int64_t size = RoundUp(bytes);
  if (size > reserved_bytes_) return Take(bytes);
  char* const memory = reserved_;
  reserved_ += size;
  reserved_bytes_ -= size;
  return memory;
}

absl::Status TensorMemory::Reserve(int64_t bytes, int64_t allocations) {
  const int64_t size = bytes + allocations * kAlignment;
  reserved_ = Take(size);
  if (reserved_ == nullptr) {
    return absl::ResourceExhaustedError(absl::StrCat(
        "there must be ", size,
        " bytes of free GPU memory; there are not, and "
        "nothing was changed. Change fewer items at once, or leave the server "
        "more memory"));
  }
  reserved_bytes_ = RoundUp(size);
  return absl::OkStatus();
}

GpuWork::GpuWork(tensorflow::OpKernelContext* ctx)
    : memory_(ctx), context_(StreamOf(ctx), &memory_) {}

absl::Status GpuWork::status() const {
  if (context_.ok()) return absl::OkStatus();
  if (memory_.is_exhausted()) {
    return absl::ResourceExhaustedError(context_.error());
  }
  return absl::InternalError(context_.error());
}

}  // namespace lintf

#endif  // LINTF_HAS_GPU_KERNELS
