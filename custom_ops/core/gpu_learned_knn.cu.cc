// SPDX-License-Identifier: Apache-2.0
// Every algorithm is one pass that scores listed rows (gpu_similarity_scan.h);
// they differ in what is listed. Candidates are bits, one a row, like the
// filters' masks: found more than once they are there once, they come out in
// ascending order, and of a query that few rows pass its mask takes their
// place.
#include "custom_ops/core/gpu_learned_knn.h"

#include <algorithm>
#include <cstdint>
#include <limits>
#include <numeric>
#include <vector>

#include "custom_ops/core/gpu.h"
#include "custom_ops/core/gpu_candidates.h"
#include "custom_ops/core/gpu_code_knn.h"
#include "custom_ops/core/gpu_mask_rows.h"
#include "custom_ops/core/gpu_search.h"
#include "custom_ops/core/gpu_select.h"
#include "custom_ops/core/gpu_similarity.h"
#include "custom_ops/core/gpu_similarity_scan.h"
#include "custom_ops/core/planner.h"

namespace lintf::gpu {
namespace {

constexpr int kThreads = 256;
// Operations that take as long as a byte of memory on an H100, and those of an
// exponential with its division; see AutoExactRows.
constexpr double kOperationsOfByte = 6;
constexpr double kOperationsOfActivation = 30;
// Weights come from shared memory, one for every other operation.
constexpr double kOperationsOfFma = 2;

int64_t DivideUp(int64_t a, int64_t b) { return (a + b - 1) / b; }

// Sets the bits of rows, [num_lists, stride], of which the first counts[list]
// are there; `of_query` lists next to each other are a query's.
template <typename Count>
__global__ void __launch_bounds__(kThreads)
    MarkKernel(const int64_t* __restrict__ rows,
               const Count* __restrict__ counts, int64_t num_lists,
               int64_t stride, int64_t of_query, int64_t num_words,
               unsigned long long* bits) {
  const int64_t step = static_cast<int64_t>(gridDim.x) * kThreads;
  for (int64_t i = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
       i < num_lists * stride; i += step) {
    const int64_t list = i / stride;
    if (i % stride >= counts[list]) continue;
    const int64_t row = rows[i];
    atomicOr(&bits[list / of_query * num_words + row / 64], 1ull << (row % 64));
  }
}

// Queries that at most `most` rows pass: all of these become candidates, and
// none is searched. Other queries have no candidates yet.
__global__ void __launch_bounds__(kThreads)
    SplitKernel(const int64_t* __restrict__ passing, int64_t most,
                int64_t num_queries, int64_t num_words,
                uint64_t* __restrict__ searched,
                uint64_t* __restrict__ candidates) {
  const int64_t step = static_cast<int64_t>(gridDim.x) * kThreads;
  for (int64_t i = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
       i < num_queries * num_words; i += step) {
    const bool is_few = passing[i / num_words] <= most;
    candidates[i] = is_few ? searched[i] : 0;
    if (is_few) searched[i] = 0;
  }
}

// The least key of the k-th best score; 0 where there are fewer.
__global__ void __launch_bounds__(kThreads)
    FloorKernel(const float* __restrict__ scores,
                const int32_t* __restrict__ counts, int64_t num_queries,
                int64_t k, uint64_t* __restrict__ floors) {
  const int64_t step = static_cast<int64_t>(gridDim.x) * kThreads;
  for (int64_t q = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
       q < num_queries; q += step) {
    floors[q] = counts[q] < k ? 0 : MakeKey(scores[q * k + k - 1], 0xFFFFFFFFu);
  }
}

// One search; memory is taken once, for all slices of the queries.
class Search {
 public:
  Search(const RetrievalInput& input, const Masks& masks,
         const int32_t* mask_of_query, const KnnOptions& options,
         Context* context, const KnnOutput& output)
      : input_(input),
        knn_(input.knn),
        masks_(masks),
        mask_of_query_(mask_of_query),
        options_(options),
        context_(context),
        output_(output),
        shape_(input.similarity->shape),
        num_words_(MaskWords(input.knn.num_rows)) {
    const int64_t rows = knn_.num_rows;
    budget_ = std::min(std::max(input.budget, knn_.k), rows);
    candidates_by_ = input.candidates;
    if (candidates_by_ == Candidates::kCodes && input.code.codes == nullptr) {
      candidates_by_ = Candidates::kAveraged;  // of kBounded any will do
    }
    const bool by_components = candidates_by_ == Candidates::kComponents;
    of_pair_ = RowsOfPair(shape_, std::max(input.budget, knn_.k), knn_.k);
    of_pair_ = std::min(of_pair_, rows);
    most_exact_ = by_components ? budget_ : -1;
    most_candidates_ =
        by_components ? std::max(budget_, of_pair_ * shape_.pairs() + knn_.k)
                      : budget_;
  }

  RetrievalCounts Run() {
    Choose();
    RetrievalCounts counts;
    switch (algorithm_) {
      case Algorithm::kBounded:
        counts.bounded = knn_.num_queries;
        break;
      case Algorithm::kTwoStage:
        counts.two_stage = knn_.num_queries;
        break;
      default:
        counts.exact = knn_.num_queries;
    }
    if (output_.num_scored != nullptr) {
      context_->Fill(
          output_.num_scored, 0,
          knn_.num_queries * static_cast<int64_t>(sizeof(*output_.num_scored)));
    }
    if (knn_.num_rows == 0) {
      FillNoResults(knn_.num_queries, knn_.k, context_, output_);
      return counts;
    }
    Allocate();
    for (int64_t first = 0; first < knn_.num_queries && context_->ok();
         first += slice_) {
      RunSlice(first, std::min(slice_, knn_.num_queries - first));
    }
    return counts;
  }

 private:
  // What is left of kAuto, and of kBounded without a gate.
  void Choose() {
    algorithm_ = input_.algorithm;
    if (algorithm_ == Algorithm::kBounded && shape_.gate == Gate::kNone) {
      algorithm_ = Algorithm::kExact;
    }
    if (algorithm_ != Algorithm::kAuto) return;
    const int64_t most = AutoExactRows(input_);
    if (most >= knn_.num_rows) {
      algorithm_ = Algorithm::kExact;
      return;
    }
    algorithm_ = Algorithm::kTwoStage;
    most_exact_ = std::max(most_exact_, most);
    most_candidates_ = std::max(most_candidates_, most_exact_);
  }

  bool has_candidates() const { return algorithm_ != Algorithm::kExact; }
  bool lists_masks() const { return algorithm_ != Algorithm::kTwoStage; }

  void Allocate() {
    const int64_t scratch = context_->scratch_bytes();
    // Half of the memory holds at least one list.
    segment_rows_ = std::min(
        {knn_.tuning.segment_rows, kMaxSegmentRows,
         std::max<int64_t>(scratch / 8 / kRowsPerWord, 1) * kRowsPerWord});
    const int64_t segment = std::min(segment_rows_, knn_.num_rows);
    list_stride_ = std::min(most_candidates_, segment);
    if (lists_masks()) list_stride_ = segment;
    int64_t query_bytes =
        list_stride_ * 4 + SimilarityLayout(shape_).query_floats() * 4;
    if (has_candidates()) {
      query_bytes += 2 * num_words_ * 8 + most_candidates_ * 12;
    }
    slice_ = std::clamp<int64_t>(scratch / query_bytes, 1, knn_.num_queries);
    lists_ = context_->Allocate<uint32_t>(slice_ * list_stride_);
    list_counts_ = context_->Allocate<uint32_t>(slice_);
    parts_ = DivideUp(knn_.num_rows, segment_rows_);
    if (parts_ > 1) part_output_ = NewOutput(parts_ * slice_);
    if (!has_candidates()) return;
    candidates_ = context_->Allocate<uint64_t>(slice_ * num_words_);
    if (most_exact_ >= 0) {
      searched_ = context_->Allocate<uint64_t>(slice_ * num_words_);
      passing_ = context_->Allocate<int64_t>(slice_);
    }
    proxies_ = context_->Allocate<float>(slice_ * shape_.item_dim());
    if (candidates_by_ == Candidates::kComponents) {
      pair_proxies_ = context_->Allocate<float>(slice_ * shape_.pairs() *
                                                shape_.item_dim());
    }
    found_scores_ = context_->Allocate<float>(slice_ * most_candidates_);
    found_rows_ = context_->Allocate<int64_t>(slice_ * most_candidates_);
    found_counts_ = context_->Allocate<int64_t>(slice_ * shape_.pairs());
    if (algorithm_ == Algorithm::kBounded) {
      seed_output_ = NewOutput(slice_);
      floors_ = context_->Allocate<uint64_t>(slice_);
    }
  }

  KnnOutput NewOutput(int64_t num_queries) {
    KnnOutput output;
    output.scores = context_->Allocate<float>(num_queries * knn_.k);
    output.rows = context_->Allocate<int64_t>(num_queries * knn_.k);
    output.counts = context_->Allocate<int32_t>(num_queries);
    return output;
  }

  void RunSlice(int64_t first, int64_t count) {
    first_ = first;
    count_ = count;
    KnnOutput results;
    results.scores = output_.scores + first * knn_.k;
    results.rows = output_.rows + first * knn_.k;
    results.counts = output_.counts + first;
    if (has_candidates()) FindCandidates();
    if (algorithm_ == Algorithm::kBounded) {
      ScoreLists(false, seed_output_);
      Launch(context_, FloorKernel, BlocksFor(count), kThreads, 0,
             static_cast<const float*>(seed_output_.scores),
             static_cast<const int32_t*>(seed_output_.counts), count, knn_.k,
             floors_);
    }
    ScoreLists(lists_masks(), results);
  }

  // -------------------------------------------------------------------------
  // Candidates: bits of the slice's queries

  void FindCandidates() {
    Masks masks = masks_;
    const int32_t* mask_of_query = mask_of_query_ + first_;
    std::vector<int32_t> own(count_);
    if (most_exact_ >= 0) {
      CopyMasks(masks_, mask_of_query, count_, knn_.num_rows, context_,
                searched_, passing_);
      Launch(context_, SplitKernel, BlocksFor(count_ * num_words_), kThreads, 0,
             static_cast<const int64_t*>(passing_), most_exact_, count_,
             num_words_, searched_, candidates_);
      masks.words = searched_;
      masks.stride = num_words_;
      masks.passes_all.assign(count_, false);
      std::iota(own.begin(), own.end(), 0);
      mask_of_query = own.data();
    } else {
      context_->Fill(candidates_, 0, count_ * num_words_ * 8);
    }
    if (candidates_by_ == Candidates::kCodes) {
      return FindByCodes(masks, mask_of_query);
    }
    const float* const queries = knn_.queries + first_ * shape_.query_dim();
    AverageQueries(*input_.similarity, queries, count_, context_, proxies_);
    if (candidates_by_ == Candidates::kAveraged) {
      return FindByProxies(masks, mask_of_query, proxies_, 1, budget_);
    }
    FindByProxies(masks, mask_of_query, proxies_, 1,
                  std::min(knn_.k, knn_.num_rows));
    MakePairQueries(*input_.similarity, queries, count_, context_,
                    pair_proxies_);
    std::vector<int32_t> of_pairs;
    for (int64_t q = 0; q < count_; ++q) {
      of_pairs.insert(of_pairs.end(), shape_.pairs(), mask_of_query[q]);
    }
    FindByProxies(masks, of_pairs.data(), pair_proxies_, shape_.pairs(),
                  of_pair_);
  }

  // The `keep` best of each proxy, of which a query has `of_query`.
  void FindByProxies(const Masks& masks, const int32_t* mask_of_query,
                     const float* proxies, int64_t of_query, int64_t keep) {
    KnnInput input = knn_;
    input.queries = proxies;
    input.num_queries = count_ * of_query;
    input.metric = Metric::kInnerProduct;
    input.k = keep;
    KnnOutput found;
    found.scores = found_scores_;
    found.rows = found_rows_;
    found.counts = reinterpret_cast<int32_t*>(found_counts_);
    KnnOptions options = options_;
    options.order = ScanOrder::kAuto;
    MaskedKnn(input, masks, mask_of_query, options, context_, found);
    Mark(found.counts, of_query, keep);
  }

  void FindByCodes(const Masks& masks, const int32_t* mask_of_query) {
    CodeKnnInput codes;
    codes.words = input_.code.words;
    codes.samples = input_.code.samples + first_ * 64 * codes.words;
    codes.num_queries = count_;
    codes.codes = input_.code.codes;
    codes.num_rows = knn_.num_rows;
    codes.scoring = input_.code.scoring;
    codes.keep = budget_;
    CodeKnnOutput found;
    found.rows = found_rows_;
    found.counts = found_counts_;
    CodeKnn(codes, masks, mask_of_query, CodeOrder::kAscendingRow, context_,
            found);
    Mark(found_counts_, 1, budget_);
  }

  template <typename Count>
  void Mark(const Count* counts, int64_t of_query, int64_t keep) {
    const int64_t lists = count_ * of_query;
    Launch(context_, MarkKernel<Count>, BlocksFor(lists * keep), kThreads, 0,
           static_cast<const int64_t*>(found_rows_), counts, lists, keep,
           of_query, num_words_,
           reinterpret_cast<unsigned long long*>(candidates_));
  }

  // -------------------------------------------------------------------------
  // Scores

  // The k best of the rows that pass, or of the candidates.
  void ScoreLists(bool of_masks, const KnnOutput& results) {
    const bool is_bounded = of_masks && algorithm_ == Algorithm::kBounded;
    std::vector<int32_t> list_of_query(count_);
    std::vector<int32_t> listed;  // masks, ascending
    if (of_masks) {
      const int32_t* const masks = mask_of_query_ + first_;
      for (int64_t q = 0; q < count_; ++q) {
        if (!masks_.passes_all[masks[q]]) listed.push_back(masks[q]);
      }
      std::sort(listed.begin(), listed.end());
      listed.erase(std::unique(listed.begin(), listed.end()), listed.end());
      for (int64_t q = 0; q < count_; ++q) {
        const auto at =
            std::lower_bound(listed.begin(), listed.end(), masks[q]);
        list_of_query[q] = masks_.passes_all[masks[q]]
                               ? -1
                               : static_cast<int32_t>(at - listed.begin());
      }
    } else {
      std::iota(list_of_query.begin(), list_of_query.end(), 0);
    }
    QueryLists lists;
    lists.rows = lists_;
    lists.stride = list_stride_;
    lists.counts = list_counts_;
    lists.list_of_query = context_->Upload(list_of_query.data(), count_);
    SimilarityScan scan(*input_.similarity, lists, is_bounded, context_);
    if (output_.num_scored != nullptr) {
      scan.Count(
          reinterpret_cast<unsigned long long*>(output_.num_scored) + first_,
          is_bounded ? candidates_ : nullptr, num_words_);
    }
    for (int64_t part = 0; part < parts_; ++part) {
      const int64_t begin = part * segment_rows_;
      const int64_t rows = std::min(segment_rows_, knn_.num_rows - begin);
      if (of_masks) {
        ListMasks(listed, begin, rows);
      } else {
        ListRows(candidates_ + begin / kRowsPerWord, count_, num_words_, rows,
                 context_, lists_, list_stride_, list_counts_);
      }
      ScanSearch search;
      search.scan = &scan;
      search.input = knn_;
      search.input.queries = knn_.queries + first_ * shape_.query_dim();
      search.input.num_queries = count_;
      search.query_dim = shape_.query_dim();
      search.rows.first_row = begin;
      search.rows.num_places = of_masks ? rows : std::min(rows, list_stride_);
      search.place_rows.rows32 = lists_;
      search.place_rows.list_of_query = lists.list_of_query;
      search.place_rows.stride = list_stride_;
      search.place_rows.first_row = begin;
      search.one_by_one = true;
      if (is_bounded) search.floors = floors_;
      KnnOutput found = results;
      if (parts_ > 1) {
        found.scores = part_output_.scores + part * count_ * knn_.k;
        found.rows = part_output_.rows + part * count_ * knn_.k;
        found.counts = part_output_.counts + part * count_;
      }
      SearchRows(search, context_, found);
    }
    if (parts_ > 1) {
      MergeResults(part_output_.scores, part_output_.rows, part_output_.counts,
                   parts_, count_, knn_.k, context_, results);
    }
  }

  // Rows [begin, begin + rows) that pass each mask, those of masks that follow
  // one another at once.
  void ListMasks(const std::vector<int32_t>& listed, int64_t begin,
                 int64_t rows) {
    for (size_t i = 0; i < listed.size();) {
      size_t end = i + 1;
      while (end < listed.size() && listed[end] == listed[end - 1] + 1) ++end;
      ListRows(masks_.words + listed[i] * masks_.stride + begin / kRowsPerWord,
               static_cast<int64_t>(end - i), masks_.stride, rows, context_,
               lists_ + static_cast<int64_t>(i) * list_stride_, list_stride_,
               list_counts_ + i);
      i = end;
    }
  }

  // For a thread a value.
  dim3 BlocksFor(int64_t values) const {
    return dim3(static_cast<unsigned>(
        std::clamp<int64_t>(DivideUp(values, kThreads), 1,
                            int64_t{context_->num_multiprocessors()} * 16)));
  }

  const RetrievalInput& input_;
  const KnnInput& knn_;
  const Masks& masks_;
  const int32_t* const mask_of_query_;
  const KnnOptions& options_;
  Context* const context_;
  const KnnOutput& output_;
  const SimilarityShape& shape_;
  const int64_t num_words_;
  Algorithm algorithm_ = Algorithm::kExact;
  Candidates candidates_by_ = Candidates::kAveraged;
  int64_t budget_ = 0;   // at most the number of rows
  int64_t of_pair_ = 1;  // kComponents: candidates of each pair
  // Queries that at most so many rows pass have all of them scored; -1: that
  // is not looked at.
  int64_t most_exact_ = -1;
  int64_t most_candidates_ = 0;  // of a query

  int64_t slice_ = 1;
  int64_t segment_rows_ = 0;
  int64_t parts_ = 1;
  int64_t list_stride_ = 0;
  uint32_t* lists_ = nullptr;
  uint32_t* list_counts_ = nullptr;
  KnnOutput part_output_;
  uint64_t* candidates_ = nullptr;
  uint64_t* searched_ = nullptr;
  int64_t* passing_ = nullptr;
  float* proxies_ = nullptr;
  float* pair_proxies_ = nullptr;
  float* found_scores_ = nullptr;
  int64_t* found_rows_ = nullptr;
  int64_t* found_counts_ = nullptr;  // room for int32 too
  KnnOutput seed_output_;
  uint64_t* floors_ = nullptr;

  int64_t first_ = 0;  // of the slice
  int64_t count_ = 0;
};

}  // namespace

int64_t AutoExactRows(const RetrievalInput& input) {
  const SimilarityShape& shape = input.similarity->shape;
  const double pairs = static_cast<double>(shape.pairs());
  const double dim = static_cast<double>(shape.component_dim);
  const double hidden = static_cast<double>(shape.hidden);
  const double units = static_cast<double>(shape.gate_hidden);
  const double row_bytes =
      static_cast<double>(shape.item_dim()) *
      static_cast<double>(ElementSize(input.knn.items.type));
  double fmas = shape.component == PairSimilarity::kHadamard
                    ? pairs * hidden * (dim + 1)
                    : pairs * dim;
  fmas += 2 * pairs * units;
  double activations = units;
  if (shape.gate != Gate::kNone && shape.gate != Gate::kRelu) {
    activations += shape.gate == Gate::kSiluSoftmax ? 2 * pairs : pairs;
  }
  const double score = fmas * kOperationsOfFma +
                       activations * kOperationsOfActivation +
                       row_bytes * kOperationsOfByte;
  double first_stage = row_bytes * kOperationsOfByte;
  if (input.candidates == Candidates::kComponents) {
    first_stage += 2 * pairs * static_cast<double>(shape.item_dim());
  } else if (input.candidates == Candidates::kCodes) {
    first_stage = static_cast<double>(input.code.words) * 8 * kOperationsOfByte;
  }
  const int64_t budget = std::max(input.budget, input.knn.k);
  if (!(score > first_stage)) return std::numeric_limits<int64_t>::max();
  const double rows =
      static_cast<double>(budget) * score / (score - first_stage);
  if (!(rows < static_cast<double>(input.knn.num_rows))) {
    return std::numeric_limits<int64_t>::max();
  }
  return static_cast<int64_t>(rows);
}

RetrievalCounts RetrieveLearned(const RetrievalInput& input, const Masks& masks,
                                const int32_t* mask_of_query,
                                const KnnOptions& options, Context* context,
                                const KnnOutput& output) {
  if (input.knn.num_queries == 0) return RetrievalCounts();
  return Search(input, masks, mask_of_query, options, context, output).Run();
}

}  // namespace lintf::gpu
