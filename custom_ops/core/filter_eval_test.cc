// SPDX-License-Identifier: Apache-2.0
// FilterMasks against FilterPassesRow, and the decoder against bad programs.
#include "custom_ops/core/filter_eval.h"

#include <map>

#include "custom_ops/core/filter_literals.h"
#include "custom_ops/core/filter_program_test_data.h"
#include "custom_ops/core/filter_test_data.h"
#include "custom_ops/core/testing.h"

namespace lintf {
namespace {

using testing::AppendFilterOp;
using testing::Below;
using testing::FilterColumns;
using testing::MakeFilterColumns;
using testing::MapResolver;
using testing::Pick;
using testing::RandomFilterProgram;
using testing::Rng;
using testing::StackPrograms;

std::vector<FilterIsa> Isas() {
  std::vector<FilterIsa> isas;
  for (const FilterIsa isa :
       {FilterIsa::kPlain, FilterIsa::kAvx2, FilterIsa::kAvx512}) {
    if (isa <= BestFilterIsa()) isas.push_back(isa);
  }
  return isas;
}

void CheckMasks(const FilterMasks& masks, int64_t mask,
                const std::vector<FilterInstruction>& instructions,
                const FilterColumns& data, const uint64_t* live, int64_t begin,
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
    const FilterColumns data = MakeFilterColumns(rng, num_rows);
    const MapResolver resolver(data.ids);
    std::vector<std::vector<int64_t>> programs = {{0}};
    for (int i = 0; i < 20; ++i) {
      programs.push_back(RandomFilterProgram(rng, data, 1 + Below(rng, 6)));
      if (i % 5 == 0) programs.push_back(programs[Below(rng, i + 1)]);
    }
    int64_t length;
    const std::vector<int64_t> words = StackPrograms(programs, &length);
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
  const FilterColumns data = MakeFilterColumns(rng, 333);
  for (int i = 0; i < 600; ++i) {
    const std::vector<int64_t> program = RandomFilterProgram(rng, data, 1);
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
    AppendFilterOp(op, column, payload, &words);
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
    AppendFilterOp(Op::kRange, 1, {3, 5}, &tall);
    AppendFilterOp(i % 2 == 0 ? Op::kAnd : Op::kOr, 0, {}, &tall);
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
  const FilterColumns data = MakeFilterColumns(rng, 70);
  int64_t num_good = 0;
  for (int i = 0; i < 10000; ++i) {
    std::vector<int64_t> words =
        RandomFilterProgram(rng, data, 1 + Below(rng, 4));
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
