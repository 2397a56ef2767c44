// SPDX-License-Identifier: Apache-2.0
// Item id -> row.
#ifndef LINTF_CUSTOM_OPS_CORE_ID_MAP_H_
#define LINTF_CUSTOM_OPS_CORE_ID_MAP_H_

#include <cstdint>
#include <vector>

#include "custom_ops/core/filter_eval.h"

namespace lintf {

// The id that no item has: a row with this id is dead.
inline constexpr int64_t kNoId = -1;

// An open-addressing hash table from item ids to rows, filled once and then
// immutable, so that any number of threads may read it. About 23 bytes a row.
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

  // Replaces the content by `ids[0, num_rows)`, in one pass. Rows with kNoId
  // are skipped. Of rows with the same id the first wins.
  Summary Build(const int64_t* ids, int64_t num_rows);

  // The row of `id`; -1 if there is none, and for kNoId.
  int64_t RowOf(int64_t id) const override;

  // Bytes of the table.
  int64_t MemoryUsed() const;

 private:
  struct Slot {
    int64_t id = kNoId;
    int64_t row = -1;
  };

  // The slot that holds `id`, or the free one where it belongs. There is
  // always a free slot.
  uint64_t Find(int64_t id) const;

  std::vector<Slot> slots_;
};

}  // namespace lintf

#endif  // LINTF_CUSTOM_OPS_CORE_ID_MAP_H_
