// SPDX-License-Identifier: Apache-2.0
// Upserts and deletes in an index that is being searched (LiNR's live update,
// section 4 of arXiv 2407.13218). What differs: deletes leave holes that later
// inserts fill (the paper does not say how it deletes), and a batch that does
// not fit changes nothing.
#ifndef LINTF_CUSTOM_OPS_CORE_ROW_WRITER_H_
#define LINTF_CUSTOM_OPS_CORE_ROW_WRITER_H_

#include <cstdint>
#include <vector>

#include "custom_ops/core/index_state.h"
#include "custom_ops/core/row_tables.h"

namespace lintf {

// What became of a row of a batch, as if rows were applied one after another.
enum class UpdateStatus : int32_t {
  kUnchanged = 0,  // a delete of no item, or no item at all
  kInserted = 1,
  kReplaced = 2,
  kDeleted = 3,
  kNotFound = 4,  // attributes of no item
};

// A batch of changes in the layout of the tables. Of several for one item the
// last one counts.
struct RowUpdates {
  int64_t count = 0;
  const int64_t* ids = nullptr;      // kNoId: changes nothing
  const bool* remove = nullptr;      // [count]
  bool attributes_only = false;      // items and codes stay
  const void* items = nullptr;       // [count, dim] of the tables' type
  const float* scales = nullptr;     // [count]
  const uint64_t* codes = nullptr;   // [count, code_words]
  std::vector<const void*> columns;  // each [count, width]
};

// What a batch will do, so that nothing has to be undone.
class UpdatePlan {
 public:
  // The caller holds the state's write_mu from here until `Apply` is done.
  UpdatePlan(const RowUpdates& updates, const IndexState& state);

  // Rows beyond those that there is room for; above 0: do not apply.
  int64_t missing_room() const { return missing_room_; }
  const std::vector<UpdateStatus>& status() const { return status_; }

  // Changes the rows, each as a whole in the eyes of searches.
  void Apply(const RowTables& tables, IndexState* state) const;

  // A row, and the update that it is written from; -1: its item is removed,
  // which changes the id alone.
  struct RowChange {
    int64_t row;
    int64_t update;
  };

  // Changes the state alone, for tables that are not in the host's memory.
  // Returns what is to be done to them, in any order: each row is there once.
  std::vector<RowChange> ApplyToState(IndexState* state) const;

 private:
  // Changes the state, and calls store(row, update) for each RowChange while
  // it is announced; a row that one item leaves and another takes comes twice.
  template <typename Store>
  void ForEachChange(IndexState* state, const Store& store) const;
  void Write(int64_t update, int64_t row, const RowTables& tables) const;

  const RowUpdates& updates_;
  std::vector<UpdateStatus> status_;
  std::vector<int64_t> removes_;  // updates, in order
  std::vector<int64_t> replaces_;
  std::vector<int64_t> inserts_;
  int64_t missing_room_ = 0;
};

}  // namespace lintf

#endif  // LINTF_CUSTOM_OPS_CORE_ROW_WRITER_H_
