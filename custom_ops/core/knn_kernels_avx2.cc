// SPDX-License-Identifier: Apache-2.0
// KNN kernels for AVX2 and FMA: 8 lanes, 16 registers.
#include <cstdint>

#include "custom_ops/core/knn_kernels.h"

#if defined(__x86_64__) && defined(__GNUC__)

#define LINTF_SIMD_ENTRY __attribute__((target("avx2,fma,f16c,popcnt,bmi")))
#define LINTF_SIMD LINTF_SIMD_ENTRY __attribute__((always_inline)) inline

#include "custom_ops/core/knn_kernels_avx2.h"
#include "custom_ops/core/knn_kernels_simd.h"
#include "custom_ops/core/knn_kernels_simd_int8.h"

namespace lintf {

const KnnKernels* Avx2KnnKernels() {
  static const bool supported =
      __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
      __builtin_cpu_supports("popcnt") && __builtin_cpu_supports("bmi") &&
      __builtin_cpu_supports("f16c");
  static const KnnKernels kernels = {
      kLanes,
      kMaxVectors,
      kQueryLanesRows,
      kInt8Parts,
      kInt8Offset,
      {{0.30f, 0.25f, 0.03f},
       {0.30f, 0.15f, 0.03f},
       {0.30f, 0.17f, 0.03f},
       {0.45f, 0.12f, 0.06f}},
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

const KnnKernels* Avx2KnnKernels() { return nullptr; }

}  // namespace lintf

#endif
