// SPDX-License-Identifier: Apache-2.0
// Item id -> row.
#ifndef LINTF_CUSTOM_OPS_CORE_ID_MAP_H_
#define LINTF_CUSTOM_OPS_CORE_ID_MAP_H_

#include <atomic>
#include <cstdint>
#include <memory>

#include "custom_ops/core/filter_eval.h"

namespace lintf {

// The id that no item has: a row with this id is dead.
inline constexpr int64_t kNoId = -1;

// An open-addressing hash table from item ids to rows. Any number of threads
// may look up while one inserts and erases; they take no lock. The table never
// grows: it has room for the rows of a whole index, about 23 bytes each.
class IdMap : public IdResolver {
 public:
  // What `Build` found.
  struct Summary {
    int64_t live_rows = 0;   // rows with an id, duplicates included
    int64_t duplicates = 0;  // rows whose id an earlier row has
    // The first duplicate and its two rows; meaningful if duplicates > 0.
    int64_t duplicate_id = kNoId;
    int64_t first_row = -1;
    int64_t second_row = -1;
  };

  // Replaces the content by `ids[0, num_rows)`, in one pass, with room for
  // `capacity` ids. Rows with kNoId are skipped. Of rows with the same id the
  // first wins. Nobody may use the map meanwhile.
  Summary Build(const int64_t* ids, int64_t num_rows, int64_t capacity);

  // The row of `id`; -1 if there is none, and for kNoId.
  int64_t RowOf(int64_t id) const override;

  // For one writer at a time. `id` is not there yet, and there is room.
  void Insert(int64_t id, int64_t row);
  // `id` is there. Leaves no trace, so that lookups stay short.
  void Erase(int64_t id);

  // Bytes of the table.
  int64_t MemoryUsed() const;

 private:
  // Written by one thread, read by any.
  struct Slot {
    std::atomic<int64_t> id{kNoId};
    std::atomic<int64_t> row{-1};
  };

  // Where the search for `id` starts.
  int64_t Home(int64_t id) const;
  int64_t Next(int64_t slot) const { return ++slot == size_ ? 0 : slot; }
  int64_t IdAt(int64_t slot) const {
    return slots_[slot].id.load(std::memory_order_relaxed);
  }
  void Write(int64_t slot, int64_t id, int64_t row);

  // The slot that holds `id`, or the free one where it belongs. There is
  // always a free slot.
  int64_t Find(int64_t id) const;

  // Around every change: odd meanwhile.
  void BeginChange();
  void EndChange();

  int64_t size_ = 0;
  std::unique_ptr<Slot[]> slots_;
  std::atomic<uint64_t> version_{0};
};

}  // namespace lintf

#endif  // LINTF_CUSTOM_OPS_CORE_ID_MAP_H_
