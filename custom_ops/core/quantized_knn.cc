// SPDX-License-Identifier: Apache-2.0
#include "custom_ops/core/quantized_knn.h"

#include <algorithm>
#include <cstdint>
#include <numeric>
#include <vector>

#include "custom_ops/core/list_masks.h"

namespace lintf {
namespace {

// Bytes of shortlists at once; larger batches are cut into slices that fit.
constexpr int64_t kShortlistBytes = int64_t{64} << 20;

CodeKnnInput CodesOf(const KnnInput& input, const CodeSide& code,
                     int64_t first_query, int64_t num_queries, int64_t keep) {
  CodeKnnInput codes;
  codes.samples = code.samples + first_query * code.words * 64;
  codes.num_queries = num_queries;
  codes.codes = code.codes;
  codes.num_rows = input.num_rows;
  codes.words = code.words;
  codes.scoring = code.scoring;
  codes.keep = keep;
  return codes;
}

void CodesAlone(const KnnInput& input, const CodeSide& code,
                const MaskSource& masks, const int32_t* mask_of_query,
                const Parallel& parallel, const KnnOutput& output) {
  if (output.stats != nullptr) *output.stats = {};
  std::vector<int64_t> counts(input.num_queries);
  CodeKnn(CodesOf(input, code, 0, input.num_queries, input.k), masks,
          mask_of_query, CodeOrder::kBestFirst, parallel,
          {output.scores, output.rows, counts.data()});
  for (int64_t b = 0; b < input.num_queries; ++b) {
    output.counts[b] = static_cast<int32_t>(counts[b]);
  }
}

}  // namespace

void QuantizedKnn(const KnnInput& input, const CodeSide& code,
                  const MaskSource& masks, const int32_t* mask_of_query,
                  const Parallel& parallel, const KnnOutput& output) {
  if (input.items.data == nullptr) {
    CodesAlone(input, code, masks, mask_of_query, parallel, output);
    return;
  }
  const int64_t shortlist = std::max(code.shortlist, input.k);
  if (shortlist >= input.num_rows) {
    // No code would drop a row.
    MaskedKnn(input, masks, mask_of_query, parallel, output);
    return;
  }
  const int64_t row_bytes = static_cast<int64_t>(sizeof(int64_t));
  const int64_t slice =
      std::clamp<int64_t>(kShortlistBytes / (shortlist * row_bytes), 1,
                          std::max<int64_t>(input.num_queries, 1));
  std::vector<int64_t> rows(slice * shortlist);
  std::vector<int64_t> counts(slice);
  KnnStats total;
  std::vector<int32_t> mask_of_slice(slice);
  std::iota(mask_of_slice.begin(), mask_of_slice.end(), 0);
  for (int64_t first = 0; first < input.num_queries; first += slice) {
    const int64_t count = std::min(slice, input.num_queries - first);
    CodeKnn(CodesOf(input, code, first, count, shortlist), masks,
            mask_of_query + first, CodeOrder::kAscendingRow, parallel,
            {nullptr, rows.data(), counts.data()});
    KnnInput exact = input;
    exact.queries = input.queries + first * input.dim;
    exact.num_queries = count;
    exact.tuning.layout = KnnLayout::kOwn;
    KnnStats stats;
    MaskedKnn(exact, ListMasks(rows.data(), counts.data(), count, shortlist),
              mask_of_slice.data(), parallel,
              {output.scores + first * input.k, output.rows + first * input.k,
               output.counts + first, &stats});
    total.shared += stats.shared;
    total.own += stats.own;
  }
  if (output.stats != nullptr) *output.stats = total;
}

}  // namespace lintf
