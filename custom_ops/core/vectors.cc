// SPDX-License-Identifier: Apache-2.0
#include "custom_ops/core/vectors.h"

#include <cmath>
#include <cstdint>

namespace lintf {

int64_t FindNonFinite(const float* values, int64_t count) {
  for (int64_t i = 0; i < count; ++i) {
    if (!std::isfinite(values[i])) return i;
  }
  return -1;
}

void Normalize(const float* vector, int64_t dim, float* normalized) {
  // No overflow and no loss: the square of a float fits a double.
  double sum = 0;
  for (int64_t d = 0; d < dim; ++d) {
    const double value = vector[d];
    sum += value * value;
  }
  const double norm = std::sqrt(sum);
  for (int64_t d = 0; d < dim; ++d) {
    normalized[d] = norm == 0 ? 0.0f : static_cast<float>(vector[d] / norm);
  }
}

}  // namespace lintf
