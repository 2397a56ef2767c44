// SPDX-License-Identifier: Apache-2.0
#include "custom_ops/core/row_writer.h"

#include <algorithm>
#include <cstdint>
#include <unordered_map>

namespace lintf {

UpdatePlan::UpdatePlan(const RowUpdates& updates, const IndexState& state)
    : updates_(updates), status_(updates.count, UpdateStatus::kUnchanged) {
  struct Item {
    bool was_there;
    bool is_there;
    int64_t last = -1;  // the update that counts
  };
  std::unordered_map<int64_t, Item> items;
  items.reserve(updates.count);
  for (int64_t i = 0; i < updates.count; ++i) {
    const int64_t id = updates.ids[i];
    if (id == kNoId) continue;
    const auto [entry, is_new] = items.try_emplace(id);
    Item& item = entry->second;
    if (is_new) {
      item.was_there = item.is_there = state.row_of_id().RowOf(id) >= 0;
    }
    if (updates.remove[i]) {
      if (!item.is_there) continue;
      status_[i] = UpdateStatus::kDeleted;
    } else if (updates.attributes_only && !item.is_there) {
      status_[i] = UpdateStatus::kNotFound;
      continue;
    } else {
      status_[i] =
          item.is_there ? UpdateStatus::kReplaced : UpdateStatus::kInserted;
    }
    item.is_there = !updates.remove[i];
    item.last = i;
  }
  for (int64_t i = 0; i < updates.count; ++i) {
    const auto entry = items.find(updates.ids[i]);
    if (entry == items.end() || entry->second.last != i) continue;
    const Item& item = entry->second;
    if (item.is_there) {
      (item.was_there ? replaces_ : inserts_).push_back(i);
    } else if (item.was_there) {
      removes_.push_back(i);
    }
  }
  const int64_t needed = static_cast<int64_t>(inserts_.size()) -
                         static_cast<int64_t>(removes_.size());
  missing_room_ = std::max<int64_t>(needed - state.room(), 0);
}

void UpdatePlan::Write(int64_t update, int64_t row,
                       const RowTables& tables) const {
  RowContent content;
  content.id = updates_.ids[update];
  if (!updates_.attributes_only) {
    if (updates_.items != nullptr) {
      content.item = static_cast<const char*>(updates_.items) +
                     update * tables.item_bytes();
    }
    if (updates_.scales != nullptr) content.scale = updates_.scales[update];
    if (updates_.codes != nullptr) {
      content.codes = updates_.codes + update * tables.code_words;
    }
  }
  for (size_t c = 0; c < updates_.columns.size(); ++c) {
    content.columns.push_back(static_cast<const char*>(updates_.columns[c]) +
                              update * tables.column_bytes(c));
  }
  StoreRow(tables, row, content);
}

template <typename Store>
void UpdatePlan::ForEachChange(IndexState* state, const Store& store) const {
  RowChanges& changes = state->changes();
  // First, so that inserts may take their rows.
  for (const int64_t update : removes_) {
    const int64_t id = updates_.ids[update];
    const int64_t row = state->row_of_id().RowOf(id);
    changes.Begin(row);
    store(row, -1);
    state->RemoveItem(id, row);
    changes.End(row);
  }
  for (const int64_t update : replaces_) {
    const int64_t row = state->row_of_id().RowOf(updates_.ids[update]);
    changes.Begin(row);
    store(row, update);
    changes.End(row);
  }
  for (const int64_t update : inserts_) {
    const int64_t row = state->TakeRow();
    changes.Begin(row);
    store(row, update);
    state->AddItem(updates_.ids[update], row);
    changes.End(row);
  }
}

void UpdatePlan::Apply(const RowTables& tables, IndexState* state) const {
  ForEachChange(state, [&](int64_t row, int64_t update) {
    if (update < 0) {
      StoreRowId(tables, row, kNoId);
    } else {
      Write(update, row, tables);
    }
  });
}

std::vector<UpdatePlan::RowChange> UpdatePlan::ApplyToState(
    IndexState* state) const {
  std::vector<RowChange> rows;
  std::unordered_map<int64_t, size_t> place_of_row;
  ForEachChange(state, [&](int64_t row, int64_t update) {
    const auto [entry, is_new] = place_of_row.try_emplace(row, rows.size());
    if (is_new) {
      rows.push_back({row, update});
    } else {
      rows[entry->second].update = update;
    }
  });
  return rows;
}

}  // namespace lintf
