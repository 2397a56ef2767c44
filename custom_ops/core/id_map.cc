// SPDX-License-Identifier: Apache-2.0
#include "custom_ops/core/id_map.h"

#include <cstdint>
#include <memory>
#include <thread>

namespace lintf {
namespace {

// Ids are often consecutive or multiples of something; every bit of the
// result depends on every bit of the id (the finaliser of MurmurHash3).
uint64_t Mix(uint64_t x) {
  x ^= x >> 33;
  x *= 0xff51afd7ed558ccdULL;
  x ^= x >> 33;
  x *= 0xc4ceb9fe1a85ec53ULL;
  x ^= x >> 33;
  return x;
}

}  // namespace

int64_t IdMap::Home(int64_t id) const {
  // Scales the hash to [0, size): any size will do, not just powers of two,
  // which at 1e9 rows saves gigabytes.
  return static_cast<int64_t>(
      (static_cast<unsigned __int128>(Mix(static_cast<uint64_t>(id))) *
       static_cast<uint64_t>(size_)) >>
      64);
}

int64_t IdMap::Find(int64_t id) const {
  int64_t slot = Home(id);
  // The bound matters only while another thread moves slots.
  for (int64_t seen = 0; seen < size_; ++seen, slot = Next(slot)) {
    const int64_t here = IdAt(slot);
    if (here == kNoId || here == id) break;
  }
  return slot;
}

void IdMap::Write(int64_t slot, int64_t id, int64_t row) {
  slots_[slot].id.store(id, std::memory_order_relaxed);
  slots_[slot].row.store(row, std::memory_order_relaxed);
}

IdMap::Summary IdMap::Build(const int64_t* ids, int64_t num_rows,
                            int64_t capacity) {
  // 0.7 full: a miss looks at about 6 neighbouring slots.
  size_ = capacity + capacity / 7 * 3 + 4;
  slots_ = std::make_unique<Slot[]>(size_);
  Summary summary;
  for (int64_t row = 0; row < num_rows; ++row) {
    const int64_t id = ids[row];
    if (id == kNoId) continue;
    ++summary.live_rows;
    const int64_t slot = Find(id);
    if (IdAt(slot) == kNoId) {
      Write(slot, id, row);
      continue;
    }
    if (summary.duplicates++ == 0) {
      summary.duplicate_id = id;
      summary.first_row = slots_[slot].row.load(std::memory_order_relaxed);
      summary.second_row = row;
    }
  }
  return summary;
}

int64_t IdMap::RowOf(int64_t id) const {
  if (id == kNoId || size_ == 0) return -1;
  for (int64_t tries = 0;; ++tries) {
    const uint64_t before = version_.load(std::memory_order_acquire);
    if (before % 2 == 0) {
      const Slot& slot = slots_[Find(id)];
      const bool found = slot.id.load(std::memory_order_relaxed) == id;
      const int64_t row = slot.row.load(std::memory_order_relaxed);
      std::atomic_thread_fence(std::memory_order_acquire);
      if (version_.load(std::memory_order_relaxed) == before) {
        return found ? row : -1;
      }
    }
    // The writer may be off its core.
    if (tries % 64 == 63) std::this_thread::yield();
  }
}

void IdMap::Insert(int64_t id, int64_t row) {
  const int64_t slot = Find(id);
  BeginChange();
  Write(slot, id, row);
  EndChange();
}

void IdMap::Erase(int64_t id) {
  int64_t hole = Find(id);
  BeginChange();
  // Ids behind the hole move up, unless the hole is before their home.
  for (int64_t slot = Next(hole); IdAt(slot) != kNoId; slot = Next(slot)) {
    const int64_t home = Home(IdAt(slot));
    const int64_t from_home = slot >= home ? slot - home : slot - home + size_;
    const int64_t from_hole = slot >= hole ? slot - hole : slot - hole + size_;
    if (from_home < from_hole) continue;
    Write(hole, IdAt(slot), slots_[slot].row.load(std::memory_order_relaxed));
    hole = slot;
  }
  Write(hole, kNoId, -1);
  EndChange();
}

void IdMap::BeginChange() {
  version_.store(version_.load(std::memory_order_relaxed) + 1,
                 std::memory_order_relaxed);
  std::atomic_thread_fence(std::memory_order_release);
}

void IdMap::EndChange() {
  version_.store(version_.load(std::memory_order_relaxed) + 1,
                 std::memory_order_release);
}

int64_t IdMap::MemoryUsed() const {
  return size_ * static_cast<int64_t>(sizeof(Slot));
}

}  // namespace lintf
