// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <cmath>
#include <limits>
#include <utility>
#include <vector>

#include "custom_ops/core/item_encoding.h"
#include "custom_ops/core/masked_knn.h"

namespace lintf {
namespace {

float Score(const float* query, const float* row, int64_t dim, Metric metric) {
  float sum = 0.0f;
  for (int64_t d = 0; d < dim; ++d) {
    if (metric == Metric::kInnerProduct) {
      sum = std::fma(query[d], row[d], sum);
    } else {
      const float difference = query[d] - row[d];
      sum = std::fma(difference, difference, sum);
    }
  }
  return metric == Metric::kL2 ? -sum : sum;
}

float ScoreInt8(const float* query, const int8_t* row, float scale, int64_t dim,
                Metric metric) {
  std::vector<int8_t> high(dim);
  std::vector<int8_t> low(dim);
  const Int8Query encoded =
      EncodeInt8Query(query, dim, high.data(), low.data());
  int64_t high_sum = 0;
  int64_t low_sum = 0;
  int64_t squares = 0;
  for (int64_t d = 0; d < dim; ++d) {
    high_sum += int64_t{high[d]} * row[d];
    low_sum += int64_t{low[d]} * row[d];
    squares += int64_t{row[d]} * row[d];
  }
  const float sum = std::fma(256.0f, static_cast<float>(high_sum),
                             static_cast<float>(low_sum));
  const float product = sum * encoded.scale * scale;
  if (metric == Metric::kInnerProduct) return product;
  const float norm = static_cast<float>(squares) * scale * scale;
  const float distance = std::fma(-2.0f, product, encoded.norm + norm);
  return distance < 0.0f ? 0.0f : -distance;
}

float ScoreRow(const KnnInput& input, const float* query, int64_t row) {
  float score;
  if (input.items.type == ElementType::kInt8) {
    score = ScoreInt8(
        query, static_cast<const int8_t*>(input.items.data) + row * input.dim,
        input.items.scales[row], input.dim, input.metric);
  } else {
    std::vector<float> decoded(input.dim);
    DecodeRow(input.items, row, input.dim, decoded.data());
    score = Score(query, decoded.data(), input.dim, input.metric);
  }
  if (std::isnan(score)) return -std::numeric_limits<float>::infinity();
  return score == 0.0f ? 0.0f : score;  // -0 becomes +0
}

}  // namespace

void MaskedKnnReference(const KnnInput& input, const MaskSource& masks,
                        const int32_t* mask_of_query, const KnnOutput& output) {
  const int64_t words = (input.num_rows + kRowsPerWord - 1) / kRowsPerWord;
  for (int64_t b = 0; b < input.num_queries; ++b) {
    std::vector<uint64_t> bits(words, ~uint64_t{0});
    if (input.num_rows > 0 && !masks.PassesAll(mask_of_query[b])) {
      masks.Fill(mask_of_query[b], 0, input.num_rows, bits.data());
    }
    std::vector<std::pair<float, int64_t>> found;
    for (int64_t row = 0; row < input.num_rows; ++row) {
      if ((bits[row / kRowsPerWord] >> (row % kRowsPerWord) & 1) == 0) continue;
      found.emplace_back(ScoreRow(input, input.queries + b * input.dim, row),
                         row);
    }
    std::sort(found.begin(), found.end(), [](const auto& a, const auto& b) {
      if (a.first != b.first) return a.first > b.first;
      return a.second < b.second;
    });
    const int64_t count =
        std::min<int64_t>(input.k, static_cast<int64_t>(found.size()));
    output.counts[b] = static_cast<int32_t>(count);
    for (int64_t i = 0; i < input.k; ++i) {
      output.scores[b * input.k + i] =
          i < count ? found[i].first : -std::numeric_limits<float>::infinity();
      output.rows[b * input.k + i] = i < count ? found[i].second : -1;
    }
  }
}

}  // namespace lintf
