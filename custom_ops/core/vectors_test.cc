// SPDX-License-Identifier: Apache-2.0
#include "custom_ops/core/vectors.h"

#include <cmath>
#include <limits>
#include <vector>

#include "custom_ops/core/testing.h"

namespace lintf {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();
constexpr float kLargest = std::numeric_limits<float>::max();
constexpr float kSmallest = std::numeric_limits<float>::denorm_min();

void FindsTheFirstNonFinite() {
  for (int size : {0, 1, 3, 8, 17}) {
    const std::vector<float> finite(size, kLargest);
    CHECK_THAT(FindNonFinite(finite.data(), size) == -1) << size;
    for (int at = 0; at < size; ++at) {
      for (float bad : {std::nanf(""), kInfinity, -kInfinity}) {
        std::vector<float> values = finite;
        values[at] = bad;
        values[size - 1] = bad;
        CHECK_THAT(FindNonFinite(values.data(), size) == at) << size;
      }
    }
  }
}

void NormalizesToLengthOne() {
  const std::vector<std::vector<float>> vectors = {
      {3, 4}, {-5}, {kLargest, kLargest}, {kSmallest, 0}, {1e-30f, -1e-30f, 0}};
  for (const std::vector<float>& vector : vectors) {
    std::vector<float> out(vector.size());
    Normalize(vector.data(), static_cast<int64_t>(vector.size()), out.data());
    double sum = 0;
    for (size_t d = 0; d < out.size(); ++d) {
      sum += static_cast<double>(out[d]) * out[d];
      CHECK_THAT(std::signbit(out[d]) == std::signbit(vector[d]));
    }
    CHECK_THAT(std::abs(sum - 1) < 1e-6) << sum;
  }
  float out[2];
  Normalize(vectors[0].data(), 2, out);
  CHECK_THAT(out[0] == 0.6f && out[1] == 0.8f);
}

void ZeroStaysZero() {
  const float zero[3] = {0, -0.0f, 0};
  float out[3] = {7, 7, 7};
  Normalize(zero, 3, out);
  for (float value : out) CHECK_THAT(value == 0);
}

}  // namespace
}  // namespace lintf

int main() {
  lintf::FindsTheFirstNonFinite();
  lintf::NormalizesToLengthOne();
  lintf::ZeroStaysZero();
  return lintf::testing::Result();
}
