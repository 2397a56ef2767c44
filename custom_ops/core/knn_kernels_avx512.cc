// SPDX-License-Identifier: Apache-2.0
// KNN kernels for AVX-512 (F, BW, DQ, VL): 16 lanes, 32 registers.
#include <cstdint>

#include "custom_ops/core/knn_kernels.h"

#if defined(__x86_64__) && defined(__GNUC__)

#define LINTF_SIMD_ENTRY \
  __attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,fma,popcnt,bmi")))
#define LINTF_SIMD LINTF_SIMD_ENTRY __attribute__((always_inline)) inline

#include "custom_ops/core/knn_kernels_avx512.h"

namespace lintf {
namespace {

constexpr int kInt8Parts = 2;
constexpr int32_t kInt8Offset = 0;

LINTF_SIMD void ToSteps(Ints raw, Ints* steps) {
  steps[0] = EvenBytes(raw);
  steps[1] = OddBytes(raw);
}

LINTF_SIMD Ints Dot(Ints row, Ints query, Ints sum) {
  return _mm512_add_epi32(sum, _mm512_madd_epi16(row, query));
}

LINTF_SIMD Ints DotSelf(Ints raw, Ints sum) {
  const Ints even = EvenBytes(raw);
  const Ints odd = OddBytes(raw);
  return Dot(odd, odd, Dot(even, even, sum));
}

}  // namespace
}  // namespace lintf

#include "custom_ops/core/knn_kernels_simd.h"
#include "custom_ops/core/knn_kernels_simd_int8.h"

namespace lintf {

const KnnKernels* Avx512KnnKernels() {
  static const bool supported =
      __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
      __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
  static const KnnKernels kernels = {
      kLanes,
      kMaxVectors,
      kQueryLanesRows,
      kInt8Parts,
      kInt8Offset,
      {{0.40f, 0.25f, 0.02f},
       {0.40f, 0.13f, 0.02f},
       {0.40f, 0.17f, 0.02f},
       {0.60f, 0.10f, 0.04f}},
      QueryLanes,
      RowLanes,
      QueryLanesInt8,
      RowLanesInt8,
      Expand,
      CountBits,
      AppendRows,
  };
  return supported ? &kernels : nullptr;
}

}  // namespace lintf

#else

namespace lintf {

const KnnKernels* Avx512KnnKernels() { return nullptr; }

}  // namespace lintf

#endif
