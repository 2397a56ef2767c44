// SPDX-License-Identifier: Apache-2.0
// Numbers of 16 bits in kernels, as item_encoding.h has them.
#ifndef LINTF_CUSTOM_OPS_CORE_GPU_ELEMENTS_H_
#define LINTF_CUSTOM_OPS_CORE_GPU_ELEMENTS_H_

#include <cstdint>

#include "custom_ops/core/gpu.h"
#ifdef LINTF_GPU_EMULATOR
#include "custom_ops/core/item_encoding.h"
#endif

namespace lintf::gpu {

__device__ __forceinline__ float FromBfloat16(uint32_t bits) {
  return __uint_as_float(bits << 16);
}

// Rounded to nearest even; beyond the type's range it is infinite.
__device__ __forceinline__ uint32_t ToBfloat16(float x) {
  const uint32_t bits = __float_as_uint(x);
  if ((bits & 0x7FFFFFFFu) > 0x7F800000u) return 0x7FC0u;
  return (bits + 0x7FFFu + ((bits >> 16) & 1u)) >> 16;
}

// A float32 of 11 bits, rounded to nearest, ties away from zero.
__device__ __forceinline__ uint32_t ToTf32(float x) {
  const uint32_t bits = __float_as_uint(x);
  if ((bits & 0x7FFFFFFFu) > 0x7F800000u) return bits;
  return (bits + 0x1000u) & 0xFFFFE000u;
}

// Cut off after the type's last bit.
__device__ __forceinline__ uint32_t CutToBfloat16(float x) {
  return __float_as_uint(x) >> 16;
}

#ifdef LINTF_GPU_EMULATOR

inline float FromFloat16(uint32_t bits) {
  return DecodeFloat16(static_cast<uint16_t>(bits));
}
inline uint32_t ToFloat16(float x) { return EncodeFloat16(x); }

#else

__device__ __forceinline__ float FromFloat16(uint32_t bits) {
  float x;
  asm("cvt.f32.f16 %0, %1;" : "=f"(x) : "h"(static_cast<uint16_t>(bits)));
  return x;
}

__device__ __forceinline__ uint32_t ToFloat16(float x) {
  uint16_t bits;
  asm("cvt.rn.f16.f32 %0, %1;" : "=h"(bits) : "f"(x));
  return bits;
}

#endif

}  // namespace lintf::gpu

#endif  // LINTF_CUSTOM_OPS_CORE_GPU_ELEMENTS_H_
