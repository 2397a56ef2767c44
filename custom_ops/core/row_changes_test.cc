// SPDX-License-Identifier: Apache-2.0
#include "custom_ops/core/row_changes.h"

#include <atomic>
#include <cstdint>
#include <mutex>
#include <thread>
#include <vector>

#include "custom_ops/core/index_state.h"
#include "custom_ops/core/racy_copy.h"
#include "custom_ops/core/testing.h"

namespace lintf {
namespace {

void CollectsWhatWasAnnounced() {
  RowChanges changes(200, 8);
  CHECK_THAT(changes.finished() == 0 && changes.announced() == 0);
  changes.Begin(5);
  CHECK_THAT(changes.finished() == 0 && changes.announced() == 1);
  changes.End(5);
  changes.Begin(199);
  changes.End(199);
  changes.Begin(5);
  changes.End(5);
  CHECK_THAT(changes.finished() == 3);
  std::vector<int64_t> rows = {-7};
  CHECK_THAT(changes.Collect(0, 3, &rows));
  CHECK_THAT((rows == std::vector<int64_t>{-7, 5, 199, 5}));
  rows.clear();
  CHECK_THAT(changes.Collect(2, 3, &rows) && rows == std::vector<int64_t>{5});
  rows.clear();
  CHECK_THAT(changes.Collect(3, 3, &rows) && rows.empty());
}

void ForgetsWhatTheRingHasNoRoomFor() {
  RowChanges changes(100, 8);
  for (int64_t i = 0; i < 50; ++i) {
    changes.Begin(i);
    changes.End(i);
    for (int64_t from = 0; from <= i; ++from) {
      std::vector<int64_t> rows = {-7};
      const bool known = changes.Collect(from, i + 1, &rows);
      // The eighth place may be being written.
      CHECK_THAT(known == (i + 1 - from <= 7)) << i << " " << from;
      CHECK_THAT(static_cast<int64_t>(rows.size()) ==
                 1 + (known ? i + 1 - from : 0));
      for (size_t r = 1; r < rows.size(); ++r) {
        CHECK_THAT(rows[r] == from + static_cast<int64_t>(r) - 1);
      }
    }
  }
}

// Rows of odd lengths and alignments, each full of one byte.
void ReadersSeeWholeRows() {
  constexpr int64_t kRows = 130;
  constexpr int64_t kBytes = 37;
  std::vector<uint8_t> table(kRows * kBytes, 1);
  RowChanges changes(kRows);
  std::atomic<bool> done{false};
  std::atomic<int64_t> torn{0};
  std::atomic<int64_t> unannounced{0};
  std::vector<std::thread> readers;
  for (int r = 0; r < 2; ++r) {
    readers.emplace_back([&, r] {
      uint8_t copy[kBytes];
      for (int64_t i = r; !done.load(); ++i) {
        const int64_t row = i % kRows;
        const int64_t before = changes.finished();
        while (!changes.TryReadRow(row, [&] {
          LoadRacy(copy, table.data() + row * kBytes, kBytes);
        })) {
        }
        for (const uint8_t byte : copy) torn += byte != copy[0];
        // What it has seen was announced.
        uint8_t again;
        LoadRacy(&again, table.data() + row * kBytes, 1);
        if (again == copy[0]) continue;
        std::vector<int64_t> rows;
        if (!changes.Collect(before, changes.announced(), &rows)) continue;
        bool found = false;
        for (const int64_t changed : rows) found |= changed == row;
        unannounced += !found;
      }
    });
  }
  for (int64_t i = 0; i < 200000; ++i) {
    const int64_t row = i * 31 % kRows;
    const std::vector<uint8_t> value(kBytes, static_cast<uint8_t>(i));
    changes.Begin(row);
    StoreRacy(table.data() + row * kBytes, value.data(), kBytes);
    changes.End(row);
  }
  done = true;
  for (std::thread& reader : readers) reader.join();
  CHECK_THAT(torn.load() == 0) << torn.load();
  CHECK_THAT(unannounced.load() == 0) << unannounced.load();
  CHECK_THAT(changes.finished() == 200000);
}

void RowsBeingWrittenAreNotRead() {
  RowChanges changes(200);
  int64_t copies = 0;
  const auto copy = [&] { ++copies; };
  CHECK_THAT(changes.TryReadRow(70, copy));
  changes.Begin(70);
  // Its neighbours share its version, rows of other blocks do not.
  CHECK_THAT(!changes.TryReadRow(70, copy));
  CHECK_THAT(!changes.TryReadRow(127, copy));
  CHECK_THAT(changes.TryReadRow(128, copy));
  changes.End(70);
  CHECK_THAT(changes.TryReadRow(70, copy));
  // A row that is rewritten during each try.
  CHECK_THAT(!changes.TryReadRow(5, [&] {
    changes.Begin(6);
    changes.End(6);
  }));
  CHECK_THAT(copies == 3);
}

// In the end a reader makes writers wait.
void RowsThatAreAlwaysWrittenAreRead() {
  const std::vector<int64_t> ids(10, 1);
  IndexState state(ids.data(), 1, 10);
  bool is_locked = false;
  int64_t tries = 0;
  state.ReadRow(0, [&] {
    ++tries;
    // Another thread asks: this one may hold it.
    std::thread([&] {
      const std::unique_lock<std::mutex> writer(state.write_mu(),
                                                std::try_to_lock);
      is_locked = !writer.owns_lock();
      if (is_locked) return;
      state.changes().Begin(0);
      state.changes().End(0);
    }).join();
  });
  CHECK_THAT(is_locked && tries > 1) << tries;
}

void RacyCopiesAreExact() {
  for (int64_t offset = 0; offset < 9; ++offset) {
    for (int64_t bytes = 0; bytes < 40; ++bytes) {
      std::vector<uint8_t> shared(64, 0xAA);
      std::vector<uint8_t> from(bytes);
      for (int64_t i = 0; i < bytes; ++i) from[i] = static_cast<uint8_t>(i);
      StoreRacy(shared.data() + offset, from.data(), bytes);
      std::vector<uint8_t> to(bytes + 1, 0xBB);
      LoadRacy(to.data(), shared.data() + offset, bytes);
      for (int64_t i = 0; i < bytes; ++i) CHECK_THAT(to[i] == from[i]);
      CHECK_THAT(to[bytes] == 0xBB);
      for (int64_t i = 0; i < 64; ++i) {
        const bool written = i >= offset && i < offset + bytes;
        CHECK_THAT(written || shared[i] == 0xAA) << offset << " " << bytes;
      }
    }
  }
}

}  // namespace
}  // namespace lintf

int main() {
  lintf::CollectsWhatWasAnnounced();
  lintf::ForgetsWhatTheRingHasNoRoomFor();
  lintf::ReadersSeeWholeRows();
  lintf::RowsBeingWrittenAreNotRead();
  lintf::RowsThatAreAlwaysWrittenAreRead();
  lintf::RacyCopiesAreExact();
  return lintf::testing::Result();
}
