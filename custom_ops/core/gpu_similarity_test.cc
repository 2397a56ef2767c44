// SPDX-License-Identifier: Apache-2.0
// Every score of every row, bit for bit the CPU's, of all kinds of
// similarities; and the proxies that candidates are found by.
#include "custom_ops/core/gpu_similarity.h"

#include <cstdint>
#include <cstring>
#include <limits>
#include <vector>

#include "custom_ops/core/gpu_learned_knn.h"
#include "custom_ops/core/gpu_similarity_test_data.h"
#include "custom_ops/core/gpu_testing.h"
#include "custom_ops/core/retrieval.h"
#include "custom_ops/core/search_test_data.h"
#include "custom_ops/core/similarity_test_data.h"
#include "custom_ops/core/testing.h"

namespace lintf {
namespace {

using testing::DeviceMasks;
using testing::DeviceSimilarity;
using testing::LearnedAnswer;
using testing::LearnedInput;
using testing::ShapeOf;
using testing::SimilarityCase;
using testing::StoredRows;

bool SameBits(const std::vector<float>& a, const std::vector<float>& b) {
  return a.size() == b.size() &&
         std::memcmp(a.data(), b.data(), a.size() * sizeof(float)) == 0;
}

void CheckProxies(const SimilarityCase& c) {
  const int64_t pairs = c.shape.pairs();
  std::vector<float> averaged(c.num_queries * c.dim);
  std::vector<float> of_pairs(c.num_queries * pairs * c.dim);
  for (int64_t q = 0; q < c.num_queries; ++q) {
    const float* const query = c.queries.data() + q * c.shape.query_dim();
    AveragedQuery(c.similarity, query, averaged.data() + q * c.dim);
    for (int64_t l = 0; l < pairs; ++l) {
      PairQuery(c.similarity, query, l,
                of_pairs.data() + (q * pairs + l) * c.dim);
    }
  }
  const DeviceSimilarity similarity(c);
  const gpu::DeviceArray<float> queries(c.queries);
  gpu::DeviceArray<float> found_averaged(c.num_queries * c.dim);
  gpu::DeviceArray<float> found_of_pairs(c.num_queries * pairs * c.dim);
  gpu::TestContext context;
  gpu::AverageQueries(similarity.similarity(), queries.data(), c.num_queries,
                      &context, found_averaged.data());
  gpu::MakePairQueries(similarity.similarity(), queries.data(), c.num_queries,
                       &context, found_of_pairs.data());
  CHECK_THAT(context.Finish());
  CHECK_THAT(SameBits(found_averaged.ToHost(), averaged));
  CHECK_THAT(SameBits(found_of_pairs.ToHost(), of_pairs));
}

// All rows of a case, best first.
void CheckScores(const SimilarityCase& c, const char* what) {
  const StoredRows rows(c);
  const std::vector<std::vector<bool>> all(1);
  RetrievalInput input = LearnedInput(c, rows, c.rows);
  const std::vector<int32_t> mask_of_query(c.num_queries, 0);
  LearnedAnswer expected(c.num_queries, c.rows);
  RetrieveRowsReference(input, VectorMasks(all), mask_of_query.data(),
                        expected.Output());

  const DeviceSimilarity similarity(c);
  const gpu::DeviceArray<char> items(rows.data);
  const gpu::DeviceArray<float> scales(rows.scales);
  const gpu::DeviceArray<float> queries(c.queries);
  const DeviceMasks masks(all, c.rows);
  gpu::DeviceArray<float> scores(c.num_queries * c.rows);
  gpu::DeviceArray<int64_t> found(c.num_queries * c.rows);
  gpu::DeviceArray<int32_t> counts(c.num_queries);
  gpu::DeviceArray<int64_t> num_scored(c.num_queries);
  input.similarity = &similarity.similarity();
  input.knn.items = ItemMatrix(items.data(), c.type, scales.data());
  input.knn.queries = queries.data();
  KnnOutput output;
  output.scores = scores.data();
  output.rows = found.data();
  output.counts = counts.data();
  output.num_scored = num_scored.data();
  gpu::TestContext context;
  gpu::RetrieveLearned(input, masks.masks(), mask_of_query.data(), {}, &context,
                       output);
  CHECK_THAT(context.Finish()) << what;
  CHECK_THAT(counts.ToHost() == expected.answer.counts) << what;
  CHECK_THAT(found.ToHost() == expected.answer.rows) << what;
  CHECK_THAT(SameBits(scores.ToHost(), expected.answer.scores)) << what;
  CHECK_THAT(num_scored.ToHost() == std::vector<int64_t>(c.num_queries, c.rows))
      << what;
}

constexpr ElementType kTypes[] = {ElementType::kFloat32, ElementType::kBfloat16,
                                  ElementType::kFloat16, ElementType::kInt8};

void TestKinds() {
  uint32_t seed = 0;
  for (const PairSimilarity component :
       {PairSimilarity::kInnerProduct, PairSimilarity::kWeighted,
        PairSimilarity::kHadamard}) {
    for (const Gate gate : {Gate::kNone, Gate::kSoftmax, Gate::kSiluSoftmax,
                            Gate::kRelu, Gate::kSigmoid}) {
      for (const int64_t gate_hidden : {0, 11}) {
        if (gate == Gate::kNone && gate_hidden > 0) continue;
        const int64_t p = gate == Gate::kNone ? 1 : 3;
        const int64_t r = gate == Gate::kNone ? 1 : 2;
        // Types in turn; aligned and not.
        const ElementType type = kTypes[seed % 4];
        const int64_t dim = seed % 3 == 0 ? 12 : seed % 3 == 1 ? 7 : 37;
        const SimilarityCase c(ShapeOf(component, gate, p, r, dim, gate_hidden),
                               3, 150, ++seed, type);
        CheckProxies(c);
        CheckScores(c, "kinds");
      }
    }
  }
}

// Around what kernels have registers, chunks and tiles for.
void TestSizes() {
  struct Size {
    int64_t p, r, dim, gate_hidden, rows;
  };
  const Size sizes[] = {
      {1, 1, 1, 0, 1},     {1, 1, 32, 8, 255},  {8, 1, 33, 9, 129},
      {3, 3, 31, 7, 257},  {1, 16, 4, 16, 100}, {17, 1, 6, 3, 90},
      {8, 4, 32, 128, 70}, {4, 8, 5, 1, 64},    {33, 1, 8, 5, 130},
      {8, 8, 4, 256, 40},  {64, 1, 3, 0, 33},   {1, 64, 2, 2, 20},
  };
  uint32_t seed = 100;
  for (const Size& size : sizes) {
    for (const ElementType type : kTypes) {
      if (gpu::IsReduced() && type != ElementType::kBfloat16) continue;
      CheckScores(SimilarityCase(
                      ShapeOf(PairSimilarity::kInnerProduct, Gate::kSiluSoftmax,
                              size.p, size.r, size.dim, size.gate_hidden),
                      2, size.rows, ++seed, type),
                  "sizes");
    }
    CheckScores(
        SimilarityCase(ShapeOf(PairSimilarity::kWeighted, Gate::kSigmoid,
                               size.p, size.r, size.dim, size.gate_hidden),
                       1, size.rows, ++seed),
        "weighted");
  }
}

// Joint MLPs, among them the paper's, and components of several chunks.
void TestJoint() {
  uint32_t seed = 200;
  for (const int64_t hidden : {1, 4, 10, 50, 64}) {
    for (const int64_t dim : {1, 32, 50, 100}) {
      SimilarityShape shape =
          ShapeOf(PairSimilarity::kHadamard, Gate::kNone, 1, 1, dim, 0);
      shape.hidden = hidden;
      shape.temperature = 1.0f;
      CheckScores(SimilarityCase(shape, 2, 140, ++seed), "joint");
    }
  }
  SimilarityShape shape =
      ShapeOf(PairSimilarity::kHadamard, Gate::kSoftmax, 3, 4, 40, 6);
  shape.hidden = 13;
  CheckScores(SimilarityCase(shape, 2, 140, ++seed, ElementType::kInt8),
              "gated joint");
}

// Weights and queries that do not fit shared memory.
void TestLarge() {
  CheckScores(SimilarityCase(ShapeOf(PairSimilarity::kWeighted, Gate::kSoftmax,
                                     8, 8, 300, 256),
                             1, 20, 300),
              "large weighted");
  CheckScores(SimilarityCase(ShapeOf(PairSimilarity::kInnerProduct,
                                     Gate::kSoftmax, 64, 1, 1024, 4),
                             1, 20, 301, ElementType::kFloat16),
              "large");
}

// Infinite and absent intermediate results: NaN counts as -inf.
void TestExtremes() {
  for (const Gate gate :
       {Gate::kSoftmax, Gate::kSiluSoftmax, Gate::kRelu, Gate::kSigmoid}) {
    for (const int64_t gate_hidden : {0, 5}) {
      SimilarityCase c(
          ShapeOf(PairSimilarity::kInnerProduct, gate, 2, 3, 8, gate_hidden), 2,
          90, 400);
      const float values[] = {0.0f,   -0.0f,  1e38f,  -1e38f, 3e38f,
                              1e-42f, 1e-20f, -3e38f, 1e19f};
      for (size_t i = 0; i < c.items.size(); i += 5) {
        c.items[i] = values[i / 5 % 9];
      }
      for (size_t i = 0; i < c.queries.size(); i += 7) {
        c.queries[i] = values[i / 7 % 9];
      }
      CheckScores(c, "extremes");
    }
  }
}

}  // namespace
}  // namespace lintf

int main() {
  lintf::gpu::UnderEachSchedule([] { lintf::TestKinds(); }, 3);
  lintf::TestSizes();
  lintf::TestJoint();
  lintf::TestLarge();
  lintf::TestExtremes();
  return lintf::testing::Result();
}
