// SPDX-License-Identifier: Apache-2.0
#include "custom_ops/core/gpu_copies.h"

#include <cstdint>

#include "custom_ops/core/gpu.h"

namespace lintf::gpu {

void CopyOnDevice(const void* from, int64_t bytes, Context* context, void* to) {
  if (!context->ok() || bytes == 0) return;
  context->Check(cudaMemcpyAsync(to, from, bytes, cudaMemcpyDeviceToDevice,
                                 context->stream()),
                 "copying on the GPU");
}

void CopyToHost(const void* device, int64_t bytes, Context* context, void* to) {
  if (!context->ok() || bytes == 0) return;
  context->Check(cudaMemcpyAsync(to, device, bytes, cudaMemcpyDeviceToHost,
                                 context->stream()),
                 "copying from the GPU");
  context->Check(cudaStreamSynchronize(context->stream()),
                 "waiting for a copy from the GPU");
}

}  // namespace lintf::gpu
