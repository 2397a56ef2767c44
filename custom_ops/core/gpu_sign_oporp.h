// SPDX-License-Identifier: Apache-2.0
// Sign-OPORP on the GPU: sign_oporp.h's samples and codes, bit for bit (but
// for the bits of a NaN).
#ifndef LINTF_CUSTOM_OPS_CORE_GPU_SIGN_OPORP_H_
#define LINTF_CUSTOM_OPS_CORE_GPU_SIGN_OPORP_H_

#include <cstdint>

#include "custom_ops/core/gpu_context.h"
#include "custom_ops/core/sign_oporp.h"

namespace lintf::gpu {

// `vectors` [count, dim] and `samples` [count, bits] are device memory;
// `oporp` is not used after this returns.
void ProjectBatch(const SignOporp& oporp, const float* vectors, int64_t count,
                  Context* context, float* samples);

// The same for `codes`, [count, words].
void EncodeBatch(const SignOporp& oporp, const float* vectors, int64_t count,
                 Context* context, uint64_t* codes);

}  // namespace lintf::gpu

#endif  // LINTF_CUSTOM_OPS_CORE_GPU_SIGN_OPORP_H_
