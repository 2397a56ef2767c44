// SPDX-License-Identifier: Apache-2.0
#ifndef LINTF_CUSTOM_OPS_CORE_QUERY_SUBSET_H_
#define LINTF_CUSTOM_OPS_CORE_QUERY_SUBSET_H_

#include <algorithm>
#include <cstdint>
#include <vector>

#include "custom_ops/core/retrieval.h"

namespace lintf {

// A part of the queries of a batch, and where its results go.
class QuerySubset {
 public:
  // `query_dim` numbers make a query. `queries` must outlive this object.
  QuerySubset(const RetrievalInput& input, int64_t query_dim,
              const int32_t* mask_of_query, const std::vector<int64_t>& queries)
      : queries_(queries) {
    const int64_t bits = input.code.words * 64;
    for (const int64_t query : queries) {
      const float* const vector = input.knn.queries + query * query_dim;
      vectors_.insert(vectors_.end(), vector, vector + query_dim);
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
    num_scored_.resize(count);
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
    output.num_scored = num_scored_.data();
    return output;
  }

  void CopyTo(int64_t k, const KnnOutput& output) const {
    for (size_t i = 0; i < queries_.size(); ++i) {
      const int64_t from = static_cast<int64_t>(i) * k;
      const int64_t to = queries_[i] * k;
      std::copy_n(scores_.data() + from, k, output.scores + to);
      std::copy_n(rows_.data() + from, k, output.rows + to);
      output.counts[queries_[i]] = counts_[i];
      if (output.num_scored != nullptr) {
        output.num_scored[queries_[i]] = num_scored_[i];
      }
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
  std::vector<int64_t> num_scored_;
};

}  // namespace lintf

#endif  // LINTF_CUSTOM_OPS_CORE_QUERY_SUBSET_H_
