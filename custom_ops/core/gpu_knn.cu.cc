// SPDX-License-Identifier: Apache-2.0
#include "custom_ops/core/gpu_knn.h"

#include <algorithm>
#include <cstdint>
#include <vector>

#include "custom_ops/core/gpu.h"
#include "custom_ops/core/gpu_scan.h"
#include "custom_ops/core/gpu_search.h"
#include "custom_ops/core/gpu_select.h"

namespace lintf::gpu {
namespace {

int64_t DivideUp(int64_t a, int64_t b) { return (a + b - 1) / b; }

const Scan& ScanFor(const KnnInput& input, const KnnOptions& options) {
  return TensorScanFits(input.items, input.dim, input.metric, options.precision)
             ? TensorScan(input.items.type, options.precision)
             : RowScan();
}

// Searches rows [begin, end), at most kMaxSegmentRows.
void SearchSegment(const KnnInput& input, const Masks& masks,
                   const int32_t* mask_of_query, const KnnOptions& options,
                   int64_t begin, int64_t end, Context* context,
                   const KnnOutput& output) {
  const int64_t num_rows = end - begin;
  Masks own = masks;
  if (own.words != nullptr) own.words += begin / kRowsPerWord;
  std::vector<int32_t> chosen(mask_of_query, mask_of_query + input.num_queries);
  std::sort(chosen.begin(), chosen.end());
  chosen.erase(std::unique(chosen.begin(), chosen.end()), chosen.end());
  const bool any_passes_all =
      std::any_of(chosen.begin(), chosen.end(),
                  [&](int32_t m) { return bool{own.passes_all[m]}; });

  ScanSearch search;
  search.scan = &ScanFor(input, options);
  search.input = input;
  search.query_dim = input.dim;
  search.rows.num_places = num_rows;
  search.rows.first_row = begin;
  search.place_rows.first_row = begin;
  const bool is_listed = options.order != ScanOrder::kAll && !any_passes_all;
  if (is_listed) {
    const uint64_t* words = own.words + chosen[0] * own.stride;
    if (chosen.size() > 1) {
      uint64_t* const united = context->Allocate<uint64_t>(MaskWords(num_rows));
      UniteMasks(own, chosen.data(), static_cast<int64_t>(chosen.size()),
                 num_rows, context, united);
      words = united;
    }
    uint32_t* const rows = context->Allocate<uint32_t>(num_rows);
    uint32_t* const count = context->Allocate<uint32_t>(1);
    ListRows(words, 1, MaskWords(num_rows), num_rows, context, rows, num_rows,
             count);
    search.rows.rows32 = rows;
    search.rows.count32 = count;
    search.place_rows.rows32 = rows;
  }
  // Of one mask's list, nothing has to be checked.
  const bool is_checked =
      is_listed ? chosen.size() > 1
                : std::any_of(chosen.begin(), chosen.end(),
                              [&](int32_t m) { return !own.passes_all[m]; });
  if (is_checked) {
    for (int64_t b = 0; b < input.num_queries; ++b) {
      const int32_t m = mask_of_query[b];
      search.masks.push_back(own.passes_all[m] ? nullptr
                                               : own.words + m * own.stride);
    }
  }
  SearchRows(search, context, output);
}

}  // namespace

void MaskedKnn(const KnnInput& input, const Masks& masks,
               const int32_t* mask_of_query, const KnnOptions& options,
               Context* context, const KnnOutput& output) {
  if (input.num_queries == 0) return;
  if (input.num_rows == 0) {
    return FillNoResults(input.num_queries, input.k, context, output);
  }
  const int64_t segment_rows =
      std::min(input.tuning.segment_rows, kMaxSegmentRows);
  const int64_t parts = DivideUp(input.num_rows, segment_rows);
  if (parts == 1) {
    return SearchSegment(input, masks, mask_of_query, options, 0,
                         input.num_rows, context, output);
  }
  const int64_t slots = input.num_queries * input.k;
  KnnOutput found;
  float* const scores = context->Allocate<float>(parts * slots);
  int64_t* const rows = context->Allocate<int64_t>(parts * slots);
  int32_t* const counts = context->Allocate<int32_t>(parts * input.num_queries);
  if (!context->ok()) return;
  for (int64_t p = 0; p < parts; ++p) {
    const int64_t begin = p * segment_rows;
    found.scores = scores + p * slots;
    found.rows = rows + p * slots;
    found.counts = counts + p * input.num_queries;
    SearchSegment(input, masks, mask_of_query, options, begin,
                  std::min(begin + segment_rows, input.num_rows), context,
                  found);
  }
  MergeResults(scores, rows, counts, parts, input.num_queries, input.k, context,
               output);
}

void RescoreRows(const KnnInput& input, const Shortlists& lists,
                 const KnnOptions& options, Context* context,
                 const KnnOutput& output) {
  if (input.num_queries == 0) return;
  if (input.num_rows == 0 || lists.stride == 0) {
    return FillNoResults(input.num_queries, input.k, context, output);
  }
  ScanSearch search;
  search.scan = &ScanFor(input, options);
  search.input = input;
  search.query_dim = input.dim;
  search.one_by_one = true;
  search.rows.rows64 = lists.rows;
  search.rows.stride = lists.stride;
  search.rows.count64 = lists.counts;
  search.rows.num_places = lists.stride;
  search.place_rows.rows64 = lists.rows;
  search.place_rows.stride = lists.stride;
  SearchRows(search, context, output);
}

}  // namespace lintf::gpu
