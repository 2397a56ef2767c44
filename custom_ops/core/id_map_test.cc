// SPDX-License-Identifier: Apache-2.0
#include "custom_ops/core/id_map.h"

#include <atomic>
#include <cstdint>
#include <limits>
#include <random>
#include <thread>
#include <unordered_map>
#include <vector>

#include "custom_ops/core/testing.h"

namespace lintf {
namespace {

void FindsEveryRowOfEverySize() {
  for (int64_t num_rows = 0; num_rows < 300; ++num_rows) {
    // Consecutive ids, multiples of a power of two, and negative ones.
    for (int64_t stride : {int64_t{1}, int64_t{1} << 40, int64_t{-8}}) {
      std::vector<int64_t> ids;
      for (int64_t row = 0; row < num_rows; ++row) {
        ids.push_back(10 + row * stride);
      }
      IdMap map;
      const IdMap::Summary summary = map.Build(ids.data(), num_rows, num_rows);
      CHECK_THAT(summary.live_rows == num_rows) << num_rows;
      CHECK_THAT(summary.duplicates == 0) << num_rows;
      for (int64_t row = 0; row < num_rows; ++row) {
        CHECK_THAT(map.RowOf(ids[row]) == row) << num_rows << " " << row;
      }
      CHECK_THAT(map.RowOf(9) == -1) << num_rows;
      CHECK_THAT(map.RowOf(kNoId) == -1) << num_rows;
    }
  }
}

void EmptyMapFindsNothing() {
  IdMap map;
  CHECK_THAT(map.RowOf(0) == -1);
  map.Build(nullptr, 0, 0);
  CHECK_THAT(map.RowOf(0) == -1);
  CHECK_THAT(map.RowOf(kNoId) == -1);
}

void DeadRowsAreSkipped() {
  const std::vector<int64_t> ids = {kNoId, 7, kNoId, 0, kNoId};
  IdMap map;
  const IdMap::Summary summary = map.Build(ids.data(), 5, 9);
  CHECK_THAT(summary.live_rows == 2);
  CHECK_THAT(summary.duplicates == 0);
  CHECK_THAT(map.RowOf(7) == 1);
  CHECK_THAT(map.RowOf(0) == 3);
  CHECK_THAT(map.RowOf(kNoId) == -1);
}

void ExtremeIds() {
  const int64_t low = std::numeric_limits<int64_t>::min();
  const int64_t high = std::numeric_limits<int64_t>::max();
  const std::vector<int64_t> ids = {high, low, 0, -2};
  IdMap map;
  map.Build(ids.data(), 4, 4);
  CHECK_THAT(map.RowOf(high) == 0);
  CHECK_THAT(map.RowOf(low) == 1);
  CHECK_THAT(map.RowOf(0) == 2);
  CHECK_THAT(map.RowOf(-2) == 3);
}

void FirstOfDuplicatesWins() {
  const std::vector<int64_t> ids = {5, 6, 5, 6, 6, 8};
  IdMap map;
  const IdMap::Summary summary = map.Build(ids.data(), 6, 6);
  CHECK_THAT(summary.live_rows == 6);
  CHECK_THAT(summary.duplicates == 3);
  CHECK_THAT(summary.duplicate_id == 5);
  CHECK_THAT(summary.first_row == 0);
  CHECK_THAT(summary.second_row == 2);
  CHECK_THAT(map.RowOf(5) == 0);
  CHECK_THAT(map.RowOf(6) == 1);
  CHECK_THAT(map.RowOf(8) == 5);
}

void RebuildForgetsTheOldContent() {
  const std::vector<int64_t> first = {1, 2, 3};
  const std::vector<int64_t> second = {3};
  IdMap map;
  map.Build(first.data(), 3, 3);
  map.Build(second.data(), 1, 1);
  CHECK_THAT(map.RowOf(1) == -1);
  CHECK_THAT(map.RowOf(3) == 0);
}

void RandomIdsAgreeWithUnorderedMap() {
  std::mt19937_64 random(20240713);
  constexpr int64_t kRows = 50000;
  std::vector<int64_t> ids;
  std::unordered_map<int64_t, int64_t> expected;
  for (int64_t row = 0; row < kRows; ++row) {
    // A narrow range, so that there are duplicates and dead rows.
    ids.push_back(static_cast<int64_t>(random() % kRows) - 1);
    if (ids.back() != kNoId) expected.emplace(ids.back(), row);
  }
  IdMap map;
  const IdMap::Summary summary = map.Build(ids.data(), kRows, kRows);
  CHECK_THAT(summary.live_rows - summary.duplicates ==
             static_cast<int64_t>(expected.size()));
  for (int64_t id = -2; id <= kRows; ++id) {
    const auto found = expected.find(id);
    const int64_t row = found == expected.end() ? -1 : found->second;
    CHECK_THAT(map.RowOf(id) == row) << id;
  }
  CHECK_THAT(map.MemoryUsed() >= kRows * 16);
  CHECK_THAT(map.MemoryUsed() <= kRows * 24);
}

// A small table that is nearly full, so that ids shift around its end.
void ChangesAgreeWithUnorderedMap() {
  std::mt19937_64 random(20240714);
  for (int64_t capacity : {1, 2, 7, 60}) {
    IdMap map;
    map.Build(nullptr, 0, capacity);
    const int64_t bytes = map.MemoryUsed();
    std::unordered_map<int64_t, int64_t> expected;
    for (int step = 0; step < 20000; ++step) {
      const int64_t id = static_cast<int64_t>(random() % (2 * capacity));
      if (expected.count(id) > 0) {
        map.Erase(id);
        expected.erase(id);
      } else if (static_cast<int64_t>(expected.size()) < capacity) {
        map.Insert(id, step);
        expected[id] = step;
      }
      const int64_t probe = static_cast<int64_t>(random() % (2 * capacity));
      const auto found = expected.find(probe);
      CHECK_THAT(map.RowOf(probe) ==
                 (found == expected.end() ? -1 : found->second))
          << capacity << " " << step;
    }
    for (const auto& [id, row] : expected) CHECK_THAT(map.RowOf(id) == row);
    CHECK_THAT(map.MemoryUsed() == bytes);
  }
}

// Ids that stay are found, with their rows, while others come and go.
void ReadersFindWhatStays() {
  constexpr int64_t kStay = 200;
  constexpr int64_t kGo = 200;
  std::vector<int64_t> ids;
  for (int64_t i = 0; i < kStay; ++i) ids.push_back(i);
  IdMap map;
  map.Build(ids.data(), kStay, kStay + kGo);
  std::atomic<bool> done{false};
  std::atomic<int64_t> wrong{0};
  std::vector<std::thread> readers;
  for (int r = 0; r < 2; ++r) {
    readers.emplace_back([&] {
      while (!done.load()) {
        for (int64_t id = 0; id < kStay + kGo; ++id) {
          const int64_t row = map.RowOf(id);
          const bool fine =
              id < kStay ? row == id : row == -1 || row == 1000 + id;
          if (!fine) ++wrong;
        }
      }
    });
  }
  std::mt19937_64 random(5);
  std::vector<bool> there(kGo, false);
  for (int step = 0; step < 100000; ++step) {
    const int64_t i = static_cast<int64_t>(random() % kGo);
    if (there[i]) {
      map.Erase(kStay + i);
    } else {
      map.Insert(kStay + i, 1000 + kStay + i);
    }
    there[i] = !there[i];
  }
  done = true;
  for (std::thread& reader : readers) reader.join();
  CHECK_THAT(wrong.load() == 0) << wrong.load();
}

}  // namespace
}  // namespace lintf

int main() {
  lintf::FindsEveryRowOfEverySize();
  lintf::EmptyMapFindsNothing();
  lintf::DeadRowsAreSkipped();
  lintf::ExtremeIds();
  lintf::FirstOfDuplicatesWins();
  lintf::RebuildForgetsTheOldContent();
  lintf::RandomIdsAgreeWithUnorderedMap();
  lintf::ChangesAgreeWithUnorderedMap();
  lintf::ReadersFindWhatStays();
  return lintf::testing::Result();
}
