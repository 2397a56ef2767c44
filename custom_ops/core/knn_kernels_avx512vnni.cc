// SPDX-License-Identifier: Apache-2.0
// KNN kernels for AVX-512 with VNNI, which multiplies 4 int8 a lane and adds
// them up in one instruction; all but kInt8 is as AVX-512 has it.
#include <cstdint>

#include "custom_ops/core/knn_kernels.h"

#if defined(__x86_64__) && defined(__GNUC__)

#define LINTF_SIMD_ENTRY                                          \
  __attribute__((                                                 \
      target("avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,fma," \
             "popcnt,bmi")))
#define LINTF_SIMD LINTF_SIMD_ENTRY __attribute__((always_inline)) inline

#include "custom_ops/core/knn_kernels_avx512.h"

namespace lintf {
namespace {

// The instruction multiplies unsigned by signed bytes, so 128 is added to the
// rows' bytes, which flips their top bit.
constexpr int kInt8Parts = 1;
constexpr int32_t kInt8Offset = 128;

LINTF_SIMD void ToSteps(Ints raw, Ints* steps) {
  steps[0] = _mm512_xor_si512(raw, _mm512_set1_epi8(-128));
}

LINTF_SIMD Ints Dot(Ints row, Ints query, Ints sum) {
  return _mm512_dpbusd_epi32(sum, row, query);
}

LINTF_SIMD Ints DotSelf(Ints raw, Ints sum) {
  const Ints magnitudes = _mm512_abs_epi8(raw);
  return _mm512_dpbusd_epi32(sum, magnitudes, magnitudes);
}

}  // namespace
}  // namespace lintf

#include "custom_ops/core/knn_kernels_simd.h"
#include "custom_ops/core/knn_kernels_simd_int8.h"

namespace lintf {

const KnnKernels* Avx512VnniKnnKernels() {
  static const KnnKernels* const base = Avx512KnnKernels();
  static const bool supported =
      base != nullptr && __builtin_cpu_supports("avx512vnni");
  if (!supported) return nullptr;
  static const KnnKernels kernels = [] {
    KnnKernels vnni = *base;
    vnni.int8_parts = kInt8Parts;
    vnni.int8_offset = kInt8Offset;
    vnni.costs[static_cast<int>(ElementType::kInt8)] = {0.25f, 0.07f, 0.02f};
    vnni.query_lanes_int8 = QueryLanesInt8;
    vnni.row_lanes_int8 = RowLanesInt8;
    vnni.expand = Expand;
    return vnni;
  }();
  return &kernels;
}

}  // namespace lintf

#else

namespace lintf {

const KnnKernels* Avx512VnniKnnKernels() { return nullptr; }

}  // namespace lintf

#endif
