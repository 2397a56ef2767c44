// SPDX-License-Identifier: Apache-2.0
#include "custom_ops/core/learned_knn.h"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstdint>
#include <functional>
#include <limits>
#include <memory>
#include <mutex>
#include <numeric>
#include <vector>

#include "custom_ops/core/aligned_array.h"
#include "custom_ops/core/float_environment.h"
#include "custom_ops/core/knn_kernels.h"
#include "custom_ops/core/learned_kernels.h"
#include "custom_ops/core/top_k.h"

namespace lintf {
namespace {

constexpr float kNoScore = -std::numeric_limits<float>::infinity();

// Masks are filled, and threads take work, in blocks of rows.
constexpr int64_t kMaxBlockRows = 4096;
// Of a bounded search; the first of every kStride blocks comes first.
constexpr int64_t kBoundedBlockRows = 1024;
constexpr int64_t kStride = 32;
// Queries that search together.
constexpr int64_t kMaxSliceQueries = 64;
// Below this much estimated work another thread is not worth waking up.
constexpr double kMinWorkerNanoseconds = 50e3;

constexpr int64_t CeilDiv(int64_t a, int64_t b) { return (a + b - 1) / b; }
constexpr int64_t RoundUp(int64_t a, int64_t b) { return CeilDiv(a, b) * b; }

// Queries with one mask.
struct MaskRun {
  int32_t mask;
  std::vector<int64_t> slots;
};

// How a slice of the queries is searched; the same for all threads.
struct Plan {
  const LearnedKernels* kernels;
  std::vector<FoldedQuery> queries;  // by slot
  std::vector<MaskRun> runs;
};

Plan MakePlan(const LearnedKnnInput& input, const int32_t* mask_of_query,
              int64_t begin, int64_t end) {
  Plan plan;
  plan.kernels = &ActiveLearnedKernels();
  const int64_t query_dim = input.similarity->shape.query_dim();
  std::vector<int64_t> order(end - begin);
  std::iota(order.begin(), order.end(), int64_t{0});
  for (const int64_t slot : order) {
    plan.queries.push_back(FoldQuery(
        *input.similarity, input.knn.queries + (begin + slot) * query_dim));
  }
  std::stable_sort(order.begin(), order.end(), [&](int64_t a, int64_t b) {
    return mask_of_query[begin + a] < mask_of_query[begin + b];
  });
  for (const int64_t slot : order) {
    const int32_t mask = mask_of_query[begin + slot];
    if (plan.runs.empty() || plan.runs.back().mask != mask) {
      plan.runs.push_back({mask, {}});
    }
    plan.runs.back().slots.push_back(slot);
  }
  return plan;
}

// The k best scores of a query so far, over all threads: what the bounds of a
// bounded search have to reach. They are kept apart from the candidates, which
// are cut back to the k best only now and then.
class Floor {
 public:
  // What the k-th best row scores at least; NaN: unknown.
  float value() const { return value_.load(std::memory_order_relaxed); }

  // Adds scores[i] for each bit i of `which`; they must be among the candidates
  // of a thread.
  void Add(const float* scores, uint64_t which, int64_t k) {
    const std::lock_guard<std::mutex> lock(mu_);
    for (; which != 0; which &= which - 1) {
      const float raw = scores[__builtin_ctzll(which)];
      const float score = std::isnan(raw) ? kNoScore : raw;
      const bool is_full = static_cast<int64_t>(best_.size()) == k;
      if (is_full) {
        if (score <= best_.front()) continue;
        std::pop_heap(best_.begin(), best_.end(), std::greater<float>());
        best_.back() = score;
      } else {
        best_.push_back(score);
      }
      std::push_heap(best_.begin(), best_.end(), std::greater<float>());
    }
    if (static_cast<int64_t>(best_.size()) == k) {
      value_.store(best_.front(), std::memory_order_relaxed);
    }
  }

 private:
  std::atomic<float> value_{std::numeric_limits<float>::quiet_NaN()};
  std::mutex mu_;
  std::vector<float> best_;  // a heap, the least in front
};

// What all threads of one search share.
struct Search {
  const LearnedKnnInput* input;
  const MaskSource* masks;
  const Plan* plan;
  int64_t segment_begin;  // rows are numbered from here
  int64_t segment_end;
  int64_t block_rows;
  int64_t num_blocks;
  int64_t k;
  std::atomic<int64_t>* next_block;
  Floor* floors;                 // of each slot, if bounded
  std::atomic<int64_t>* scored;  // of each slot
};

// Rows of a query that wait for their full score.
struct Waiting {
  AlignedArray<float> logits;  // [pairs, tile_rows]
  AlignedArray<float> gates;   // the same
  uint32_t rows[kMaxTileRows];
  int count = 0;
};

// One thread's part of a search.
class Worker {
 public:
  Worker(const Search& search, TopKCollector* collector)
      : input_(*search.input),
        similarity_(*search.input->similarity),
        shape_(search.input->similarity->shape),
        plan_(*search.plan),
        kernels_(*search.plan->kernels),
        search_(search),
        collector_(collector),
        pairs_(shape_.pairs()),
        tile_rows_(kernels_.tile_rows),
        scored_(plan_.queries.size()),
        listed_(plan_.runs.size()) {
    const int64_t padded = kernels_.PaddedDim(input_.knn.dim);
    bits_.resize(search.block_rows / kRowsPerWord);
    appended_.resize(search.block_rows + kRowsPerWord);
    tile_.AssignZeros(padded * tile_rows_);
    row_.AssignZeros(padded * kernels_.lanes);
    logits_.AssignZeros(pairs_ * tile_rows_);
    scratch_.AssignZeros(kernels_.ScratchSize(shape_));
    if (!input_.bounded) return;
    waiting_.resize(plan_.queries.size());
    for (Waiting& waiting : waiting_) {
      waiting.logits.AssignZeros(pairs_ * tile_rows_);
      waiting.gates.AssignZeros(pairs_ * tile_rows_);
    }
  }

  void Run() {
    for (int64_t block = search_.next_block->fetch_add(1);
         block < search_.num_blocks; block = search_.next_block->fetch_add(1)) {
      SearchBlock(input_.bounded ? Spread(block) : block);
    }
    for (size_t run = 0; run < plan_.runs.size(); ++run) {
      ScoreListed(run, /*all=*/true);
    }
    for (size_t slot = 0; slot < waiting_.size(); ++slot) {
      RowFetch nothing(nullptr, 0, 0);
      ScoreWaiting(slot, &nothing);
    }
    for (size_t slot = 0; slot < scored_.size(); ++slot) {
      search_.scored[slot].fetch_add(scored_[slot], std::memory_order_relaxed);
    }
  }

 private:
  // The `i`-th block: first every kStride-th one, then those after them.
  int64_t Spread(int64_t i) const {
    const int64_t longer = search_.num_blocks % kStride;
    const int64_t length = search_.num_blocks / kStride;
    // The first `longer` rounds have a block more.
    const int64_t in_longer = longer * (length + 1);
    if (i < in_longer) return i / (length + 1) + i % (length + 1) * kStride;
    return longer + (i - in_longer) / length +
           (i - in_longer) % length * kStride;
  }

  void SearchBlock(int64_t block) {
    const int64_t begin = search_.segment_begin + block * search_.block_rows;
    const int64_t end =
        std::min(begin + search_.block_rows, search_.segment_end);
    const int64_t words = CeilDiv(end - begin, kRowsPerWord);
    const uint32_t first = static_cast<uint32_t>(begin - search_.segment_begin);
    for (size_t run = 0; run < plan_.runs.size(); ++run) {
      const int32_t mask = plan_.runs[run].mask;
      int64_t passing = end - begin;
      if (search_.masks->PassesAll(mask)) {
        std::iota(appended_.begin(), appended_.begin() + passing, first);
      } else {
        if (search_.masks->Fill(mask, begin, end, bits_.data()) == 0) continue;
        passing = ActiveKnnKernels().append_rows(bits_.data(), words, first,
                                                 appended_.data());
      }
      std::vector<uint32_t>& listed = listed_[run];
      listed.insert(listed.end(), appended_.begin(),
                    appended_.begin() + passing);
      ScoreListed(run, /*all=*/false);
    }
  }

  // Scores the rows listed for a run, up to whole tiles unless `all`.
  void ScoreListed(size_t run, bool all) {
    std::vector<uint32_t>& listed = listed_[run];
    const int64_t count = static_cast<int64_t>(listed.size());
    int64_t done = 0;
    for (; done + tile_rows_ <= count || (all && done < count);
         done += tile_rows_) {
      ScoreTile(plan_.runs[run], listed, done);
    }
    listed.erase(listed.begin(), listed.begin() + std::min(done, count));
  }

  // Scores the tile of rows from listed[first] on.
  void ScoreTile(const MaskRun& run, const std::vector<uint32_t>& listed,
                 int64_t first) {
    const int64_t listed_rows = static_cast<int64_t>(listed.size());
    const int count =
        static_cast<int>(std::min<int64_t>(tile_rows_, listed_rows - first));
    const int64_t row_bytes =
        input_.knn.dim * ElementSize(input_.knn.items.type);
    const char* const items = static_cast<const char*>(input_.knn.items.data) +
                              search_.segment_begin * row_bytes;
    const char* rows[kMaxTileRows];
    const char* next[kMaxTileRows];
    float scales[kMaxTileRows];
    const int64_t last = listed_rows - 1;
    for (int i = 0; i < tile_rows_; ++i) {
      const uint32_t row = listed[std::min<int64_t>(first + i, last)];
      rows[i] = items + row * row_bytes;
      next[i] =
          items +
          listed[std::min<int64_t>(first + tile_rows_ + i, last)] * row_bytes;
      if (input_.knn.items.type == ElementType::kInt8) {
        scales[i] = input_.knn.items.scales[search_.segment_begin + row];
      }
    }
    LoadTileCall load;
    load.type = input_.knn.items.type;
    load.dim = input_.knn.dim;
    load.rows = rows;
    load.scales = scales;
    load.row = row_.data();
    load.tile = tile_.data();
    RowFetch fetch(
        next,
        std::clamp<int64_t>(listed_rows - first - tile_rows_, 0, tile_rows_),
        row_bytes);
    kernels_.load(load, &fetch);
    for (const int64_t slot : run.slots) {
      kernels_.logits(similarity_, plan_.queries[slot], tile_.data(),
                      scratch_.data(), logits_.data(), &fetch);
      if (input_.bounded) {
        Keep(slot, listed.data() + first, count, &fetch);
      } else {
        Score(slot, Gates(), logits_.data(), listed.data() + first, count,
              &fetch);
      }
    }
    fetch.Rest();
  }

  const float* Gates() const {
    return tile_.data() + shape_.components_dim() * tile_rows_;
  }

  // Of the rows at hand, puts those that may be among the best into the
  // query's waiting rows.
  void Keep(int64_t slot, const uint32_t* rows, int count, RowFetch* fetch) {
    // A row whose score equals the k-th best one may win by its number; its
    // bound is greater.
    const float floor = search_.floors[slot].value();
    alignas(64) float bounds[kMaxTileRows];
    kernels_.bounds(pairs_, logits_.data(), bounds);
    const uint64_t valid = ~uint64_t{0} >> (64 - count);
    uint64_t kept = kernels_.above(bounds, floor) & valid;
    Waiting& waiting = waiting_[slot];
    if (waiting.count == 0 && __builtin_popcountll(kept) == tile_rows_) {
      Score(slot, Gates(), logits_.data(), rows, count, fetch);
      return;
    }
    const float* const gates = Gates();
    for (; kept != 0; kept &= kept - 1) {
      const int i = __builtin_ctzll(kept);
      for (int64_t l = 0; l < pairs_; ++l) {
        const int64_t to = l * tile_rows_ + waiting.count;
        waiting.logits.data()[to] = logits_.data()[l * tile_rows_ + i];
        waiting.gates.data()[to] = gates[l * tile_rows_ + i];
      }
      waiting.rows[waiting.count++] = rows[i];
      if (waiting.count == tile_rows_) ScoreWaiting(slot, fetch);
    }
  }

  void ScoreWaiting(int64_t slot, RowFetch* fetch) {
    Waiting& waiting = waiting_[slot];
    if (waiting.count == 0) return;
    Score(slot, waiting.gates.data(), waiting.logits.data(), waiting.rows,
          waiting.count, fetch);
    waiting.count = 0;
  }

  void Score(int64_t slot, const float* gates, const float* logits,
             const uint32_t* rows, int count, RowFetch* fetch) {
    alignas(64) float scores[kMaxTileRows];
    kernels_.scores(similarity_, plan_.queries[slot], gates, logits,
                    scratch_.data(), scores, fetch);
    const uint64_t valid = ~uint64_t{0} >> (64 - count);
    const uint64_t hits =
        kernels_.above(scores, collector_->thresholds()[slot]) & valid;
    scored_[slot] += count;
    if (hits == 0) return;
    for (int half = 0; half < 64; half += 32) {
      const uint32_t some = static_cast<uint32_t>(hits >> half);
      if (some != 0) {
        collector_->AddRowHits(slot, some, scores + half, rows + half);
      }
    }
    if (input_.bounded) search_.floors[slot].Add(scores, hits, search_.k);
  }

  const LearnedKnnInput& input_;
  const Similarity& similarity_;
  const SimilarityShape& shape_;
  const Plan& plan_;
  const LearnedKernels& kernels_;
  const Search& search_;
  TopKCollector* collector_;
  const int64_t pairs_;
  const int tile_rows_;
  std::vector<int64_t> scored_;                // of each slot
  std::vector<std::vector<uint32_t>> listed_;  // rows of each run
  std::vector<uint64_t> bits_;                 // of a block and a mask
  std::vector<uint32_t> appended_;
  AlignedArray<float> tile_;
  AlignedArray<float> row_;
  AlignedArray<float> logits_;
  AlignedArray<float> scratch_;
  std::vector<Waiting> waiting_;  // of each slot, if bounded
};

int64_t NumWorkers(const LearnedKnnInput& input, int64_t rows, int64_t queries,
                   int64_t masks, const Parallel& parallel) {
  const int64_t scored =
      input.expected_rows < 0 ? rows : std::min(rows, input.expected_rows);
  const SimilarityShape& shape = input.similarity->shape;
  const double nanoseconds =
      static_cast<double>(scored * queries) *
          (0.02 * static_cast<double>(shape.logit_fmas() + shape.gate_fmas()) +
           0.15 * static_cast<double>(input.knn.dim)) +
      0.3 * static_cast<double>(rows * masks);
  const double worth = nanoseconds / kMinWorkerNanoseconds;
  return static_cast<int64_t>(std::max(
      1.0, std::min(static_cast<double>(parallel.num_threads), worth)));
}

void SearchSlice(const LearnedKnnInput& input, const MaskSource& masks,
                 const Plan& plan, int64_t first_query, int64_t segment_begin,
                 int64_t segment_end, int64_t max_workers,
                 const Parallel& parallel, const KnnOutput& output) {
  const int64_t rows = segment_end - segment_begin;
  const int64_t k = std::min(input.knn.k, rows);
  const size_t slots = plan.queries.size();
  Search search;
  search.input = &input;
  search.masks = &masks;
  search.plan = &plan;
  search.segment_begin = segment_begin;
  search.segment_end = segment_end;
  search.block_rows =
      std::min(input.bounded ? kBoundedBlockRows : kMaxBlockRows,
               RoundUp(CeilDiv(rows, 4 * max_workers), kRowsPerWord));
  search.num_blocks = CeilDiv(rows, search.block_rows);
  std::atomic<int64_t> next_block{0};
  search.next_block = &next_block;
  search.k = k;
  const auto floors = std::make_unique<Floor[]>(input.bounded ? slots : 0);
  const auto scored = std::make_unique<std::atomic<int64_t>[]>(slots);
  for (size_t slot = 0; slot < slots; ++slot) scored[slot] = 0;
  search.floors = floors.get();
  search.scored = scored.get();
  const std::vector<bool> is_used(slots, true);
  std::vector<std::unique_ptr<TopKCollector>> collectors(max_workers);
  parallel.run(max_workers, [&](int64_t task) {
    if (next_block.load(std::memory_order_relaxed) >= search.num_blocks) return;
    const ScopedFloatEnvironment environment;
    collectors[task] = std::make_unique<TopKCollector>(is_used, k);
    Worker(search, collectors[task].get()).Run();
  });
  for (size_t slot = 0; slot < slots; ++slot) {
    std::vector<uint64_t> keys;
    for (const auto& collector : collectors) {
      if (collector == nullptr) continue;
      const uint64_t* found = collector->keys(slot);
      keys.insert(keys.end(), found, found + collector->num_keys(slot));
    }
    SortTopK(k, &keys);
    const int64_t query = first_query + static_cast<int64_t>(slot);
    MergeTopK(keys, segment_begin, input.knn.k,
              output.scores + query * input.knn.k,
              output.rows + query * input.knn.k, output.counts + query);
    if (output.num_scored != nullptr) output.num_scored[query] += scored[slot];
  }
}

}  // namespace

void LearnedKnn(const LearnedKnnInput& input, const MaskSource& masks,
                const int32_t* mask_of_query, const Parallel& parallel,
                const KnnOutput& output) {
  const KnnInput& knn = input.knn;
  std::fill_n(output.scores, knn.num_queries * knn.k, kNoScore);
  std::fill_n(output.rows, knn.num_queries * knn.k, int64_t{-1});
  std::fill_n(output.counts, knn.num_queries, int32_t{0});
  if (output.num_scored != nullptr) {
    std::fill_n(output.num_scored, knn.num_queries, int64_t{0});
  }
  if (knn.num_rows == 0 || knn.num_queries == 0) return;

  const int64_t segment_rows = std::min(knn.tuning.segment_rows, knn.num_rows);
  const int64_t slice_limit = std::min(kMaxSliceQueries, knn.num_queries);
  const int64_t workers =
      NumWorkers(input, segment_rows, slice_limit, masks.num_masks(), parallel);
  const int64_t bytes_a_query = 2 * std::min(knn.k, segment_rows) *
                                static_cast<int64_t>(sizeof(uint64_t)) *
                                workers;
  const int64_t slice = std::clamp<int64_t>(
      knn.tuning.candidate_bytes / bytes_a_query, 1, slice_limit);
  for (int64_t begin = 0; begin < knn.num_queries; begin += slice) {
    const Plan plan = MakePlan(input, mask_of_query, begin,
                               std::min(begin + slice, knn.num_queries));
    for (int64_t row = 0; row < knn.num_rows; row += segment_rows) {
      SearchSlice(input, masks, plan, begin, row,
                  std::min(row + segment_rows, knn.num_rows), workers, parallel,
                  output);
    }
  }
}

}  // namespace lintf
