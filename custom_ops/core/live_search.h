// SPDX-License-Identifier: Apache-2.0
// A search of an index that others update meanwhile, without a lock.
//
// What it promises about rows (LiNR, section 4 of arXiv 2407.13218, leaves it
// open): every result is one version of its row, filtered, scored and returned
// as such; a row that was deleted before the search began never comes back; a
// row that was upserted before it began is found, in that version or one that
// was current during the search. Rows are atomic one by one: a search may see
// one row of a batch of updates without the others.
//
// How: the tables are scanned as if nobody wrote to them. Rows that were
// announced as changing since (core/row_changes.h) are then taken out of what
// was found, copied one by one in whole versions, searched in the same way, and
// put where they belong. If too little is left, or changes came faster than
// this, it searches again; after a few times it holds writers up.
#ifndef LINTF_CUSTOM_OPS_CORE_LIVE_SEARCH_H_
#define LINTF_CUSTOM_OPS_CORE_LIVE_SEARCH_H_

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "custom_ops/core/index_state.h"
#include "custom_ops/core/parallel.h"
#include "custom_ops/core/retrieval.h"
#include "custom_ops/core/row_tables.h"

namespace lintf {

// A batch of queries. In `retrieval` the items, the codes and the number of
// rows are filled in from the tables.
struct LiveQuery {
  RetrievalInput retrieval;
  // Compiled filters, [num_queries, words_per_program].
  const int64_t* programs = nullptr;
  int64_t words_per_program = 0;
  // Of the tables, those whose values are returned.
  std::vector<int64_t> returned_columns;
  // Copies of changed rows may take so much; beyond, it searches again.
  int64_t max_copy_bytes = int64_t{128} << 20;
  // Called between two steps of a search, so that tests can change rows there.
  std::function<void()> between_steps;
};

// Row-major outputs, owned by the caller. Slots past counts[b] hold row -1,
// score -inf and kNoId; what they hold of columns is left as it was.
struct LiveOutput {
  float* scores = nullptr;     // [num_queries, k]
  int64_t* rows = nullptr;     // [num_queries, k]
  int32_t* counts = nullptr;   // [num_queries]
  int64_t* ids = nullptr;      // [num_queries, k]
  std::vector<void*> columns;  // each [num_queries, k, width]
  // [num_queries], with a learned similarity: rows whose full score was
  // computed, copies included; may be null.
  int64_t* num_scored = nullptr;
};

// Returns the message about a filter program that does not fit the tables, and
// sets `*bad_program`; empty if there is none. Adds to `counts`.
std::string SearchLive(const RowTables& tables, const IndexState& state,
                       const LiveQuery& query, const Parallel& parallel,
                       const LiveOutput& output, RetrievalCounts* counts,
                       int64_t* bad_program);

// Copies the row of item `id` into place `place` of `copies`, in one version.
// Returns the row; -1 if there is no such item.
int64_t LookupLive(const RowTables& tables, const IndexState& state, int64_t id,
                   int64_t place, RowCopies* copies);

}  // namespace lintf

#endif  // LINTF_CUSTOM_OPS_CORE_LIVE_SEARCH_H_
