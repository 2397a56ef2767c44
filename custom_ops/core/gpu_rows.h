// SPDX-License-Identifier: Apache-2.0
// Rows of an index in device memory: written by updates, read for results.
//
// All of it runs on the stream of the context. Work on one stream is done in
// the order in which it was queued, so a search whose steps are queued without
// an update between them sees every batch of updates whole or not at all: no
// row versions are needed (custom_ops/core/row_changes.h is the CPU's way).
#ifndef LINTF_CUSTOM_OPS_CORE_GPU_ROWS_H_
#define LINTF_CUSTOM_OPS_CORE_GPU_ROWS_H_

#include <cstdint>
#include <vector>

#include "custom_ops/core/gpu_context.h"
#include "custom_ops/core/row_tables.h"

namespace lintf::gpu {

// New contents of rows, in host memory in the layout of the tables. Row i is
// made of the values at place places[i] of the other arrays, place i if that
// is null.
struct RowContents {
  int64_t count = 0;
  const int64_t* rows = nullptr;     // [count], all different
  const int64_t* ids = nullptr;      // [count]; kNoId: the row dies, and keeps
                                     // the rest
  const int64_t* places = nullptr;   // [count]
  const void* items = nullptr;       // [.., dim]; null: as they were, and so
                                     // are the scales
  const float* scales = nullptr;     // [..], int8 items
  const uint64_t* codes = nullptr;   // [.., code_words]; null: as they were
  std::vector<const void*> columns;  // each [.., width]; empty: as they were
};

// Writes the rows of `tables`, which are device memory, and their bits of
// `live` (device, a bit a row; may be null).
void StoreRows(const RowTables& tables, const RowContents& contents,
               Context* context, uint64_t* live);

// Bytes of device memory that StoreRows takes, at most, for `count` rows.
int64_t StoreRowsBytes(const RowTables& tables, int64_t count);

// Lays codes of rows [start, start + count) out as sign_oporp.h has them. Both
// are device memory; `codes` is [count, words].
void StoreCodes(const uint64_t* codes, int64_t start, int64_t count,
                int64_t words, Context* context, uint64_t* laid_out);

// ids[i] of row rows[i]; kNoId where that is -1. All device memory.
void GatherIds(const int64_t* ids, const int64_t* rows, int64_t count,
               Context* context, int64_t* gathered);

// The values of a column, [count, width]; where the row is -1, `missing` (host,
// one value) in each place.
void GatherColumn(const Column& column, const int64_t* rows, int64_t count,
                  const void* missing, Context* context, void* gathered);

// Rows as float32, [count, dim], exactly; zeros where the row is -1.
void GatherItems(const ItemMatrix& items, int64_t dim, const int64_t* rows,
                 int64_t count, Context* context, float* gathered);

}  // namespace lintf::gpu

#endif  // LINTF_CUSTOM_OPS_CORE_GPU_ROWS_H_
