// SPDX-License-Identifier: Apache-2.0
// Random searches by codes, for the tests of what runs them.
#ifndef LINTF_CUSTOM_OPS_CORE_CODE_KNN_TEST_DATA_H_
#define LINTF_CUSTOM_OPS_CORE_CODE_KNN_TEST_DATA_H_

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <limits>
#include <random>
#include <string>
#include <vector>

#include "custom_ops/core/code_knn.h"
#include "custom_ops/core/search_test_data.h"
#include "custom_ops/core/sign_oporp.h"

namespace lintf::testing {

using Random = std::mt19937_64;

inline constexpr float kInfinity = std::numeric_limits<float>::infinity();

struct CodeCase {
  int64_t rows = 0;
  int64_t words = 0;
  int64_t batch = 0;
  int64_t keep = 0;
  CodeScoring scoring = CodeScoring::kSymmetric;
  CodeOrder order = CodeOrder::kBestFirst;
  std::vector<float> samples;
  std::vector<uint64_t> codes;
  std::vector<std::vector<bool>> masks;
  std::vector<int32_t> mask_of_query;
  int64_t scratch_bytes = CodeKnnInput().scratch_bytes;
  bool with_scores = true;

  std::string Describe() const {
    return "rows " + std::to_string(rows) + " words " + std::to_string(words) +
           " batch " + std::to_string(batch) + " keep " + std::to_string(keep) +
           (scoring == CodeScoring::kSymmetric ? " symmetric" : " asymmetric") +
           (order == CodeOrder::kBestFirst ? " best first" : " by row") +
           " masks " + std::to_string(masks.size()) + " scratch " +
           std::to_string(scratch_bytes) + " ";
  }
};

struct CodeAnswer {
  std::vector<float> scores;
  std::vector<int64_t> rows;
  std::vector<int64_t> counts;

  bool operator==(const CodeAnswer& other) const {
    return counts == other.counts && rows == other.rows &&
           std::memcmp(scores.data(), other.scores.data(),
                       scores.size() * sizeof(float)) == 0;
  }
};

template <typename Run>
CodeAnswer RunWith(const CodeCase& c, const Run& run) {
  CodeKnnInput input;
  input.samples = c.samples.data();
  input.num_queries = c.batch;
  input.codes = c.codes.data();
  input.num_rows = c.rows;
  input.words = c.words;
  input.scoring = c.scoring;
  input.keep = c.keep;
  input.scratch_bytes = c.scratch_bytes;
  CodeAnswer answer;
  answer.scores.assign(c.batch * c.keep, 12345.0f);
  answer.rows.assign(c.batch * c.keep, 12345);
  answer.counts.assign(c.batch, 12345);
  run(input, CodeKnnOutput{c.with_scores ? answer.scores.data() : nullptr,
                           answer.rows.data(), answer.counts.data()});
  return answer;
}

inline CodeAnswer Expected(const CodeCase& c) {
  return RunWith(c, [&](const CodeKnnInput& input, const CodeKnnOutput& out) {
    CodeKnnReference(input, VectorMasks(c.masks), c.mask_of_query.data(),
                     c.order, out);
  });
}

template <typename T>
T Pick(const std::vector<T>& values, Random* random) {
  return values[(*random)() % values.size()];
}

// Samples of many kinds: as of a projection; few values, so that scores tie;
// extremes; and all zero.
inline std::vector<float> RandomSamples(int64_t count, Random* random) {
  std::normal_distribution<float> normal;
  const uint64_t kind = (*random)() % 6;
  std::vector<float> samples(count);
  for (float& sample : samples) {
    switch (kind) {
      case 0:
        sample = static_cast<float>(static_cast<int>((*random)() % 3) - 1);
        break;
      case 1: {
        static const std::vector<float> kExtremes = {
            1e38f,     -3e38f,     1e-38f, -1e-45f, 0.0f, -0.0f,
            kInfinity, -kInfinity, 1.0f,   -1.0f,   1e30f};
        sample = (*random)() % 50 == 0 ? std::numeric_limits<float>::quiet_NaN()
                                       : Pick(kExtremes, random);
        break;
      }
      case 2:
        sample = 0.0f;
        break;
      default:
        sample = normal(*random);
    }
  }
  return samples;
}

// A mask of each shape that the search treats in its own way.
inline std::vector<bool> RandomMask(int64_t rows, Random* random) {
  const uint64_t shape = (*random)() % 8;
  if (shape == 0) return {};  // passes all, says so
  std::vector<bool> mask(rows, false);
  if (shape == 1) return mask;
  if (shape == 2) {
    mask.assign(rows, true);
  } else if (shape == 3) {  // one stretch
    const int64_t begin = static_cast<int64_t>((*random)() % (rows + 1));
    const int64_t length = static_cast<int64_t>((*random)() % (rows + 1));
    for (int64_t i = begin; i < std::min(begin + length, rows); ++i) {
      mask[i] = true;
    }
  } else {
    const double rate =
        Pick<double>({0.0005, 0.02, 0.1, 0.3, 0.5, 0.95}, random);
    std::bernoulli_distribution passes(rate);
    for (int64_t i = 0; i < rows; ++i) mask[i] = passes(*random);
  }
  return mask;
}

inline void FillCodes(int64_t distinct, Random* random, CodeCase* c) {
  const int64_t blocks = (c->rows + kCodeBlockRows - 1) / kCodeBlockRows;
  c->codes.resize(blocks * c->words * kCodeBlockRows);
  for (uint64_t& word : c->codes) word = (*random)();
  if (distinct == 0) return;
  // Duplicates of a few codes; the rows past the end stay garbage.
  std::vector<uint64_t> kinds(distinct * c->words);
  for (uint64_t& word : kinds) word = (*random)();
  for (int64_t row = 0; row < c->rows; ++row) {
    const int64_t kind = static_cast<int64_t>((*random)() % distinct);
    for (int64_t w = 0; w < c->words; ++w) {
      c->codes[CodeWordIndex(row, w, c->words)] = kinds[kind * c->words + w];
    }
  }
}

inline CodeCase RandomCodeCase(Random* random) {
  static const std::vector<int64_t> kRows = {
      0, 1, 7, 63, 64, 65, 200, 1000, 4096, 4097, 5000, 20011};
  static const std::vector<int64_t> kBatches = {1, 1, 2, 3, 5, 8, 17, 40};
  CodeCase c;
  c.rows = Pick(kRows, random);
  c.words = Pick<int64_t>(
      {1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 33, 64}, random);
  c.batch = Pick(kBatches, random);
  // The reference is slow: the largest shapes are left to other tests.
  if (c.rows * c.words * c.batch > 400000) c.batch = 2;
  if (c.rows * c.words > 200000) c.words = 2;
  c.keep = Pick<int64_t>({1, 2, 10, 100, c.rows / 20 + 1, c.rows / 2 + 1,
                          std::max<int64_t>(c.rows, 1), c.rows + 5},
                         random);
  c.scoring =
      (*random)() % 2 == 0 ? CodeScoring::kSymmetric : CodeScoring::kAsymmetric;
  c.order =
      (*random)() % 2 == 0 ? CodeOrder::kBestFirst : CodeOrder::kAscendingRow;
  c.with_scores = (*random)() % 4 != 0;
  c.scratch_bytes = Pick<int64_t>({c.scratch_bytes, 1, 100000}, random);
  FillCodes(Pick<int64_t>({0, 0, 1, 2, 50}, random), random, &c);
  for (int64_t b = 0; b < c.batch; ++b) {
    const std::vector<float> samples = RandomSamples(64 * c.words, random);
    c.samples.insert(c.samples.end(), samples.begin(), samples.end());
  }
  const int64_t num_masks = Pick<int64_t>({1, 2, 5, c.batch}, random);
  for (int64_t i = 0; i < num_masks; ++i) {
    c.masks.push_back(RandomMask(c.rows, random));
  }
  for (int64_t b = 0; b < c.batch; ++b) {
    c.mask_of_query.push_back(static_cast<int32_t>(
        num_masks == c.batch ? b : (*random)() % num_masks));
  }
  return c;
}

}  // namespace lintf::testing

#endif  // LINTF_CUSTOM_OPS_CORE_CODE_KNN_TEST_DATA_H_
