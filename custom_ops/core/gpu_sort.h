// SPDX-License-Identifier: Apache-2.0
// Sorts and prefix sums of device memory, by CUB.
#ifndef LINTF_CUSTOM_OPS_CORE_GPU_SORT_H_
#define LINTF_CUSTOM_OPS_CORE_GPU_SORT_H_

#include <cstdint>

#include "custom_ops/core/gpu_context.h"

namespace lintf::gpu {

// sums[i] = values[0] + ... + values[i - 1]; the two may be the same memory.
void ExclusiveSum(const uint32_t* values, int64_t count, Context* context,
                  uint32_t* sums);
void ExclusiveSum(const uint64_t* values, int64_t count, Context* context,
                  uint64_t* sums);

// Greatest key first.
void SortDescending(const uint64_t* keys, int64_t count, Context* context,
                    uint64_t* sorted);

// Greatest key first, equal keys in the order in which they are; `values` go
// with their keys. Compares the low `key_bits` bits alone.
void StableSortDescending(const uint16_t* keys, const uint32_t* values,
                          int64_t count, int key_bits, Context* context,
                          uint16_t* sorted_keys, uint32_t* sorted_values);

}  // namespace lintf::gpu

#endif  // LINTF_CUSTOM_OPS_CORE_GPU_SORT_H_
