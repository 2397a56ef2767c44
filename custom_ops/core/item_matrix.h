// SPDX-License-Identifier: Apache-2.0
// How the full-precision side of an index is stored.
//
// kFloat32  the numbers themselves.
// kBfloat16 the numbers rounded to nearest even; scored as float32.
// kFloat16  the same in IEEE half precision; finite.
// kInt8     x[d] = scale * int8, one scale a row, in [-127, 127].
#ifndef LINTF_CUSTOM_OPS_CORE_ITEM_MATRIX_H_
#define LINTF_CUSTOM_OPS_CORE_ITEM_MATRIX_H_

#include <cstdint>

namespace lintf {

enum class ElementType : uint8_t { kFloat32, kBfloat16, kFloat16, kInt8 };
inline constexpr int kNumElementTypes = 4;

// Up to here the sums of a kInt8 row are exact in 32 bits.
inline constexpr int64_t kMaxInt8Dim = 65536;

inline constexpr int64_t ElementSize(ElementType type) {
  return type == ElementType::kFloat32 ? 4 : type == ElementType::kInt8 ? 1 : 2;
}

struct ItemMatrix {
  const void* data = nullptr;  // [num_rows, dim], row-major
  ElementType type = ElementType::kFloat32;
  const float* scales = nullptr;  // kInt8: [num_rows], positive or 0

  ItemMatrix() = default;
  ItemMatrix(const void* data, ElementType type, const float* scales = nullptr)
      : data(data), type(type), scales(scales) {}
};

}  // namespace lintf

#endif  // LINTF_CUSTOM_OPS_CORE_ITEM_MATRIX_H_
