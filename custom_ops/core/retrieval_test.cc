// SPDX-License-Identifier: Apache-2.0
// The choice of algorithm, and searches by all of them.
#include "custom_ops/core/retrieval.h"

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <limits>
#include <memory>
#include <random>
#include <vector>

#include "custom_ops/core/bool_masks.h"
#include "custom_ops/core/planner.h"
#include "custom_ops/core/sign_oporp.h"
#include "custom_ops/core/testing.h"

namespace lintf {
namespace {

constexpr PlannerCosts kCheapCodes = {{1.0f, 1.0f, 1.0f}, 1e-6f, 1e-6f};
constexpr PlannerCosts kDearCodes = {{1e-6f, 1e-6f, 1e-6f}, 1.0f, 1.0f};

struct Results {
  explicit Results(int64_t queries, int64_t k)
      : scores(queries * k), rows(queries * k), counts(queries) {}

  KnnOutput Output() {
    KnnOutput output;
    output.scores = scores.data();
    output.rows = rows.data();
    output.counts = counts.data();
    return output;
  }

  bool operator==(const Results& other) const {
    return rows == other.rows && counts == other.counts &&
           std::memcmp(scores.data(), other.scores.data(),
                       scores.size() * sizeof(float)) == 0;
  }

  std::vector<float> scores;
  std::vector<int64_t> rows;
  std::vector<int32_t> counts;
};

// An index with codes, and queries of which each third has a filter that few
// rows pass.
class Example {
 public:
  Example(int64_t rows, int64_t dim, int64_t queries, int64_t k)
      : oporp_({dim, dim / 2, 128 / (dim / 2), 5}),
        items_(rows * dim),
        queries_(queries * dim),
        codes_((rows + 63) / 64 * 64 * 2),
        samples_(queries * 128),
        mask_(new bool[2 * rows + 1]),
        masks_(mask_.get(), 2, rows) {
    std::mt19937 random(11);
    std::normal_distribution<float> normal;
    for (float& x : items_) x = normal(random);
    for (float& x : queries_) x = normal(random);
    for (int64_t row = 0; row < rows; ++row) {
      uint64_t code[2];
      oporp_.Encode(items_.data() + row * dim, code);
      for (int w = 0; w < 2; ++w) codes_[CodeWordIndex(row, w, 2)] = code[w];
      mask_[row] = random() % 2 == 0;
      mask_[rows + row] = row % 37 == 3;
    }
    oporp_.ProjectBatch(queries_.data(), queries, samples_.data());
    for (int64_t i = 0; i < queries; ++i) mask_of_query_.push_back(i % 3 == 0);
    input_.knn.queries = queries_.data();
    input_.knn.num_queries = queries;
    input_.knn.items = ItemMatrix(items_.data(), ElementType::kFloat32);
    input_.knn.num_rows = rows;
    input_.knn.dim = dim;
    input_.knn.k = k;
    input_.code.samples = samples_.data();
    input_.code.codes = codes_.data();
    input_.code.words = 2;
    input_.code.scoring = CodeScoring::kAsymmetric;
    input_.code.shortlist = 40;
    input_.costs = kCheapCodes;
  }

  RetrievalInput& input() { return input_; }

  Results Search(RetrievalCounts* counts) const {
    Results results(input_.knn.num_queries, input_.knn.k);
    *counts = RetrieveRows(input_, masks_, mask_of_query_.data(), Parallel(),
                           results.Output());
    return results;
  }

  // Query `query` alone.
  Results SearchOne(int64_t query) const {
    RetrievalInput one = input_;
    one.knn.queries += query * one.knn.dim;
    one.knn.num_queries = 1;
    one.code.samples += query * 128;
    Results results(1, input_.knn.k);
    RetrieveRows(one, masks_, mask_of_query_.data() + query, Parallel(),
                 results.Output());
    return results;
  }

 private:
  SignOporp oporp_;
  std::vector<float> items_;
  std::vector<float> queries_;
  std::vector<uint64_t> codes_;
  std::vector<float> samples_;
  std::unique_ptr<bool[]> mask_;
  BoolMasks masks_;
  std::vector<int32_t> mask_of_query_;
  RetrievalInput input_;
};

void FixedAlgorithmsDoWhatTheySay() {
  Example example(1000, 32, 10, 7);
  RetrievalCounts counts;
  example.input().algorithm = Algorithm::kMasked;
  const Results masked = example.Search(&counts);
  CHECK_THAT(counts.masked == 10 && counts.prefiltered == 0);
  example.input().algorithm = Algorithm::kPrefiltered;
  CHECK_THAT(example.Search(&counts) == masked);
  CHECK_THAT(counts.prefiltered == 10 && counts.quantized == 0);
  example.input().algorithm = Algorithm::kQuantized;
  const Results quantized = example.Search(&counts);
  CHECK_THAT(counts.quantized == 10 && counts.masked == 0);
  for (int64_t i = 0; i < 10; i += 3) {  // fewer rows pass than are rescored
    for (int64_t slot = i * 7; slot < (i + 1) * 7; ++slot) {
      CHECK_THAT(quantized.rows[slot] == masked.rows[slot]) << slot;
    }
  }
}

void AutoDecidesForEachQueryAlone() {
  Example example(1000, 32, 10, 7);
  RetrievalCounts counts;
  const Results results = example.Search(&counts);
  CHECK_THAT(counts.quantized == 6 && counts.masked + counts.prefiltered == 4);
  for (int64_t query = 0; query < 10; ++query) {
    const Results one = example.SearchOne(query);
    for (int64_t slot = 0; slot < 7; ++slot) {
      CHECK_THAT(one.rows[slot] == results.rows[query * 7 + slot]) << query;
      CHECK_THAT(one.scores[slot] == results.scores[query * 7 + slot]) << query;
    }
  }
  example.input().costs = kDearCodes;
  const Results exact = example.Search(&counts);
  CHECK_THAT(counts.quantized == 0);
  example.input().algorithm = Algorithm::kMasked;
  CHECK_THAT(example.Search(&counts) == exact);
  example.input().knn.num_queries = 0;
  example.Search(&counts);
  CHECK_THAT(counts.masked == 0);
}

void WithoutItemsOnlyCodesAnswer() {
  Example example(1000, 32, 10, 7);
  RetrievalCounts counts;
  example.input().algorithm = Algorithm::kQuantized;
  example.input().knn.items.data = nullptr;
  const Results codes = example.Search(&counts);
  example.input().algorithm = Algorithm::kAuto;
  example.input().costs = kDearCodes;
  CHECK_THAT(example.Search(&counts) == codes);
  CHECK_THAT(counts.quantized == 10);
}

void CodesAreForQueriesThatManyRowsPass() {
  QueryShape shape;
  shape.num_rows = 1000000;
  shape.dim = 128;
  shape.code_words = 2;
  shape.shortlist = 1000;
  PlannerCosts costs;
  CHECK_THAT(PlannerCosts::FromList({}, ElementType::kFloat32, &costs).empty());
  bool before = false;
  for (int64_t passing : {0, 1, 999, 1000, 5000, 100000, 1000000}) {
    shape.passing = passing;
    const bool prefer = PreferCodes(costs, shape);
    CHECK_THAT(prefer || !before) << "the more pass, the better: " << passing;
    CHECK_THAT(!prefer || passing > shape.shortlist) << passing;
    before = prefer;
  }
  CHECK_THAT(before);
  // A shortlist of everything saves nothing.
  shape.shortlist = shape.num_rows;
  CHECK_THAT(!PreferCodes(costs, shape));
}

void CostsGoThroughLists() {
  PlannerCosts costs;
  const std::vector<float> list = {1.0f, 2.0f, 3.0f, 4.0f, 5.0f};
  for (ElementType type : {ElementType::kFloat32, ElementType::kInt8}) {
    CHECK_THAT(PlannerCosts::FromList(list, type, &costs).empty());
    CHECK_THAT(costs.ToList() == list);
    CHECK_THAT(PlannerCosts::FromList({}, type, &costs).empty());
    for (float cost : costs.ToList()) CHECK_THAT(cost > 0);
  }
  constexpr float kInf = std::numeric_limits<float>::infinity();
  for (const std::vector<float>& bad :
       {std::vector<float>{1}, {1, 2, 3, 4, 0}, {1, 2, 3, 4, kInf}}) {
    CHECK_THAT(
        !PlannerCosts::FromList(bad, ElementType::kFloat32, &costs).empty());
  }
}

void MeasuresCosts() {
  Example example(20000, 32, 32, 7);
  for (bool items : {true, false}) {
    if (!items) example.input().knn.items.data = nullptr;
    const PlannerCosts costs =
        MeasurePlannerCosts(example.input().knn, example.input().code);
    PlannerCosts read;
    CHECK_THAT(
        PlannerCosts::FromList(costs.ToList(), ElementType::kFloat32, &read)
            .empty());
  }
}

}  // namespace
}  // namespace lintf

int main() {
  lintf::FixedAlgorithmsDoWhatTheySay();
  lintf::AutoDecidesForEachQueryAlone();
  lintf::WithoutItemsOnlyCodesAnswer();
  lintf::CodesAreForQueriesThatManyRowsPass();
  lintf::CostsGoThroughLists();
  lintf::MeasuresCosts();
  return lintf::testing::Result();
}
