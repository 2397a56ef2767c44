// SPDX-License-Identifier: Apache-2.0
#include "custom_ops/core/filter_program.h"

#include <algorithm>

#include "custom_ops/core/filter_literals.h"

namespace lintf {
namespace {

// What the decoder knows of a mask on the stack.
struct StackEntry {
  FilterOp op;  // that made it
  int levels;   // of operators in it
};

std::string At(int64_t word, const std::string& message) {
  return "filter program, word " + std::to_string(word) + ": " + message;
}

bool IsUnsigned(ColumnType type) {
  return type == ColumnType::kUint8 || type == ColumnType::kUint16 ||
         type == ColumnType::kUint32 || type == ColumnType::kUint64;
}

bool IsNanBits(int64_t bits) { return (bits & 0x7FFFFFFF) > 0x7F800000; }

// Checks a leaf against the column it reads.
std::string CheckLeaf(const FilterInstruction& leaf, const Column& column) {
  const IntRange range = ColumnRange(column.type);
  const bool is_number =
      column.type != ColumnType::kFloat && column.type != ColumnType::kUint64;
  const auto in_range = [&](int64_t value) {
    return value >= range.lo && value <= range.hi;
  };
  const int64_t* payload = leaf.payload;
  switch (leaf.op) {
    case FilterOp::kRange:
      if (!is_number) return "the column is not one of numbers";
      if (leaf.count != 2) return "a range has 2 payload words";
      if (!in_range(payload[0]) || !in_range(payload[1])) {
        return "a bound is out of the column's range";
      }
      return "";
    case FilterOp::kFloatRange:
      if (column.type != ColumnType::kFloat) return "the column is not float32";
      if (leaf.count != 2) return "a range has 2 payload words";
      for (int i = 0; i < 2; ++i) {
        if ((payload[i] >> 32) != 0 || IsNanBits(payload[i])) {
          return "a bound is not a float32";
        }
      }
      return "";
    case FilterOp::kInSet:
      if (!is_number) return "the column is not one of numbers";
      if (!std::is_sorted(payload, payload + leaf.count)) {
        return "the values of a set must ascend";
      }
      if (leaf.count > 0 &&
          (!in_range(payload[0]) || !in_range(payload[leaf.count - 1]))) {
        return "a value is out of the column's range";
      }
      return "";
    case FilterOp::kInTable:
      if (column.type != ColumnType::kUint8) return "the column is not uint8";
      if (leaf.count != 4) return "a table has 4 payload words";
      return "";
    case FilterOp::kBitsAny:
    case FilterOp::kBitsAll:
      if (!IsUnsigned(column.type) || column.width != 1) {
        return "the column is not one of bit sets";
      }
      if (leaf.count != 1) return "bits have 1 payload word";
      if (column.type != ColumnType::kUint64 && !in_range(payload[0])) {
        return "a bit is out of the column's range";
      }
      return "";
    default:
      return "unknown operation";
  }
}

}  // namespace

std::string DecodeFilterProgram(const int64_t* words, int64_t num_words,
                                const std::vector<Column>& columns,
                                std::vector<FilterInstruction>* instructions) {
  instructions->clear();
  if (num_words <= 0) return "";
  const int64_t used = words[0] & 0xFFFFFFFF;
  const int64_t version = words[0] >> 32;
  if (words[0] != 0) {
    if (version != kFilterProgramVersion) {
      return At(0, "expected format version " +
                       std::to_string(kFilterProgramVersion) + ", found " +
                       std::to_string(version) +
                       "; compile the filter again with this version");
    }
    if (used < 2 || used > num_words) {
      return At(0, "expected 2 to " + std::to_string(num_words) +
                       " words in use, found " + std::to_string(used));
    }
  }
  for (int64_t i = std::max<int64_t>(used, 1); i < num_words; ++i) {
    if (words[i] != 0) return At(i, "expected padding (0)");
  }

  // Ids are int64s of width 1, wherever they are stored.
  const Column id_column{ColumnType::kInt64, nullptr, 1};
  std::vector<StackEntry> stack;
  for (int64_t at = 1; at < used;) {
    const uint64_t header = static_cast<uint64_t>(words[at]);
    FilterInstruction instruction;
    instruction.op = static_cast<FilterOp>(header & 0xFF);
    instruction.column = static_cast<int>((header >> 8) & 0xFFFF);
    instruction.count = static_cast<int64_t>(header >> 32);
    instruction.payload = words + at + 1;
    if (((header >> 24) & 0xFF) != 0) {
      return At(at, "expected 0 in bits 24 to 31 of a header");
    }
    if (instruction.count > used - at - 1) {
      return At(at, "the payload of " + std::to_string(instruction.count) +
                        " words reaches past the end");
    }
    const FilterOp op = instruction.op;
    const bool is_binary = op == FilterOp::kAnd || op == FilterOp::kOr;
    const bool is_operator = is_binary || op == FilterOp::kNot;
    const bool is_constant = op == FilterOp::kTrue || op == FilterOp::kFalse;
    if ((is_operator || is_constant) && instruction.column != 0) {
      return At(at, "expected column 0 where no column is read");
    }
    if (is_operator) {
      if (instruction.count != 0) return At(at, "expected no payload");
      const size_t num_operands = is_binary ? 2 : 1;
      if (stack.size() < num_operands) {
        return At(at, "an operand is missing on the stack");
      }
      int levels = 0;
      for (size_t i = 0; i < num_operands; ++i) {
        const StackEntry& operand = stack.back();
        levels = std::max(levels, operand.levels + (operand.op == op ? 0 : 1));
        stack.pop_back();
      }
      if (levels > kMaxFilterLevels) {
        return At(at, "more than " + std::to_string(kMaxFilterLevels) +
                          " levels of operators");
      }
      stack.push_back({op, levels});
    } else {
      std::string error;
      if (is_constant) {
        const int64_t* end = instruction.payload + instruction.count;
        if (std::any_of(instruction.payload, end,
                        [](int64_t word) { return word != 0; })) {
          error = "the payload of a constant must be 0";
        }
      } else if (instruction.column == kIdColumn) {
        error = op == FilterOp::kRange || op == FilterOp::kInSet
                    ? CheckLeaf(instruction, id_column)
                    : "ids take ranges and sets only";
      } else if (instruction.column >= static_cast<int>(columns.size())) {
        error = "there is no column " + std::to_string(instruction.column) +
                ", the index has " + std::to_string(columns.size());
      } else {
        error = CheckLeaf(instruction, columns[instruction.column]);
      }
      if (!error.empty()) return At(at, error);
      if (stack.size() >= kMaxFilterStack) {
        return At(at, "more than " + std::to_string(kMaxFilterStack) +
                          " masks on the stack");
      }
      stack.push_back({op, 0});
    }
    instructions->push_back(instruction);
    at += 1 + instruction.count;
  }
  if (used > 0 && stack.size() != 1) {
    return At(0, "expected one mask at the end, found " +
                     std::to_string(stack.size()));
  }
  return "";
}

}  // namespace lintf
