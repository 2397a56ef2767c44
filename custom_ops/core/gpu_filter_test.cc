// SPDX-License-Identifier: Apache-2.0
// Filters on the GPU against FilterPassesRow.
#include "custom_ops/core/gpu_filter.h"

#include <algorithm>
#include <cstdint>
#include <set>
#include <string>
#include <vector>

#include "custom_ops/core/filter_batch.h"
#include "custom_ops/core/filter_program_test_data.h"
#include "custom_ops/core/gpu_filter_code.h"
#include "custom_ops/core/gpu_testing.h"
#include "custom_ops/core/testing.h"

namespace lintf::gpu {
namespace {

using testing::AppendFilterOp;
using testing::Below;
using testing::FilterColumns;
using testing::MakeFilterColumns;
using testing::MapResolver;
using testing::RandomFilterProgram;
using testing::Rng;
using testing::StackPrograms;

using Program = std::vector<int64_t>;

// Columns in device memory, each of exactly the size of its data.
class DeviceColumns {
 public:
  explicit DeviceColumns(const FilterColumns& data)
      : columns(data.columns),
        // Ids that are not there are something else than no ids.
        ids_(std::max<int64_t>(static_cast<int64_t>(data.ids.size()), 1)),
        live_(data.live) {
    ids_.Set(data.ids);
    for (size_t i = 0; i < columns.size(); ++i) {
      arrays_.emplace_back(data.storage[i]);
      columns[i].data = arrays_.back().data();
    }
  }
  const int64_t* ids() const { return ids_.data(); }
  const uint64_t* live() const { return live_.data(); }

  std::vector<Column> columns;

 private:
  std::vector<DeviceArray<char>> arrays_;
  DeviceArray<int64_t> ids_;
  DeviceArray<uint64_t> live_;
};

void SetLength(Program* words) {
  (*words)[0] =
      (kFilterProgramVersion << 32) | static_cast<int64_t>(words->size());
}

std::vector<uint64_t> WordsOf(const Masks& masks) {
  std::vector<uint64_t> words(masks.num_masks() * masks.stride);
  if (std::all_of(masks.passes_all.begin(), masks.passes_all.end(),
                  [](bool passes) { return passes; })) {
    return words;  // nothing was written
  }
  Require(cudaMemcpy(words.data(), masks.words, words.size() * sizeof(uint64_t),
                     cudaMemcpyDeviceToHost),
          "copying masks");
  return words;
}

// The masks of `programs` against the reference, all rows and all words.
void Check(const std::vector<Program>& programs, const FilterColumns& data,
           const DeviceColumns& device, int64_t num_rows, bool with_live,
           const IdResolver* resolver) {
  int64_t length;
  const std::vector<int64_t> words = StackPrograms(programs, &length);
  FilterMasks filters;
  int64_t bad = -1;
  const std::string error =
      filters.Init(words.data(), static_cast<int64_t>(programs.size()), length,
                   device.columns, device.ids(), resolver, &bad);
  CHECK_THAT(error.empty()) << error << " in " << bad;
  if (!error.empty()) return;
  TestContext context;
  const Masks masks =
      filters.Evaluate(num_rows, with_live ? device.live() : nullptr, &context);
  CHECK_THAT(context.Finish());
  CHECK_THAT(masks.num_masks() == filters.num_masks());
  CHECK_THAT(masks.stride >= MaskWords(num_rows));
  const std::vector<uint64_t> got = WordsOf(masks);
  for (size_t i = 0; i < programs.size(); ++i) {
    std::vector<FilterInstruction> instructions;
    DecodeFilterProgram(programs[i].data(),
                        static_cast<int64_t>(programs[i].size()), data.columns,
                        &instructions);
    const int32_t mask = filters.mask_of_program()[i];
    int64_t wrong = 0;
    for (int64_t row = 0; row < kRowsPerWord * masks.stride; ++row) {
      const bool is_live =
          !with_live ||
          (row < num_rows && (data.live[row / 64] >> (row % 64) & 1) != 0);
      const bool expected =
          row < num_rows && is_live &&
          FilterPassesRow(instructions, data.columns, data.ids.data(), row);
      if (masks.passes_all[mask]) {
        wrong += row < num_rows && !expected ? 1 : 0;
        continue;
      }
      const uint64_t word = got[mask * masks.stride + row / 64];
      wrong += (word >> (row % 64) & 1) != (expected ? 1u : 0u) ? 1 : 0;
    }
    CHECK_THAT(wrong == 0) << wrong << " of " << num_rows << " rows, program "
                           << i << " of " << programs.size()
                           << (with_live ? ", live" : "")
                           << (resolver != nullptr ? ", resolver" : "");
  }
}

void TestBatches() {
  Rng rng(1);
  for (const int64_t num_rows :
       {0, 1, 3, 63, 64, 65, 511, 512, 513, 1500, 4500}) {
    const FilterColumns data = MakeFilterColumns(rng, num_rows);
    const DeviceColumns device(data);
    const MapResolver resolver(data.ids);
    std::vector<Program> programs = {{0}};
    for (int i = 0; i < 20; ++i) {
      programs.push_back(RandomFilterProgram(rng, data, 1 + Below(rng, 6)));
      if (i % 5 == 0) programs.push_back(programs[Below(rng, i + 1)]);
    }
    for (const bool with_live : {false, true}) {
      Check(programs, data, device, num_rows, with_live, nullptr);
      Check(programs, data, device, num_rows, with_live, &resolver);
    }
  }
}

// One mask is evaluated leaf by leaf.
void TestMasksAlone() {
  Rng rng(2);
  const int64_t num_rows = 1700;
  const FilterColumns data = MakeFilterColumns(rng, num_rows);
  const DeviceColumns device(data);
  const MapResolver resolver(data.ids);
  for (int i = 0; i < 60; ++i) {
    const Program program =
        RandomFilterProgram(rng, data, i % 2 == 0 ? 1 : 1 + Below(rng, 12));
    Check({program}, data, device, num_rows, Below(rng, 2) == 0,
          Below(rng, 2) == 0 ? &resolver : nullptr);
  }
}

// Every leaf on every kind of column: all steps of the machine are met.
void TestEveryStep() {
  Rng rng(3);
  const int64_t num_rows = 1100;
  const FilterColumns data = MakeFilterColumns(rng, num_rows);
  const DeviceColumns device(data);
  std::vector<Program> programs;
  for (int i = 0; i < 400; ++i) {
    programs.push_back(RandomFilterProgram(rng, data, 1));
  }
  // Sets that lie far apart, close together, and without a gap.
  for (int column = 0; column < static_cast<int>(data.columns.size());
       ++column) {
    const Column& type = data.columns[column];
    if (type.type == ColumnType::kFloat || type.type == ColumnType::kUint64 ||
        type.width > 3) {
      continue;
    }
    const IntRange range = ColumnRange(type.type);
    for (const int64_t step : {1, 3, 100000}) {
      std::vector<int64_t> values;
      const int64_t first = range.lo < 0 ? -9 : 0;
      for (int64_t i = 0; i < 30; ++i) {
        const int64_t value = first + i * step;
        if (value <= range.hi) values.push_back(value);
      }
      if (step > 3) values.push_back(range.hi);
      Program program = {0};
      AppendFilterOp(FilterOp::kInSet, column, values, &program);
      SetLength(&program);
      programs.push_back(program);
    }
  }
  int64_t length;
  const std::vector<int64_t> words = StackPrograms(programs, &length);
  FilterCodeBuilder builder(device.columns, device.ids(), nullptr);
  std::vector<int32_t> mask_of_program;
  int64_t bad;
  CHECK_THAT(AddFilterMasks(
                 words.data(), static_cast<int64_t>(programs.size()), length,
                 device.columns,
                 [&](const std::vector<FilterInstruction>& instructions) {
                   return builder.Add(instructions);
                 },
                 &mask_of_program, &bad)
                 .empty());
  std::set<FilterStepOp> ops;
  const FilterCode code = builder.Build();
  for (const FilterStep& step : code.steps) ops.insert(step.op);
  for (FilterStepOp op = FilterStepOp::kEqual; op <= FilterStepOp::kBitmap64;
       op = static_cast<FilterStepOp>(static_cast<int>(op) + 1)) {
    CHECK_THAT(ops.count(op) == 1) << "operation " << static_cast<int>(op);
  }
  CHECK_THAT(code.slots > 40 && code.slots <= kMaxFilterSlots) << code.slots;
  Check(programs, data, device, num_rows, false, nullptr);
}

// Operators that alternate in a full binary tree: as deep a stack as `depth`.
void AppendTree(Rng& rng, int depth, Program* program) {
  if (depth == 0) {
    const int64_t value = Below(rng, 12) - 4;
    AppendFilterOp(FilterOp::kRange, 0, {value, value + Below(rng, 9)},
                   program);
    return;
  }
  AppendTree(rng, depth - 1, program);
  AppendTree(rng, depth - 1, program);
  AppendFilterOp(depth % 2 == 0 ? FilterOp::kAnd : FilterOp::kOr, 0, {},
                 program);
  if (Below(rng, 7) == 0) AppendFilterOp(FilterOp::kNot, 0, {}, program);
}

void TestDeepFilters() {
  Rng rng(4);
  const int64_t num_rows = 1300;
  const FilterColumns data = MakeFilterColumns(rng, num_rows);
  const DeviceColumns device(data);
  for (const int depth : {3, 4, 5, 7, 9}) {
    std::vector<Program> programs;
    for (int i = 0; i < 3; ++i) {
      programs.push_back({0});
      AppendTree(rng, depth, &programs.back());
      SetLength(&programs.back());
      if (i == 1) continue;
      FilterCodeBuilder builder(device.columns, nullptr, nullptr);
      std::vector<FilterInstruction> instructions;
      DecodeFilterProgram(programs.back().data(),
                          static_cast<int64_t>(programs.back().size()),
                          device.columns, &instructions);
      CHECK_THAT(builder.Add(instructions).empty());
      CHECK_THAT(builder.Build().stack <= depth + 1);
    }
    Check(programs, data, device, num_rows, true, nullptr);
    Check({programs[0]}, data, device, num_rows, false, nullptr);
  }
}

// Clauses that few rows pass: what comes after them is skipped, here and there.
void TestRarePredicates() {
  Rng rng(5);
  const int64_t num_rows = 40000;
  FilterColumns data;
  for (const ColumnType type :
       {ColumnType::kInt64, ColumnType::kUint32, ColumnType::kUint8}) {
    std::vector<char> storage(num_rows * ColumnTypeSize(type));
    for (int64_t row = 0; row < num_rows; ++row) {
      testing::Store(&storage, type, row,
                     Below(rng, 300) == 0 ? 7 : 8 + Below(rng, 3));
    }
    data.storage.push_back(std::move(storage));
  }
  data.columns = {{ColumnType::kInt64, data.storage[0].data(), 1},
                  {ColumnType::kUint32, data.storage[1].data(), 1},
                  {ColumnType::kUint8, data.storage[2].data(), 1}};
  for (int64_t row = 0; row < num_rows; ++row) data.ids.push_back(3 * row);
  data.live.assign(num_rows / 64, ~uint64_t{0});
  const DeviceColumns device(data);
  const MapResolver resolver(data.ids);
  Program both = {0};
  AppendFilterOp(FilterOp::kRange, 0, {7, 7}, &both);
  AppendFilterOp(FilterOp::kRange, 1, {8, 9}, &both);
  AppendFilterOp(FilterOp::kAnd, 0, {}, &both);
  Program either = both;
  AppendFilterOp(FilterOp::kRange, 2, {7, 7}, &either);
  AppendFilterOp(FilterOp::kOr, 0, {}, &either);
  AppendFilterOp(FilterOp::kInSet, kIdColumn, {0, 3, 4, 1536, 119997}, &either);
  AppendFilterOp(FilterOp::kOr, 0, {}, &either);
  Program none = both;
  AppendFilterOp(FilterOp::kInSet, kIdColumn, {6, 9, 3000}, &none);
  AppendFilterOp(FilterOp::kAnd, 0, {}, &none);
  AppendFilterOp(FilterOp::kRange, 0, {8, 9}, &none);
  AppendFilterOp(FilterOp::kNot, 0, {}, &none);
  AppendFilterOp(FilterOp::kAnd, 0, {}, &none);
  for (Program* program : {&both, &either, &none}) {
    SetLength(program);
    for (const IdResolver* ids : {static_cast<const IdResolver*>(nullptr),
                                  static_cast<const IdResolver*>(&resolver)}) {
      Check({*program}, data, device, num_rows, false, ids);
    }
  }
  Check({both, either, none}, data, device, num_rows, true, &resolver);
}

// As an index stores its attributes, missing values among them.
void TestStoredAttributes() {
  Rng rng(6);
  const int64_t num_rows = 2000;
  testing::TestItems items = testing::MakeTestItems(rng, num_rows, false);
  FilterColumns data;
  data.columns = items.columns;
  data.storage = items.storage;
  data.ids = items.ids;
  data.live.assign((num_rows + 63) / 64, 0x7777777777777777u);
  const DeviceColumns device(data);
  const MapResolver resolver(data.ids);
  for (int i = 0; i < 10; ++i) {
    std::vector<Program> programs;
    for (int p = 0; p < 16; ++p) {
      programs.push_back(RandomFilterProgram(rng, data, 1 + Below(rng, 4)));
    }
    Check(programs, data, device, num_rows, i % 2 == 0,
          i % 3 == 0 ? nullptr : &resolver);
  }
}

// Columns that start anywhere are read value by value.
void TestUnalignedColumns() {
  Rng rng(7);
  const int64_t num_rows = 1500;
  const FilterColumns data = MakeFilterColumns(rng, num_rows);
  DeviceColumns device(data);
  std::vector<DeviceArray<char>> moved;
  for (size_t i = 0; i < data.columns.size(); ++i) {
    const int64_t size = ColumnTypeSize(data.columns[i].type);
    std::vector<char> storage(size, 0x55);
    storage.insert(storage.end(), data.storage[i].begin(),
                   data.storage[i].end());
    moved.emplace_back(storage);
    device.columns[i].data = moved.back().data() + size;
  }
  std::vector<Program> programs;
  for (int i = 0; i < 30; ++i) {
    programs.push_back(RandomFilterProgram(rng, data, 2));
  }
  Check(programs, data, device, num_rows, false, nullptr);
}

void TestPassesAll() {
  const std::vector<Column> columns;
  const DeviceArray<uint64_t> live(std::vector<uint64_t>{0x5A5A});
  Program nothing = {0};
  AppendFilterOp(FilterOp::kTrue, 0, {}, &nothing);
  AppendFilterOp(FilterOp::kNot, 0, {}, &nothing);
  SetLength(&nothing);
  int64_t length;
  for (const bool mixed : {false, true}) {
    std::vector<Program> programs = {{0}};
    if (mixed) programs.push_back(nothing);
    const std::vector<int64_t> words = StackPrograms(programs, &length);
    FilterMasks filters;
    int64_t bad;
    CHECK_THAT(filters
                   .Init(words.data(), static_cast<int64_t>(programs.size()),
                         length, columns, nullptr, nullptr, &bad)
                   .empty());
    TestContext context;
    Masks masks = filters.Evaluate(13, nullptr, &context);
    CHECK_THAT(masks.passes_all[0]);
    if (mixed) {
      CHECK_THAT(!masks.passes_all[1] && context.Finish());
      CHECK_THAT(WordsOf(masks)[masks.stride] == 0);
    }
    masks = filters.Evaluate(13, live.data(), &context);
    CHECK_THAT(!masks.passes_all[0] && context.Finish());
    CHECK_THAT(WordsOf(masks)[0] == 0x1A5A) << "rows past the end are dropped";
    CHECK_THAT(!mixed || WordsOf(masks)[masks.stride] == 0);
  }
  // No programs.
  FilterMasks filters;
  int64_t bad;
  CHECK_THAT(
      filters.Init(nullptr, 0, 5, columns, nullptr, nullptr, &bad).empty());
  TestContext context;
  CHECK_THAT(filters.Evaluate(100, nullptr, &context).num_masks() == 0);
  CHECK_THAT(context.Finish());
}

void TestErrors() {
  const std::vector<Column> columns = {{ColumnType::kUint8, nullptr, 1}};
  Program good = {0};
  AppendFilterOp(FilterOp::kRange, 0, {1, 2}, &good);
  SetLength(&good);
  Program bad_program = {0};
  AppendFilterOp(FilterOp::kRange, 3, {1, 2}, &bad_program);
  SetLength(&bad_program);
  Program by_id = {0};
  AppendFilterOp(FilterOp::kRange, kIdColumn, {1, 2}, &by_id);
  SetLength(&by_id);
  const auto error_of = [&](const std::vector<Program>& programs,
                            int64_t* bad) {
    int64_t length;
    const std::vector<int64_t> words = StackPrograms(programs, &length);
    FilterMasks filters;
    return filters.Init(words.data(), static_cast<int64_t>(programs.size()),
                        length, columns, nullptr, nullptr, bad);
  };
  int64_t bad = -1;
  CHECK_THAT(error_of({good, good, bad_program}, &bad).find("no column 3") !=
             std::string::npos);
  CHECK_THAT(bad == 2);
  CHECK_THAT(error_of({good, by_id}, &bad) == kFilterNeedsIds);
  CHECK_THAT(bad == 1);
}

}  // namespace
}  // namespace lintf::gpu

int main() {
  lintf::gpu::TestErrors();
  lintf::gpu::TestEveryStep();
  lintf::gpu::UnderEachSchedule(
      [] {
        lintf::gpu::TestPassesAll();
        lintf::gpu::TestMasksAlone();
        lintf::gpu::TestBatches();
        lintf::gpu::TestDeepFilters();
        lintf::gpu::TestRarePredicates();
        lintf::gpu::TestStoredAttributes();
        lintf::gpu::TestUnalignedColumns();
      },
      2);
  return lintf::testing::Result();
}
