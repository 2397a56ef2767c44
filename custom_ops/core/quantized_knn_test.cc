// SPDX-License-Identifier: Apache-2.0
// The two-stage search against its stages done one by one by the references.
#include "custom_ops/core/quantized_knn.h"

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <random>
#include <string>
#include <vector>

#include "custom_ops/core/search_test_data.h"
#include "custom_ops/core/sign_oporp.h"
#include "custom_ops/core/testing.h"

namespace lintf {
namespace {

using Random = std::mt19937_64;

struct Case {
  int64_t rows = 0;
  int64_t dim = 0;
  int64_t batch = 0;
  int64_t k = 0;
  int64_t shortlist = 0;
  bool codes_alone = false;
  Metric metric = Metric::kInnerProduct;
  CodeScoring scoring = CodeScoring::kSymmetric;
  std::vector<float> items;
  std::vector<float> queries;
  std::vector<uint64_t> codes;
  std::vector<float> samples;
  int64_t words = 0;
  std::vector<std::vector<bool>> masks;
  std::vector<int32_t> mask_of_query;

  std::string Describe() const {
    return "rows " + std::to_string(rows) + " dim " + std::to_string(dim) +
           " batch " + std::to_string(batch) + " k " + std::to_string(k) +
           " shortlist " + std::to_string(shortlist) + " words " +
           std::to_string(words) + (codes_alone ? " codes alone " : " ");
  }

  KnnInput Input() const {
    KnnInput input;
    input.queries = queries.data();
    input.num_queries = batch;
    if (!codes_alone) {
      input.items = ItemMatrix(items.data(), ElementType::kFloat32);
    }
    input.num_rows = rows;
    input.dim = dim;
    input.metric = metric;
    input.k = k;
    return input;
  }

  CodeSide Code() const {
    CodeSide code;
    code.samples = samples.data();
    code.codes = codes.data();
    code.words = words;
    code.scoring = scoring;
    code.shortlist = shortlist;
    return code;
  }
};

struct Answer {
  std::vector<float> scores;
  std::vector<int64_t> rows;
  std::vector<int32_t> counts;

  explicit Answer(const Case& c)
      : scores(c.batch * c.k, 12345.0f),
        rows(c.batch * c.k, 12345),
        counts(c.batch, 12345) {}

  KnnOutput Output() { return {scores.data(), rows.data(), counts.data()}; }

  bool operator==(const Answer& other) const {
    return counts == other.counts && rows == other.rows &&
           std::memcmp(scores.data(), other.scores.data(),
                       scores.size() * sizeof(float)) == 0;
  }
};

template <typename T>
T Pick(const std::vector<T>& values, Random* random) {
  return values[(*random)() % values.size()];
}

Case RandomCase(Random* random) {
  Case c;
  c.rows = Pick<int64_t>({0, 1, 63, 64, 65, 1000, 5000}, random);
  c.dim = Pick<int64_t>({8, 17, 50}, random);
  c.batch = Pick<int64_t>({1, 2, 5, 17}, random);
  c.k = Pick<int64_t>({1, 10, 100, c.rows + 3}, random);
  c.shortlist =
      Pick<int64_t>({0, 1, 50, c.rows / 10, c.rows / 2, c.rows, 9999}, random);
  c.codes_alone = (*random)() % 4 == 0;
  c.metric = (*random)() % 2 == 0 ? Metric::kInnerProduct : Metric::kL2;
  c.scoring =
      (*random)() % 2 == 0 ? CodeScoring::kSymmetric : CodeScoring::kAsymmetric;
  std::normal_distribution<float> normal;
  for (int64_t i = 0; i < c.rows * c.dim; ++i)
    c.items.push_back(normal(*random));
  for (int64_t i = 0; i < c.batch * c.dim; ++i) {
    c.queries.push_back(normal(*random));
  }
  OporpConfig config;
  config.dim = c.dim;
  config.bins = 4;
  config.repeats = 16 * Pick<int64_t>({1, 2, 5}, random);
  config.seed = (*random)();
  c.words = config.words();
  const SignOporp oporp(config);
  c.samples.resize(c.batch * config.bits());
  oporp.ProjectBatch(c.queries.data(), c.batch, c.samples.data());
  c.codes.resize((c.rows + 63) / 64 * 64 * c.words);
  for (int64_t row = 0; row < c.rows; ++row) {
    std::vector<uint64_t> code(c.words);
    oporp.Encode(c.items.data() + row * c.dim, code.data());
    for (int64_t w = 0; w < c.words; ++w) {
      c.codes[CodeWordIndex(row, w, c.words)] = code[w];
    }
  }
  for (int i = 0; i < 3; ++i) {
    std::vector<bool> mask;
    const double rate = Pick<double>({0.0, 0.01, 0.5, 1.0, 2.0}, random);
    std::bernoulli_distribution passes(std::min(rate, 1.0));
    for (int64_t row = 0; rate <= 1.0 && row < c.rows; ++row) {
      mask.push_back(passes(*random));
    }
    c.masks.push_back(mask);
  }
  for (int64_t b = 0; b < c.batch; ++b) {
    c.mask_of_query.push_back(static_cast<int32_t>((*random)() % 3));
  }
  return c;
}

// The rows that the codes leave of a query, as a mask.
Answer Expected(const Case& c) {
  Answer answer(c);
  const KnnInput input = c.Input();
  const CodeSide code = c.Code();
  CodeKnnInput codes;
  codes.samples = code.samples;
  codes.num_queries = c.batch;
  codes.codes = code.codes;
  codes.num_rows = c.rows;
  codes.words = c.words;
  codes.scoring = c.scoring;
  codes.keep = c.codes_alone ? c.k : std::max(c.shortlist, c.k);
  std::vector<float> scores(c.batch * codes.keep);
  std::vector<int64_t> rows(c.batch * codes.keep);
  std::vector<int64_t> counts(c.batch);
  CodeKnnReference(codes, VectorMasks(c.masks), c.mask_of_query.data(),
                   CodeOrder::kBestFirst,
                   {scores.data(), rows.data(), counts.data()});
  if (c.codes_alone) {
    answer.scores = scores;
    answer.rows = rows;
    answer.counts.assign(counts.begin(), counts.end());
    return answer;
  }
  std::vector<std::vector<bool>> shortlists;
  std::vector<int32_t> own;
  for (int64_t b = 0; b < c.batch; ++b) {
    std::vector<bool> mask(c.rows, false);
    for (int64_t i = 0; i < counts[b]; ++i) {
      mask[rows[b * codes.keep + i]] = true;
    }
    // VectorMasks takes no rows at all for all of them; there are none here.
    shortlists.push_back(mask);
    own.push_back(static_cast<int32_t>(b));
  }
  MaskedKnnReference(input, VectorMasks(shortlists), own.data(),
                     answer.Output());
  return answer;
}

void TestRandomCases() {
  Random random(20240718);
  for (int i = 0; i < 300; ++i) {
    const Case c = RandomCase(&random);
    const Answer expected = Expected(c);
    for (int threads : {1, 2, 8}) {
      Answer got(c);
      QuantizedKnn(c.Input(), c.Code(), VectorMasks(c.masks),
                   c.mask_of_query.data(), Threads(threads), got.Output());
      CHECK_THAT(got == expected)
          << "case " << i << ": " << c.Describe() << threads << " threads";
    }
  }
}

// A shortlist as long as what passes leaves nothing to the codes, whatever is
// in them.
void TestLongShortlistsAreExact() {
  Random random(8);
  for (int i = 0; i < 50; ++i) {
    Case c = RandomCase(&random);
    c.codes_alone = false;
    for (uint64_t& word : c.codes) word = random();
    int64_t most = 1;
    for (const std::vector<bool>& mask : c.masks) {
      most = std::max<int64_t>(
          most,
          mask.empty() ? c.rows : std::count(mask.begin(), mask.end(), true));
    }
    c.shortlist = most;
    Answer expected(c);
    MaskedKnnReference(c.Input(), VectorMasks(c.masks), c.mask_of_query.data(),
                       expected.Output());
    Answer got(c);
    QuantizedKnn(c.Input(), c.Code(), VectorMasks(c.masks),
                 c.mask_of_query.data(), Threads(2), got.Output());
    CHECK_THAT(got == expected) << c.Describe();
  }
}

}  // namespace
}  // namespace lintf

int main() {
  lintf::TestRandomCases();
  lintf::TestLongShortlistsAreExact();
  return lintf::testing::Result();
}
