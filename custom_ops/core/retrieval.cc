// SPDX-License-Identifier: Apache-2.0
#include "custom_ops/core/retrieval.h"

#include <algorithm>
#include <vector>

#include "custom_ops/core/stored_masks.h"

namespace lintf {
namespace {

// Above this, the filters of a batch are evaluated once to count and once
// more to search, rather than kept.
constexpr int64_t kMaxStoredMaskBytes = int64_t{256} << 20;

// A part of the queries of a batch, and where its results go.
class QuerySubset {
 public:
  QuerySubset(const RetrievalInput& input, const int32_t* mask_of_query,
              const std::vector<int64_t>& queries)
      : queries_(queries) {
    const int64_t dim = input.knn.dim;
    const int64_t bits = input.code.words * 64;
    for (const int64_t query : queries) {
      const float* const vector = input.knn.queries + query * dim;
      vectors_.insert(vectors_.end(), vector, vector + dim);
      if (input.code.samples != nullptr) {
        const float* const samples = input.code.samples + query * bits;
        samples_.insert(samples_.end(), samples, samples + bits);
      }
      masks_.push_back(mask_of_query[query]);
    }
    const int64_t count = static_cast<int64_t>(queries.size());
    scores_.resize(count * input.knn.k);
    rows_.resize(count * input.knn.k);
    counts_.resize(count);
  }

  // `input`, for these queries alone.
  RetrievalInput Input(RetrievalInput input) const {
    input.knn.queries = vectors_.data();
    input.knn.num_queries = static_cast<int64_t>(queries_.size());
    if (!samples_.empty()) input.code.samples = samples_.data();
    return input;
  }

  const int32_t* mask_of_query() const { return masks_.data(); }

  KnnOutput Output() {
    KnnOutput output;
    output.scores = scores_.data();
    output.rows = rows_.data();
    output.counts = counts_.data();
    return output;
  }

  void CopyTo(int64_t k, const KnnOutput& output) const {
    for (size_t i = 0; i < queries_.size(); ++i) {
      const int64_t from = static_cast<int64_t>(i) * k;
      const int64_t to = queries_[i] * k;
      std::copy_n(scores_.data() + from, k, output.scores + to);
      std::copy_n(rows_.data() + from, k, output.rows + to);
      output.counts[queries_[i]] = counts_[i];
    }
  }

 private:
  const std::vector<int64_t>& queries_;
  std::vector<float> vectors_;
  std::vector<float> samples_;
  std::vector<int32_t> masks_;
  std::vector<float> scores_;
  std::vector<int64_t> rows_;
  std::vector<int32_t> counts_;
};

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
    RetrieveRowsReference(input, masks, mask_of_query, output);
    counts.exact += input.knn.num_queries;
    return counts;
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
    QuerySubset codes(input, mask_of_query, by_codes);
    SearchByCodes(codes.Input(input), stored, codes.mask_of_query(), parallel,
                  codes.Output(), &counts);
    codes.CopyTo(input.knn.k, output);
    QuerySubset exact(input, mask_of_query, exactly);
    SearchExactly(exact.Input(input), stored, exact.mask_of_query(), parallel,
                  exact.Output(), &counts);
    exact.CopyTo(input.knn.k, output);
  }
  return counts;
}

}  // namespace lintf
