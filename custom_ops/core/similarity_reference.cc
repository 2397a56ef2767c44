// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <cstdint>
#include <limits>
#include <utility>
#include <vector>

#include "custom_ops/core/item_encoding.h"
#include "custom_ops/core/retrieval.h"
#include "custom_ops/core/similarity.h"

namespace lintf {

void RetrieveRowsReference(const RetrievalInput& input, const MaskSource& masks,
                           const int32_t* mask_of_query,
                           const KnnOutput& output) {
  const KnnInput& knn = input.knn;
  const Similarity& similarity = *input.similarity;
  const int64_t words = (knn.num_rows + kRowsPerWord - 1) / kRowsPerWord;
  std::vector<float> decoded(knn.dim);
  for (int64_t b = 0; b < knn.num_queries; ++b) {
    std::vector<uint64_t> bits(words, ~uint64_t{0});
    if (knn.num_rows > 0 && !masks.PassesAll(mask_of_query[b])) {
      masks.Fill(mask_of_query[b], 0, knn.num_rows, bits.data());
    }
    const FoldedQuery query =
        FoldQuery(similarity, knn.queries + b * similarity.shape.query_dim());
    std::vector<std::pair<float, int64_t>> found;
    for (int64_t row = 0; row < knn.num_rows; ++row) {
      if ((bits[row / kRowsPerWord] >> (row % kRowsPerWord) & 1) == 0) continue;
      DecodeRow(knn.items, row, knn.dim, decoded.data());
      found.emplace_back(SimilarityScore(similarity, query, decoded.data()),
                         row);
    }
    std::sort(found.begin(), found.end(), [](const auto& a, const auto& b) {
      if (a.first != b.first) return a.first > b.first;
      return a.second < b.second;
    });
    if (output.num_scored != nullptr) {
      output.num_scored[b] = static_cast<int64_t>(found.size());
    }
    const int64_t count =
        std::min<int64_t>(knn.k, static_cast<int64_t>(found.size()));
    output.counts[b] = static_cast<int32_t>(count);
    for (int64_t i = 0; i < knn.k; ++i) {
      output.scores[b * knn.k + i] =
          i < count ? found[i].first : -std::numeric_limits<float>::infinity();
      output.rows[b * knn.k + i] = i < count ? found[i].second : -1;
    }
  }
}

}  // namespace lintf
