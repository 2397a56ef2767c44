// SPDX-License-Identifier: Apache-2.0
#include "custom_ops/core/planner.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <functional>
#include <numeric>

#include "custom_ops/core/knn_kernels.h"
#include "custom_ops/core/sign_oporp.h"

namespace lintf {
namespace {

// Measured with code_knn_bench and quantized_knn_bench on a core that
// reads 16 GB/s; they matter where nothing was measured.
constexpr float kDefaultCodeWord = 0.4f;
constexpr float kDefaultGatherRow = 60.0f;

// The same with learned_knn_bench.
constexpr SimilarityCosts kDefaultSimilarityCosts = {0.25f, 0.018f, 0.9f, 0.2f};

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

std::vector<float> SimilarityCosts::ToList() const {
  return {load, fma, activation, bounded_share};
}

std::string SimilarityCosts::FromList(const std::vector<float>& list,
                                      SimilarityCosts* costs) {
  if (list.empty()) {
    *costs = kDefaultSimilarityCosts;
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
  // Rows that pass far apart are fetched one by one, like a shortlist.
  const float exact =
      passing * (row + (passing < 0.1f * static_cast<float>(shape.num_rows)
                            ? costs.gather_row
                            : 0.0f));
  // Blocks of codes in which no row passes are skipped.
  const float scanned = std::min(static_cast<float>(shape.num_rows),
                                 passing * float{kCodeBlockRows});
  const float codes =
      scanned * static_cast<float>(shape.code_words) * costs.code_word +
      static_cast<float>(shape.shortlist) * (row + costs.gather_row);
  return codes < exact;
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

}  // namespace lintf
