// SPDX-License-Identifier: Apache-2.0
// Searches by learned similarities against their scalar reference, bit by bit.
#include "custom_ops/core/learned_knn.h"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <iostream>
#include <limits>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "custom_ops/core/knn_kernels.h"
#include "custom_ops/core/knn_test_data.h"
#include "custom_ops/core/retrieval.h"
#include "custom_ops/core/search_test_data.h"
#include "custom_ops/core/sign_oporp.h"
#include "custom_ops/core/similarity_test_data.h"
#include "custom_ops/core/testing.h"

namespace lintf {
namespace {

using testing::KnnAnswer;
using testing::ShapeOf;
using testing::SimilarityCase;
using testing::StoredRows;

constexpr float kInfinity = std::numeric_limits<float>::infinity();

constexpr KnnPath kPaths[] = {KnnPath::kPlain, KnnPath::kAvx2, KnnPath::kAvx512,
                              KnnPath::kAvx512Vnni};

struct Answer {
  KnnAnswer best;
  std::vector<int64_t> num_scored;
};

// A search of a case: which of its queries, with which masks.
struct Request {
  explicit Request(const SimilarityCase& c, int64_t k)
      : stored(c), mask_of_query(c.num_queries, 0) {
    input.similarity = &c.similarity;
    input.algorithm = Algorithm::kExact;
    input.knn.queries = c.queries.data();
    input.knn.num_queries = c.num_queries;
    input.knn.items = stored.matrix;
    input.knn.num_rows = c.rows;
    input.knn.dim = c.dim;
    input.knn.k = k;
    PlannerCosts::FromList({}, c.type, &input.costs);
    SimilarityCosts::FromList({}, &input.similarity_costs);
  }
  Request(const Request&) = delete;
  Request& operator=(const Request&) = delete;

  template <typename Search>
  Answer Run(const Search& search) const {
    Answer answer;
    const int64_t slots = input.knn.num_queries * input.knn.k;
    answer.best.scores.assign(slots, 5.0f);
    answer.best.rows.assign(slots, 5);
    answer.best.counts.assign(input.knn.num_queries, 5);
    answer.num_scored.assign(input.knn.num_queries, 5);
    KnnOutput output;
    output.scores = answer.best.scores.data();
    output.rows = answer.best.rows.data();
    output.counts = answer.best.counts.data();
    output.num_scored = answer.num_scored.data();
    search(output);
    return answer;
  }

  Answer Reference() const {
    return Run([&](const KnnOutput& output) {
      RetrieveRowsReference(input, masks, mask_of_query.data(), output);
    });
  }

  Answer Search(Algorithm algorithm, int threads = 1,
                RetrievalCounts* counts = nullptr) const {
    RetrievalInput with = input;
    with.algorithm = algorithm;
    return Run([&](const KnnOutput& output) {
      const RetrievalCounts found = RetrieveRows(
          with, masks, mask_of_query.data(), Threads(threads), output);
      if (counts != nullptr) *counts = found;
    });
  }

  // Query `query` alone.
  Answer SearchOne(Algorithm algorithm, int64_t query) const {
    RetrievalInput with = input;
    with.algorithm = algorithm;
    with.knn.queries += query * input.similarity->shape.query_dim();
    with.knn.num_queries = 1;
    if (with.code.samples != nullptr) {
      with.code.samples += query * 64 * with.code.words;
    }
    Answer answer;
    answer.best.scores.resize(input.knn.k);
    answer.best.rows.resize(input.knn.k);
    answer.best.counts.resize(1);
    KnnOutput output;
    output.scores = answer.best.scores.data();
    output.rows = answer.best.rows.data();
    output.counts = answer.best.counts.data();
    RetrieveRows(with, masks, mask_of_query.data() + query, Parallel(), output);
    return answer;
  }

  StoredRows stored;
  RetrievalInput input;
  VectorMasks masks{{{}}};
  std::vector<int32_t> mask_of_query;
};

// Of `answer`, query `query` alone.
KnnAnswer OneOf(const Answer& answer, int64_t query, int64_t k) {
  KnnAnswer one;
  const auto scores = answer.best.scores.begin() + query * k;
  const auto rows = answer.best.rows.begin() + query * k;
  one.scores.assign(scores, scores + k);
  one.rows.assign(rows, rows + k);
  one.counts = {answer.best.counts[query]};
  return one;
}

// Masks: all rows, every other one, a few, none.
void UseMasks(const SimilarityCase& c, Request* request) {
  std::vector<std::vector<bool>> masks(4);
  for (size_t m = 1; m < masks.size(); ++m) {
    masks[m].resize(c.rows);
    for (int64_t row = 0; row < c.rows; ++row) {
      masks[m][row] = m == 1 ? row % 2 == 0 : m == 2 ? row % 17 == 5 : false;
    }
  }
  request->masks = VectorMasks(masks);
  for (int64_t b = 0; b < c.num_queries; ++b) {
    request->mask_of_query[b] = static_cast<int32_t>(b % 4);
  }
}

std::string Name(const SimilarityCase& c) {
  return "component " + std::to_string(static_cast<int>(c.shape.component)) +
         " gate " + std::to_string(static_cast<int>(c.shape.gate)) +
         " hidden " + std::to_string(c.shape.gate_hidden) + " type " +
         std::to_string(static_cast<int>(c.type)) + " rows " +
         std::to_string(c.rows);
}

// All paths give the reference's bits.
void CheckPaths(const SimilarityCase& c, int64_t k) {
  Request request(c, k);
  UseMasks(c, &request);
  const Answer expected = request.Reference();
  for (const float score : expected.best.scores) CHECK_THAT(!std::isnan(score));
  for (const KnnPath path : kPaths) {
    if (KnnKernelsOf(path) == nullptr) continue;
    SetKnnPathForTesting(path);
    const Answer found = request.Search(Algorithm::kExact);
    CHECK_THAT(found.best == expected.best)
        << Name(c) << " path " << static_cast<int>(path);
    CHECK_THAT(found.num_scored == expected.num_scored) << Name(c);
    const Answer bounded = request.Search(Algorithm::kBounded);
    CHECK_THAT(bounded.best == expected.best)
        << Name(c) << " bounded, path " << static_cast<int>(path);
    ResetKnnPathForTesting();
  }
}

void PathsAgreeWithTheReference() {
  uint32_t seed = 1;
  for (const PairSimilarity component :
       {PairSimilarity::kInnerProduct, PairSimilarity::kWeighted,
        PairSimilarity::kHadamard}) {
    for (const Gate gate :
         {Gate::kSoftmax, Gate::kSiluSoftmax, Gate::kRelu, Gate::kSigmoid}) {
      for (const int64_t gate_hidden : {0, 11}) {
        const ElementType type = static_cast<ElementType>(seed % 4);
        CheckPaths(
            SimilarityCase(ShapeOf(component, gate, 3, 2, 9, gate_hidden), 5,
                           150, seed++, type),
            7);
      }
    }
    for (int type = 0; type < kNumElementTypes; ++type) {
      CheckPaths(SimilarityCase(ShapeOf(component, Gate::kNone, 1, 1, 50, 0), 4,
                                100, seed++, static_cast<ElementType>(type)),
                 3);
    }
  }
  // Sizes around those of vectors, tiles and blocks of outputs.
  for (const int64_t size : {1, 7, 8, 15, 16, 17, 31, 32, 33}) {
    CheckPaths(SimilarityCase(
                   ShapeOf(PairSimilarity::kInnerProduct, Gate::kSoftmax,
                           1 + size % 3, 2, size, size),
                   4, 2 * size + 1, seed++, static_cast<ElementType>(size % 4)),
               size);
  }
  CheckPaths(SimilarityCase(ShapeOf(PairSimilarity::kInnerProduct,
                                    Gate::kSiluSoftmax, 8, 4, 32, 128),
                            4, 70, seed++),
             10);
  CheckPaths(SimilarityCase(ShapeOf(PairSimilarity::kWeighted, Gate::kSoftmax,
                                    8, 8, 5, 256),
                            4, 40, seed++),
             100);
}

void EmptyInputsAreFine() {
  SimilarityCase c(
      ShapeOf(PairSimilarity::kInnerProduct, Gate::kSoftmax, 2, 2, 4, 3), 2, 10,
      3);
  Request request(c, 3);
  request.input.knn.num_rows = 0;
  for (const Algorithm algorithm : {Algorithm::kExact, Algorithm::kBounded,
                                    Algorithm::kTwoStage, Algorithm::kAuto}) {
    const Answer answer = request.Search(algorithm);
    CHECK_THAT(answer.best.counts == std::vector<int32_t>({0, 0}));
    CHECK_THAT(answer.best.rows == std::vector<int64_t>(6, -1));
    CHECK_THAT(answer.num_scored == std::vector<int64_t>({0, 0}));
    CHECK_THAT(answer.best.scores[0] == -kInfinity);
  }
}

// Equal rows, of which the lower ones win, wherever tiles and threads end.
void TiesGoToLowerRows() {
  SimilarityCase c(
      ShapeOf(PairSimilarity::kInnerProduct, Gate::kSiluSoftmax, 2, 2, 8, 4), 4,
      5000, 9);
  for (int64_t row = 3; row < c.rows; ++row) {
    std::copy_n(c.items.data() + row % 3 * c.dim, c.dim,
                c.items.data() + row * c.dim);
  }
  for (const int64_t k : {1, 50, 4000, 5000, 6000}) {
    Request request(c, k);
    UseMasks(c, &request);
    const Answer expected = request.Reference();
    for (const int threads : {1, 3}) {
      CHECK_THAT(request.Search(Algorithm::kExact, threads).best ==
                 expected.best)
          << k;
      CHECK_THAT(request.Search(Algorithm::kBounded, threads).best ==
                 expected.best)
          << k;
    }
  }
}

void BatchesAndThreadsGiveTheSameBits() {
  SimilarityCase c(
      ShapeOf(PairSimilarity::kInnerProduct, Gate::kSiluSoftmax, 3, 2, 8, 16),
      70, 9000, 17);
  Request request(c, 20);
  UseMasks(c, &request);
  request.input.budget = 300;
  for (const Algorithm algorithm :
       {Algorithm::kExact, Algorithm::kBounded, Algorithm::kTwoStage}) {
    for (const Candidates candidates :
         {Candidates::kAveraged, Candidates::kComponents}) {
      request.input.candidates = candidates;
      const Answer batch = request.Search(algorithm);
      CHECK_THAT(request.Search(algorithm, 3).best == batch.best);
      // Few candidates at a time make slices of few queries and rows.
      request.input.knn.tuning.candidate_bytes = 1000;
      request.input.knn.tuning.segment_rows = 2048;
      CHECK_THAT(request.Search(algorithm, 3).best == batch.best);
      request.input.knn.tuning = {};
      for (const int64_t query : {0, 1, 2, 3, 65, 69}) {
        CHECK_THAT(request.SearchOne(algorithm, query).best ==
                   OneOf(batch, query, 20))
            << query;
      }
    }
  }
}

// Numbers so large or so small that sums overflow or vanish.
void ExtremesAreTheReferences() {
  for (const Gate gate :
       {Gate::kSoftmax, Gate::kSiluSoftmax, Gate::kRelu, Gate::kSigmoid}) {
    for (const float scale : {1e-25f, 1e-12f, 1e6f, 1e12f, 1e18f, 1e25f}) {
      SimilarityCase c(ShapeOf(PairSimilarity::kInnerProduct, gate, 3, 3, 6, 9),
                       4, 130, 23);
      for (float& x : c.queries) x *= scale;
      for (size_t i = 0; i < c.items.size(); i += 3) c.items[i] *= scale;
      CheckPaths(c, 130);
    }
  }
  // A logit that is infinite beside others that are not.
  SimilarityCase c(
      ShapeOf(PairSimilarity::kInnerProduct, Gate::kSoftmax, 2, 2, 4, 3), 4, 40,
      29);
  for (int64_t row = 0; row < c.rows; row += 5) {
    c.items[row * c.dim] = row % 2 == 0 ? 3e38f : -3e38f;
  }
  for (int64_t q = 0; q < c.num_queries; ++q) {
    c.queries[q * c.shape.query_dim()] = 100.0f;
  }
  CheckPaths(c, 40);
}

// Most rows have small logits, and then most gates are left out.
void BoundedLeavesRowsOut() {
  SimilarityCase c(
      ShapeOf(PairSimilarity::kInnerProduct, Gate::kSiluSoftmax, 4, 2, 8, 16),
      4, 60000, 31);
  std::mt19937 random(5);
  for (int64_t row = 0; row < c.rows; ++row) {
    const float scale = random() % 100 == 0 ? 1.0f : 0.05f;
    for (int64_t d = 0; d < c.shape.components_dim(); ++d) {
      c.items[row * c.dim + d] *= scale;
    }
  }
  Request request(c, 10);
  UseMasks(c, &request);
  const Answer exact = request.Search(Algorithm::kExact, 2);
  const Answer bounded = request.Search(Algorithm::kBounded, 2);
  CHECK_THAT(bounded.best == exact.best);
  CHECK_THAT(exact.num_scored == std::vector<int64_t>({60000, 30000, 3530, 0}));
  CHECK_THAT(bounded.num_scored[0] < 60000 / 10) << bounded.num_scored[0];
  CHECK_THAT(bounded.num_scored[1] < 30000 / 10) << bounded.num_scored[1];
  CHECK_THAT(bounded.num_scored[0] >= 10);

  // Without a convex gate nothing may be left out.
  c.shape.gate = Gate::kRelu;
  c.Point();
  CHECK_THAT(request.Search(Algorithm::kBounded).num_scored ==
             exact.num_scored);
}

// The best rows come last, and scores rise slowly up to them: each may only
// just beat the k-th best so far. The bound is as tight as it gets, as all
// logits of a row are equal.
void BoundedIsExactOnTightBounds() {
  SimilarityShape shape =
      ShapeOf(PairSimilarity::kInnerProduct, Gate::kSiluSoftmax, 8, 8, 1, 5);
  SimilarityCase c(shape, 2, 4000, 37);
  for (int64_t q = 0; q < c.num_queries; ++q) {
    for (int64_t p = 0; p < 8; ++p) {
      c.queries[q * shape.query_dim() + p] = q == 0 ? 1.0f : -1.0f;
    }
  }
  for (int64_t row = 0; row < c.rows; ++row) {
    float value = 1.0f;
    // A few units in the last place from row to row.
    for (int64_t i = 0; i < row % 7; ++i) value = std::nextafter(value, 2.0f);
    if (row >= 3000) value = std::nextafter(value, row % 2 == 0 ? 2.0f : 0.0f);
    std::fill_n(c.items.begin() + row * c.dim, 8, value);
  }
  for (const int64_t k : {1, 10, 300}) {
    Request request(c, k);
    const Answer expected = request.Reference();
    CHECK_THAT(request.Search(Algorithm::kBounded).best == expected.best) << k;
    CHECK_THAT(request.Search(Algorithm::kBounded, 3).best == expected.best)
        << k;
  }
}

// Codes of the rows' components, and samples of the averaged queries.
struct Codes {
  Codes(const SimilarityCase& c, Request* request)
      : oporp({c.shape.components_dim(), c.shape.components_dim() / 2,
               128 / (c.shape.components_dim() / 2), 5}),
        codes((c.rows + 63) / 64 * 64 * 2),
        samples(c.num_queries * 128) {
    for (int64_t row = 0; row < c.rows; ++row) {
      uint64_t code[2];
      oporp.Encode(c.items.data() + row * c.dim, code);
      for (int w = 0; w < 2; ++w) codes[CodeWordIndex(row, w, 2)] = code[w];
    }
    std::vector<float> proxy(c.dim);
    for (int64_t b = 0; b < c.num_queries; ++b) {
      AveragedQuery(c.similarity, c.queries.data() + b * c.shape.query_dim(),
                    proxy.data());
      oporp.ProjectBatch(proxy.data(), 1, samples.data() + b * 128);
    }
    request->input.code.samples = samples.data();
    request->input.code.codes = codes.data();
    request->input.code.words = 2;
    request->input.code.scoring = CodeScoring::kAsymmetric;
  }

  SignOporp oporp;
  std::vector<uint64_t> codes;
  std::vector<float> samples;
};

// The `keep` rows that pass and have the greatest inner products, by row.
std::vector<int64_t> BestOf(const SimilarityCase& c, const Request& request,
                            int32_t mask, const std::vector<float>& proxy,
                            int64_t keep) {
  KnnInput knn = request.input.knn;
  knn.queries = proxy.data();
  knn.num_queries = 1;
  knn.k = keep;
  std::vector<float> scores(keep);
  std::vector<int64_t> rows(keep);
  int32_t count = 0;
  KnnOutput output;
  output.scores = scores.data();
  output.rows = rows.data();
  output.counts = &count;
  MaskedKnnReference(knn, request.masks, &mask, output);
  rows.resize(count);
  CHECK_THAT(count == keep || c.rows < 1000000);
  return rows;
}

// Two-stage search scores just the candidates that retrieval.h promises.
void TwoStageScoresItsCandidates(PairSimilarity component, ElementType type) {
  SimilarityCase c(ShapeOf(component, Gate::kSigmoid, 3, 2, 16, 8), 3, 700, 41,
                   type);
  const int64_t k = 10;
  Request request(c, k);
  UseMasks(c, &request);
  request.input.budget = 70;
  const Codes codes(c, &request);
  for (const Candidates candidates :
       {Candidates::kAveraged, Candidates::kComponents, Candidates::kCodes}) {
    request.input.candidates = candidates;
    RetrievalCounts counts;
    const Answer found = request.Search(Algorithm::kTwoStage, 1, &counts);
    CHECK_THAT(counts.two_stage == 3 && counts.exact == 0);
    for (int64_t b = 0; b < c.num_queries; ++b) {
      const float* const query = c.queries.data() + b * c.shape.query_dim();
      const int32_t mask = request.mask_of_query[b];
      std::vector<int64_t> rows;
      std::vector<float> proxy(c.dim);
      AveragedQuery(c.similarity, query, proxy.data());
      if (candidates == Candidates::kAveraged || b == 2) {
        // Of query 2 fewer than 70 rows pass, and all are candidates.
        rows = BestOf(c, request, mask, proxy, 70);
      } else if (candidates == Candidates::kComponents) {
        rows = BestOf(c, request, mask, proxy, k);
        for (int64_t l = 0; l < c.shape.pairs(); ++l) {
          PairQuery(c.similarity, query, l, proxy.data());
          const auto more = BestOf(c, request, mask, proxy, 10);
          rows.insert(rows.end(), more.begin(), more.end());
        }
      } else {
        rows.resize(70);
        int64_t count = 0;
        CodeKnnInput input;
        input.samples = request.input.code.samples + b * 128;
        input.num_queries = 1;
        input.codes = request.input.code.codes;
        input.num_rows = c.rows;
        input.words = 2;
        input.scoring = CodeScoring::kAsymmetric;
        input.keep = 70;
        CodeKnnReference(input, request.masks, &mask, CodeOrder::kBestFirst,
                         {nullptr, rows.data(), &count});
        rows.resize(count);
      }
      std::sort(rows.begin(), rows.end());
      rows.erase(std::unique(rows.begin(), rows.end()), rows.end());
      // The reference, of these rows alone.
      Request alone(c, k);
      std::vector<bool> mask_bits(c.rows, false);
      for (const int64_t row : rows) mask_bits[row] = true;
      alone.masks = VectorMasks({mask_bits});
      CHECK_THAT(OneOf(alone.Reference(), b, k) == OneOf(found, b, k))
          << "candidates " << static_cast<int>(candidates) << " query " << b;
      CHECK_THAT(found.num_scored[b] == static_cast<int64_t>(rows.size()))
          << found.num_scored[b] << " for " << rows.size();
    }
  }
}

void TwoStageWithRoomForAllIsExact() {
  SimilarityCase c(
      ShapeOf(PairSimilarity::kHadamard, Gate::kSoftmax, 2, 2, 8, 4), 4, 400,
      43);
  Request request(c, 30);
  UseMasks(c, &request);
  const Codes codes(c, &request);
  const Answer exact = request.Reference();
  for (const Candidates candidates :
       {Candidates::kAveraged, Candidates::kComponents, Candidates::kCodes}) {
    request.input.candidates = candidates;
    for (const int64_t budget : {400, 1000}) {
      request.input.budget = budget;
      CHECK_THAT(request.Search(Algorithm::kTwoStage).best == exact.best);
    }
    // Enough for the second query, of which half of the rows pass.
    request.input.budget = 200;
    CHECK_THAT(OneOf(request.Search(Algorithm::kTwoStage), 1, 30) ==
               OneOf(exact, 1, 30));
    // Fewer than k are raised to k.
    request.input.budget = 0;
    const Answer least = request.Search(Algorithm::kTwoStage);
    CHECK_THAT(least.best.counts == exact.best.counts);
  }
}

// Every query is answered as if it were alone, whatever the others are.
void AutoDependsOnTheQueryAlone() {
  SimilarityCase c(
      ShapeOf(PairSimilarity::kInnerProduct, Gate::kSiluSoftmax, 4, 2, 8, 64),
      12, 8000, 47);
  Request request(c, 10);
  UseMasks(c, &request);
  request.input.budget = 100;
  request.input.costs = {{1e-3f, 1e-3f, 1e-3f}, 1.0f, 1e-3f};
  request.input.similarity_costs = {1e-3f, 1.0f, 1.0f, 0.001f};
  RetrievalCounts counts;
  const Answer found = request.Search(Algorithm::kAuto, 1, &counts);
  // 8000 or 4000 rows pass, then 470 (of which the bounded search is taken to
  // need most), then none.
  CHECK_THAT(counts.two_stage == 9 && counts.exact == 3 && counts.bounded == 0)
      << counts.two_stage << " " << counts.exact << " " << counts.bounded;
  for (int64_t b = 0; b < c.num_queries; ++b) {
    CHECK_THAT(request.SearchOne(Algorithm::kAuto, b).best ==
               OneOf(found, b, 10))
        << b;
    CHECK_THAT(found.num_scored[b] == (b % 4 == 3 ? 0 : 100))
        << found.num_scored[b];
  }
  // Where all that pass would be candidates there is no first stage.
  request.input.budget = 500;
  request.input.similarity_costs.bounded_share = 1.0f;
  request.Search(Algorithm::kAuto, 1, &counts);
  CHECK_THAT(counts.two_stage == 6 && counts.exact == 6) << counts.two_stage;
  request.input.similarity_costs.bounded_share = 0.001f;
  // Where candidates cost more than anything else.
  request.input.costs = {{1e6f, 1e6f, 1e6f}, 1e6f, 1.0f};
  const Answer exact = request.Search(Algorithm::kAuto, 1, &counts);
  CHECK_THAT(counts.bounded == 9 && counts.exact == 3) << counts.bounded;
  CHECK_THAT(exact.best == request.Search(Algorithm::kExact).best);
  // And where the bound leaves nothing out.
  request.input.similarity_costs.bounded_share = 1.0f;
  request.Search(Algorithm::kAuto, 1, &counts);
  CHECK_THAT(counts.exact == 12) << counts.exact;
}

// Costs that were measured steer as those that are compiled in do.
void CostsAreMeasured() {
  SimilarityCase c(
      ShapeOf(PairSimilarity::kInnerProduct, Gate::kSiluSoftmax, 4, 2, 8, 64),
      3, 2000, 53);
  Request request(c, 10);
  const SimilarityCosts costs =
      MeasureSimilarityCosts(c.similarity, request.input.knn);
  SimilarityCosts read;
  CHECK_THAT(SimilarityCosts::FromList(costs.ToList(), &read).empty());
  CHECK_THAT(read.ToList() == costs.ToList());
  // k is 100 there.
  CHECK_THAT(costs.bounded_share >= 100.0f / 2000.0f);

  CHECK_THAT(SimilarityCosts::FromList({}, &read).empty());
  CHECK_THAT(read.ToList() == DefaultSimilarityCosts().ToList());
  const auto error = [&](const std::vector<float>& list) {
    return SimilarityCosts::FromList(list, &read);
  };
  CHECK_THAT(error({1.0f, 1.0f}).find("4 numbers or none, got 2") !=
             std::string::npos);
  CHECK_THAT(error({1.0f, 0.0f, 1.0f, 1.0f}).find("must be positive") !=
             std::string::npos);
  CHECK_THAT(error({1.0f, 1.0f, 1.0f, 1.5f}).find("at most 1") !=
             std::string::npos);
}

}  // namespace
}  // namespace lintf

int main() {
  lintf::PathsAgreeWithTheReference();
  lintf::EmptyInputsAreFine();
  lintf::TiesGoToLowerRows();
  lintf::BatchesAndThreadsGiveTheSameBits();
  lintf::ExtremesAreTheReferences();
  lintf::BoundedLeavesRowsOut();
  lintf::BoundedIsExactOnTightBounds();
  for (int type = 0; type < lintf::kNumElementTypes; ++type) {
    lintf::TwoStageScoresItsCandidates(
        type == 0   ? lintf::PairSimilarity::kWeighted
        : type == 1 ? lintf::PairSimilarity::kHadamard
                    : lintf::PairSimilarity::kInnerProduct,
        static_cast<lintf::ElementType>(type));
  }
  lintf::TwoStageWithRoomForAllIsExact();
  lintf::AutoDependsOnTheQueryAlone();
  lintf::CostsAreMeasured();
  return lintf::testing::Result();
}
