// SPDX-License-Identifier: Apache-2.0
// The tables of an index, one row an item, and copies of single rows.
#ifndef LINTF_CUSTOM_OPS_CORE_ROW_TABLES_H_
#define LINTF_CUSTOM_OPS_CORE_ROW_TABLES_H_

#include <cstdint>
#include <vector>

#include "custom_ops/core/column.h"
#include "custom_ops/core/id_map.h"
#include "custom_ops/core/item_matrix.h"

namespace lintf {

// Views of memory that the caller owns. Searches read it while a writer
// changes it; the seam between them is core/row_changes.h.
struct RowTables {
  const int64_t* ids = nullptr;
  ItemMatrix items;  // without data: there are codes alone
  int64_t dim = 0;
  // As core/sign_oporp.h lays them out; null if there are none.
  const uint64_t* codes = nullptr;
  int64_t code_words = 0;
  std::vector<Column> columns;

  // Bytes of a row of `items`, and of column `i`.
  int64_t item_bytes() const {
    return items.data == nullptr ? 0 : dim * ElementSize(items.type);
  }
  int64_t column_bytes(size_t i) const {
    return columns[i].width * ColumnTypeSize(columns[i].type);
  }
  // Bytes of a row of all tables.
  int64_t row_bytes() const;
};

// Private rows in the layout of `like`, to be filled one by one.
class RowCopies {
 public:
  RowCopies(const RowTables& like, int64_t capacity);
  RowCopies(const RowCopies&) = delete;
  RowCopies& operator=(const RowCopies&) = delete;

  // Writes a copy of row `row` of `from`, which others may write meanwhile,
  // into place `place`.
  void Load(const RowTables& from, int64_t row, int64_t place);

  const RowTables& tables() const { return tables_; }
  int64_t id(int64_t place) const { return ids_[place]; }

 private:
  RowTables tables_;
  std::vector<int64_t> ids_;
  std::vector<uint64_t> items_;  // words, so that it is aligned
  std::vector<float> scales_;
  std::vector<uint64_t> codes_;
  std::vector<std::vector<uint64_t>> columns_;
};

// A new content of one row: private memory in the layout of the tables.
struct RowContent {
  int64_t id = kNoId;
  const void* item = nullptr;  // null: as it was, and so are the codes
  float scale = 0.0f;
  const uint64_t* codes = nullptr;   // [code_words]
  std::vector<const void*> columns;  // null: as they were
};

// Writes row `row`. The caller is the only writer and has announced it; the
// memory behind `tables` is the caller's to write.
void StoreRow(const RowTables& tables, int64_t row, const RowContent& content);

// Writes the id of row `row` alone, under the same conditions.
void StoreRowId(const RowTables& tables, int64_t row, int64_t id);

}  // namespace lintf

#endif  // LINTF_CUSTOM_OPS_CORE_ROW_TABLES_H_
