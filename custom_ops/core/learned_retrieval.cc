// SPDX-License-Identifier: Apache-2.0
#include "custom_ops/core/learned_retrieval.h"

#include <algorithm>
#include <cstdint>
#include <numeric>
#include <vector>

#include "custom_ops/core/learned_knn.h"
#include "custom_ops/core/list_masks.h"
#include "custom_ops/core/pair_knn.h"
#include "custom_ops/core/query_subset.h"
#include "custom_ops/core/stored_masks.h"

namespace lintf {
namespace {

// Bytes of candidates and proxies at once; larger batches are cut into slices
// that fit.
constexpr int64_t kCandidateBytes = int64_t{64} << 20;

// What all algorithms take.
struct Batch {
  const MaskSource& masks;
  const int32_t* mask_of_query;
  const Parallel& parallel;
};

int64_t Budget(const RetrievalInput& input) {
  return std::max(input.budget, input.knn.k);
}

void ScoreAll(const RetrievalInput& input, const Batch& batch, bool bounded,
              const KnnOutput& output) {
  LearnedKnnInput learned;
  learned.similarity = input.similarity;
  learned.knn = input.knn;
  learned.bounded = bounded;
  LearnedKnn(learned, batch.masks, batch.mask_of_query, batch.parallel, output);
}

// The candidates of a slice of the queries: rows in ascending order, each
// once, those of query b at rows[b * stride].
class CandidateLists {
 public:
  CandidateLists(const RetrievalInput& input, const Batch& batch)
      : input_(input),
        batch_(batch),
        shape_(input.similarity->shape),
        budget_(Budget(input)),
        of_pair_(RowsOfPair(shape_, budget_, input.knn.k)),
        stride_(input.candidates == Candidates::kComponents
                    ? of_pair_ * shape_.pairs() + input.knn.k
                    : budget_) {}

  int64_t stride() const { return stride_; }

  // What a query takes: proxies, what each of them finds, and the list.
  int64_t bytes_a_query() const {
    constexpr int64_t kRowBytes = sizeof(int64_t) + sizeof(float);
    const bool by_components = input_.candidates == Candidates::kComponents;
    const int64_t proxies = by_components ? shape_.pairs() + 1 : 1;
    const int64_t found =
        by_components ? proxies * std::max(of_pair_, input_.knn.k) : stride_;
    return proxies * shape_.item_dim() * static_cast<int64_t>(sizeof(float)) +
           found * kRowBytes + stride_ * static_cast<int64_t>(sizeof(int64_t));
  }

  void Select(int64_t first_query, int64_t num_queries) {
    rows_.assign(num_queries * stride_, -1);
    counts_.assign(num_queries, 0);
    switch (input_.candidates) {
      case Candidates::kAveraged:
        AddAveraged(first_query, num_queries, budget_);
        break;
      case Candidates::kComponents:
        if (input_.knn.items.type == ElementType::kInt8) {
          AddAveraged(first_query, num_queries, input_.knn.k);
          AddComponents(first_query, num_queries);
        } else {
          AddInOnePass(first_query, num_queries);
        }
        break;
      case Candidates::kCodes:
        SelectByCodes(first_query, num_queries);
        return;  // in order
    }
    for (int64_t b = 0; b < num_queries; ++b) {
      const auto begin = rows_.begin() + b * stride_;
      std::sort(begin, begin + counts_[b]);
      counts_[b] = std::unique(begin, begin + counts_[b]) - begin;
    }
  }

  ListMasks masks() const {
    return ListMasks(rows_.data(), counts_.data(),
                     static_cast<int64_t>(counts_.size()), stride_);
  }

 private:
  // Adds the `keep` best of each proxy to the candidates of its query; there
  // are `of_query` proxies a query, one after the other.
  void AddBest(const std::vector<float>& proxies, int64_t first_query,
               int64_t num_queries, int64_t of_query, int64_t keep) {
    KnnInput knn = input_.knn;
    knn.queries = proxies.data();
    knn.num_queries = num_queries * of_query;
    knn.metric = Metric::kInnerProduct;
    knn.k = keep;
    knn.tuning.costs = &input_.costs.knn;
    std::vector<int32_t> mask_of_proxy;
    for (int64_t b = first_query; b < first_query + num_queries; ++b) {
      mask_of_proxy.insert(mask_of_proxy.end(), of_query,
                           batch_.mask_of_query[b]);
    }
    std::vector<float> scores(knn.num_queries * keep);
    std::vector<int64_t> rows(knn.num_queries * keep);
    std::vector<int32_t> counts(knn.num_queries);
    KnnOutput output;
    output.scores = scores.data();
    output.rows = rows.data();
    output.counts = counts.data();
    MaskedKnn(knn, batch_.masks, mask_of_proxy.data(), batch_.parallel, output);
    for (int64_t i = 0; i < knn.num_queries; ++i) {
      const int64_t b = i / of_query;
      std::copy_n(rows.data() + i * keep, counts[i],
                  rows_.data() + b * stride_ + counts_[b]);
      counts_[b] += counts[i];
    }
  }

  const float* Query(int64_t query) const {
    return input_.knn.queries + query * shape_.query_dim();
  }

  void AddAveraged(int64_t first_query, int64_t num_queries, int64_t keep) {
    const int64_t dim = shape_.item_dim();
    std::vector<float> proxies(num_queries * dim);
    for (int64_t b = 0; b < num_queries; ++b) {
      AveragedQuery(*input_.similarity, Query(first_query + b),
                    proxies.data() + b * dim);
    }
    AddBest(proxies, first_query, num_queries, 1, keep);
  }

  void AddComponents(int64_t first_query, int64_t num_queries) {
    const int64_t dim = shape_.item_dim();
    const int64_t pairs = shape_.pairs();
    std::vector<float> proxies(num_queries * pairs * dim);
    for (int64_t i = 0; i < num_queries * pairs; ++i) {
      PairQuery(*input_.similarity, Query(first_query + i / pairs), i % pairs,
                proxies.data() + i * dim);
    }
    AddBest(proxies, first_query, num_queries, pairs, of_pair_);
  }

  // The same as AddAveraged and AddComponents.
  void AddInOnePass(int64_t first_query, int64_t num_queries) {
    const int64_t pairs = shape_.pairs();
    KnnInput knn = input_.knn;
    knn.queries = Query(first_query);
    knn.num_queries = num_queries;
    knn.k = std::max(input_.knn.k, of_pair_);
    const int64_t proxies = num_queries * (pairs + 1);
    std::vector<float> scores(proxies * knn.k);
    std::vector<int64_t> rows(proxies * knn.k);
    std::vector<int32_t> counts(proxies);
    KnnOutput output;
    output.scores = scores.data();
    output.rows = rows.data();
    output.counts = counts.data();
    PairKnn(*input_.similarity, knn, batch_.masks,
            batch_.mask_of_query + first_query, batch_.parallel, output);
    for (int64_t i = 0; i < proxies; ++i) {
      const bool is_averaged = i % (pairs + 1) == pairs;
      const int64_t b = i / (pairs + 1);
      const int64_t count =
          std::min<int64_t>(counts[i], is_averaged ? input_.knn.k : of_pair_);
      std::copy_n(rows.data() + i * knn.k, count,
                  rows_.data() + b * stride_ + counts_[b]);
      counts_[b] += count;
    }
  }

  void SelectByCodes(int64_t first_query, int64_t num_queries) {
    CodeKnnInput codes;
    codes.samples = input_.code.samples + first_query * input_.code.words * 64;
    codes.num_queries = num_queries;
    codes.codes = input_.code.codes;
    codes.num_rows = input_.knn.num_rows;
    codes.words = input_.code.words;
    codes.scoring = input_.code.scoring;
    codes.keep = budget_;
    CodeKnn(codes, batch_.masks, batch_.mask_of_query + first_query,
            CodeOrder::kAscendingRow, batch_.parallel,
            {nullptr, rows_.data(), counts_.data()});
  }

  const RetrievalInput& input_;
  const Batch& batch_;
  const SimilarityShape& shape_;
  const int64_t budget_;
  const int64_t of_pair_;
  const int64_t stride_;
  std::vector<int64_t> rows_;    // [queries, stride_]
  std::vector<int64_t> counts_;  // of each query
};

void SearchCandidates(const RetrievalInput& input, const Batch& batch,
                      const KnnOutput& output) {
  if (input.knn.num_rows <= Budget(input)) {
    ScoreAll(input, batch, /*bounded=*/false, output);
    return;
  }
  CandidateLists lists(input, batch);
  const int64_t slice = std::clamp<int64_t>(
      kCandidateBytes / lists.bytes_a_query(), 1, input.knn.num_queries);
  std::vector<int32_t> mask_of_slice(slice);
  std::iota(mask_of_slice.begin(), mask_of_slice.end(), 0);
  const int64_t k = input.knn.k;
  for (int64_t first = 0; first < input.knn.num_queries; first += slice) {
    const int64_t count = std::min(slice, input.knn.num_queries - first);
    lists.Select(first, count);
    LearnedKnnInput learned;
    learned.similarity = input.similarity;
    learned.knn = input.knn;
    learned.knn.queries += first * input.similarity->shape.query_dim();
    learned.knn.num_queries = count;
    learned.expected_rows = lists.stride();
    KnnOutput part;
    part.scores = output.scores + first * k;
    part.rows = output.rows + first * k;
    part.counts = output.counts + first;
    if (output.num_scored != nullptr) {
      part.num_scored = output.num_scored + first;
    }
    LearnedKnn(learned, lists.masks(), mask_of_slice.data(), batch.parallel,
               part);
  }
}

// Searches all queries by one algorithm.
void SearchBy(Algorithm algorithm, const RetrievalInput& input,
              const Batch& batch, const KnnOutput& output) {
  switch (algorithm) {
    case Algorithm::kTwoStage:
      SearchCandidates(input, batch, output);
      break;
    case Algorithm::kBounded: {
      const SimilarityShape& shape = input.similarity->shape;
      ScoreAll(input, batch, shape.is_convex() && shape.gate != Gate::kNone,
               output);
      break;
    }
    default:
      ScoreAll(input, batch, /*bounded=*/false, output);
  }
}

// Searches the queries of a batch, each by its own algorithm.
class Split {
 public:
  Split(const RetrievalInput& input, const Batch& batch,
        const KnnOutput& output)
      : input_(input), batch_(batch), output_(output) {}

  void Search(Algorithm algorithm, const std::vector<int64_t>& queries) const {
    const int64_t count = static_cast<int64_t>(queries.size());
    if (count == 0) return;
    if (count == input_.knn.num_queries) {
      SearchBy(algorithm, input_, batch_, output_);
      return;
    }
    QuerySubset subset(input_, input_.similarity->shape.query_dim(),
                       batch_.mask_of_query, queries);
    const RetrievalInput input = subset.Input(input_);
    SearchBy(algorithm, input,
             {batch_.masks, subset.mask_of_query(), batch_.parallel},
             subset.Output());
    subset.CopyTo(input_.knn.k, output_);
  }

 private:
  const RetrievalInput& input_;
  const Batch& batch_;
  const KnnOutput& output_;
};

}  // namespace

RetrievalCounts RetrieveSimilarRows(const RetrievalInput& input,
                                    const MaskSource& masks,
                                    const int32_t* mask_of_query,
                                    const Parallel& parallel,
                                    const KnnOutput& output) {
  if (output.stats != nullptr) *output.stats = {};
  const int64_t num_queries = input.knn.num_queries;
  const bool is_auto = input.algorithm == Algorithm::kAuto;
  const bool by_components = input.algorithm == Algorithm::kTwoStage &&
                             input.candidates == Candidates::kComponents;
  RetrievalCounts counts;
  if (!is_auto && !by_components) {
    SearchBy(input.algorithm, input, {masks, mask_of_query, parallel}, output);
    (input.algorithm == Algorithm::kTwoStage  ? counts.two_stage
     : input.algorithm == Algorithm::kBounded ? counts.bounded
                                              : counts.exact) += num_queries;
    return counts;
  }

  const StoredMasks stored(masks, input.knn.num_rows, kMaxStoredMaskBytes,
                           parallel);
  std::vector<int64_t> exact;
  std::vector<int64_t> bounded;
  std::vector<int64_t> two_stage;
  for (int64_t query = 0; query < num_queries; ++query) {
    const int64_t passing = stored.passing(mask_of_query[query]);
    if (by_components) {
      // Each pair has but a part of the budget: where the whole of it is
      // enough, no pair may leave a row out.
      (passing <= Budget(input) ? exact : two_stage).push_back(query);
      continue;
    }
    SimilarQueryShape shape;
    shape.query.num_rows = input.knn.num_rows;
    shape.query.passing = passing;
    shape.query.dim = input.knn.dim;
    shape.query.code_words = input.code.words;
    shape.similarity = input.similarity->shape;
    shape.candidates = input.candidates;
    shape.budget = input.budget;
    shape.k = input.knn.k;
    const Algorithm algorithm =
        ChooseSimilar(input.costs, input.similarity_costs, shape);
    (algorithm == Algorithm::kTwoStage  ? two_stage
     : algorithm == Algorithm::kBounded ? bounded
                                        : exact)
        .push_back(query);
  }
  const Batch batch = {stored, mask_of_query, parallel};
  const Split split(input, batch, output);
  split.Search(Algorithm::kExact, exact);
  split.Search(Algorithm::kBounded, bounded);
  split.Search(Algorithm::kTwoStage, two_stage);
  if (by_components) {
    counts.two_stage += num_queries;
  } else {
    counts.exact += static_cast<int64_t>(exact.size());
    counts.bounded += static_cast<int64_t>(bounded.size());
    counts.two_stage += static_cast<int64_t>(two_stage.size());
  }
  return counts;
}

}  // namespace lintf
