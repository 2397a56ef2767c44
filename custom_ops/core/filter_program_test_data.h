// SPDX-License-Identifier: Apache-2.0
// Random columns and random programs over them, for the tests of evaluators.
#ifndef LINTF_CUSTOM_OPS_CORE_FILTER_PROGRAM_TEST_DATA_H_
#define LINTF_CUSTOM_OPS_CORE_FILTER_PROGRAM_TEST_DATA_H_

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <map>
#include <utility>
#include <vector>

#include "custom_ops/core/column.h"
#include "custom_ops/core/filter_eval.h"
#include "custom_ops/core/filter_literals.h"
#include "custom_ops/core/filter_program.h"
#include "custom_ops/core/filter_test_data.h"

namespace lintf::testing {

inline constexpr ColumnType kColumnTypes[] = {
    ColumnType::kInt8,   ColumnType::kInt16,  ColumnType::kInt64,
    ColumnType::kUint8,  ColumnType::kUint16, ColumnType::kUint32,
    ColumnType::kUint64, ColumnType::kFloat};

class MapResolver : public IdResolver {
 public:
  explicit MapResolver(const std::vector<int64_t>& ids) {
    for (size_t row = 0; row < ids.size(); ++row) {
      rows_[ids[row]] = static_cast<int64_t>(row);
    }
  }
  int64_t RowOf(int64_t id) const override {
    const auto found = rows_.find(id);
    return found == rows_.end() ? -1 : found->second;
  }

 private:
  std::map<int64_t, int64_t> rows_;
};

// Random columns: each type in the widths 1, 3 and 66 (bit sets: 1).
struct FilterColumns {
  std::vector<Column> columns;
  std::vector<std::vector<char>> storage;
  std::vector<int64_t> ids;
  std::vector<uint64_t> live;
};

inline int64_t RandomStored(Rng& rng, ColumnType type) {
  if (type == ColumnType::kFloat) {
    const uint32_t kOdd[] = {0x7FC00000, 0xFFC00000, 0x7F800001, 0xFFFFFFFF,
                             0x7F800000, 0xFF800000, 0,          0x80000000,
                             1,          0x80000001, 0x7F7FFFFF, 0xFF7FFFFF};
    if (Below(rng, 3) == 0) return kOdd[Below(rng, 12)];
    const float value = static_cast<float>(Below(rng, 21) - 10) / 2;
    uint32_t bits;
    std::memcpy(&bits, &value, sizeof(bits));
    return bits;
  }
  const IntRange range = ColumnRange(type);
  switch (Below(rng, 6)) {
    case 0:
      return range.lo + Below(rng, 2);
    case 1:
      return type == ColumnType::kUint64 ? -1 - Below(rng, 2)
                                         : range.hi - Below(rng, 2);
    case 2:
      if (ColumnTypeSize(type) == 8) return static_cast<int64_t>(rng());
      return range.lo + Below(rng, range.hi - range.lo + 1);
    default:
      return range.lo < 0 ? Below(rng, 16) - 8 : Below(rng, 16);
  }
}

inline FilterColumns MakeFilterColumns(Rng& rng, int64_t num_rows) {
  FilterColumns data;
  data.ids.reserve(1);  // not null, even without rows
  for (const ColumnType type : kColumnTypes) {
    for (const int64_t width : {1, 3, 66}) {
      const int64_t count = num_rows * width;
      std::vector<char> storage(count * ColumnTypeSize(type));
      for (int64_t i = 0; i < count; ++i) {
        Store(&storage, type, i, RandomStored(rng, type));
      }
      data.storage.push_back(std::move(storage));
      data.columns.push_back({type, nullptr, width});
    }
  }
  for (size_t i = 0; i < data.columns.size(); ++i) {
    data.columns[i].data = data.storage[i].data();
  }
  for (int64_t row = 0; row < num_rows; ++row) {
    data.ids.push_back((row * 37) % 1009 + 1009 * (row / 1009) - 100);
  }
  data.live.resize((num_rows + 63) / 64);
  for (uint64_t& word : data.live) {
    word = Below(rng, 4) == 0 ? 0 : rng() | rng();
  }
  return data;
}

inline void AppendFilterOp(FilterOp op, int column,
                           const std::vector<int64_t>& payload,
                           std::vector<int64_t>* words) {
  words->push_back(
      FilterHeaderWord(op, column, static_cast<int64_t>(payload.size())));
  words->insert(words->end(), payload.begin(), payload.end());
}

// A value that a payload for this column may hold.
inline int64_t RandomBound(Rng& rng, ColumnType type) {
  const IntRange range = ColumnRange(type);
  return std::clamp(RandomStored(rng, type), range.lo, range.hi);
}

inline void AppendRandomLeaf(Rng& rng, const FilterColumns& data,
                             std::vector<int64_t>* words) {
  if (Below(rng, 12) == 0) {
    const FilterOp op = Below(rng, 2) == 0 ? FilterOp::kTrue : FilterOp::kFalse;
    AppendFilterOp(op, 0, std::vector<int64_t>(Below(rng, 3), 0), words);
    return;
  }
  int column = kIdColumn;
  ColumnType type = ColumnType::kInt64;
  int64_t width = 1;
  if (Below(rng, 6) != 0) {
    column =
        static_cast<int>(Below(rng, static_cast<int64_t>(data.columns.size())));
    type = data.columns[column].type;
    width = data.columns[column].width;
  }
  if (type == ColumnType::kFloat) {
    int64_t bounds[2];
    for (int64_t& bound : bounds) {
      do {
        bound = RandomStored(rng, type);
      } while ((bound & 0x7FFFFFFF) > 0x7F800000);
    }
    AppendFilterOp(FilterOp::kFloatRange, column, {bounds[0], bounds[1]},
                   words);
    return;
  }
  const bool is_unsigned = !IsSignedColumn(type);
  if (type == ColumnType::kUint64 && width != 1) {
    AppendFilterOp(FilterOp::kTrue, 0, {}, words);
    return;
  }
  if (column != kIdColumn && is_unsigned && width == 1 &&
      (type == ColumnType::kUint64 || Below(rng, 2) == 0)) {
    const FilterOp op =
        Below(rng, 2) == 0 ? FilterOp::kBitsAny : FilterOp::kBitsAll;
    const int64_t bits = type == ColumnType::kUint64
                             ? static_cast<int64_t>(rng() & rng() & rng())
                             : RandomBound(rng, type);
    AppendFilterOp(op, column, {bits}, words);
    return;
  }
  const auto number = [&] {
    if (column == kIdColumn && Below(rng, 4) != 0)
      return Below(rng, 1500) - 150;
    return RandomBound(rng, type);
  };
  switch (Below(rng, 3)) {
    case 0:
      AppendFilterOp(FilterOp::kRange, column, {number(), number()}, words);
      return;
    case 1:
      if (type == ColumnType::kUint8) {
        std::vector<int64_t> table(4);
        for (int64_t& word : table) word = static_cast<int64_t>(rng());
        AppendFilterOp(FilterOp::kInTable, column, table, words);
        return;
      }
      [[fallthrough]];
    default: {
      const int64_t sizes[] = {0, 1, 2, 7, 30, 100, 400};
      std::vector<int64_t> values(sizes[Below(rng, 7)]);
      for (int64_t& value : values) value = number();
      std::sort(values.begin(), values.end());
      AppendFilterOp(FilterOp::kInSet, column, values, words);
    }
  }
}

// Operands and operators in random postfix order.
inline std::vector<int64_t> RandomFilterProgram(Rng& rng,
                                                const FilterColumns& data,
                                                int64_t num_leaves) {
  std::vector<int64_t> words = {0};
  int64_t depth = 0;
  while (num_leaves > 0 || depth > 1) {
    if (Below(rng, 4) == 0 && depth > 0) {
      AppendFilterOp(FilterOp::kNot, 0, {}, &words);
    }
    if (depth < 2 ||
        (num_leaves > 0 && Below(rng, 2) == 0 && depth < kMaxFilterStack)) {
      AppendRandomLeaf(rng, data, &words);
      --num_leaves;
      ++depth;
    } else {
      const FilterOp op = Below(rng, 2) == 0 ? FilterOp::kAnd : FilterOp::kOr;
      AppendFilterOp(op, 0, {}, &words);
      --depth;
    }
  }
  words[0] = (kFilterProgramVersion << 32) | static_cast<int64_t>(words.size());
  return words;
}

// Pads the programs to one length.
inline std::vector<int64_t> StackPrograms(
    const std::vector<std::vector<int64_t>>& programs, int64_t* length) {
  *length = 1;
  for (const auto& program : programs) {
    *length = std::max(*length, static_cast<int64_t>(program.size()));
  }
  std::vector<int64_t> words;
  for (const auto& program : programs) {
    words.insert(words.end(), program.begin(), program.end());
    words.resize(words.size() + *length - program.size(), 0);
  }
  return words;
}

}  // namespace lintf::testing

#endif  // LINTF_CUSTOM_OPS_CORE_FILTER_PROGRAM_TEST_DATA_H_
