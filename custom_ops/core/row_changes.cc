// SPDX-License-Identifier: Apache-2.0
#include "custom_ops/core/row_changes.h"

namespace lintf {

RowChanges::RowChanges(int64_t num_rows, int64_t ring_size)
    : num_blocks_((num_rows + kBlockRows - 1) / kBlockRows),
      ring_mask_(ring_size - 1),
      versions_(new std::atomic<uint32_t>[num_blocks_]()),
      ring_(new std::atomic<int64_t>[ring_size]()) {}

void RowChanges::Begin(int64_t row) {
  const int64_t change = announced_.load(std::memory_order_relaxed);
  ring_[change & ring_mask_].store(row, std::memory_order_relaxed);
  announced_.store(change + 1, std::memory_order_release);
  std::atomic<uint32_t>& version = versions_[row / kBlockRows];
  version.store(version.load(std::memory_order_relaxed) + 1,
                std::memory_order_relaxed);
  // Whoever sees what is written next sees the announcement and the version.
  std::atomic_thread_fence(std::memory_order_release);
}

void RowChanges::End(int64_t row) {
  std::atomic<uint32_t>& version = versions_[row / kBlockRows];
  version.store(version.load(std::memory_order_relaxed) + 1,
                std::memory_order_release);
  finished_.store(announced_.load(std::memory_order_relaxed),
                  std::memory_order_release);
}

bool RowChanges::Collect(int64_t from, int64_t to,
                         std::vector<int64_t>* rows) const {
  const size_t size = rows->size();
  if (to - from <= ring_mask_) {
    for (int64_t change = from; change < to; ++change) {
      rows->push_back(
          ring_[change & ring_mask_].load(std::memory_order_relaxed));
    }
  }
  // The place of the change that is announced next may be written already.
  if (announced() - from <= ring_mask_) return true;
  rows->resize(size);
  return false;
}

int64_t RowChanges::MemoryUsed() const {
  return num_blocks_ * static_cast<int64_t>(sizeof(uint32_t)) +
         (ring_mask_ + 1) * static_cast<int64_t>(sizeof(int64_t));
}

}  // namespace lintf
