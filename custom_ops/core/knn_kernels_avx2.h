// SPDX-License-Identifier: Apache-2.0
// The vector type of knn_kernels_simd.h for AVX2, FMA and F16C. Whoever
// includes this defines LINTF_SIMD_ENTRY and LINTF_SIMD first.
#ifndef LINTF_CUSTOM_OPS_CORE_KNN_KERNELS_AVX2_H_
#define LINTF_CUSTOM_OPS_CORE_KNN_KERNELS_AVX2_H_

#include <immintrin.h>

#include <cstdint>
#include <cstring>

#include "custom_ops/core/knn_kernels.h"

namespace lintf {
namespace {

using Vec = __m256;
constexpr int kLanes = 8;
constexpr int kMaxVectors = 2;
// 12 sums leave 4 registers for operands and hide the latency of the FMAs.
constexpr int RowsOf(int vectors) { return 12 / vectors; }
constexpr int kQueryLanesRows = 24;
constexpr int kInt8Parts = 2;
constexpr int32_t kInt8Offset = 0;

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

LINTF_SIMD void CopyTail(const char* row, int64_t n, char* out) {
  _mm256_store_si256(reinterpret_cast<__m256i*>(out), _mm256_setzero_si256());
  std::memcpy(out, row, n);
}

LINTF_SIMD __m128i Load128(const char* p) {
  return _mm_loadu_si128(reinterpret_cast<const __m128i*>(p));
}
LINTF_SIMD __m128i Load64(const char* p) {
  return _mm_loadl_epi64(reinterpret_cast<const __m128i*>(p));
}

LINTF_SIMD Vec LoadHalves(const char* p) { return _mm256_cvtph_ps(Load128(p)); }

LINTF_SIMD Vec LoadBfloats(const char* p) {
  return _mm256_castsi256_ps(
      _mm256_slli_epi32(_mm256_cvtepu16_epi32(Load128(p)), 16));
}

LINTF_SIMD Vec EvenBfloats(Vec v) {
  return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_castps_si256(v), 16));
}

LINTF_SIMD Vec OddBfloats(Vec v) {
  return _mm256_castsi256_ps(_mm256_and_si256(
      _mm256_castps_si256(v), _mm256_set1_epi32(static_cast<int>(0xFFFF0000))));
}

// Four elements of two rows.
template <bool kHalves>
LINTF_SIMD Vec LoadTwo(const char* low, const char* high) {
  if (kHalves) {
    return _mm256_cvtph_ps(_mm_unpacklo_epi64(Load64(low), Load64(high)));
  }
  return _mm256_castsi256_ps(_mm256_inserti128_si256(
      _mm256_castsi128_si256(Load128(low)), Load128(high), 1));
}

template <bool kHalves>
LINTF_SIMD void LoadTransposed(const char* const* rows, int64_t at, Vec* out) {
  constexpr int kFour = kHalves ? 8 : 16;  // bytes of 4 elements
#pragma GCC unroll 2
  for (int quad = 0; quad < 2; ++quad) {
    Vec part[4];
#pragma GCC unroll 4
    for (int i = 0; i < 4; ++i) {
      const int64_t from = at + kFour * quad;
      part[i] = LoadTwo<kHalves>(rows[i] + from, rows[4 + i] + from);
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

using Ints = __m256i;
LINTF_SIMD Ints ZeroInts() { return _mm256_setzero_si256(); }
LINTF_SIMD Ints LoadInts(const int32_t* p) {
  return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
}
LINTF_SIMD void StoreInts(int32_t* p, Ints v) {
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), v);
}
LINTF_SIMD Ints Set1Int(const int32_t* p) { return _mm256_set1_epi32(*p); }
LINTF_SIMD Ints AddInts(Ints a, Ints b) { return _mm256_add_epi32(a, b); }
LINTF_SIMD Ints AsInts(Vec v) { return _mm256_castps_si256(v); }
LINTF_SIMD Vec ToFloats(Ints v) { return _mm256_cvtepi32_ps(v); }
LINTF_SIMD Vec Set1Float(float x) { return _mm256_set1_ps(x); }
LINTF_SIMD Vec Mul(Vec a, Vec b) { return _mm256_mul_ps(a, b); }
LINTF_SIMD Vec Add(Vec a, Vec b) { return _mm256_add_ps(a, b); }
LINTF_SIMD Vec MaxOf(Vec a, Vec b) { return _mm256_max_ps(a, b); }
LINTF_SIMD int32_t ReduceInts(Ints v) {
  int32_t lanes[kLanes];
  StoreInts(lanes, v);
  int32_t sum = 0;
  for (int32_t lane : lanes) sum += lane;
  return sum;
}

// Bytes 0 and 2, then 1 and 3 of each lane as 16-bit numbers.
LINTF_SIMD void ToSteps(Ints raw, Ints* steps) {
  steps[0] = _mm256_srai_epi16(_mm256_slli_epi16(raw, 8), 8);
  steps[1] = _mm256_srai_epi16(raw, 8);
}

LINTF_SIMD Ints Dot(Ints row, Ints query, Ints sum) {
  return _mm256_add_epi32(sum, _mm256_madd_epi16(row, query));
}

LINTF_SIMD Ints DotSelf(Ints raw, Ints sum) {
  Ints steps[2];
  ToSteps(raw, steps);
  return Dot(steps[1], steps[1], Dot(steps[0], steps[0], sum));
}

constexpr int kSparseWord = 63;

LINTF_SIMD int64_t AppendDenseWord(uint64_t, uint32_t base, uint32_t* rows) {
  for (uint32_t i = 0; i < kRowsPerWord; ++i) rows[i] = base + i;
  return kRowsPerWord;
}

}  // namespace
}  // namespace lintf

#endif  // LINTF_CUSTOM_OPS_CORE_KNN_KERNELS_AVX2_H_
