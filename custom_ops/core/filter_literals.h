// SPDX-License-Identifier: Apache-2.0
// The values of a filter's literals and columns, as exact integers: compiler
// and evaluator agree on them whatever the thread's floating-point mode is
// (TensorFlow's threads flush denormals to zero).
#ifndef LINTF_CUSTOM_OPS_CORE_FILTER_LITERALS_H_
#define LINTF_CUSTOM_OPS_CORE_FILTER_LITERALS_H_

#include <cstdint>
#include <string>
#include <string_view>

#include "custom_ops/core/column.h"

namespace lintf {

// The smallest and largest value that an integer column can hold; for kUint64
// the largest int64 and for kFloat 0, 0.
struct IntRange {
  int64_t lo = 0;
  int64_t hi = 0;
};
IntRange ColumnRange(ColumnType type);
bool IsSignedColumn(ColumnType type);

// Maps the bits of a float32 to an integer that orders as the floats do, with
// -0 just below +0. NaNs lie outside [FloatKey(-inf), FloatKey(+inf)].
constexpr int32_t FloatKey(uint32_t bits) {
  const int32_t value = static_cast<int32_t>(bits);
  return value ^ ((value >> 31) & 0x7FFFFFFF);
}
constexpr uint32_t FloatBitsOfKey(int32_t key) {
  return static_cast<uint32_t>(key ^ ((key >> 31) & 0x7FFFFFFF));
}
inline constexpr uint32_t kPlusInfinityBits = 0x7F800000;
inline constexpr uint32_t kMinusInfinityBits = 0xFF800000;
inline constexpr uint32_t kMinusZeroBits = 0x80000000;

// Reads an integer literal. Returns an empty string, or what is wrong.
std::string ParseIntLiteral(std::string_view text, int64_t* value);

// Reads an integer or float literal: to float64, then to float32, each to the
// nearest, as numpy does. Returns an empty string, or what is wrong.
std::string ParseFloatLiteral(std::string_view text, uint32_t* bits);

}  // namespace lintf

#endif  // LINTF_CUSTOM_OPS_CORE_FILTER_LITERALS_H_
