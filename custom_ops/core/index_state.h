// SPDX-License-Identifier: Apache-2.0
// What an index knows beyond its tables: where an item is, which rows are
// live, which are free, and what is being changed.
#ifndef LINTF_CUSTOM_OPS_CORE_INDEX_STATE_H_
#define LINTF_CUSTOM_OPS_CORE_INDEX_STATE_H_

#include <atomic>
#include <cstdint>
#include <memory>
#include <mutex>
#include <vector>

#include "custom_ops/core/id_map.h"
#include "custom_ops/core/row_changes.h"

namespace lintf {

// Made from the ids of the working set. Readers take no lock; whoever changes
// it holds `write_mu`.
class IndexState {
 public:
  // Rows [0, num_rows) of `capacity`, with these ids; kNoId is a dead row.
  // `ring_size`: see RowChanges.
  IndexState(const int64_t* ids, int64_t num_rows, int64_t capacity,
             int64_t ring_size = 1 << 16);

  // What the ids were; not kept up.
  const IdMap::Summary& summary() const { return summary_; }

  const IdMap& row_of_id() const { return row_of_id_; }
  const RowChanges& changes() const { return changes_; }

  // Rows in use, dead ones among them: the high-water mark.
  int64_t num_rows() const { return num_rows_.load(std::memory_order_acquire); }
  int64_t live_rows() const {
    return live_rows_.load(std::memory_order_relaxed);
  }

  // A bit for each row, set where the row is live; null while all rows in use
  // are. Bits change while they are read: one that matters belongs to a row
  // that is among the changes.
  const uint64_t* live_bits() const {
    return num_rows() == live_rows() ? nullptr : live_.get();
  }

  // Calls `copy`, which reads row `row` by LoadRacy, until it has read one
  // version of it. The caller holds write_mu only if no row is being written.
  template <typename Copy>
  void ReadRow(int64_t row, const Copy& copy) const {
    if (changes_.TryReadRow(row, copy)) return;
    // Long rows that are rewritten all the time: writers have to wait.
    const std::lock_guard<std::mutex> no_writer(write_mu_);
    copy();
  }

  // Held by whoever changes the index. Searches take it only when everything
  // around them changes faster than they can follow.
  std::mutex& write_mu() const { return write_mu_; }

  // The rest is for who holds write_mu.

  // Rows that new items may still take.
  int64_t room() const {
    return static_cast<int64_t>(free_.size()) + capacity_ - num_rows();
  }
  // A row for a new item: a hole if there is one, else the next after those in
  // use. There is room.
  int64_t TakeRow();
  // Puts an item into a row that was taken, or takes it out, which frees the
  // row. Between Begin and End of the row's change.
  void AddItem(int64_t id, int64_t row);
  void RemoveItem(int64_t id, int64_t row);
  RowChanges& changes() { return changes_; }

  int64_t MemoryUsed() const;

 private:
  const int64_t capacity_;
  IdMap row_of_id_;
  RowChanges changes_;
  IdMap::Summary summary_;
  std::atomic<int64_t> num_rows_;
  std::atomic<int64_t> live_rows_;
  const std::unique_ptr<uint64_t[]> live_;
  std::vector<int64_t> free_;  // holes; the last one is taken first
  mutable std::mutex write_mu_;
};

}  // namespace lintf

#endif  // LINTF_CUSTOM_OPS_CORE_INDEX_STATE_H_
