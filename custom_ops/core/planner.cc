// SPDX-License-Identifier: Apache-2.0
#include "custom_ops/core/planner.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <functional>
#include <numeric>

#include "custom_ops/core/knn_kernels.h"
#include "custom_ops/core/learned_kernels.h"
#include "custom_ops/core/learned_knn.h"
#include "custom_ops/core/sign_oporp.h"

namespace lintf {
namespace {

// Measured with code_knn_bench and quantized_knn_bench on a core that
// reads 16 GB/s; they matter where nothing was measured.
constexpr float kDefaultCodeWord = 0.4f;
constexpr float kDefaultGatherRow = 60.0f;

// Rows that are timed: large enough to come from memory, small enough to be
// quick.
constexpr int64_t kMeasuredRows = 200000;
constexpr int64_t kMeasuredQueries = 32;
constexpr int kRounds = 5;

double Nanoseconds(const std::function<void()>& work) {
  std::vector<double> rounds;
  for (int i = 0; i < kRounds; ++i) {
    const auto start = std::chrono::steady_clock::now();
    work();
    const std::chrono::duration<double, std::nano> passed =
        std::chrono::steady_clock::now() - start;
    rounds.push_back(passed.count());
  }
  // Others on the machine only ever make it slower.
  return *std::min_element(rounds.begin(), rounds.end());
}

// Of the rows that a query scores, about so many times k at least reach their
// full score before the k-th best is known well enough to leave others out.
constexpr float kBoundedRowsOfK = 16.0f;
// Rows that pass less often than this lie far apart: they are fetched one by
// one, like a shortlist.
constexpr float kSparse = 0.1f;

// Passes every row, or one row in `step`.
class EveryRow : public MaskSource {
 public:
  explicit EveryRow(int64_t step) : step_(step) {}
  int64_t num_masks() const override { return 1; }
  bool PassesAll(int64_t /*mask*/) const override { return step_ == 1; }
  int64_t Fill(int64_t /*mask*/, int64_t begin, int64_t end,
               uint64_t* bits) const override {
    std::fill_n(bits, (end - begin + kRowsPerWord - 1) / kRowsPerWord,
                uint64_t{0});
    int64_t passing = 0;
    for (int64_t row = (begin + step_ - 1) / step_ * step_; row < end;
         row += step_, ++passing) {
      bits[(row - begin) / kRowsPerWord] |= uint64_t{1}
                                            << (row - begin) % kRowsPerWord;
    }
    return passing;
  }

 private:
  const int64_t step_;
};

// Fetching a row that passes, beside what reading it in order takes.
float FetchCost(const PlannerCosts& costs, const QueryShape& shape) {
  const bool is_sparse = static_cast<float>(shape.passing) <
                         kSparse * static_cast<float>(shape.num_rows);
  return is_sparse ? costs.gather_row : 0.0f;
}

// Sigmoids of hidden units and of pairs, and a softmax over the pairs.
float NumActivations(const SimilarityShape& shape) {
  if (shape.gate == Gate::kNone) return 0.0f;
  const int64_t of_pair = shape.gate == Gate::kSiluSoftmax ? 2
                          : shape.gate == Gate::kRelu      ? 0
                                                           : 1;
  return static_cast<float>(shape.gate_hidden + of_pair * shape.pairs());
}

// A row's logits, and what its gate takes on top.
float LogitsCost(const SimilarityCosts& costs, const SimilarityShape& shape) {
  return costs.load * static_cast<float>(shape.item_dim()) +
         costs.fma * static_cast<float>(shape.logit_fmas());
}
float GateCost(const SimilarityCosts& costs, const SimilarityShape& shape) {
  return costs.fma * static_cast<float>(shape.gate_fmas()) +
         costs.activation * NumActivations(shape);
}

// Scoring a row by each pair's proxy and the averaged query.
float PairsCost(const SimilarityCosts& costs, const SimilarityShape& shape) {
  return costs.load * static_cast<float>(shape.item_dim()) +
         costs.fma * static_cast<float>(shape.pairs() * shape.component_dim +
                                        shape.components_dim());
}

// Scanning codes for one query. Blocks in which no row passes are skipped.
float ScanCost(const PlannerCosts& costs, const QueryShape& shape) {
  const float scanned =
      std::min(static_cast<float>(shape.num_rows),
               static_cast<float>(shape.passing) * float{kCodeBlockRows});
  return scanned * static_cast<float>(shape.code_words) * costs.code_word;
}

}  // namespace

std::vector<float> PlannerCosts::ToList() const {
  return {knn.query_lanes_vector, knn.row_lanes_row, knn.row_lanes_query,
          code_word, gather_row};
}

std::string PlannerCosts::FromList(const std::vector<float>& list,
                                   ElementType type, PlannerCosts* costs) {
  if (list.empty()) {
    *costs = {DefaultKnnCosts(type), kDefaultCodeWord, kDefaultGatherRow};
    return "";
  }
  if (list.size() != kSize) {
    return "`costs` must have " + std::to_string(kSize) +
           " numbers or none, got " + std::to_string(list.size());
  }
  for (const float cost : list) {
    if (!(cost > 0) || !std::isfinite(cost)) {
      return "`costs` must be positive, got " + std::to_string(cost);
    }
  }
  *costs = {{list[0], list[1], list[2]}, list[3], list[4]};
  return "";
}

SimilarityCosts DefaultSimilarityCosts() {
  return ActiveLearnedKernels().costs;
}

std::vector<float> SimilarityCosts::ToList() const {
  return {load, fma, activation, bounded_share};
}

std::string SimilarityCosts::FromList(const std::vector<float>& list,
                                      SimilarityCosts* costs) {
  if (list.empty()) {
    *costs = DefaultSimilarityCosts();
    return "";
  }
  if (list.size() != kSize) {
    return "`similarity_costs` must have " + std::to_string(kSize) +
           " numbers or none, got " + std::to_string(list.size());
  }
  for (const float cost : list) {
    if (!(cost > 0) || !std::isfinite(cost)) {
      return "`similarity_costs` must be positive, got " + std::to_string(cost);
    }
  }
  if (list[3] > 1) {
    return "the last of `similarity_costs`, a share of the rows, must be at "
           "most 1, got " +
           std::to_string(list[3]);
  }
  *costs = {list[0], list[1], list[2], list[3]};
  return "";
}

bool PreferCodes(const PlannerCosts& costs, const QueryShape& shape) {
  if (shape.passing <= shape.shortlist) return false;
  const float row = static_cast<float>(shape.dim) *
                    (costs.knn.row_lanes_row + costs.knn.row_lanes_query);
  const float passing = static_cast<float>(shape.passing);
  const float exact = passing * (row + FetchCost(costs, shape));
  const float codes =
      ScanCost(costs, shape) +
      static_cast<float>(shape.shortlist) * (row + costs.gather_row);
  return codes < exact;
}

Algorithm ChooseSimilar(const PlannerCosts& costs,
                        const SimilarityCosts& similarity_costs,
                        const SimilarQueryShape& shape) {
  const SimilarityShape& similarity = shape.similarity;
  const float passing = static_cast<float>(shape.query.passing);
  const float k = static_cast<float>(shape.k);
  const float dim = static_cast<float>(shape.query.dim);
  const float pairs = static_cast<float>(similarity.pairs());
  const float logits = LogitsCost(similarity_costs, similarity);
  const float gate = GateCost(similarity_costs, similarity);
  const float fetch = FetchCost(costs, shape.query);
  const float exact = passing * (fetch + logits + gate);
  Algorithm best = Algorithm::kExact;
  float least = exact;
  if (similarity.is_convex() && similarity.gate != Gate::kNone) {
    const float scored =
        std::min(passing, similarity_costs.bounded_share * passing +
                              kBoundedRowsOfK * k);
    // A bound takes about as long as a few multiply-adds of each pair.
    const float bounded =
        passing * (fetch + logits + 4.0f * pairs * similarity_costs.fma) +
        scored * gate;
    if (bounded < least) {
      best = Algorithm::kBounded;
      least = bounded;
    }
  }
  const int64_t budget = std::max(shape.budget, shape.k);
  if (shape.query.passing <= budget) return best;
  float select = 0.0f;
  switch (shape.candidates) {
    case Candidates::kAveraged:
      select =
          passing *
          (fetch + dim * (costs.knn.row_lanes_row + costs.knn.row_lanes_query));
      break;
    case Candidates::kComponents:
      // All logits, and the averaged query beside them.
      select = passing * (fetch + PairsCost(similarity_costs, similarity));
      break;
    case Candidates::kCodes:
      select = ScanCost(costs, shape.query);
      break;
  }
  const float two_stage =
      select + static_cast<float>(budget) * (costs.gather_row + logits + gate);
  return two_stage < least ? Algorithm::kTwoStage : best;
}

PlannerCosts MeasurePlannerCosts(const KnnInput& input, const CodeSide& code) {
  PlannerCosts costs;
  PlannerCosts::FromList({}, input.items.type, &costs);
  KnnInput knn = input;
  knn.num_rows = std::min(knn.num_rows, kMeasuredRows);
  knn.k = std::min<int64_t>(100, std::max<int64_t>(1, knn.num_rows));
  if (knn.num_rows < 64) return costs;  // too few to tell
  const Parallel serial;
  const std::vector<int32_t> no_masks(kMeasuredQueries, 0);
  std::vector<float> scores(kMeasuredQueries * knn.k);
  std::vector<int64_t> rows(kMeasuredQueries * knn.k);
  std::vector<int32_t> counts(kMeasuredQueries);
  KnnOutput output;
  output.scores = scores.data();
  output.rows = rows.data();
  output.counts = counts.data();
  const EveryRow all(1);
  const float num_rows = static_cast<float>(knn.num_rows);
  const float elements = num_rows * static_cast<float>(knn.dim);

  if (knn.items.data != nullptr) {
    const auto time = [&](int64_t queries, KnnLayout layout,
                          const MaskSource& masks) {
      knn.num_queries = queries;
      knn.tuning.layout = layout;
      return static_cast<float>(Nanoseconds(
          [&] { MaskedKnn(knn, masks, no_masks.data(), serial, output); }));
    };
    const int lanes = ActiveKnnKernels().lanes;
    const float vectors =
        static_cast<float>((kMeasuredQueries + lanes - 1) / lanes);
    const float shared = time(kMeasuredQueries, KnnLayout::kShared, all);
    const float one = time(1, KnnLayout::kOwn, all);
    const float eight = time(8, KnnLayout::kOwn, all);
    costs.knn.query_lanes_vector = shared / elements / vectors;
    costs.knn.row_lanes_query =
        std::max((eight - one) / 7.0f, 0.01f * one) / elements;
    costs.knn.row_lanes_row = std::max(
        one / elements - costs.knn.row_lanes_query, 0.1f * one / elements);
    // A shortlist's rows lie far apart.
    constexpr int64_t kStep = 50;
    if (knn.num_rows >= 64 * kStep) {
      const EveryRow some(kStep);
      const float gathered = time(1, KnnLayout::kOwn, some);
      const float count = num_rows / static_cast<float>(kStep);
      const float computed = one / num_rows;
      costs.gather_row = std::max(gathered / count - computed, 1.0f);
    }
  }
  if (code.codes != nullptr) {
    CodeKnnInput codes;
    codes.samples = code.samples;
    codes.num_queries = 1;
    codes.codes = code.codes;
    codes.num_rows = knn.num_rows;
    codes.words = code.words;
    codes.scoring = code.scoring;
    codes.keep = knn.k;
    CodeKnnOutput found;
    found.rows = rows.data();
    std::vector<int64_t> found_counts(1);
    found.counts = found_counts.data();
    const float scan = static_cast<float>(Nanoseconds([&] {
      CodeKnn(codes, all, no_masks.data(), CodeOrder::kAscendingRow, serial,
              found);
    }));
    costs.code_word = scan / (num_rows * static_cast<float>(code.words));
  }
  return costs;
}

SimilarityCosts MeasureSimilarityCosts(const Similarity& similarity,
                                       const KnnInput& input) {
  SimilarityCosts costs = DefaultSimilarityCosts();
  LearnedKnnInput learned;
  learned.similarity = &similarity;
  learned.knn = input;
  KnnInput& knn = learned.knn;
  knn.num_rows = std::min(knn.num_rows, kMeasuredRows);
  knn.num_queries = 1;
  knn.k = std::min<int64_t>(100, std::max<int64_t>(1, knn.num_rows));
  if (knn.num_rows < 64 || input.num_queries == 0) return costs;
  const Parallel serial;
  const int32_t mask = 0;
  std::vector<float> scores(knn.k);
  std::vector<int64_t> rows(knn.k);
  int32_t count = 0;
  int64_t scored = 0;
  KnnOutput output;
  output.scores = scores.data();
  output.rows = rows.data();
  output.counts = &count;
  output.num_scored = &scored;
  const EveryRow all(1);
  const float num_rows = static_cast<float>(knn.num_rows);
  const auto time_row = [&] {
    const double nanoseconds =
        Nanoseconds([&] { LearnedKnn(learned, all, &mask, serial, output); });
    return static_cast<float>(nanoseconds) / num_rows;
  };

  const SimilarityShape& shape = similarity.shape;
  // The same without the costly part of the gate.
  Similarity logits = similarity;
  if (shape.gate != Gate::kNone) {
    logits.shape.gate = Gate::kRelu;
    logits.shape.gate_hidden = 0;
    const float full = time_row();
    learned.similarity = &logits;
    const float bare = time_row();
    // How multiply-adds and activations compare is a matter of the CPU.
    const float scale = std::max((full - bare) / GateCost(costs, shape), 0.05f);
    costs.fma *= scale;
    costs.activation *= scale;
    costs.load = bare;
  } else {
    costs.load = time_row();
  }
  const float dim = static_cast<float>(shape.item_dim());
  costs.load = std::max(
      (costs.load - costs.fma * static_cast<float>(shape.logit_fmas())) / dim,
      0.01f);
  if (!shape.is_convex() || shape.gate == Gate::kNone) return costs;
  // Of all queries, as they differ much.
  learned.similarity = &similarity;
  learned.bounded = true;
  const int64_t queries = std::min(input.num_queries, kMeasuredQueries);
  float total = 0.0f;
  for (int64_t b = 0; b < queries; ++b) {
    knn.queries = input.queries + b * shape.query_dim();
    LearnedKnn(learned, all, &mask, serial, output);
    total += static_cast<float>(scored) / num_rows;
  }
  costs.bounded_share =
      std::clamp(total / static_cast<float>(queries), 0.001f, 1.0f);
  return costs;
}

}  // namespace lintf
