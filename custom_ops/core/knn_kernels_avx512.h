// SPDX-License-Identifier: Apache-2.0
// The vector type of knn_kernels_simd.h for AVX-512 (F, BW, DQ, VL). Whoever
// includes this defines LINTF_SIMD_ENTRY and LINTF_SIMD first.
#ifndef LINTF_CUSTOM_OPS_CORE_KNN_KERNELS_AVX512_H_
#define LINTF_CUSTOM_OPS_CORE_KNN_KERNELS_AVX512_H_

#include <immintrin.h>

#include <cstdint>

#include "custom_ops/core/knn_kernels.h"

#ifndef __clang__
// g++ 12 warns about the "undefined" operands inside its own intrinsics.
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#pragma GCC diagnostic ignored "-Wuninitialized"
#endif

namespace lintf {
namespace {

using Vec = __m512;
constexpr int kLanes = 16;
constexpr int kMaxVectors = 4;
// 24 sums leave 8 registers for operands and hide the latency of the FMAs.
constexpr int RowsOf(int vectors) { return vectors == 1 ? 12 : 24 / vectors; }
constexpr int kQueryLanesRows = 48;

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

LINTF_SIMD void CopyTail(const char* row, int64_t n, char* out) {
  const __mmask64 some = (uint64_t{1} << n) - 1;
  _mm512_store_si512(out, _mm512_maskz_loadu_epi8(some, row));
}

LINTF_SIMD __m256i Load256(const char* p) {
  return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
}

LINTF_SIMD Vec LoadHalves(const char* p) { return _mm512_cvtph_ps(Load256(p)); }

LINTF_SIMD Vec LoadBfloats(const char* p) {
  return _mm512_castsi512_ps(
      _mm512_slli_epi32(_mm512_cvtepu16_epi32(Load256(p)), 16));
}

LINTF_SIMD Vec EvenBfloats(Vec v) {
  return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_castps_si512(v), 16));
}

LINTF_SIMD Vec OddBfloats(Vec v) {
  return _mm512_castsi512_ps(_mm512_and_si512(
      _mm512_castps_si512(v), _mm512_set1_epi32(static_cast<int>(0xFFFF0000))));
}

// Eight elements of two rows.
template <bool kHalves>
LINTF_SIMD Vec LoadTwo(const char* low, const char* high) {
  if (kHalves) {
    return _mm512_cvtph_ps(_mm256_inserti128_si256(
        _mm256_castsi128_si256(
            _mm_loadu_si128(reinterpret_cast<const __m128i*>(low))),
        _mm_loadu_si128(reinterpret_cast<const __m128i*>(high)), 1));
  }
  return _mm512_castsi512_ps(_mm512_inserti64x4(
      _mm512_castsi256_si512(Load256(low)), Load256(high), 1));
}

// In each 128-bit part on its own, transposes 4 x 4.
LINTF_SIMD void TransposeParts(const Vec* in, Vec* out) {
  const __m512d low01 = _mm512_castps_pd(_mm512_unpacklo_ps(in[0], in[1]));
  const __m512d high01 = _mm512_castps_pd(_mm512_unpackhi_ps(in[0], in[1]));
  const __m512d low23 = _mm512_castps_pd(_mm512_unpacklo_ps(in[2], in[3]));
  const __m512d high23 = _mm512_castps_pd(_mm512_unpackhi_ps(in[2], in[3]));
  out[0] = _mm512_castpd_ps(_mm512_unpacklo_pd(low01, low23));
  out[1] = _mm512_castpd_ps(_mm512_unpackhi_pd(low01, low23));
  out[2] = _mm512_castpd_ps(_mm512_unpacklo_pd(high01, high23));
  out[3] = _mm512_castpd_ps(_mm512_unpackhi_pd(high01, high23));
}

// Halves of rows are brought together by the loads, which leaves 48 shuffles
// of the 64 that a transposition in registers alone takes.
template <bool kHalves>
LINTF_SIMD void LoadTransposed(const char* const* rows, int64_t at, Vec* out) {
  constexpr int kEight = kHalves ? 16 : 32;  // bytes of 8 elements
  Vec in[2][8];
#pragma GCC unroll 8
  for (int i = 0; i < 8; ++i) {
    const char* low = rows[i < 4 ? i : i + 4] + at;
    const char* high = rows[i < 4 ? i + 4 : i + 8] + at;
    in[0][i] = LoadTwo<kHalves>(low, high);
    in[1][i] = LoadTwo<kHalves>(low + kEight, high + kEight);
  }
#pragma GCC unroll 2
  for (int half = 0; half < 2; ++half) {
    // Parts of a[i]: rows 0-3 dimension i and 4 + i, rows 4-7 the same; of
    // b[i]: rows 8-11 and 12-15.
    Vec a[4];
    Vec b[4];
    TransposeParts(in[half], a);
    TransposeParts(in[half] + 4, b);
#pragma GCC unroll 4
    for (int i = 0; i < 4; ++i) {
      out[8 * half + i] = _mm512_shuffle_f32x4(a[i], b[i], 0x88);
      out[8 * half + 4 + i] = _mm512_shuffle_f32x4(a[i], b[i], 0xDD);
    }
  }
}

using Ints = __m512i;
LINTF_SIMD Ints ZeroInts() { return _mm512_setzero_si512(); }
LINTF_SIMD Ints LoadInts(const int32_t* p) { return _mm512_loadu_si512(p); }
LINTF_SIMD void StoreInts(int32_t* p, Ints v) { _mm512_storeu_si512(p, v); }
LINTF_SIMD Ints Set1Int(const int32_t* p) { return _mm512_set1_epi32(*p); }
LINTF_SIMD Ints AddInts(Ints a, Ints b) { return _mm512_add_epi32(a, b); }
LINTF_SIMD Ints AsInts(Vec v) { return _mm512_castps_si512(v); }
LINTF_SIMD Vec ToFloats(Ints v) { return _mm512_cvtepi32_ps(v); }
LINTF_SIMD Vec Set1Float(float x) { return _mm512_set1_ps(x); }
LINTF_SIMD Vec Mul(Vec a, Vec b) { return _mm512_mul_ps(a, b); }
LINTF_SIMD Vec Add(Vec a, Vec b) { return _mm512_add_ps(a, b); }
LINTF_SIMD Vec MaxOf(Vec a, Vec b) { return _mm512_max_ps(a, b); }
LINTF_SIMD int32_t ReduceInts(Ints v) { return _mm512_reduce_add_epi32(v); }

// Bytes 0 and 2, then 1 and 3 of each lane as 16-bit numbers.
LINTF_SIMD Ints EvenBytes(Ints v) {
  return _mm512_srai_epi16(_mm512_slli_epi16(v, 8), 8);
}
LINTF_SIMD Ints OddBytes(Ints v) { return _mm512_srai_epi16(v, 8); }

constexpr int kSparseWord = 4;

LINTF_SIMD int64_t AppendDenseWord(uint64_t word, uint32_t base,
                                   uint32_t* rows) {
  const __m512i first =
      _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
  int64_t count = 0;
#pragma GCC unroll 4
  for (int part = 0; part < 4; ++part) {
    const __mmask16 some = static_cast<__mmask16>(word >> (16 * part));
    const __m512i ids = _mm512_add_epi32(
        first, _mm512_set1_epi32(static_cast<int>(base + 16 * part)));
    // Stored whole: a compressing store is slow.
    _mm512_storeu_si512(rows + count, _mm512_maskz_compress_epi32(some, ids));
    count += __builtin_popcount(some);
  }
  return count;
}

}  // namespace
}  // namespace lintf

#endif  // LINTF_CUSTOM_OPS_CORE_KNN_KERNELS_AVX512_H_
