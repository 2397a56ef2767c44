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
#include <vector>

#include "custom_ops/core/aligned_array.h"
#include "custom_ops/core/float_environment.h"
#include "custom_ops/core/learned_kernels.h"
#include "custom_ops/core/tile_scan.h"
#include "custom_ops/core/top_k.h"

namespace lintf {
namespace {

constexpr float kNoScore = -std::numeric_limits<float>::infinity();

// Queries that search together.
constexpr int64_t kMaxSliceQueries = 64;
// Below this much estimated work another thread is not worth waking up.
constexpr double kMinWorkerNanoseconds = 50e3;

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
  for (int64_t query = begin; query < end; ++query) {
    plan.queries.push_back(
        FoldQuery(*input.similarity, input.knn.queries + query * query_dim));
  }
  plan.runs = MakeMaskRuns(mask_of_query, begin, end);
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
  const Plan* plan;
  TileSegment* segment;
  int64_t k;
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
        scored_(plan_.queries.size()) {
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
    TileScan(search_.segment, kernels_)
        .Run([&](const MaskRun& run, const Tile& tile) {
          for (const int64_t slot : run.slots) ScoreTile(slot, tile);
        });
    for (size_t slot = 0; slot < waiting_.size(); ++slot) {
      RowFetch nothing(nullptr, 0, 0);
      ScoreWaiting(slot, &nothing);
    }
    for (size_t slot = 0; slot < scored_.size(); ++slot) {
      search_.scored[slot].fetch_add(scored_[slot], std::memory_order_relaxed);
    }
  }

 private:
  void ScoreTile(int64_t slot, const Tile& tile) {
    kernels_.logits(similarity_, plan_.queries[slot], tile.columns,
                    scratch_.data(), logits_.data(), tile.fetch);
    const float* const gates =
        tile.columns + shape_.components_dim() * tile_rows_;
    if (input_.bounded) {
      Keep(slot, gates, tile);
    } else {
      Score(slot, gates, logits_.data(), tile.rows, tile.count, tile.fetch);
    }
  }

  // Of the rows at hand, puts those that may be among the best into the
  // query's waiting rows.
  void Keep(int64_t slot, const float* gates, const Tile& tile) {
    // A row whose score equals the k-th best one may win by its number; its
    // bound is greater.
    const float floor = search_.floors[slot].value();
    alignas(64) float bounds[kMaxTileRows];
    kernels_.bounds(pairs_, logits_.data(), bounds);
    const uint64_t valid = ~uint64_t{0} >> (64 - tile.count);
    uint64_t kept = kernels_.above(bounds, floor) & valid;
    Waiting& waiting = waiting_[slot];
    int indices[kMaxTileRows];
    int found = 0;
    for (; kept != 0; kept &= kept - 1) {
      indices[found++] = __builtin_ctzll(kept);
    }
    // Where nearly all are kept, moving them takes longer than scoring the
    // rest.
    if (4 * found > 3 * tile_rows_) {
      Score(slot, gates, logits_.data(), tile.rows, tile.count, tile.fetch);
      return;
    }
    for (int moved = 0; moved < found;) {
      const int count = std::min(found - moved, tile_rows_ - waiting.count);
      Move(logits_.data(), indices + moved, count, waiting.count,
           waiting.logits.data());
      Move(gates, indices + moved, count, waiting.count, waiting.gates.data());
      for (int i = 0; i < count; ++i) {
        waiting.rows[waiting.count++] = tile.rows[indices[moved + i]];
      }
      moved += count;
      if (waiting.count == tile_rows_) ScoreWaiting(slot, tile.fetch);
    }
  }

  // Moves columns of a [pairs, tile_rows] array behind those of another one.
  void Move(const float* from, const int* indices, int count, int behind,
            float* to) const {
    for (int64_t l = 0; l < pairs_; ++l) {
      const float* const in = from + l * tile_rows_;
      float* const out = to + l * tile_rows_ + behind;
      for (int i = 0; i < count; ++i) out[i] = in[indices[i]];
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
    const uint64_t hits =
        AddTileHits(kernels_, slot, scores, rows, count, collector_);
    scored_[slot] += count;
    if (input_.bounded && hits != 0) {
      search_.floors[slot].Add(scores, hits, search_.k);
    }
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
  std::vector<int64_t> scored_;  // of each slot
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
  TileSegment segment(input.knn, masks, plan.runs, segment_begin, segment_end,
                      max_workers, /*light=*/input.bounded,
                      /*spread=*/input.bounded);
  Search search;
  search.input = &input;
  search.plan = &plan;
  search.segment = &segment;
  search.k = k;
  const auto floors = std::make_unique<Floor[]>(input.bounded ? slots : 0);
  const auto scored = std::make_unique<std::atomic<int64_t>[]>(slots);
  for (size_t slot = 0; slot < slots; ++slot) scored[slot] = 0;
  search.floors = floors.get();
  search.scored = scored.get();
  const std::vector<bool> is_used(slots, true);
  std::vector<std::unique_ptr<TopKCollector>> collectors(max_workers);
  parallel.run(max_workers, [&](int64_t task) {
    if (segment.next_block.load(std::memory_order_relaxed) >=
        segment.num_blocks) {
      return;
    }
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
