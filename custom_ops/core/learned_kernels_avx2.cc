// SPDX-License-Identifier: Apache-2.0
// Kernels of learned similarities for AVX2, FMA and F16C.
#include <cmath>
#include <cstdint>

#include "custom_ops/core/knn_kernels.h"
#include "custom_ops/core/learned_kernels.h"

#if defined(__x86_64__) && defined(__GNUC__)

#define LINTF_SIMD_ENTRY __attribute__((target("avx2,fma,f16c,popcnt,bmi")))
#define LINTF_SIMD LINTF_SIMD_ENTRY __attribute__((always_inline)) inline

#include "custom_ops/core/knn_kernels_avx2.h"

namespace lintf {
namespace {

constexpr int kTileVectors = 2;
constexpr int kMaxOutputs = 4;
constexpr SimilarityCosts kCosts = {0.75f, 0.027f, 0.9f, 0.25f};

LINTF_SIMD Vec Div(Vec a, Vec b) { return _mm256_div_ps(a, b); }
LINTF_SIMD Vec Magnitude(Vec v) {
  return _mm256_andnot_ps(_mm256_set1_ps(-0.0f), v);
}
LINTF_SIMD Vec ZeroBelow(Vec x, Vec least, Vec v) {
  return _mm256_andnot_ps(_mm256_cmp_ps(x, least, _CMP_LT_OQ), v);
}
LINTF_SIMD Vec IfNegative(Vec x, Vec a, Vec b) {
  return _mm256_blendv_ps(b, a, x);
}
LINTF_SIMD Vec TimesPower(Vec p, Vec t) {
  const __m256i bits = _mm256_slli_epi32(_mm256_castps_si256(t), 23);
  return _mm256_mul_ps(p, _mm256_castsi256_ps(_mm256_add_epi32(
                              bits, _mm256_set1_epi32(0x3F800000))));
}

}  // namespace
}  // namespace lintf

#include "custom_ops/core/learned_kernels_simd.h"

namespace lintf {

const LearnedKernels* Avx2LearnedKernels() {
  return Avx2KnnKernels() != nullptr ? &kLearnedKernels : nullptr;
}

}  // namespace lintf

#else

namespace lintf {

const LearnedKernels* Avx2LearnedKernels() { return nullptr; }

}  // namespace lintf

#endif
