// SPDX-License-Identifier: Apache-2.0
#include "custom_ops/core/row_tables.h"

#include "custom_ops/core/racy_copy.h"
#include "custom_ops/core/sign_oporp.h"

namespace lintf {
namespace {

size_t Words(int64_t bytes) { return static_cast<size_t>((bytes + 7) / 8); }

// The tables are variables that their readers see as constant.
char* Writable(const void* memory, int64_t offset) {
  return const_cast<char*>(static_cast<const char*>(memory)) + offset;
}

}  // namespace

int64_t RowTables::row_bytes() const {
  int64_t bytes = static_cast<int64_t>(sizeof(*ids)) + item_bytes() +
                  code_words * static_cast<int64_t>(sizeof(*codes));
  if (items.scales != nullptr) bytes += sizeof(*items.scales);
  for (size_t i = 0; i < columns.size(); ++i) bytes += column_bytes(i);
  return bytes;
}

RowCopies::RowCopies(const RowTables& like, int64_t capacity)
    : tables_(like), ids_(capacity) {
  tables_.ids = ids_.data();
  if (like.items.data != nullptr) {
    items_.resize(Words(capacity * like.item_bytes()));
    tables_.items.data = items_.data();
    if (like.items.scales != nullptr) {
      scales_.resize(capacity);
      tables_.items.scales = scales_.data();
    }
  }
  if (like.codes != nullptr) {
    const int64_t blocks = (capacity + kCodeBlockRows - 1) / kCodeBlockRows;
    codes_.resize(blocks * like.code_words * kCodeBlockRows);
    tables_.codes = codes_.data();
  }
  for (size_t i = 0; i < like.columns.size(); ++i) {
    columns_.emplace_back(Words(capacity * like.column_bytes(i)));
    tables_.columns[i].data = columns_.back().data();
  }
}

void RowCopies::Load(const RowTables& from, int64_t row, int64_t place) {
  LoadRacy(&ids_[place], from.ids + row, sizeof(int64_t));
  if (from.items.data != nullptr) {
    const int64_t bytes = from.item_bytes();
    LoadRacy(reinterpret_cast<char*>(items_.data()) + place * bytes,
             static_cast<const char*>(from.items.data) + row * bytes, bytes);
  }
  if (from.items.scales != nullptr) {
    LoadRacy(&scales_[place], from.items.scales + row, sizeof(float));
  }
  for (int64_t w = 0; from.codes != nullptr && w < from.code_words; ++w) {
    LoadRacy(&codes_[CodeWordIndex(place, w, from.code_words)],
             from.codes + CodeWordIndex(row, w, from.code_words),
             sizeof(uint64_t));
  }
  for (size_t i = 0; i < columns_.size(); ++i) {
    const int64_t bytes = from.column_bytes(i);
    LoadRacy(reinterpret_cast<char*>(columns_[i].data()) + place * bytes,
             static_cast<const char*>(from.columns[i].data) + row * bytes,
             bytes);
  }
}

void StoreRow(const RowTables& tables, int64_t row, const RowContent& content) {
  if (content.item != nullptr && tables.items.data != nullptr) {
    const int64_t bytes = tables.item_bytes();
    StoreRacy(Writable(tables.items.data, row * bytes), content.item, bytes);
    if (tables.items.scales != nullptr) {
      StoreRacy(Writable(tables.items.scales + row, 0), &content.scale,
                sizeof(float));
    }
  }
  if (content.codes != nullptr && tables.codes != nullptr) {
    for (int64_t w = 0; w < tables.code_words; ++w) {
      const uint64_t* const word =
          tables.codes + CodeWordIndex(row, w, tables.code_words);
      StoreRacy(Writable(word, 0), content.codes + w, sizeof(uint64_t));
    }
  }
  for (size_t i = 0; i < content.columns.size(); ++i) {
    const int64_t bytes = tables.column_bytes(i);
    StoreRacy(Writable(tables.columns[i].data, row * bytes), content.columns[i],
              bytes);
  }
  StoreRowId(tables, row, content.id);
}

void StoreRowId(const RowTables& tables, int64_t row, int64_t id) {
  StoreRacy(Writable(tables.ids + row, 0), &id, sizeof(id));
}

}  // namespace lintf
