// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <cstdint>
#include <limits>
#include <utility>
#include <vector>

#include "custom_ops/core/code_knn.h"
#include "custom_ops/core/code_knn_tables.h"

namespace lintf {
namespace {

uint32_t Score(const CodeKnnInput& input, const CodeQuery& query, int64_t row) {
  uint32_t score = 0;
  for (int64_t w = 0; w < input.words; ++w) {
    const uint64_t word = input.codes[CodeWordIndex(row, w, input.words)];
    if (input.scoring == CodeScoring::kSymmetric) {
      score += __builtin_popcountll(~query.code[w] ^ word);
    } else {
      for (int n = 0; n < kNibblesOfWord; ++n) {
        const int64_t nibble = w * kNibblesOfWord + n;
        score += query.table[nibble * kNibbleValues + (word >> (4 * n) & 15)];
      }
    }
  }
  return score;
}

}  // namespace

void CodeKnnReference(const CodeKnnInput& input, const MaskSource& masks,
                      const int32_t* mask_of_query, CodeOrder order,
                      const CodeKnnOutput& output) {
  using Found = std::pair<uint32_t, int64_t>;
  const int64_t mask_words = (input.num_rows + kRowsPerWord - 1) / kRowsPerWord;
  for (int64_t b = 0; b < input.num_queries; ++b) {
    const CodeQuery query = MakeCodeQuery(input.samples + b * input.words * 64,
                                          input.words, input.scoring);
    std::vector<uint64_t> bits(mask_words, ~uint64_t{0});
    if (input.num_rows > 0 && !masks.PassesAll(mask_of_query[b])) {
      masks.Fill(mask_of_query[b], 0, input.num_rows, bits.data());
    }
    std::vector<Found> found;
    for (int64_t row = 0; row < input.num_rows; ++row) {
      if ((bits[row / kRowsPerWord] >> (row % kRowsPerWord) & 1) == 0) continue;
      found.emplace_back(Score(input, query, row), row);
    }
    std::sort(found.begin(), found.end(), [](const Found& a, const Found& b) {
      return a.first != b.first ? a.first > b.first : a.second < b.second;
    });
    const int64_t count =
        std::min<int64_t>(input.keep, static_cast<int64_t>(found.size()));
    found.resize(count);
    if (order == CodeOrder::kAscendingRow) {
      std::sort(found.begin(), found.end(), [](const Found& a, const Found& b) {
        return a.second < b.second;
      });
    }
    output.counts[b] = count;
    for (int64_t i = 0; i < input.keep; ++i) {
      const bool real = i < count;
      output.rows[b * input.keep + i] = real ? found[i].second : -1;
      if (output.scores == nullptr) continue;
      output.scores[b * input.keep + i] =
          real ? query.Reported(found[i].first)
               : -std::numeric_limits<float>::infinity();
    }
  }
}

}  // namespace lintf
