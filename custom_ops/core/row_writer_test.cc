// SPDX-License-Identifier: Apache-2.0
#include "custom_ops/core/row_writer.h"

#include <algorithm>
#include <cstdint>
#include <map>
#include <memory>
#include <random>
#include <vector>

#include "custom_ops/core/index_state.h"
#include "custom_ops/core/item_encoding.h"
#include "custom_ops/core/live_search.h"
#include "custom_ops/core/live_test_index.h"
#include "custom_ops/core/log_positions.h"
#include "custom_ops/core/testing.h"

namespace lintf {
namespace {

using testing::kIds;
using testing::kTestDim;
using testing::TestIndex;
using Statuses = std::vector<UpdateStatus>;

constexpr UpdateStatus kUnchanged = UpdateStatus::kUnchanged;
constexpr UpdateStatus kInserted = UpdateStatus::kInserted;
constexpr UpdateStatus kReplaced = UpdateStatus::kReplaced;
constexpr UpdateStatus kDeleted = UpdateStatus::kDeleted;
constexpr UpdateStatus kNotFound = UpdateStatus::kNotFound;

TestIndex::Options WithCapacity(int64_t capacity) {
  TestIndex::Options options;
  options.capacity = capacity;
  return options;
}

// Everything that the row of `id` holds is that of `number`.
void CheckRow(const TestIndex& index, int64_t id, int64_t number) {
  RowCopies copy(index.tables(), 1);
  const int64_t row = LookupLive(index.tables(), index.state(), id, 0, &copy);
  CHECK_THAT(row >= 0) << id;
  if (row < 0) return;
  const RowTables& tables = copy.tables();
  CHECK_THAT(tables.ids[0] == id);
  CHECK_THAT(static_cast<const int64_t*>(tables.columns[0].data)[0] == number);
  CHECK_THAT(static_cast<const uint16_t*>(tables.columns[1].data)[0] ==
             TestIndex::LabelOf(number));
  for (int64_t t = 0; t < testing::kTagWidth; ++t) {
    CHECK_THAT(static_cast<const uint8_t*>(tables.columns[2].data)[t] ==
               TestIndex::TagOf(number, t));
  }
  const std::vector<float> vector = TestIndex::VectorOf(number);
  if (tables.items.data != nullptr) {
    std::vector<float> bytes(kTestDim);
    std::vector<float> expected(kTestDim);
    std::vector<float> stored(kTestDim);
    float scale = 0.0f;
    EncodeRow(tables.items.type, vector.data(), kTestDim, bytes.data(), &scale);
    DecodeRow(ItemMatrix(bytes.data(), tables.items.type, &scale), 0, kTestDim,
              expected.data());
    DecodeRow(tables.items, 0, kTestDim, stored.data());
    CHECK_THAT(stored == expected) << number;
  }
  if (tables.codes != nullptr) {
    std::vector<uint64_t> code(tables.code_words);
    index.oporp().Encode(vector.data(), code.data());
    for (int64_t w = 0; w < tables.code_words; ++w) {
      CHECK_THAT(tables.codes[CodeWordIndex(0, w, tables.code_words)] ==
                 code[w]);
    }
  }
}

void UpsertsAndDeletes() {
  TestIndex index(WithCapacity(4));
  CHECK_THAT((index.Update({1, 2}, {}) == Statuses{kInserted, kInserted}));
  CHECK_THAT((index.Update({2 + kIds}, {1, 3}) ==
              Statuses{kReplaced, kDeleted, kUnchanged}));
  CHECK_THAT(index.state().num_rows() == 2);
  CHECK_THAT(index.state().live_rows() == 1);
  CheckRow(index, 2, 2 + kIds);
  RowCopies copy(index.tables(), 1);
  CHECK_THAT(LookupLive(index.tables(), index.state(), 1, 0, &copy) == -1);
  // The hole is filled before the rest.
  index.Update({7}, {});
  CHECK_THAT(index.state().num_rows() == 2);
  CHECK_THAT(index.state().row_of_id().RowOf(7) == 0);
  CHECK_THAT(index.state().live_bits() == nullptr);
}

void LastOfAnItemCounts() {
  TestIndex index(WithCapacity(2));
  CHECK_THAT((index.Update({1, 1 + kIds, 1 + 2 * kIds}, {}) ==
              Statuses{kInserted, kReplaced, kReplaced}));
  CheckRow(index, 1, 1 + 2 * kIds);
  // Inserted and deleted in one batch needs no row.
  CHECK_THAT((index.Update({2, 3, 4}, {3, 2}) ==
              Statuses{kInserted, kInserted, kInserted, kDeleted, kDeleted}));
  CHECK_THAT(index.state().live_rows() == 2);
  CheckRow(index, 4, 4);
}

void FullIndexChangesNothing() {
  TestIndex index(WithCapacity(3));
  index.Update({1, 2, 3}, {});
  CHECK_THAT(index.Update({1 + kIds, 4}, {}).empty());
  CheckRow(index, 1, 1);
  CHECK_THAT(index.state().row_of_id().RowOf(4) == -1);
  // A delete in the same batch makes room.
  CHECK_THAT((index.Update({4}, {2}) == Statuses{kInserted, kDeleted}));
  CheckRow(index, 4, 4);
  CHECK_THAT(index.state().num_rows() == 3);
  CHECK_THAT((index.Update({1 + kIds}, {}) == Statuses{kReplaced}));
}

void AttributesAlone() {
  TestIndex::Options options;
  options.has_codes = true;
  TestIndex index(options);
  CHECK_THAT((index.Update({1}, {2}, /*attributes_only=*/true) ==
              Statuses{kNotFound, kUnchanged}));
  index.Update({1}, {});
  // The same embedding needs the same number but for the columns.
  CHECK_THAT((index.Update({1 + kIds, 2}, {}, true) ==
              Statuses{kReplaced, kNotFound}));
  RowCopies copy(index.tables(), 1);
  LookupLive(index.tables(), index.state(), 1, 0, &copy);
  CHECK_THAT(static_cast<const int64_t*>(copy.tables().columns[0].data)[0] ==
             1 + kIds);
  std::vector<float> stored(kTestDim);
  DecodeRow(copy.tables().items, 0, kTestDim, stored.data());
  CHECK_THAT(stored == TestIndex::VectorOf(1));
  CHECK_THAT(index.state().row_of_id().RowOf(2) == -1);
}

// A random history agrees with a map, in every storage type, and a long life
// of churn takes no memory and no rows.
void RandomHistories() {
  for (const ElementType type : {ElementType::kFloat32, ElementType::kBfloat16,
                                 ElementType::kFloat16, ElementType::kInt8}) {
    std::mt19937_64 random(3);
    TestIndex::Options options = WithCapacity(100);
    options.type = type;
    options.has_codes = type == ElementType::kInt8;
    TestIndex index(options);
    const int64_t bytes = index.state().MemoryUsed();
    std::map<int64_t, int64_t> expected;
    for (int step = 0; step < 3000; ++step) {
      std::vector<int64_t> numbers;
      std::vector<int64_t> deleted;
      for (uint64_t i = random() % 5; i > 0; --i) {
        numbers.push_back(static_cast<int64_t>(random() % 130) +
                          kIds * static_cast<int64_t>(step));
      }
      for (uint64_t i = random() % 4; i > 0; --i) {
        deleted.push_back(static_cast<int64_t>(random() % 130));
      }
      std::map<int64_t, int64_t> after = expected;
      Statuses statuses;
      for (const int64_t n : numbers) {
        statuses.push_back(after.count(n % kIds) > 0 ? kReplaced : kInserted);
        after[n % kIds] = n;
      }
      for (const int64_t id : deleted) {
        statuses.push_back(after.erase(id) > 0 ? kDeleted : kUnchanged);
      }
      const bool fits = after.size() <= 100;
      const Statuses got = index.Update(numbers, deleted);
      if (fits) expected = after;
      CHECK_THAT(got == (fits ? statuses : Statuses{})) << step;
      CHECK_THAT(index.state().live_rows() ==
                 static_cast<int64_t>(expected.size()));
    }
    for (const auto& [id, number] : expected) CheckRow(index, id, number);
    for (int64_t id = 0; id < 130; ++id) {
      CHECK_THAT((index.state().row_of_id().RowOf(id) >= 0) ==
                 (expected.count(id) > 0));
    }
    CHECK_THAT(index.state().num_rows() <= 100);
    // The holes' list, at most one number a row.
    CHECK_THAT(index.state().MemoryUsed() <= bytes + 128 * 8);
  }
}

// A state made from the ids of an index that has lived goes on from there.
void StateOfHoles() {
  const std::vector<int64_t> ids = {5, kNoId, 6, kNoId, kNoId};
  IndexState state(ids.data(), 4, 5);
  CHECK_THAT(state.live_rows() == 2);
  CHECK_THAT(state.room() == 3);
  CHECK_THAT(state.live_bits() != nullptr);
  CHECK_THAT(state.live_bits()[0] == 0b101);
  CHECK_THAT(state.TakeRow() == 1);
  CHECK_THAT(state.TakeRow() == 3);
  CHECK_THAT(state.TakeRow() == 4);
}

struct Log {
  std::vector<int64_t> partition;
  std::vector<int64_t> previous;
  std::vector<int64_t> offset;

  LogAdvance::Result Check(const std::vector<int64_t>& stored,
                           LogAdvance* advance) const {
    LogPositions positions;
    positions.count = static_cast<int64_t>(offset.size());
    positions.partition = partition.data();
    positions.previous_offset = previous.data();
    positions.offset = offset.data();
    return advance->Check(positions, stored.data(),
                          static_cast<int64_t>(stored.size()));
  }
};

void LogMovesOnInOrder() {
  using Result = LogAdvance::Result;
  LogAdvance advance;
  const std::vector<int64_t> stored = {-1, 41};
  const Log fine = {{0, 1, -1, 1, 0}, {-1, 41, 9, 50, 0}, {0, 50, -1, 51, 3}};
  CHECK_THAT(fine.Check(stored, &advance) == Result::kFine)
      << advance.message();
  const std::vector<std::pair<int64_t, int64_t>> expected = {{0, 3}, {1, 51}};
  CHECK_THAT(advance.offsets() == expected);
  const Log none = {{9, -5}, {7, 7}, {-1, -1}};
  CHECK_THAT(none.Check(stored, &advance) == Result::kFine);
  CHECK_THAT(advance.offsets().empty());

  const Log again = {{1}, {40}, {41}};
  CHECK_THAT(again.Check(stored, &advance) == Result::kNotNext);
  CHECK_THAT(advance.message().find("stands at offset 41") != std::string::npos)
      << advance.message();
  const Log gap = {{1}, {42}, {43}};
  CHECK_THAT(gap.Check(stored, &advance) == Result::kNotNext);
  const Log broken_chain = {{1, 1}, {41, 43}, {42, 44}};
  CHECK_THAT(broken_chain.Check(stored, &advance) == Result::kInvalid);
  const Log backwards = {{1}, {41}, {41}};
  CHECK_THAT(backwards.Check(stored, &advance) == Result::kInvalid);
  for (const int64_t partition : {-1, 2}) {
    const Log nowhere = {{partition}, {-1}, {0}};
    CHECK_THAT(nowhere.Check(stored, &advance) == Result::kInvalid);
  }
  const Log low = {{0}, {-2}, {0}};
  CHECK_THAT(low.Check(stored, &advance) == Result::kInvalid);
}

// Tables that follow the changes of the state are those that `Apply` writes.
void ChangesOfTheStateAlone() {
  constexpr int64_t kCapacity = 12;
  std::mt19937 random(5);
  std::vector<int64_t> ids(kCapacity, kNoId);
  std::vector<int64_t> followed = ids;
  RowTables tables;
  tables.ids = ids.data();
  IndexState state(ids.data(), 0, kCapacity);
  IndexState other(ids.data(), 0, kCapacity);
  int64_t reused = 0;
  for (int step = 0; step < 500; ++step) {
    const int64_t count = random() % 8;
    std::vector<int64_t> batch(count);
    const auto remove = std::make_unique<bool[]>(count + 1);
    for (int64_t i = 0; i < count; ++i) {
      batch[i] = static_cast<int64_t>(random() % 16) - 1;
      remove[i] = random() % 2 == 0;
    }
    RowUpdates updates;
    updates.count = count;
    updates.ids = batch.data();
    updates.remove = remove.get();
    const UpdatePlan plan(updates, state);
    const UpdatePlan same(updates, other);
    CHECK_THAT(plan.status() == same.status());
    if (plan.missing_room() > 0) continue;
    plan.Apply(tables, &state);
    std::vector<int64_t> seen;
    int64_t died = 0;
    for (const auto& [row, update] : same.ApplyToState(&other)) {
      seen.push_back(row);
      died += update < 0;
      followed[row] = update < 0 ? kNoId : batch[update];
    }
    std::sort(seen.begin(), seen.end());
    CHECK_THAT(std::adjacent_find(seen.begin(), seen.end()) == seen.end());
    const auto deletes = std::count(plan.status().begin(), plan.status().end(),
                                    UpdateStatus::kDeleted);
    reused += died < deletes;
    CHECK_THAT(followed == ids) << "step " << step;
    CHECK_THAT(state.num_rows() == other.num_rows());
    CHECK_THAT(state.live_rows() == other.live_rows());
  }
  CHECK_THAT(reused > 10) << "rows that change hands within a batch";
}

}  // namespace
}  // namespace lintf

int main() {
  lintf::ChangesOfTheStateAlone();
  lintf::UpsertsAndDeletes();
  lintf::LastOfAnItemCounts();
  lintf::FullIndexChangesNothing();
  lintf::AttributesAlone();
  lintf::RandomHistories();
  lintf::StateOfHoles();
  lintf::LogMovesOnInOrder();
  return lintf::testing::Result();
}
