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
  __attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,fma,popcnt,bmi")))
#define LINTF_SIMD LINTF_SIMD_ENTRY __attribute__((always_inline)) inline

namespace lintf {
namespace {

using Vec = __m512;
constexpr int kLanes = 16;
constexpr int kMaxVectors = 4;
// 24 sums leave 8 registers for operands and hide the latency of the FMAs.
constexpr int RowsOf(int vectors) { return vectors == 1 ? 12 : 24 / vectors; }
constexpr int kQueryLanesRows = 48;
constexpr KnnCosts kCosts = {0.40f, 0.25f, 0.02f};

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

// Eight dimensions of two rows.
LINTF_SIMD Vec LoadHalves(const float* low, const float* high) {
  return _mm512_insertf32x8(_mm512_castps256_ps512(_mm256_loadu_ps(low)),
                            _mm256_loadu_ps(high), 1);
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
LINTF_SIMD void LoadTransposed(const float* const* rows, int64_t d, Vec* out) {
  Vec in[2][8];
#pragma GCC unroll 8
  for (int i = 0; i < 8; ++i) {
    const float* low = rows[i < 4 ? i : i + 4] + d;
    const float* high = rows[i < 4 ? i + 4 : i + 8] + d;
    in[0][i] = LoadHalves(low, high);
    in[1][i] = LoadHalves(low + 8, high + 8);
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
