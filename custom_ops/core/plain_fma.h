// SPDX-License-Identifier: Apache-2.0
// The fused multiply-add of kernels in plain C++.
#ifndef LINTF_CUSTOM_OPS_CORE_PLAIN_FMA_H_
#define LINTF_CUSTOM_OPS_CORE_PLAIN_FMA_H_

#include <cstdint>
#include <cstring>

namespace lintf {

#ifdef __FP_FAST_FMAF
inline float PlainFma(float a, float b, float c) {
  return __builtin_fmaf(a, b, c);
}
#else
// The fused multiply-add without the instruction, several times faster than
// the C library's. The product of two floats is exact in double. The sum is
// rounded to odd (if inexact, the last bit is made 1), and a value rounded to
// odd with this many spare bits rounds to float as the exact value would.
// No branches, so that the compiler can vectorise it over lanes.
inline float PlainFma(float a, float b, float c) {
  const double product = static_cast<double>(a) * static_cast<double>(b);
  const double addend = c;
  const double sum = product + addend;
  // Knuth's two-sum: `error` is exactly what `sum` lost.
  const double shadow = sum - product;
  const double error = (product - (sum - shadow)) + (addend - shadow);
  int64_t bits;
  std::memcpy(&bits, &sum, sizeof(bits));
  // An infinite sum has a NaN error, which compares false with everything.
  const int64_t inexact = (error < 0.0) | (error > 0.0);
  const int64_t is_even = ~bits & 1;
  // One step away from zero if the error points there, else towards zero.
  const int64_t grows = (error < 0.0) == (sum < 0.0);
  bits += (inexact & is_even) * (2 * grows - 1);
  double odd;
  std::memcpy(&odd, &bits, sizeof(odd));
  return static_cast<float>(odd);
}
#endif

}  // namespace lintf

#endif  // LINTF_CUSTOM_OPS_CORE_PLAIN_FMA_H_
