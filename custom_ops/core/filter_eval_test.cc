// SPDX-License-Identifier: Apache-2.0
// FilterMasks against FilterPassesRow, and the decoder against bad programs.
#include "custom_ops/core/filter_eval.h"

#include <map>

#include "custom_ops/core/filter_literals.h"
#include "custom_ops/core/filter_test_data.h"
#include "custom_ops/core/testing.h"

namespace lintf {
namespace {

using testing::Below;
using testing::Pick;
using testing::Rng;

constexpr ColumnType kTypes[] = {ColumnType::kInt8,   ColumnType::kInt16,
                                 ColumnType::kInt64,  ColumnType::kUint8,
                                 ColumnType::kUint16, ColumnType::kUint32,
                                 ColumnType::kUint64, ColumnType::kFloat};

std::vector<FilterIsa> Isas() {
  std::vector<FilterIsa> isas;
  for (const FilterIsa isa :
       {FilterIsa::kPlain, FilterIsa::kAvx2, FilterIsa::kAvx512}) {
    if (isa <= BestFilterIsa()) isas.push_back(isa);
  }
  return isas;
}

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
struct Data {
  std::vector<Column> columns;
  std::vector<std::vector<char>> storage;
  std::vector<int64_t> ids;
  std::vector<uint64_t> live;
};

int64_t RandomStored(Rng& rng, ColumnType type) {
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

Data MakeData(Rng& rng, int64_t num_rows) {
  Data data;
  data.ids.reserve(1);  // not null, even without rows
  for (const ColumnType type : kTypes) {
    for (const int64_t width : {1, 3, 66}) {
      const int64_t count = num_rows * width;
      std::vector<char> storage(count * ColumnTypeSize(type));
      for (int64_t i = 0; i < count; ++i) {
        testing::Store(&storage, type, i, RandomStored(rng, type));
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

void Append(FilterOp op, int column, const std::vector<int64_t>& payload,
            std::vector<int64_t>* words) {
  words->push_back(
      FilterHeaderWord(op, column, static_cast<int64_t>(payload.size())));
  words->insert(words->end(), payload.begin(), payload.end());
}

// A value that a payload for this column may hold.
int64_t RandomBound(Rng& rng, ColumnType type) {
  const IntRange range = ColumnRange(type);
  return std::clamp(RandomStored(rng, type), range.lo, range.hi);
}

void AppendRandomLeaf(Rng& rng, const Data& data, std::vector<int64_t>* words) {
  if (Below(rng, 12) == 0) {
    const FilterOp op = Below(rng, 2) == 0 ? FilterOp::kTrue : FilterOp::kFalse;
    Append(op, 0, std::vector<int64_t>(Below(rng, 3), 0), words);
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
    Append(FilterOp::kFloatRange, column, {bounds[0], bounds[1]}, words);
    return;
  }
  const bool is_unsigned = !IsSignedColumn(type);
  if (type == ColumnType::kUint64 && width != 1) {
    Append(FilterOp::kTrue, 0, {}, words);
    return;
  }
  if (column != kIdColumn && is_unsigned && width == 1 &&
      (type == ColumnType::kUint64 || Below(rng, 2) == 0)) {
    const FilterOp op =
        Below(rng, 2) == 0 ? FilterOp::kBitsAny : FilterOp::kBitsAll;
    const int64_t bits = type == ColumnType::kUint64
                             ? static_cast<int64_t>(rng() & rng() & rng())
                             : RandomBound(rng, type);
    Append(op, column, {bits}, words);
    return;
  }
  const auto number = [&] {
    if (column == kIdColumn && Below(rng, 4) != 0)
      return Below(rng, 1500) - 150;
    return RandomBound(rng, type);
  };
  switch (Below(rng, 3)) {
    case 0:
      Append(FilterOp::kRange, column, {number(), number()}, words);
      return;
    case 1:
      if (type == ColumnType::kUint8) {
        std::vector<int64_t> table(4);
        for (int64_t& word : table) word = static_cast<int64_t>(rng());
        Append(FilterOp::kInTable, column, table, words);
        return;
      }
      [[fallthrough]];
    default: {
      const int64_t sizes[] = {0, 1, 2, 7, 30, 100, 400};
      std::vector<int64_t> values(sizes[Below(rng, 7)]);
      for (int64_t& value : values) value = number();
      std::sort(values.begin(), values.end());
      Append(FilterOp::kInSet, column, values, words);
    }
  }
}

// Operands and operators in random postfix order.
std::vector<int64_t> RandomProgram(Rng& rng, const Data& data,
                                   int64_t num_leaves) {
  std::vector<int64_t> words = {0};
  int64_t depth = 0;
  while (num_leaves > 0 || depth > 1) {
    if (Below(rng, 4) == 0 && depth > 0) {
      Append(FilterOp::kNot, 0, {}, &words);
    }
    if (depth < 2 ||
        (num_leaves > 0 && Below(rng, 2) == 0 && depth < kMaxFilterStack)) {
      AppendRandomLeaf(rng, data, &words);
      --num_leaves;
      ++depth;
    } else {
      const FilterOp op = Below(rng, 2) == 0 ? FilterOp::kAnd : FilterOp::kOr;
      Append(op, 0, {}, &words);
      --depth;
    }
  }
  words[0] = (kFilterProgramVersion << 32) | static_cast<int64_t>(words.size());
  return words;
}

// Pads the programs to one length.
std::vector<int64_t> Stack(const std::vector<std::vector<int64_t>>& programs,
                           int64_t* length) {
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

void CheckMasks(const FilterMasks& masks, int64_t mask,
                const std::vector<FilterInstruction>& instructions,
                const Data& data, const uint64_t* live, int64_t begin,
                int64_t end) {
  const uint64_t kUntouched = 0xABABABABABABABABu;
  const int64_t num_words = (end - begin + 63) / 64;
  std::vector<uint64_t> bits(num_words + 1, kUntouched);
  const int64_t count = masks.Fill(mask, begin, end, bits.data());
  CHECK_THAT(bits[num_words] == kUntouched) << "wrote past the end";
  int64_t expected_count = 0;
  int64_t num_wrong = 0;
  for (int64_t i = 0; i < 64 * num_words; ++i) {
    const int64_t row = begin + i;
    const bool is_live =
        live == nullptr || ((live[row / 64] >> (row % 64)) & 1) != 0;
    const bool expected =
        row < end && is_live &&
        FilterPassesRow(instructions, data.columns, data.ids.data(), row);
    expected_count += expected ? 1 : 0;
    num_wrong += ((bits[i / 64] >> (i % 64)) & 1) != (expected ? 1u : 0u);
  }
  CHECK_THAT(num_wrong == 0) << num_wrong << " rows of " << end - begin;
  CHECK_THAT(count == expected_count) << count << " " << expected_count;
}

void TestAgainstReference() {
  Rng rng(1);
  for (const int64_t num_rows :
       {0, 1, 2, 63, 64, 65, 130, 1000, 2048, 2049, 4500}) {
    const Data data = MakeData(rng, num_rows);
    const MapResolver resolver(data.ids);
    std::vector<std::vector<int64_t>> programs = {{0}};
    for (int i = 0; i < 20; ++i) {
      programs.push_back(RandomProgram(rng, data, 1 + Below(rng, 6)));
      if (i % 5 == 0) programs.push_back(programs[Below(rng, i + 1)]);
    }
    int64_t length;
    const std::vector<int64_t> words = Stack(programs, &length);
    for (const FilterIsa isa : Isas()) {
      for (const bool with_live : {false, true}) {
        const uint64_t* live = with_live ? data.live.data() : nullptr;
        for (const bool with_resolver : {false, true}) {
          FilterMasks masks(isa);
          int64_t bad = -1;
          const std::string error =
              masks.Init(words.data(), static_cast<int64_t>(programs.size()),
                         length, &data.columns, data.ids.data(), live,
                         with_resolver ? &resolver : nullptr, &bad);
          CHECK_THAT(error.empty()) << error << " in " << bad;
          if (!error.empty()) continue;
          CHECK_THAT(masks.num_masks() < static_cast<int64_t>(programs.size()))
              << "equal programs share a mask";
          for (size_t i = 0; i < programs.size(); ++i) {
            std::vector<FilterInstruction> instructions;
            DecodeFilterProgram(programs[i].data(),
                                static_cast<int64_t>(programs[i].size()),
                                data.columns, &instructions);
            const int32_t mask = masks.mask_of_program()[i];
            const int64_t begin = 64 * Below(rng, num_rows / 64 + 1);
            const int64_t end = begin + Below(rng, num_rows - begin + 1);
            CheckMasks(masks, mask, instructions, data, live, begin, end);
            if (isa == Isas().back()) {
              CheckMasks(masks, mask, instructions, data, live, 0, num_rows);
            }
          }
        }
      }
    }
  }
}

// Each kind of leaf alone, so that a broken kernel is named.
void TestEveryLeaf() {
  Rng rng(2);
  const Data data = MakeData(rng, 333);
  for (int i = 0; i < 600; ++i) {
    const std::vector<int64_t> program = RandomProgram(rng, data, 1);
    std::vector<FilterInstruction> instructions;
    const std::string error = DecodeFilterProgram(
        program.data(), static_cast<int64_t>(program.size()), data.columns,
        &instructions);
    CHECK_THAT(error.empty()) << error;
    for (const FilterIsa isa : Isas()) {
      FilterMasks masks(isa);
      int64_t bad;
      CHECK_THAT(masks
                     .Init(program.data(), 1,
                           static_cast<int64_t>(program.size()), &data.columns,
                           data.ids.data(), nullptr, nullptr, &bad)
                     .empty());
      CheckMasks(masks, 0, instructions, data, nullptr, 0, 333);
    }
  }
}

void TestPassesAll() {
  const std::vector<Column> columns;
  const uint64_t live = ~uint64_t{0};
  const auto make = [](std::vector<int64_t> words) {
    words[0] =
        (kFilterProgramVersion << 32) | static_cast<int64_t>(words.size());
    return words;
  };
  const int64_t kTrue = FilterHeaderWord(FilterOp::kTrue, 0, 0);
  const int64_t kFalse = FilterHeaderWord(FilterOp::kFalse, 0, 0);
  const int64_t kNot = FilterHeaderWord(FilterOp::kNot, 0, 0);
  const int64_t kOr = FilterHeaderWord(FilterOp::kOr, 0, 0);
  const int64_t kAnd = FilterHeaderWord(FilterOp::kAnd, 0, 0);
  const struct {
    std::vector<int64_t> words;
    bool passes_all;
  } kCases[] = {{{0, 0, 0}, true},
                {make({0, kTrue}), true},
                {make({0, kFalse}), false},
                {make({0, kFalse, kNot}), true},
                {make({0, kFalse, kTrue, kOr}), true},
                {make({0, kFalse, kTrue, kAnd}), false}};
  for (const auto& [words, passes_all] : kCases) {
    for (const uint64_t* bits :
         {static_cast<const uint64_t*>(nullptr), &live}) {
      FilterMasks masks;
      int64_t bad;
      const std::string error =
          masks.Init(words.data(), 1, static_cast<int64_t>(words.size()),
                     &columns, nullptr, bits, nullptr, &bad);
      CHECK_THAT(error.empty()) << error;
      CHECK_THAT(masks.PassesAll(0) == (passes_all && bits == nullptr));
      uint64_t word;
      CHECK_THAT(masks.Fill(0, 0, 10, &word) == (passes_all ? 10 : 0));
      CHECK_THAT(word == (passes_all ? 1023 : 0));
    }
  }
  // No programs, and programs of no words.
  FilterMasks masks;
  int64_t bad;
  CHECK_THAT(
      masks.Init(nullptr, 0, 5, &columns, nullptr, nullptr, nullptr, &bad)
          .empty());
  CHECK_THAT(masks.num_masks() == 0);
  CHECK_THAT(
      masks.Init(nullptr, 2, 0, &columns, nullptr, nullptr, nullptr, &bad)
          .empty());
  CHECK_THAT(masks.num_masks() == 1);
}

void TestDecoderRefuses() {
  const std::vector<Column> columns = {{ColumnType::kUint8, nullptr, 1},
                                       {ColumnType::kInt16, nullptr, 1},
                                       {ColumnType::kFloat, nullptr, 1},
                                       {ColumnType::kUint64, nullptr, 1},
                                       {ColumnType::kUint8, nullptr, 3}};
  const auto leaf = [](FilterOp op, int column, std::vector<int64_t> payload) {
    std::vector<int64_t> words = {0};
    Append(op, column, payload, &words);
    words[0] =
        (kFilterProgramVersion << 32) | static_cast<int64_t>(words.size());
    return words;
  };
  const auto decode = [&](const std::vector<int64_t>& words) {
    std::vector<FilterInstruction> instructions;
    return DecodeFilterProgram(words.data(), static_cast<int64_t>(words.size()),
                               columns, &instructions);
  };
  const auto check_refused = [&](const std::vector<int64_t>& words,
                                 const std::string& part) {
    const std::string error = decode(words);
    CHECK_THAT(error.find(part) != std::string::npos)
        << "'" << error << "' should say '" << part << "'";
  };
  using Op = FilterOp;
  CHECK_THAT(decode(leaf(Op::kRange, 1, {3, 5})).empty());
  CHECK_THAT(decode(leaf(Op::kRange, 1, {5, 3})).empty());
  CHECK_THAT(decode(leaf(Op::kInSet, 0, {3, 3, 255})).empty());
  check_refused(leaf(Op::kRange, 5, {3, 5}), "no column 5");
  check_refused(leaf(Op::kRange, 2, {3, 5}), "not one of numbers");
  check_refused(leaf(Op::kRange, 3, {3, 5}), "not one of numbers");
  check_refused(leaf(Op::kRange, 1, {3}), "2 payload words");
  check_refused(leaf(Op::kRange, 1, {3, 32768}), "range");
  check_refused(leaf(Op::kRange, 0, {-1, 3}), "range");
  check_refused(leaf(Op::kInSet, 1, {3, 2}), "ascend");
  check_refused(leaf(Op::kInSet, 0, {3, 256}), "range");
  check_refused(leaf(Op::kInTable, 1, {0, 0, 0, 0}), "uint8");
  check_refused(leaf(Op::kInTable, 0, {0, 0, 0}), "4 payload");
  check_refused(leaf(Op::kBitsAny, 1, {1}), "bit sets");
  check_refused(leaf(Op::kBitsAll, 4, {1}), "bit sets");
  check_refused(leaf(Op::kBitsAll, 0, {256}), "range");
  check_refused(leaf(Op::kBitsAll, 0, {1, 2}), "1 payload");
  check_refused(leaf(Op::kFloatRange, 1, {0, 0}), "float32");
  check_refused(leaf(Op::kFloatRange, 2, {0, 0x7FC00000}), "float32");
  check_refused(leaf(Op::kFloatRange, 2, {0, -1}), "float32");
  check_refused(leaf(Op::kBitsAny, kIdColumn, {1}), "ids");
  check_refused(leaf(Op::kTrue, 0, {1}), "must be 0");
  check_refused(leaf(Op::kTrue, 1, {}), "column 0");
  check_refused(leaf(Op::kNot, 0, {}), "operand");
  check_refused(leaf(Op::kAnd, 0, {}), "operand");
  check_refused(leaf(static_cast<Op>(99), 0, {}), "unknown");
  check_refused({(kFilterProgramVersion << 32) | 3, 1}, "words in use");
  check_refused({(kFilterProgramVersion << 32) | 1, 0}, "words in use");
  check_refused({(int64_t{2} << 32) | 2, 1}, "version");
  check_refused({-1, 1}, "version");
  check_refused({0, 1}, "padding");
  check_refused({(kFilterProgramVersion << 32) | 2, 1, 1}, "padding");
  check_refused({(kFilterProgramVersion << 32) | 3, 1, 1}, "one mask");
  check_refused({(kFilterProgramVersion << 32) | 2, 1 | (1 << 24)}, "bits 24");
  check_refused(
      {(kFilterProgramVersion << 32) | 2, FilterHeaderWord(Op::kTrue, 0, 1)},
      "past the end");
  check_refused({(kFilterProgramVersion << 32) | 2,
                 static_cast<int64_t>(0xFFFFFFFF00000001u)},
                "past the end");

  std::vector<int64_t> deep(kMaxFilterStack + 2, 1);
  deep[0] = (kFilterProgramVersion << 32) | static_cast<int64_t>(deep.size());
  check_refused(deep, "on the stack");
  // Alternating operators: a tree of many levels on a stack of two.
  std::vector<int64_t> tall = leaf(Op::kRange, 1, {3, 5});
  for (int i = 0; i < 100000; ++i) {
    Append(Op::kRange, 1, {3, 5}, &tall);
    Append(i % 2 == 0 ? Op::kAnd : Op::kOr, 0, {}, &tall);
  }
  tall[0] = (kFilterProgramVersion << 32) | static_cast<int64_t>(tall.size());
  check_refused(tall, "levels");

  // A program that needs ids where there are none.
  FilterMasks masks;
  int64_t bad = -1;
  const std::vector<int64_t> ids = leaf(Op::kRange, kIdColumn, {3, 5});
  const std::string error =
      masks.Init(ids.data(), 1, static_cast<int64_t>(ids.size()), &columns,
                 nullptr, nullptr, nullptr, &bad);
  CHECK_THAT(!error.empty() && bad == 0);
}

// Whatever the words are, the decoder refuses them or the plan survives them.
void TestRandomWords() {
  Rng rng(3);
  const Data data = MakeData(rng, 70);
  int64_t num_good = 0;
  for (int i = 0; i < 10000; ++i) {
    std::vector<int64_t> words = RandomProgram(rng, data, 1 + Below(rng, 4));
    for (int64_t changes = Below(rng, 3); changes > 0; --changes) {
      int64_t& word = words[Below(rng, static_cast<int64_t>(words.size()))];
      switch (Below(rng, 4)) {
        case 0:
          word = static_cast<int64_t>(rng());
          break;
        case 1:
          word ^= int64_t{1} << Below(rng, 63);
          break;
        default:
          word =
              FilterHeaderWord(static_cast<FilterOp>(Below(rng, 20)),
                               static_cast<int>(Below(rng, 26)), Below(rng, 5));
          break;
      }
    }
    const int64_t num_words = static_cast<int64_t>(words.size());
    std::vector<FilterInstruction> instructions;
    const std::string error = DecodeFilterProgram(words.data(), num_words,
                                                  data.columns, &instructions);
    FilterMasks masks;
    int64_t bad;
    const std::string same =
        masks.Init(words.data(), 1, num_words, &data.columns, data.ids.data(),
                   nullptr, nullptr, &bad);
    CHECK_THAT(error == same);
    if (!error.empty()) continue;
    ++num_good;
    CheckMasks(masks, 0, instructions, data, nullptr, 0, 70);
  }
  CHECK_THAT(num_good > 1000 && num_good < 9000) << num_good;
}

}  // namespace
}  // namespace lintf

int main() {
  lintf::TestEveryLeaf();
  lintf::TestAgainstReference();
  lintf::TestPassesAll();
  lintf::TestDecoderRefuses();
  lintf::TestRandomWords();
  return lintf::testing::Result();
}
