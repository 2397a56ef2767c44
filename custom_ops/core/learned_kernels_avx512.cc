// SPDX-License-Identifier: Apache-2.0
// Kernels of learned similarities for AVX-512 (F, BW, DQ, VL).
#include <cmath>
#include <cstdint>

#include "custom_ops/core/knn_kernels.h"
#include "custom_ops/core/learned_kernels.h"

#if defined(__x86_64__) && defined(__GNUC__)

#define LINTF_SIMD_ENTRY \
  __attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,fma,popcnt,bmi")))
#define LINTF_SIMD LINTF_SIMD_ENTRY __attribute__((always_inline)) inline

#include "custom_ops/core/knn_kernels_avx512.h"

namespace lintf {
namespace {

constexpr int kTileVectors = 2;
constexpr int kMaxOutputs = 8;
constexpr SimilarityCosts kCosts = {0.7f, 0.0135f, 0.45f, 0.25f};

LINTF_SIMD Vec Div(Vec a, Vec b) { return _mm512_div_ps(a, b); }
LINTF_SIMD Vec Magnitude(Vec v) { return _mm512_abs_ps(v); }
LINTF_SIMD Vec ZeroBelow(Vec x, Vec least, Vec v) {
  return _mm512_maskz_mov_ps(_mm512_cmp_ps_mask(x, least, _CMP_NLT_UQ), v);
}
LINTF_SIMD Vec IfNegative(Vec x, Vec a, Vec b) {
  return _mm512_mask_mov_ps(b, _mm512_movepi32_mask(_mm512_castps_si512(x)), a);
}
LINTF_SIMD Vec TimesPower(Vec p, Vec t) {
  const __m512i bits = _mm512_slli_epi32(_mm512_castps_si512(t), 23);
  return _mm512_mul_ps(p, _mm512_castsi512_ps(_mm512_add_epi32(
                              bits, _mm512_set1_epi32(0x3F800000))));
}

}  // namespace
}  // namespace lintf

#include "custom_ops/core/learned_kernels_simd.h"

namespace lintf {

const LearnedKernels* Avx512LearnedKernels() {
  return Avx512KnnKernels() != nullptr ? &kLearnedKernels : nullptr;
}

}  // namespace lintf

#else

namespace lintf {

const LearnedKernels* Avx512LearnedKernels() { return nullptr; }

}  // namespace lintf

#endif
