// SPDX-License-Identifier: Apache-2.0
#include "custom_ops/core/index_state.h"

#include "custom_ops/core/mask_source.h"

namespace lintf {
namespace {

int64_t NumWords(int64_t rows) {
  return (rows + kRowsPerWord - 1) / kRowsPerWord;
}

uint64_t BitOf(int64_t row) { return uint64_t{1} << (row % kRowsPerWord); }

}  // namespace

IndexState::IndexState(const int64_t* ids, int64_t num_rows, int64_t capacity,
                       int64_t ring_size)
    : capacity_(capacity),
      changes_(capacity, ring_size),
      summary_(row_of_id_.Build(ids, num_rows, capacity)),
      num_rows_(num_rows),
      live_rows_(summary_.live_rows),
      live_(new uint64_t[NumWords(capacity)]()) {
  // The lowest holes are taken first.
  for (int64_t row = num_rows - 1; row >= 0; --row) {
    if (ids[row] == kNoId) {
      free_.push_back(row);
    } else {
      live_[row / kRowsPerWord] |= BitOf(row);
    }
  }
}

int64_t IndexState::TakeRow() {
  if (free_.empty()) return num_rows();
  const int64_t row = free_.back();
  free_.pop_back();
  return row;
}

void IndexState::AddItem(int64_t id, int64_t row) {
  __atomic_fetch_or(&live_[row / kRowsPerWord], BitOf(row), __ATOMIC_RELAXED);
  row_of_id_.Insert(id, row);
  live_rows_.fetch_add(1, std::memory_order_relaxed);
  if (row >= num_rows()) num_rows_.store(row + 1, std::memory_order_release);
}

void IndexState::RemoveItem(int64_t id, int64_t row) {
  row_of_id_.Erase(id);
  __atomic_fetch_and(&live_[row / kRowsPerWord], ~BitOf(row), __ATOMIC_RELAXED);
  live_rows_.fetch_sub(1, std::memory_order_relaxed);
  free_.push_back(row);
}

int64_t IndexState::MemoryUsed() const {
  return row_of_id_.MemoryUsed() + changes_.MemoryUsed() +
         NumWords(capacity_) * static_cast<int64_t>(sizeof(uint64_t)) +
         static_cast<int64_t>(free_.capacity() * sizeof(int64_t));
}

}  // namespace lintf
