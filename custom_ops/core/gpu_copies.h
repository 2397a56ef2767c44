// SPDX-License-Identifier: Apache-2.0
// Copies of whole stretches of device memory: for loading and writing an
// index, not for searching it.
#ifndef LINTF_CUSTOM_OPS_CORE_GPU_COPIES_H_
#define LINTF_CUSTOM_OPS_CORE_GPU_COPIES_H_

#include <cstdint>

#include "custom_ops/core/gpu_context.h"

namespace lintf::gpu {

// Both are device memory, and do not overlap.
void CopyOnDevice(const void* from, int64_t bytes, Context* context, void* to);

// Alone among the functions here it waits: until everything that was queued
// has run and the copy is in host memory.
void CopyToHost(const void* device, int64_t bytes, Context* context, void* to);

}  // namespace lintf::gpu

#endif  // LINTF_CUSTOM_OPS_CORE_GPU_COPIES_H_
