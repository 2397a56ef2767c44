// SPDX-License-Identifier: Apache-2.0
// KNN kernels for AVX-512 (F, BW, DQ, VL): 16 lanes, 32 registers.
#include <cstdint>

#include "custom_ops/core/knn_kernels.h"

#if defined(__x86_64__) && defined(__GNUC__)

#include <immintrin.h>

#ifndef __clang__
// g++ 12 warns about the "undefined" operands inside its own intrinsics.
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#pragma GCC diagnostic ignored "-Wuninitialized"
#endif

#define LINTF_SIMD_ENTRY \
  __attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,fma")))
#define LINTF_SIMD LINTF_SIMD_ENTRY __attribute__((always_inline)) inline

namespace lintf {
namespace {

using Vec = __m512;
constexpr int kLanes = 16;
constexpr int kMaxVectors = 4;
// 24 sums leave 8 registers for operands and hide the latency of the FMAs.
constexpr int RowsOf(int vectors) { return vectors == 1 ? 12 : 24 / vectors; }
constexpr int kRowGranularity = 48;
constexpr KnnCosts kCosts = {0.5f, 0.19f, 0.035f};

LINTF_SIMD Vec Zero() { return _mm512_setzero_ps(); }
LINTF_SIMD Vec Load(const float* p) { return _mm512_loadu_ps(p); }
LINTF_SIMD void Store(float* p, Vec v) { _mm512_storeu_ps(p, v); }
LINTF_SIMD Vec Set1(const float* p) { return _mm512_set1_ps(*p); }
LINTF_SIMD Vec Sub(Vec a, Vec b) { return _mm512_sub_ps(a, b); }
LINTF_SIMD Vec Negate(Vec v) { return _mm512_xor_ps(v, _mm512_set1_ps(-0.0f)); }
LINTF_SIMD Vec Fma(Vec a, Vec b, Vec c) { return _mm512_fmadd_ps(a, b, c); }
LINTF_SIMD uint32_t NotLessEqual(Vec a, Vec b) {
  return _mm512_cmp_ps_mask(a, b, _CMP_NLE_UQ);
}

LINTF_SIMD void CopyTail(const float* row, int64_t n, float* out) {
  const __mmask16 some = static_cast<__mmask16>((1u << n) - 1);
  _mm512_store_ps(out, _mm512_maskz_loadu_ps(some, row));
}

// Part of a transposition: four rows' quads of dimensions in one vector. The
// masked broadcasts from memory do without the shuffle port.
LINTF_SIMD Vec LoadQuads(const float* a, const float* b, const float* c,
                         const float* d) {
  __m512 v = _mm512_castps128_ps512(_mm_loadu_ps(a));
  v = _mm512_mask_broadcast_f32x4(v, 0x00F0, _mm_loadu_ps(b));
  v = _mm512_mask_broadcast_f32x4(v, 0x0F00, _mm_loadu_ps(c));
  return _mm512_mask_broadcast_f32x4(v, 0xF000, _mm_loadu_ps(d));
}

LINTF_SIMD void LoadTransposed(const float* const* rows, int64_t d, Vec* out) {
#pragma GCC unroll 4
  for (int quad = 0; quad < 4; ++quad) {
    Vec part[4];
#pragma GCC unroll 4
    for (int i = 0; i < 4; ++i) {
      const int64_t at = d + 4 * quad;
      part[i] = LoadQuads(rows[i] + at, rows[4 + i] + at, rows[8 + i] + at,
                          rows[12 + i] + at);
    }
    const __m512d low01 =
        _mm512_castps_pd(_mm512_unpacklo_ps(part[0], part[1]));
    const __m512d high01 =
        _mm512_castps_pd(_mm512_unpackhi_ps(part[0], part[1]));
    const __m512d low23 =
        _mm512_castps_pd(_mm512_unpacklo_ps(part[2], part[3]));
    const __m512d high23 =
        _mm512_castps_pd(_mm512_unpackhi_ps(part[2], part[3]));
    out[4 * quad] = _mm512_castpd_ps(_mm512_unpacklo_pd(low01, low23));
    out[4 * quad + 1] = _mm512_castpd_ps(_mm512_unpackhi_pd(low01, low23));
    out[4 * quad + 2] = _mm512_castpd_ps(_mm512_unpacklo_pd(high01, high23));
    out[4 * quad + 3] = _mm512_castpd_ps(_mm512_unpackhi_pd(high01, high23));
  }
}

}  // namespace
}  // namespace lintf

#include "custom_ops/core/knn_kernels_simd.h"

namespace lintf {

const KnnKernels* Avx512KnnKernels() {
  static const bool supported =
      __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
      __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
  return supported ? &SimdKernels() : nullptr;
}

}  // namespace lintf

#else

namespace lintf {

const KnnKernels* Avx512KnnKernels() { return nullptr; }

}  // namespace lintf

#endif
