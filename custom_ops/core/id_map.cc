// SPDX-License-Identifier: Apache-2.0
#include "custom_ops/core/id_map.h"

#include <cstddef>
#include <cstdint>
#include <vector>

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

uint64_t IdMap::Find(int64_t id) const {
  // Scales the hash to [0, size): any size will do, not just powers of two,
  // which at 1e9 rows saves gigabytes.
  const uint64_t size = slots_.size();
  uint64_t slot = static_cast<uint64_t>(
      (static_cast<unsigned __int128>(Mix(static_cast<uint64_t>(id))) * size) >>
      64);
  while (slots_[slot].id != kNoId && slots_[slot].id != id) {
    if (++slot == size) slot = 0;
  }
  return slot;
}

IdMap::Summary IdMap::Build(const int64_t* ids, int64_t num_rows) {
  // 0.7 full: a miss looks at about 6 neighbouring slots.
  const int64_t size = num_rows + num_rows / 7 * 3 + 4;
  slots_.assign(static_cast<size_t>(size), Slot());
  Summary summary;
  for (int64_t row = 0; row < num_rows; ++row) {
    const int64_t id = ids[row];
    if (id == kNoId) continue;
    ++summary.live_rows;
    Slot& slot = slots_[Find(id)];
    if (slot.id == kNoId) {
      slot = Slot{id, row};
      continue;
    }
    if (summary.duplicates++ == 0) {
      summary.duplicate_id = id;
      summary.first_row = slot.row;
      summary.second_row = row;
    }
  }
  return summary;
}

int64_t IdMap::RowOf(int64_t id) const {
  if (id == kNoId || slots_.empty()) return -1;
  return slots_[Find(id)].row;
}

int64_t IdMap::MemoryUsed() const {
  return static_cast<int64_t>(slots_.capacity() * sizeof(Slot));
}

}  // namespace lintf
