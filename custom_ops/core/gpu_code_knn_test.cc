// SPDX-License-Identifier: Apache-2.0
// The search by codes on the GPU against the CPU's scalar reference.
#include "custom_ops/core/gpu_code_knn.h"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <vector>

#include "custom_ops/core/code_knn_test_data.h"
#include "custom_ops/core/gpu_testing.h"
#include "custom_ops/core/testing.h"

namespace lintf::gpu {
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

// Masks in device memory, their rows of words a little apart.
class DeviceMasks {
 public:
  DeviceMasks(const std::vector<std::vector<bool>>& masks, int64_t num_rows)
      : words_(WordsOf(masks, num_rows)) {
    for (const std::vector<bool>& mask : masks) {
      masks_.passes_all.push_back(mask.empty());
    }
    masks_.words = words_.data();
    masks_.stride = MaskWords(num_rows) + 1;
  }
  const Masks& masks() const { return masks_; }

 private:
  static std::vector<uint64_t> WordsOf(
      const std::vector<std::vector<bool>>& masks, int64_t num_rows) {
    const int64_t stride = MaskWords(num_rows) + 1;
    std::vector<uint64_t> words(stride * masks.size(), 0x5555555555555555u);
    for (size_t m = 0; m < masks.size(); ++m) {
      if (masks[m].empty()) continue;  // those words are not to be read
      std::fill_n(words.begin() + m * stride, MaskWords(num_rows), 0);
      for (int64_t row = 0; row < num_rows; ++row) {
        words[m * stride + row / 64] |= static_cast<uint64_t>(masks[m][row])
                                        << (row % 64);
      }
    }
    return words;
  }

  DeviceArray<uint64_t> words_;
  Masks masks_;
};

CodeAnswer Got(const CodeCase& c) {
  return RunWith(c, [&](const CodeKnnInput& input, const CodeKnnOutput& out) {
    const DeviceArray<float> samples(c.samples);
    const DeviceArray<uint64_t> codes(c.codes);
    const DeviceMasks masks(c.masks, c.rows);
    const int64_t count = c.batch * c.keep;
    DeviceArray<float> scores(count);
    DeviceArray<int64_t> rows(count);
    DeviceArray<int64_t> counts(c.batch);
    CodeKnnInput device_input = input;
    device_input.samples = samples.data();
    device_input.codes = codes.data();
    TestContext context;
    context.set_scratch_bytes(c.scratch_bytes);
    CodeKnn(device_input, masks.masks(), c.mask_of_query.data(), c.order,
            &context,
            {out.scores == nullptr ? nullptr : scores.data(), rows.data(),
             counts.data()});
    CHECK_THAT(context.Finish()) << c.Describe();
    const std::vector<int64_t> host_rows = rows.ToHost();
    const std::vector<int64_t> host_counts = counts.ToHost();
    std::copy(host_rows.begin(), host_rows.end(), out.rows);
    std::copy(host_counts.begin(), host_counts.end(), out.counts);
    if (out.scores == nullptr) return;
    const std::vector<float> host_scores = scores.ToHost();
    std::copy(host_scores.begin(), host_scores.end(), out.scores);
  });
}

void TestRandomCases(int count, uint64_t seed) {
  Random random(seed);
  for (int i = 0; i < count; ++i) {
    const CodeCase c = RandomCodeCase(&random);
    CHECK_THAT(Got(c) == Expected(c)) << "case " << i << ": " << c.Describe();
  }
}

// More results than one block sorts, ties among them, in slices of queries.
void TestLargeResults() {
  Random random(5);
  for (const CodeScoring scoring :
       {CodeScoring::kSymmetric, CodeScoring::kAsymmetric}) {
    for (const CodeOrder order :
         {CodeOrder::kBestFirst, CodeOrder::kAscendingRow}) {
      for (const int64_t keep : {4095, 4096, 4097, 30000}) {
        CodeCase c;
        c.rows = 25011;
        c.words = 1;
        c.batch = 3;
        c.keep = keep;
        c.scoring = scoring;
        c.order = order;
        c.scratch_bytes = keep == 4096 ? 200000 : c.scratch_bytes;
        FillCodes(0, &random, &c);
        c.samples = testing::RandomSamples(c.batch * 64, &random);
        std::vector<bool> most(c.rows);
        for (int64_t row = 0; row < c.rows; ++row) {
          most[row] = random() % 8 != 0;
        }
        c.masks = {{}, most};
        c.mask_of_query = {0, 1, 0};
        CHECK_THAT(Got(c) == Expected(c)) << c.Describe();
      }
    }
  }
}

// Every row ties: the lowest passing rows win, in order, over many tiles.
void TestTiesGoToLowerRows() {
  CodeCase c;
  c.rows = 70000;
  c.words = 2;
  c.batch = 5;
  c.codes.assign((c.rows + 63) / 64 * 64 * c.words, 0x123456789ABCDEFu);
  c.samples.assign(c.batch * c.words * 64, 0.5f);
  std::vector<bool> even(c.rows);
  for (int64_t i = 0; i < c.rows; i += 2) even[i] = true;
  c.masks = {{}, even};
  for (int64_t b = 0; b < c.batch; ++b) {
    c.mask_of_query.push_back(static_cast<int32_t>(b % 2));
  }
  for (const CodeScoring scoring :
       {CodeScoring::kSymmetric, CodeScoring::kAsymmetric}) {
    for (const CodeOrder order :
         {CodeOrder::kBestFirst, CodeOrder::kAscendingRow}) {
      for (const int64_t keep : {1, 3000, 20001}) {
        c.scoring = scoring;
        c.order = order;
        c.keep = keep;
        const CodeAnswer answer = Got(c);
        int64_t wrong = 0;
        for (int64_t b = 0; b < c.batch; ++b) {
          CHECK_THAT(answer.counts[b] == c.keep);
          for (int64_t i = 0; i < c.keep; ++i) {
            wrong += answer.rows[b * c.keep + i] != i * (1 + b % 2) ? 1 : 0;
          }
        }
        CHECK_THAT(wrong == 0) << wrong << " " << c.Describe();
      }
    }
  }
}

// The greatest scores of the longest codes fit their 16 bits, and their counts
// the places that are meant for them.
void TestLongestCodes() {
  CodeCase c;
  c.rows = 130;
  c.batch = 6;
  c.keep = 130;
  c.masks = {{}};
  c.mask_of_query.assign(c.batch, 0);
  for (const int64_t words : {12, 13, 47, 48, 64}) {
    c.words = words;
    c.codes.assign(192 * words, ~uint64_t{0});
    for (int64_t row = 0; row < c.rows; row += 2) {
      for (int64_t w = 0; w < words; ++w) {
        c.codes[CodeWordIndex(row, w, words)] = 0;
      }
    }
    c.samples.assign(c.batch * words * 64, 1.0f);
    for (const CodeScoring scoring :
         {CodeScoring::kSymmetric, CodeScoring::kAsymmetric}) {
      c.scoring = scoring;
      const CodeAnswer answer = Got(c);
      CHECK_THAT(answer == Expected(c)) << c.Describe();
      CHECK_THAT(answer.scores[0] == static_cast<float>(64 * words));
    }
  }
}

// Sums in an order, and with roundings, that must be the CPU's.
void TestReportedScoresAreTheSameBits() {
  Random random(11);
  for (int i = 0; i < 20; ++i) {
    CodeCase c;
    c.rows = 64;
    c.words = 1 + static_cast<int64_t>(random() % 64);
    c.batch = 4;
    c.keep = 64;
    c.scoring = CodeScoring::kAsymmetric;
    FillCodes(0, &random, &c);
    c.samples = testing::RandomSamples(c.batch * c.words * 64, &random);
    // Magnitudes far apart: every rounding shows.
    for (float& sample : c.samples) {
      if (i % 2 == 0) sample = std::ldexp(sample, random() % 60);
    }
    c.masks = {{}};
    c.mask_of_query.assign(c.batch, 0);
    CHECK_THAT(Got(c) == Expected(c)) << c.Describe();
  }
}

// Many tiles of more than the least size would take a table that is too large
// for a test; so this is as many rows as a warp has tiles of.
void TestManyTiles() {
  Random random(13);
  CodeCase c;
  c.rows = 300001;
  c.words = 1;
  c.batch = 1;
  c.keep = 60000;
  c.order = CodeOrder::kAscendingRow;
  FillCodes(0, &random, &c);
  c.samples = testing::RandomSamples(64, &random);
  c.masks = {RandomMask(c.rows, &random)};
  c.mask_of_query = {0};
  CHECK_THAT(Got(c) == Expected(c));
}

void TestTooManyRows() {
  CodeKnnInput input;
  input.num_queries = 1;
  input.num_rows = kMaxSegmentRows + 1;
  input.words = 1;
  input.keep = 1;
  Masks masks;
  masks.passes_all = {true};
  const int32_t mask = 0;
  TestContext context;
  CodeKnn(input, masks, &mask, CodeOrder::kBestFirst, &context, {});
  CHECK_THAT(!context.ok());
}

}  // namespace
}  // namespace lintf::gpu

int main() {
  lintf::gpu::TestRandomCases(200, 20240718);
  lintf::gpu::UnderEachSchedule([] {
    lintf::gpu::TestRandomCases(12, 3);
    lintf::gpu::TestReportedScoresAreTheSameBits();
    lintf::gpu::TestLongestCodes();
  });
  lintf::gpu::TestLargeResults();
  lintf::gpu::TestTiesGoToLowerRows();
  lintf::gpu::TestManyTiles();
  lintf::gpu::TestTooManyRows();
  return lintf::testing::Result();
}
