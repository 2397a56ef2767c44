// SPDX-License-Identifier: Apache-2.0
// Whole searches on the GPU, by each algorithm, against the CPU's.
#include "custom_ops/core/gpu_retrieval.h"

#include <cstdint>
#include <cstring>
#include <limits>
#include <random>
#include <vector>

#include "custom_ops/core/gpu_masks.h"
#include "custom_ops/core/gpu_testing.h"
#include "custom_ops/core/item_encoding.h"
#include "custom_ops/core/retrieval.h"
#include "custom_ops/core/search_test_data.h"
#include "custom_ops/core/sign_oporp.h"
#include "custom_ops/core/testing.h"

namespace lintf {
namespace {

using Random = std::mt19937_64;

struct Answer {
  std::vector<float> scores;
  std::vector<int64_t> rows;
  std::vector<int32_t> counts;
  RetrievalCounts by_algorithm;
};

// An index with codes, in both memories.
struct Fixture {
  explicit Fixture(ElementType type, uint64_t seed)
      : type(type), random(seed), items(kRows * kDim), scales(kRows) {
    std::normal_distribution<float> normal;
    data.resize(kRows * kDim * ElementSize(type));
    for (float& x : items) x = normal(random);
    for (int64_t row = 0; row < kRows; ++row) {
      EncodeRow(type, items.data() + row * kDim, kDim,
                data.data() + row * kDim * ElementSize(type), &scales[row]);
    }
    OporpConfig config;
    config.dim = kDim;
    config.bins = 32;
    config.repeats = 4;
    config.seed = 3;
    const SignOporp oporp(config);
    words = config.words();
    std::vector<uint64_t> own(kRows * words);
    oporp.EncodeBatch(items.data(), kRows, own.data());
    codes.resize((kRows + 63) / 64 * 64 * words);
    for (int64_t row = 0; row < kRows; ++row) {
      for (int64_t w = 0; w < words; ++w) {
        codes[CodeWordIndex(row, w, words)] = own[row * words + w];
      }
    }
    queries.resize(kBatch * kDim);
    for (float& x : queries) x = normal(random);
    samples.resize(kBatch * config.bits());
    oporp.ProjectBatch(queries.data(), kBatch, samples.data());
    for (int m = 0; m < 3; ++m) {
      std::vector<bool> mask(kRows);
      for (int64_t row = 0; row < kRows; ++row) {
        mask[row] = random() % 10 < static_cast<uint64_t>(1 + 4 * m);
      }
      masks.push_back(mask);
    }
    masks.emplace_back();
  }

  static constexpr int64_t kRows = 3000;
  static constexpr int64_t kDim = 40;
  static constexpr int64_t kBatch = 6;

  ElementType type;
  Random random;
  std::vector<float> items;
  std::vector<float> scales;
  std::vector<char> data;
  std::vector<uint64_t> codes;
  int64_t words = 0;
  std::vector<float> queries;
  std::vector<float> samples;
  std::vector<std::vector<bool>> masks;
};

RetrievalInput InputOf(const Fixture& f, Algorithm algorithm, int64_t k,
                       int64_t shortlist, bool codes_alone) {
  RetrievalInput input;
  input.knn.num_queries = Fixture::kBatch;
  input.knn.num_rows = Fixture::kRows;
  input.knn.dim = Fixture::kDim;
  input.knn.k = k;
  input.code.words = f.words;
  input.code.scoring = CodeScoring::kAsymmetric;
  input.code.shortlist = shortlist;
  input.algorithm = algorithm;
  if (!codes_alone) input.knn.items.type = f.type;
  CHECK_THAT(PlannerCosts::FromList({}, f.type, &input.costs).empty());
  return input;
}

void Check(const Fixture& f, const std::vector<int32_t>& mask_of_query,
           Algorithm algorithm, int64_t k, int64_t shortlist,
           bool codes_alone) {
  RetrievalInput input = InputOf(f, algorithm, k, shortlist, codes_alone);
  const int64_t slots = Fixture::kBatch * k;

  RetrievalInput host = input;
  // The GPU's kAuto is exact where it can be.
  if (algorithm == Algorithm::kAuto && !codes_alone) {
    host.algorithm = Algorithm::kMasked;
  }
  host.knn.queries = f.queries.data();
  host.code.samples = f.samples.data();
  host.code.codes = f.codes.data();
  if (!codes_alone) {
    host.knn.items = ItemMatrix(f.data.data(), f.type, f.scales.data());
  }
  Answer expected{std::vector<float>(slots),
                  std::vector<int64_t>(slots),
                  std::vector<int32_t>(Fixture::kBatch),
                  {}};
  KnnOutput output;
  output.scores = expected.scores.data();
  output.rows = expected.rows.data();
  output.counts = expected.counts.data();
  RetrieveRows(host, VectorMasks(f.masks), mask_of_query.data(), Threads(1),
               output);

  gpu::DeviceArray<char> items(f.data);
  gpu::DeviceArray<float> scales(f.scales);
  gpu::DeviceArray<uint64_t> codes(f.codes);
  gpu::DeviceArray<float> queries(f.queries);
  gpu::DeviceArray<float> samples(f.samples);
  const int64_t stride = gpu::MaskWords(Fixture::kRows);
  std::vector<uint64_t> bits(f.masks.size() * stride);
  gpu::Masks masks;
  masks.stride = stride;
  const VectorMasks host_masks(f.masks);
  for (size_t m = 0; m < f.masks.size(); ++m) {
    masks.passes_all.push_back(f.masks[m].empty());
    if (f.masks[m].empty()) continue;
    host_masks.Fill(m, 0, Fixture::kRows, bits.data() + m * stride);
  }
  gpu::DeviceArray<uint64_t> words(bits);
  masks.words = words.data();
  gpu::DeviceArray<float> scores(slots);
  gpu::DeviceArray<int64_t> rows(slots);
  gpu::DeviceArray<int32_t> counts(Fixture::kBatch);
  input.knn.queries = queries.data();
  input.code.samples = samples.data();
  input.code.codes = codes.data();
  if (!codes_alone) {
    input.knn.items = ItemMatrix(items.data(), f.type, scales.data());
  }
  KnnOutput device;
  device.scores = scores.data();
  device.rows = rows.data();
  device.counts = counts.data();
  gpu::TestContext context;
  const RetrievalCounts by_algorithm = gpu::RetrieveRows(
      input, masks, mask_of_query.data(), {}, &context, device);
  CHECK_THAT(context.Finish());
  CHECK_THAT(by_algorithm.masked + by_algorithm.prefiltered +
                 by_algorithm.quantized ==
             Fixture::kBatch);
  const bool is_quantized = algorithm == Algorithm::kQuantized || codes_alone;
  CHECK_THAT((by_algorithm.quantized > 0) == is_quantized);
  CHECK_THAT(counts.ToHost() == expected.counts)
      << static_cast<int>(algorithm) << " k " << k;
  CHECK_THAT(rows.ToHost() == expected.rows)
      << static_cast<int>(algorithm) << " k " << k;
  const std::vector<float> found = scores.ToHost();
  CHECK_THAT(std::memcmp(found.data(), expected.scores.data(),
                         slots * sizeof(float)) == 0)
      << static_cast<int>(algorithm) << " k " << k;
}

void TestAlgorithms() {
  // Types whose scores have the CPU's bits.
  for (const ElementType type : {ElementType::kFloat32, ElementType::kInt8}) {
    const Fixture f(type, 1);
    const std::vector<int32_t> filtered = {0, 1, 2, 1, 0, 2};
    const std::vector<int32_t> mixed = {0, 3, 2, 3, 0, 1};
    for (const auto& mask_of_query : {filtered, mixed}) {
      for (const int64_t k : {1, 20, 700}) {
        if (gpu::IsReduced() && k != 20) continue;
        Check(f, mask_of_query, Algorithm::kAuto, k, 100, false);
        Check(f, mask_of_query, Algorithm::kMasked, k, 100, false);
        Check(f, mask_of_query, Algorithm::kPrefiltered, k, 100, false);
        Check(f, mask_of_query, Algorithm::kQuantized, k, 100, false);
        Check(f, mask_of_query, Algorithm::kQuantized, k, 100, true);
      }
      Check(f, mask_of_query, Algorithm::kAuto, 50, 0, true);
      Check(f, mask_of_query, Algorithm::kQuantized, 4000, 0, true);
      Check(f, mask_of_query, Algorithm::kQuantized, 10, 5000, false);
    }
  }
}

}  // namespace
}  // namespace lintf

int main() {
  lintf::gpu::UnderEachSchedule([] { lintf::TestAlgorithms(); }, 2);
  return lintf::testing::Result();
}
