// SPDX-License-Identifier: Apache-2.0
// How searches that take no lock notice rows that are rewritten meanwhile
// (LiNR, section 4 of arXiv 2407.13218: "minimal data-access serialisation";
// the paper does not say how).
//
// Two things are kept. A log of changes, the newest of which lie in a ring: a
// search takes the number of finished changes before it starts and, when it
// has scored, looks at the rows that were announced since. And a version for
// each block of 64 rows, odd while one of them is written, by which a reader
// gets a copy of a row that is all old or all new.
#ifndef LINTF_CUSTOM_OPS_CORE_ROW_CHANGES_H_
#define LINTF_CUSTOM_OPS_CORE_ROW_CHANGES_H_

#include <atomic>
#include <cstdint>
#include <memory>
#include <thread>
#include <vector>

namespace lintf {

class RowChanges {
 public:
  // The ring holds `ring_size` changes, a power of two; tests make it small.
  explicit RowChanges(int64_t num_rows, int64_t ring_size = 1 << 16);

  // Around every write of row `row`. One writer at a time, one row at a time.
  void Begin(int64_t row);
  void End(int64_t row);

  // Changes whose rows every later read sees in full.
  int64_t finished() const { return finished_.load(std::memory_order_acquire); }

  // Changes that earlier reads may have seen, in full or not: those of this
  // thread and of threads that it has waited for.
  int64_t announced() const {
    std::atomic_thread_fence(std::memory_order_acquire);
    return announced_.load(std::memory_order_acquire);
  }

  // Appends the rows of changes [from, to), in order, repeats included. False
  // if there were so many since that some are forgotten; `rows` is then as it
  // was.
  bool Collect(int64_t from, int64_t to, std::vector<int64_t>* rows) const;

  // Calls `copy`, which reads row `row` by LoadRacy, until none of the row's
  // block was written meanwhile. A writer is waited for: it writes one row.
  // False if its block was written in each of many tries.
  template <typename Copy>
  bool TryReadRow(int64_t row, const Copy& copy) const {
    const std::atomic<uint32_t>& version = versions_[row / kBlockRows];
    for (int64_t tries = 0; tries < kMaxTries; ++tries) {
      const uint32_t before = version.load(std::memory_order_acquire);
      if (before % 2 == 0) {
        copy();
        std::atomic_thread_fence(std::memory_order_acquire);
        if (version.load(std::memory_order_relaxed) == before) return true;
      }
      // The writer may be off its core.
      if (tries % 64 == 63) std::this_thread::yield();
    }
    return false;
  }

  int64_t MemoryUsed() const;

 private:
  static constexpr int64_t kBlockRows = 64;
  static constexpr int64_t kMaxTries = 1 << 12;

  const int64_t num_blocks_;
  const int64_t ring_mask_;
  const std::unique_ptr<std::atomic<uint32_t>[]> versions_;
  const std::unique_ptr<std::atomic<int64_t>[]> ring_;
  // On lines of their own: every search reads them.
  alignas(64) std::atomic<int64_t> announced_{0};
  alignas(64) std::atomic<int64_t> finished_{0};
};

}  // namespace lintf

#endif  // LINTF_CUSTOM_OPS_CORE_ROW_CHANGES_H_
