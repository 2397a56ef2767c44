// SPDX-License-Identifier: Apache-2.0
// Searches by a learned similarity on the GPU, by each algorithm, against the
// CPU's functions.
#include "custom_ops/core/gpu_learned_knn.h"

#include <algorithm>
#include <cstdint>
#include <random>
#include <utility>
#include <vector>

#include "custom_ops/core/code_knn.h"
#include "custom_ops/core/gpu_retrieval.h"
#include "custom_ops/core/gpu_similarity_test_data.h"
#include "custom_ops/core/gpu_testing.h"
#include "custom_ops/core/masked_knn.h"
#include "custom_ops/core/retrieval.h"
#include "custom_ops/core/search_test_data.h"
#include "custom_ops/core/sign_oporp.h"
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

using BoolMasks = std::vector<std::vector<bool>>;

struct Options {
  Algorithm algorithm = Algorithm::kExact;
  Candidates candidates = Candidates::kAveraged;
  int64_t budget = 0;
  int64_t k = 1;
  int64_t segment_rows = 0;
  int64_t scratch_bytes = 0;
};

// A case with codes and masks, in both memories.
class Fixture {
 public:
  Fixture(const SimilarityShape& shape, int64_t num_queries, int64_t num_rows,
          uint32_t seed, ElementType type)
      : c_(shape, num_queries, num_rows, seed, type), rows_(c_) {
    // Rows that score the same.
    for (int64_t row = 3; row < num_rows; row += 5) {
      std::copy_n(c_.items.begin() + (row - 3) * c_.dim, c_.dim,
                  c_.items.begin() + row * c_.dim);
    }
    rows_ = StoredRows(c_);
    std::mt19937_64 random(seed);
    for (const int64_t percent : {30, 0, 100, 2, 80}) {
      std::vector<bool> mask(num_rows);
      for (int64_t row = 0; row < num_rows; ++row) {
        mask[row] = static_cast<int64_t>(random() % 100) < percent;
      }
      masks_.push_back(std::move(mask));
    }
    masks_.emplace_back();
    for (int64_t q = 0; q < num_queries; ++q) {
      mask_of_query_.push_back(static_cast<int32_t>((q + 4) % masks_.size()));
    }
    MakeCodes();
  }

  void Check(const Options& options, const char* what) const {
    const LearnedAnswer expected = Expected(options);
    LearnedAnswer found(c_.num_queries, options.k);
    RetrievalCounts counts;
    Search(options, &found, &counts);
    CHECK_THAT(found.answer == expected.answer)
        << what << " k " << options.k << " budget " << options.budget;
    if (options.algorithm != Algorithm::kAuto) {
      LearnedAnswer by_cpu(c_.num_queries, options.k);
      RetrieveRows(Input(options), VectorMasks(masks_), mask_of_query_.data(),
                   Threads(1), by_cpu.Output());
      CHECK_THAT(found.answer == by_cpu.answer) << what << ", the CPU";
      if (options.algorithm != Algorithm::kBounded) {
        CHECK_THAT(found.num_scored == by_cpu.num_scored) << what;
      }
    }
    const int64_t counted = counts.exact + counts.bounded + counts.two_stage;
    CHECK_THAT(counted == c_.num_queries) << what;
    for (int64_t q = 0; q < c_.num_queries; ++q) {
      if (options.algorithm == Algorithm::kBounded) {
        // Those that are returned at least, and none that does not pass.
        CHECK_THAT(found.num_scored[q] >= expected.answer.counts[q]) << what;
        CHECK_THAT(found.num_scored[q] <= expected.num_scored[q]) << what;
      } else {
        CHECK_THAT(found.num_scored[q] == expected.num_scored[q])
            << what << " query " << q << " k " << options.k << " budget "
            << options.budget << " " << found.num_scored[q] << " "
            << expected.num_scored[q];
      }
    }
  }

  // The same run after run, and of a query alone what it has in the batch.
  void CheckAlone(const Options& options, const char* what) const {
    LearnedAnswer batch(c_.num_queries, options.k);
    RetrievalCounts counts;
    Search(options, &batch, &counts);
    LearnedAnswer again(c_.num_queries, options.k);
    Search(options, &again, &counts);
    CHECK_THAT(again.answer == batch.answer) << what;
    CHECK_THAT(again.num_scored == batch.num_scored) << what;
    // With kBounded that depends on the batch, the results do not.
    const bool is_bounded = options.algorithm == Algorithm::kBounded;
    for (int64_t q = 0; q < c_.num_queries; q += 5) {
      Fixture alone = *this;
      alone.Keep(q);
      LearnedAnswer found(1, options.k);
      alone.Search(options, &found, &counts);
      CHECK_THAT(is_bounded || found.num_scored[0] == batch.num_scored[q])
          << what;
      CHECK_THAT(found.answer.counts[0] == batch.answer.counts[q]) << what;
      for (int64_t i = 0; i < options.k; ++i) {
        const int64_t at = q * options.k + i;
        CHECK_THAT(found.answer.rows[i] == batch.answer.rows[at]) << what;
        CHECK_THAT(found.answer.scores[i] == batch.answer.scores[at]) << what;
      }
    }
  }

  // How many rows kBounded scored, of all queries.
  int64_t Scored(const Options& options) const {
    LearnedAnswer found(c_.num_queries, options.k);
    RetrievalCounts counts;
    Search(options, &found, &counts);
    int64_t scored = 0;
    for (const int64_t n : found.num_scored) scored += n;
    return scored;
  }

  const SimilarityCase& data() const { return c_; }

 private:
  static constexpr int64_t kBins = 16;
  static constexpr int64_t kRepeats = 8;

  void MakeCodes() {
    OporpConfig config;
    config.dim = c_.shape.components_dim();
    config.bins = kBins;
    config.repeats = kRepeats;
    config.seed = 5;
    const SignOporp oporp(config);
    words_ = config.words();
    codes_.resize((c_.rows + 63) / 64 * 64 * words_);
    std::vector<float> row(c_.dim);
    std::vector<uint64_t> own(words_);
    for (int64_t i = 0; i < c_.rows; ++i) {
      oporp.EncodeBatch(c_.items.data() + i * c_.dim, 1, own.data());
      for (int64_t w = 0; w < words_; ++w) {
        codes_[CodeWordIndex(i, w, words_)] = own[w];
      }
    }
    samples_.resize(c_.num_queries * config.bits());
    for (int64_t q = 0; q < c_.num_queries; ++q) {
      AveragedQuery(c_.similarity, c_.queries.data() + q * c_.shape.query_dim(),
                    row.data());
      oporp.ProjectBatch(row.data(), 1, samples_.data() + q * config.bits());
    }
  }

  // Leaves one query.
  void Keep(int64_t query) {
    const auto keep = [&](std::vector<float>* all) {
      const int64_t size = static_cast<int64_t>(all->size()) / c_.num_queries;
      *all = std::vector<float>(all->begin() + query * size,
                                all->begin() + (query + 1) * size);
    };
    keep(&c_.queries);
    keep(&samples_);
    mask_of_query_ = {mask_of_query_[query]};
    c_.num_queries = 1;
    c_.Point();
  }

  RetrievalInput Input(const Options& options) const {
    RetrievalInput input = LearnedInput(c_, rows_, options.k);
    input.algorithm = options.algorithm;
    input.candidates = options.candidates;
    input.budget = options.budget;
    input.code.samples = samples_.data();
    input.code.codes = codes_.data();
    input.code.words = words_;
    input.code.scoring = CodeScoring::kSymmetric;
    if (options.segment_rows > 0) {
      input.knn.tuning.segment_rows = options.segment_rows;
    }
    return input;
  }

  // Rows that pass for a query.
  std::vector<bool> Passing(int64_t query) const {
    const std::vector<bool>& mask = masks_[mask_of_query_[query]];
    return mask.empty() ? std::vector<bool>(c_.rows, true) : mask;
  }

  static void Mark(const std::vector<int64_t>& rows, std::vector<bool>* mask) {
    for (const int64_t row : rows) {
      if (row >= 0) (*mask)[row] = true;
    }
  }

  // The best rows of one proxy, by the CPU.
  std::vector<int64_t> Nearest(const float* proxy,
                               const std::vector<bool>& passing,
                               int64_t k) const {
    KnnInput input;
    input.queries = proxy;
    input.num_queries = 1;
    input.items = rows_.matrix;
    input.num_rows = c_.rows;
    input.dim = c_.dim;
    input.k = k;
    testing::KnnAnswer answer;
    answer.scores.resize(k);
    answer.rows.resize(k);
    answer.counts.resize(1);
    KnnOutput output;
    output.scores = answer.scores.data();
    output.rows = answer.rows.data();
    output.counts = answer.counts.data();
    const int32_t mask = 0;
    MaskedKnn(input, VectorMasks(BoolMasks(1, passing)), &mask, Threads(1),
              output);
    return answer.rows;
  }

  // The candidates of kTwoStage, as retrieval.h has them.
  std::vector<bool> CandidatesOf(int64_t query, const Options& options) const {
    const std::vector<bool> passing = Passing(query);
    const int64_t budget = std::max(options.budget, options.k);
    const int64_t count = std::count(passing.begin(), passing.end(), true);
    if (count <= budget) return passing;
    std::vector<bool> found(c_.rows, false);
    const float* const vector =
        c_.queries.data() + query * c_.shape.query_dim();
    std::vector<float> proxy(c_.dim);
    AveragedQuery(c_.similarity, vector, proxy.data());
    switch (options.candidates) {
      case Candidates::kAveraged:
        Mark(Nearest(proxy.data(), passing, budget), &found);
        break;
      case Candidates::kComponents:
        Mark(Nearest(proxy.data(), passing, options.k), &found);
        for (int64_t l = 0; l < c_.shape.pairs(); ++l) {
          PairQuery(c_.similarity, vector, l, proxy.data());
          const int64_t own = (budget - options.k) / c_.shape.pairs();
          Mark(Nearest(proxy.data(), passing, std::max<int64_t>(own, 1)),
               &found);
        }
        break;
      case Candidates::kCodes: {
        CodeKnnInput input;
        input.samples = samples_.data() + query * 64 * words_;
        input.num_queries = 1;
        input.codes = codes_.data();
        input.num_rows = c_.rows;
        input.words = words_;
        input.scoring = CodeScoring::kSymmetric;
        input.keep = budget;
        std::vector<int64_t> rows(budget);
        int64_t kept = 0;
        CodeKnnOutput output;
        output.rows = rows.data();
        output.counts = &kept;
        const int32_t mask = 0;
        CodeKnn(input, VectorMasks(BoolMasks(1, passing)), &mask,
                CodeOrder::kAscendingRow, Threads(1), output);
        Mark(rows, &found);
        break;
      }
    }
    return found;
  }

  // By the reference, on the rows that the algorithm scores; with kBounded
  // `num_scored` is the greatest that it may be.
  LearnedAnswer Expected(const Options& options) const {
    const RetrievalInput input = Input(options);
    BoolMasks masks;
    std::vector<int32_t> own;
    LearnedAnswer expected(c_.num_queries, options.k);
    for (int64_t q = 0; q < c_.num_queries; ++q) {
      std::vector<bool> mask = Passing(q);
      const int64_t passing = std::count(mask.begin(), mask.end(), true);
      const bool all_score = options.algorithm == Algorithm::kAuto &&
                             passing <= gpu::AutoExactRows(input);
      if (options.algorithm == Algorithm::kTwoStage ||
          (options.algorithm == Algorithm::kAuto && !all_score)) {
        mask = CandidatesOf(q, options);
      }
      expected.num_scored[q] = std::count(mask.begin(), mask.end(), true);
      masks.push_back(std::move(mask));
      own.push_back(static_cast<int32_t>(q));
    }
    KnnOutput output = expected.Output();
    output.num_scored = nullptr;
    RetrieveRowsReference(input, VectorMasks(masks), own.data(), output);
    return expected;
  }

  void Search(const Options& options, LearnedAnswer* found,
              RetrievalCounts* by_algorithm) const {
    const DeviceSimilarity similarity(c_);
    const DeviceMasks masks(masks_, c_.rows);
    const gpu::DeviceArray<char> items(rows_.data);
    const gpu::DeviceArray<float> scales(rows_.scales);
    const gpu::DeviceArray<float> queries(c_.queries);
    const gpu::DeviceArray<float> samples(samples_);
    const gpu::DeviceArray<uint64_t> codes(codes_);
    gpu::DeviceArray<float> scores(c_.num_queries * options.k);
    gpu::DeviceArray<int64_t> rows(c_.num_queries * options.k);
    gpu::DeviceArray<int32_t> counts(c_.num_queries);
    gpu::DeviceArray<int64_t> num_scored(c_.num_queries);
    RetrievalInput input = Input(options);
    input.similarity = &similarity.similarity();
    input.knn.items = ItemMatrix(items.data(), c_.type, scales.data());
    input.knn.queries = queries.data();
    input.code.samples = samples.data();
    input.code.codes = codes.data();
    KnnOutput output;
    output.scores = scores.data();
    output.rows = rows.data();
    output.counts = counts.data();
    output.num_scored = num_scored.data();
    gpu::TestContext context;
    if (options.scratch_bytes > 0) {
      context.set_scratch_bytes(options.scratch_bytes);
    }
    *by_algorithm = gpu::RetrieveRows(
        input, masks.masks(), mask_of_query_.data(), {}, &context, output);
    CHECK_THAT(context.Finish());
    found->answer.scores = scores.ToHost();
    found->answer.rows = rows.ToHost();
    found->answer.counts = counts.ToHost();
    found->num_scored = num_scored.ToHost();
  }

  SimilarityCase c_;
  StoredRows rows_;
  BoolMasks masks_;
  std::vector<int32_t> mask_of_query_;
  int64_t words_ = 0;
  std::vector<uint64_t> codes_;
  std::vector<float> samples_;
};

SimilarityShape MixtureOfLogits() {
  return ShapeOf(PairSimilarity::kInnerProduct, Gate::kSiluSoftmax, 3, 2, 12,
                 6);
}

void TestAlgorithms(const std::vector<int64_t>& ks) {
  const Fixture f(MixtureOfLogits(), 7, 700, 1, ElementType::kFloat32);
  for (const int64_t k : ks) {
    Options options;
    options.k = k;
    f.Check(options, "exact");
    f.CheckAlone(options, "exact");
    options.algorithm = Algorithm::kBounded;
    options.budget = 60;
    f.Check(options, "bounded");
    for (const Candidates candidates :
         {Candidates::kAveraged, Candidates::kComponents, Candidates::kCodes}) {
      options.candidates = candidates;
      for (const int64_t budget : {0, 100, 600}) {
        if (gpu::IsReduced() && budget != 100) continue;
        options.budget = budget;
        options.algorithm = Algorithm::kTwoStage;
        f.Check(options, "two_stage");
        if (budget != 100) continue;
        options.algorithm = Algorithm::kAuto;
        f.Check(options, "auto");
        f.CheckAlone(options, "auto");
      }
      options.algorithm = Algorithm::kBounded;
      f.CheckAlone(options, "bounded");
    }
  }
}

// Slices of the queries, segments of the rows, and many results.
void TestPieces() {
  const Fixture f(MixtureOfLogits(), 9, 1500, 2, ElementType::kFloat32);
  for (const Algorithm algorithm : {Algorithm::kExact, Algorithm::kBounded,
                                    Algorithm::kTwoStage, Algorithm::kAuto}) {
    Options options;
    options.algorithm = algorithm;
    options.budget = 200;
    options.k = 30;
    options.segment_rows = 448;
    f.Check(options, "segments");
    options.scratch_bytes = 16000;
    f.Check(options, "slices and segments");
    options.segment_rows = 0;
    f.Check(options, "slices");
  }
}

// More results, and more candidates, than one block sorts.
void TestMany() {
  const Fixture many(
      ShapeOf(PairSimilarity::kHadamard, Gate::kNone, 1, 1, 5, 0), 2, 6000, 3,
      ElementType::kFloat32);
  Options options;
  options.k = 4500;
  many.Check(options, "many results");
  options.k = 10;
  options.budget = 4500;
  options.algorithm = Algorithm::kTwoStage;
  many.Check(options, "many candidates");
}

void TestTypes() {
  uint32_t seed = 10;
  for (const ElementType type :
       {ElementType::kBfloat16, ElementType::kFloat16, ElementType::kInt8}) {
    for (const Gate gate : {Gate::kSoftmax, Gate::kRelu, Gate::kNone}) {
      const int64_t pairs = gate == Gate::kNone ? 1 : 4;
      const SimilarityShape shape = ShapeOf(PairSimilarity::kWeighted, gate,
                                            pairs, 1, 20, pairs > 1 ? 3 : 0);
      const Fixture f(shape, 6, 500, ++seed, type);
      Options options;
      options.k = 15;
      f.Check(options, "types");
      options.budget = 50;
      if (shape.is_convex()) {
        options.algorithm = Algorithm::kBounded;
        f.Check(options, "types, bounded");
      }
      options.algorithm = Algorithm::kTwoStage;
      options.candidates = Candidates::kCodes;
      f.Check(options, "types, codes");
      // Candidates among 16-bit rows are the tensor cores'.
      if (type != ElementType::kInt8) continue;
      options.candidates = Candidates::kComponents;
      f.Check(options, "types, components");
    }
  }
}

// The bound leaves out most rows where logits say much.
void TestBoundedScoresLess() {
  SimilarityShape shape =
      ShapeOf(PairSimilarity::kInnerProduct, Gate::kSoftmax, 2, 1, 16, 0);
  const Fixture f(shape, 4, 3000, 20, ElementType::kFloat32);
  Options options;
  options.k = 5;
  options.budget = 100;
  const int64_t all = f.Scored(options);
  options.algorithm = Algorithm::kBounded;
  const int64_t scored = f.Scored(options);
  CHECK_THAT(scored * 2 < all) << scored << " of " << all;
}

void TestEmpty() {
  for (const int64_t rows : {0, 1, 64}) {
    const Fixture f(MixtureOfLogits(), 6, rows, 30, ElementType::kFloat32);
    for (const Algorithm algorithm : {Algorithm::kExact, Algorithm::kBounded,
                                      Algorithm::kTwoStage, Algorithm::kAuto}) {
      Options options;
      options.algorithm = algorithm;
      options.k = 4;
      options.budget = 10;
      f.Check(options, "few rows");
    }
  }
}

}  // namespace
}  // namespace lintf

int main() {
  lintf::TestAlgorithms({1, 900});
  lintf::gpu::UnderEachSchedule([] { lintf::TestAlgorithms({20}); }, 2);
  lintf::gpu::UnderEachSchedule([] { lintf::TestPieces(); }, 2);
  lintf::TestMany();
  lintf::TestTypes();
  lintf::TestBoundedScoresLess();
  lintf::TestEmpty();
  return lintf::testing::Result();
}
