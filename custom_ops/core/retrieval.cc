// SPDX-License-Identifier: Apache-2.0
#include "custom_ops/core/retrieval.h"

#include <algorithm>
#include <vector>

#include "custom_ops/core/learned_retrieval.h"
#include "custom_ops/core/query_subset.h"
#include "custom_ops/core/stored_masks.h"

namespace lintf {
namespace {

void SearchExactly(RetrievalInput input, const MaskSource& masks,
                   const int32_t* mask_of_query, const Parallel& parallel,
                   KnnOutput output, RetrievalCounts* counts) {
  KnnStats stats;
  output.stats = &stats;
  input.knn.tuning.costs = &input.costs.knn;
  if (input.algorithm == Algorithm::kMasked) {
    input.knn.tuning.layout = KnnLayout::kShared;
  } else if (input.algorithm == Algorithm::kPrefiltered) {
    input.knn.tuning.layout = KnnLayout::kOwn;
  }
  MaskedKnn(input.knn, masks, mask_of_query, parallel, output);
  // The search picks for each tile of rows; a batch counts as what most of its
  // (query, row) pairs were scored by.
  const bool prefiltered =
      input.algorithm == Algorithm::kPrefiltered ||
      (input.algorithm == Algorithm::kAuto && stats.own > stats.shared);
  (prefiltered ? counts->prefiltered : counts->masked) += input.knn.num_queries;
}

void SearchByCodes(const RetrievalInput& input, const MaskSource& masks,
                   const int32_t* mask_of_query, const Parallel& parallel,
                   const KnnOutput& output, RetrievalCounts* counts) {
  QuantizedKnn(input.knn, input.code, masks, mask_of_query, parallel, output);
  counts->quantized += input.knn.num_queries;
}

}  // namespace

RetrievalCounts RetrieveRows(const RetrievalInput& input,
                             const MaskSource& masks,
                             const int32_t* mask_of_query,
                             const Parallel& parallel,
                             const KnnOutput& output) {
  RetrievalCounts counts;
  if (input.knn.num_queries == 0) return counts;
  if (input.similarity != nullptr) {
    return RetrieveSimilarRows(input, masks, mask_of_query, parallel, output);
  }
  const bool has_codes = input.code.codes != nullptr;
  if (input.algorithm == Algorithm::kQuantized ||
      input.knn.items.data == nullptr) {
    SearchByCodes(input, masks, mask_of_query, parallel, output, &counts);
    return counts;
  }
  if (input.algorithm != Algorithm::kAuto || !has_codes) {
    SearchExactly(input, masks, mask_of_query, parallel, output, &counts);
    return counts;
  }

  const StoredMasks stored(masks, input.knn.num_rows, kMaxStoredMaskBytes,
                           parallel);
  std::vector<int64_t> by_codes;
  std::vector<int64_t> exactly;
  for (int64_t query = 0; query < input.knn.num_queries; ++query) {
    QueryShape shape;
    shape.num_rows = input.knn.num_rows;
    shape.passing = stored.passing(mask_of_query[query]);
    shape.dim = input.knn.dim;
    shape.code_words = input.code.words;
    shape.shortlist = std::max(input.code.shortlist, input.knn.k);
    (PreferCodes(input.costs, shape) ? by_codes : exactly).push_back(query);
  }
  if (exactly.empty()) {
    SearchByCodes(input, stored, mask_of_query, parallel, output, &counts);
  } else if (by_codes.empty()) {
    SearchExactly(input, stored, mask_of_query, parallel, output, &counts);
  } else {
    QuerySubset codes(input, input.knn.dim, mask_of_query, by_codes);
    SearchByCodes(codes.Input(input), stored, codes.mask_of_query(), parallel,
                  codes.Output(), &counts);
    codes.CopyTo(input.knn.k, output);
    QuerySubset exact(input, input.knn.dim, mask_of_query, exactly);
    SearchExactly(exact.Input(input), stored, exact.mask_of_query(), parallel,
                  exact.Output(), &counts);
    exact.CopyTo(input.knn.k, output);
  }
  return counts;
}

}  // namespace lintf
