// SPDX-License-Identifier: Apache-2.0
// FilterPassesRow: one row at a time, instruction by instruction.
#include <cstring>

#include "custom_ops/core/filter_eval.h"
#include "custom_ops/core/filter_literals.h"

namespace lintf {
namespace {

template <typename T>
T ValueAt(const void* data, int64_t index) {
  T value;
  std::memcpy(&value, static_cast<const char*>(data) + index * sizeof(T),
              sizeof(T));
  return value;
}

// The value as int64: numbers as themselves, uint64 and float by their bits.
int64_t IntAt(const Column& column, int64_t index) {
  switch (column.type) {
    case ColumnType::kInt8:
      return ValueAt<int8_t>(column.data, index);
    case ColumnType::kInt16:
      return ValueAt<int16_t>(column.data, index);
    case ColumnType::kInt64:
    case ColumnType::kUint64:
      return ValueAt<int64_t>(column.data, index);
    case ColumnType::kUint8:
      return ValueAt<uint8_t>(column.data, index);
    case ColumnType::kUint16:
      return ValueAt<uint16_t>(column.data, index);
    case ColumnType::kUint32:
    case ColumnType::kFloat:
      return ValueAt<uint32_t>(column.data, index);
  }
  return 0;
}

int32_t KeyWithOneZero(int64_t bits) {
  const int32_t key = FloatKey(static_cast<uint32_t>(bits));
  return key == FloatKey(kMinusZeroBits) ? FloatKey(0) : key;
}

bool Matches(const FilterInstruction& leaf, int64_t value) {
  const int64_t* payload = leaf.payload;
  switch (leaf.op) {
    case FilterOp::kRange:
      return payload[0] <= value && value <= payload[1];
    case FilterOp::kFloatRange:
      return KeyWithOneZero(payload[0]) <= KeyWithOneZero(value) &&
             KeyWithOneZero(value) <= KeyWithOneZero(payload[1]);
    case FilterOp::kInSet:
      for (int64_t i = 0; i < leaf.count; ++i) {
        if (payload[i] == value) return true;
      }
      return false;
    case FilterOp::kInTable:
      return (payload[value / 64] >> (value % 64)) & 1;
    case FilterOp::kBitsAny:
      return (value & payload[0]) != 0;
    case FilterOp::kBitsAll:
      return (value & payload[0]) == payload[0];
    default:
      return false;
  }
}

}  // namespace

bool FilterPassesRow(const std::vector<FilterInstruction>& instructions,
                     const std::vector<Column>& columns, const int64_t* ids,
                     int64_t row) {
  std::vector<bool> stack;
  const auto pop = [&] {
    const bool top = stack.back();
    stack.pop_back();
    return top;
  };
  for (const FilterInstruction& instruction : instructions) {
    switch (instruction.op) {
      case FilterOp::kTrue:
        stack.push_back(true);
        break;
      case FilterOp::kFalse:
        stack.push_back(false);
        break;
      case FilterOp::kAnd: {
        const bool right = pop();
        const bool left = pop();
        stack.push_back(left && right);
        break;
      }
      case FilterOp::kOr: {
        const bool right = pop();
        const bool left = pop();
        stack.push_back(left || right);
        break;
      }
      case FilterOp::kNot:
        stack.push_back(!pop());
        break;
      default: {
        const Column column = instruction.column == kIdColumn
                                  ? Column{ColumnType::kInt64, ids, 1}
                                  : columns[instruction.column];
        bool any = false;
        for (int64_t i = 0; i < column.width; ++i) {
          any |= Matches(instruction, IntAt(column, row * column.width + i));
        }
        stack.push_back(any);
      }
    }
  }
  return stack.empty() || stack.back();
}

}  // namespace lintf
