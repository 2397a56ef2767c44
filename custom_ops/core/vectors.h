// SPDX-License-Identifier: Apache-2.0
// What queries go through before a search.
#ifndef LINTF_CUSTOM_OPS_CORE_VECTORS_H_
#define LINTF_CUSTOM_OPS_CORE_VECTORS_H_

#include <cstdint>

namespace lintf {

// The position of the first NaN or infinity in `values`; -1 if there is none.
int64_t FindNonFinite(const float* values, int64_t count);

// Scales `vector` to length 1. The norm is summed in double over ascending
// dimensions, so the result does not depend on what else is in the batch. The
// zero vector, which has no direction, stays zero.
void Normalize(const float* vector, int64_t dim, float* normalized);

}  // namespace lintf

#endif  // LINTF_CUSTOM_OPS_CORE_VECTORS_H_
