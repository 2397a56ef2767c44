// SPDX-License-Identifier: Apache-2.0
// Property tests of the search by codes against its scalar reference.
#include "custom_ops/core/code_knn.h"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <random>
#include <string>
#include <vector>

#include "custom_ops/core/code_knn_hits.h"
#include "custom_ops/core/code_knn_kernels.h"
#include "custom_ops/core/code_knn_tables.h"
#include "custom_ops/core/code_knn_test_data.h"
#include "custom_ops/core/search_test_data.h"
#include "custom_ops/core/testing.h"

namespace lintf {
namespace {

using testing::CodeAnswer;
using testing::CodeCase;
using testing::Expected;
using testing::FillCodes;
using testing::Pick;
using testing::Random;
using testing::RandomCodeCase;
using testing::RandomMask;
using testing::RunWith;

CodeAnswer Got(const CodeCase& c, const Parallel& parallel) {
  return RunWith(c, [&](const CodeKnnInput& input, const CodeKnnOutput& out) {
    CodeKnn(input, VectorMasks(c.masks), c.mask_of_query.data(), c.order,
            parallel, out);
  });
}

std::vector<CodePath> Paths() {
  std::vector<CodePath> paths;
  for (CodePath path : {CodePath::kPlain, CodePath::kAvx2, CodePath::kAvx512}) {
    if (CodeKernelsOf(path) != nullptr) paths.push_back(path);
  }
  return paths;
}

void TestRandomCases() {
  Random random(20240718);
  const std::vector<CodePath> paths = Paths();
  for (int i = 0; i < 300; ++i) {
    const CodeCase c = RandomCodeCase(&random);
    const CodeAnswer expected = Expected(c);
    const int threads = Pick<int>({1, 2, 8}, &random);
    for (CodePath path : paths) {
      SetCodePathForTesting(path);
      CHECK_THAT(Got(c, Threads(threads)) == expected)
          << "case " << i << ": " << c.Describe() << "path "
          << static_cast<int>(path) << " threads " << threads;
    }
    ResetCodePathForTesting();
  }
}

// A larger input, where several threads really share the work, and a batch
// that gives each query what it gets alone.
void TestThreadsAndBatchesAgree() {
  for (CodeScoring scoring :
       {CodeScoring::kSymmetric, CodeScoring::kAsymmetric}) {
    for (int64_t keep : {77, 9000}) {
      Random random(7);
      CodeCase c;
      c.rows = 100011;
      c.words = 1;
      c.batch = 9;
      c.keep = keep;
      c.scoring = scoring;
      FillCodes(0, &random, &c);
      std::normal_distribution<float> normal;
      for (int64_t i = 0; i < c.batch * 64; ++i) {
        c.samples.push_back(normal(random));
      }
      c.masks.push_back({});
      for (int i = 0; i < 3; ++i)
        c.masks.push_back(RandomMask(c.rows, &random));
      for (int64_t b = 0; b < c.batch; ++b) {
        c.mask_of_query.push_back(static_cast<int32_t>(b * b % 4));
      }
      const CodeAnswer whole = Expected(c);
      for (CodePath path : Paths()) {
        SetCodePathForTesting(path);
        for (int threads : {1, 2, 8}) {
          CHECK_THAT(Got(c, Threads(threads)) == whole)
              << threads << " threads";
        }
        for (int64_t b = 0; b < c.batch; b += 4) {
          CodeCase single = c;
          single.batch = 1;
          single.samples.assign(c.samples.begin() + b * 64,
                                c.samples.begin() + (b + 1) * 64);
          single.mask_of_query = {c.mask_of_query[b]};
          const CodeAnswer alone = Got(single, Threads(1));
          CHECK_THAT(alone.counts[0] == whole.counts[b]);
          CHECK_THAT(std::equal(alone.rows.begin(), alone.rows.end(),
                                whole.rows.begin() + b * c.keep));
          CHECK_THAT(std::memcmp(alone.scores.data(),
                                 whole.scores.data() + b * c.keep,
                                 c.keep * sizeof(float)) == 0);
        }
      }
      ResetCodePathForTesting();
    }
  }
}

// With a large `keep`, what it takes to be kept is guessed from a sample of the
// rows. Here the guess is too high: the best rows are all in the sample.
void TestRunsOfGoodRowsAreFound() {
  for (int64_t good : {500, 4000, 6000}) {
    CodeCase c;
    c.rows = 100000;
    c.words = 1;
    c.batch = 3;
    c.keep = 5000;
    Random random(6);
    FillCodes(0, &random, &c);
    c.samples.assign(c.batch * 64, 1.0f);
    for (int64_t i = 64; i < 128; ++i)
      c.samples[i] = random() % 2 ? 1.0f : -1.f;
    for (int64_t i = 0; i < good; ++i) {
      const int64_t row = i / 64 * 1024 + i % 64;
      if (row < c.rows) c.codes[CodeWordIndex(row, 0, 1)] = ~uint64_t{0};
    }
    c.masks = {{}};
    c.mask_of_query.assign(c.batch, 0);
    const CodeAnswer expected = Expected(c);
    for (CodePath path : Paths()) {
      SetCodePathForTesting(path);
      for (int threads : {1, 8}) {
        CHECK_THAT(Got(c, Threads(threads)) == expected);
      }
      c.scratch_bytes = 200000;
      CHECK_THAT(Got(c, Threads(2)) == expected);
      c.scratch_bytes = CodeKnnInput().scratch_bytes;
    }
    ResetCodePathForTesting();
  }
}

// Every row ties: the lowest passing rows win, in order.
void TestTiesGoToLowerRows() {
  CodeCase c;
  c.rows = 50000;
  c.words = 2;
  c.batch = 20;
  c.keep = 3000;
  c.codes.assign((c.rows + 63) / 64 * 64 * c.words, 0x123456789ABCDEFu);
  c.samples.assign(c.batch * c.words * 64, 0.5f);
  std::vector<bool> even(c.rows);
  for (int64_t i = 0; i < c.rows; i += 2) even[i] = true;
  c.masks = {{}, even};
  for (int64_t b = 0; b < c.batch; ++b) {
    c.mask_of_query.push_back(static_cast<int32_t>(b % 2));
  }
  for (CodePath path : Paths()) {
    SetCodePathForTesting(path);
    for (CodeScoring scoring :
         {CodeScoring::kSymmetric, CodeScoring::kAsymmetric}) {
      c.scoring = scoring;
      const CodeAnswer answer = Got(c, Threads(8));
      for (int64_t b = 0; b < c.batch; ++b) {
        CHECK_THAT(answer.counts[b] == c.keep);
        for (int64_t i = 0; i < c.keep; ++i) {
          CHECK_THAT(answer.rows[b * c.keep + i] == i * (1 + b % 2));
        }
      }
    }
  }
  ResetCodePathForTesting();
}

// The greatest scores of the longest codes fit their 16 bits.
void TestLongestCodesDoNotOverflow() {
  CodeCase c;
  c.rows = 130;
  c.words = kMaxCodeBits / 64;
  c.batch = 2;
  c.keep = 130;
  c.codes.assign(192 * c.words, ~uint64_t{0});
  for (int64_t row = 0; row < c.rows; row += 2) {
    for (int64_t w = 0; w < c.words; ++w) {
      c.codes[CodeWordIndex(row, w, c.words)] = 0;
    }
  }
  c.samples.assign(c.batch * c.words * 64, 1.0f);
  c.masks = {{}};
  c.mask_of_query = {0, 0};
  for (CodePath path : Paths()) {
    SetCodePathForTesting(path);
    c.scoring = CodeScoring::kSymmetric;
    CHECK_THAT(Got(c, Threads(1)) == Expected(c));
    CHECK_THAT(Got(c, Threads(1)).scores[0] == 4096.0f);
    c.scoring = CodeScoring::kAsymmetric;
    const CodeAnswer answer = Got(c, Threads(1));
    CHECK_THAT(answer == Expected(c));
    CHECK_THAT(answer.scores[0] == 4096.0f && answer.rows[0] == 1);
    CHECK_THAT(answer.scores[129] == -4096.0f && answer.rows[129] == 128);
  }
  ResetCodePathForTesting();
}

// Sums beyond what a float holds are reported as the greatest float.
void TestReportedScoresAreFinite() {
  const std::vector<float> samples(64, std::numeric_limits<float>::max());
  const CodeQuery query =
      MakeCodeQuery(samples.data(), 1, CodeScoring::kAsymmetric);
  for (uint32_t score : {uint32_t{0}, query.max_score}) {
    CHECK_THAT(std::isfinite(query.Reported(score))) << score;
  }
}

// A symmetric score is the number of matched bits; an asymmetric one is the
// inner product, but for half a level for each four bits.
void TestReportedScores() {
  Random random(3);
  std::normal_distribution<float> normal;
  const int64_t words = 4;
  std::vector<float> samples(words * 64);
  for (float& sample : samples) sample = normal(random);
  const CodeQuery query =
      MakeCodeQuery(samples.data(), words, CodeScoring::kAsymmetric);
  CodeCase c;
  c.rows = 500;
  c.words = words;
  c.batch = 1;
  c.keep = c.rows;
  c.samples = samples;
  FillCodes(0, &random, &c);
  c.masks = {{}};
  c.mask_of_query = {0};
  c.scoring = CodeScoring::kAsymmetric;
  const CodeAnswer asymmetric = Got(c, Threads(1));
  c.scoring = CodeScoring::kSymmetric;
  const CodeAnswer symmetric = Got(c, Threads(1));
  for (int64_t i = 0; i < c.rows; ++i) {
    double product = 0.0;
    for (int64_t bit = 0; bit < words * 64; ++bit) {
      const uint64_t word =
          c.codes[CodeWordIndex(asymmetric.rows[i], bit / 64, words)];
      product += (word >> (bit % 64) & 1) != 0 ? samples[bit] : -samples[bit];
    }
    CHECK_THAT(std::abs(product - asymmetric.scores[i]) <=
               query.step * 0.5 * 16 * words + 1e-4);
    int64_t matched = 0;
    for (int64_t bit = 0; bit < words * 64; ++bit) {
      const uint64_t word =
          c.codes[CodeWordIndex(symmetric.rows[i], bit / 64, words)];
      matched += (word >> (bit % 64) & 1) ==
                 static_cast<uint64_t>(samples[bit] >= 0.0f);
    }
    CHECK_THAT(static_cast<float>(matched) == symmetric.scores[i]);
  }
}

// The list alone: whatever comes, the best stay.
void TestHitListKeepsTheBest() {
  Random random(9);
  for (int round = 0; round < 200; ++round) {
    const int64_t keep = Pick<int64_t>({1, 5, 300, 1000}, &random);
    const uint32_t max_score = Pick<uint32_t>({1, 64, 64512}, &random);
    const int64_t rows = Pick<int64_t>({1, 64, 640, 6400}, &random);
    HitList list(keep, rows);
    HitHistogram histogram(0, max_score);
    std::vector<uint64_t> all;
    for (int64_t row = 0; row < rows; row += 64) {
      uint64_t* end = list.end();
      int64_t count = 0;
      for (int64_t i = row; i < std::min(row + 64, rows); ++i) {
        const uint32_t score =
            static_cast<uint32_t>(random() % (max_score + 1));
        all.push_back(MakeHit(score, i));
        if (score >= list.threshold()) end[count++] = all.back();
      }
      if (list.Commit(count)) list.Shrink(&histogram);
    }
    std::stable_sort(all.begin(), all.end(), [](uint64_t a, uint64_t b) {
      return HitScore(a) > HitScore(b);
    });
    all.resize(std::min<int64_t>(keep, rows));
    for (int64_t i = 1; i < list.size(); ++i) {
      CHECK_THAT(HitRow(list.hits()[i - 1]) < HitRow(list.hits()[i]));
    }
    for (uint64_t hit : all) {
      CHECK_THAT(std::count(list.hits(), list.hits() + list.size(), hit) == 1);
    }
    for (uint32_t score = 0; score <= max_score; ++score) {
      CHECK_THAT(histogram.Count(score) == 0);
    }
  }
}

}  // namespace
}  // namespace lintf

int main() {
  lintf::TestHitListKeepsTheBest();
  lintf::TestReportedScores();
  lintf::TestReportedScoresAreFinite();
  lintf::TestRunsOfGoodRowsAreFound();
  lintf::TestTiesGoToLowerRows();
  lintf::TestLongestCodesDoNotOverflow();
  lintf::TestRandomCases();
  lintf::TestThreadsAndBatchesAgree();
  return lintf::testing::Result();
}
