// SPDX-License-Identifier: Apache-2.0
// One filterable attribute of all rows, as the filter evaluator reads it.
#ifndef LINTF_CUSTOM_OPS_CORE_COLUMN_H_
#define LINTF_CUSTOM_OPS_CORE_COLUMN_H_

#include <cstdint>

namespace lintf {

// The storage types of attribute columns. There is no int32: TensorFlow keeps
// int32 variables off the GPU, and columns must be able to live there.
enum class ColumnType : uint8_t {
  kInt8,
  kInt16,
  kInt64,
  kUint8,
  kUint16,
  kUint32,
  kUint64,
  kFloat,
};

// Bytes of one value of `type`.
constexpr int64_t ColumnTypeSize(ColumnType type) {
  switch (type) {
    case ColumnType::kInt8:
    case ColumnType::kUint8:
      return 1;
    case ColumnType::kInt16:
    case ColumnType::kUint16:
      return 2;
    case ColumnType::kUint32:
    case ColumnType::kFloat:
      return 4;
    case ColumnType::kInt64:
    case ColumnType::kUint64:
      return 8;
  }
  return 0;
}

// A read-only view of an attribute column: `num_rows` x `width` values,
// row-major, owned by the caller. Width is 1 except for tags that are stored
// as padded lists of codes.
struct Column {
  ColumnType type = ColumnType::kInt64;
  const void* data = nullptr;
  int64_t width = 1;
};

}  // namespace lintf

#endif  // LINTF_CUSTOM_OPS_CORE_COLUMN_H_
