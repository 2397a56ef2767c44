// SPDX-License-Identifier: Apache-2.0
// KNN kernels for AVX2 and FMA: 8 lanes, 16 registers.
#include <cstdint>

#include "custom_ops/core/knn_kernels.h"

#if defined(__x86_64__) && defined(__GNUC__)

#include <immintrin.h>

#define LINTF_SIMD_ENTRY __attribute__((target("avx2,fma,popcnt,bmi")))
#define LINTF_SIMD LINTF_SIMD_ENTRY __attribute__((always_inline)) inline

namespace lintf {
namespace {

using Vec = __m256;
constexpr int kLanes = 8;
constexpr int kMaxVectors = 2;
// 12 sums leave 4 registers for operands and hide the latency of the FMAs.
constexpr int RowsOf(int vectors) { return 12 / vectors; }
constexpr int kQueryLanesRows = 24;
constexpr KnnCosts kCosts = {0.30f, 0.25f, 0.03f};

LINTF_SIMD Vec Zero() { return _mm256_setzero_ps(); }
LINTF_SIMD Vec Load(const float* p) { return _mm256_loadu_ps(p); }
LINTF_SIMD void Store(float* p, Vec v) { _mm256_storeu_ps(p, v); }
LINTF_SIMD Vec Set1(const float* p) { return _mm256_broadcast_ss(p); }
LINTF_SIMD Vec Sub(Vec a, Vec b) { return _mm256_sub_ps(a, b); }
LINTF_SIMD Vec Negate(Vec v) { return _mm256_xor_ps(v, _mm256_set1_ps(-0.0f)); }
LINTF_SIMD Vec Fma(Vec a, Vec b, Vec c) { return _mm256_fmadd_ps(a, b, c); }
LINTF_SIMD uint32_t NotLessEqual(Vec a, Vec b) {
  return static_cast<uint32_t>(
      _mm256_movemask_ps(_mm256_cmp_ps(a, b, _CMP_NLE_UQ)));
}

LINTF_SIMD void CopyTail(const float* row, int64_t n, float* out) {
  const __m256i some =
      _mm256_cmpgt_epi32(_mm256_set1_epi32(static_cast<int>(n)),
                         _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
  _mm256_store_ps(out, _mm256_maskload_ps(row, some));
}

LINTF_SIMD void LoadTransposed(const float* const* rows, int64_t d, Vec* out) {
#pragma GCC unroll 2
  for (int quad = 0; quad < 2; ++quad) {
    Vec part[4];
#pragma GCC unroll 4
    for (int i = 0; i < 4; ++i) {
      const int64_t at = d + 4 * quad;
      part[i] = _mm256_insertf128_ps(
          _mm256_castps128_ps256(_mm_loadu_ps(rows[i] + at)),
          _mm_loadu_ps(rows[4 + i] + at), 1);
    }
    const __m256d low01 =
        _mm256_castps_pd(_mm256_unpacklo_ps(part[0], part[1]));
    const __m256d high01 =
        _mm256_castps_pd(_mm256_unpackhi_ps(part[0], part[1]));
    const __m256d low23 =
        _mm256_castps_pd(_mm256_unpacklo_ps(part[2], part[3]));
    const __m256d high23 =
        _mm256_castps_pd(_mm256_unpackhi_ps(part[2], part[3]));
    out[4 * quad] = _mm256_castpd_ps(_mm256_unpacklo_pd(low01, low23));
    out[4 * quad + 1] = _mm256_castpd_ps(_mm256_unpackhi_pd(low01, low23));
    out[4 * quad + 2] = _mm256_castpd_ps(_mm256_unpacklo_pd(high01, high23));
    out[4 * quad + 3] = _mm256_castpd_ps(_mm256_unpackhi_pd(high01, high23));
  }
}

constexpr int kSparseWord = 63;

LINTF_SIMD int64_t AppendDenseWord(uint64_t, uint32_t base, uint32_t* rows) {
  for (uint32_t i = 0; i < kRowsPerWord; ++i) rows[i] = base + i;
  return kRowsPerWord;
}

}  // namespace
}  // namespace lintf

#include "custom_ops/core/knn_kernels_simd.h"

namespace lintf {

const KnnKernels* Avx2KnnKernels() {
  static const bool supported =
      __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
      __builtin_cpu_supports("popcnt") && __builtin_cpu_supports("bmi");
  return supported ? &SimdKernels() : nullptr;
}

}  // namespace lintf

#else

namespace lintf {

const KnnKernels* Avx2KnnKernels() { return nullptr; }

}  // namespace lintf

#endif
