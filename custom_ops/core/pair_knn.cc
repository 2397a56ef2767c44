// SPDX-License-Identifier: Apache-2.0
#include "custom_ops/core/pair_knn.h"

#include <algorithm>
#include <cstdint>
#include <limits>
#include <memory>
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
constexpr int64_t kMaxSliceQueries = 16;
// Below this much estimated work another thread is not worth waking up.
constexpr double kMinWorkerNanoseconds = 50e3;

// The proxies of a query, as similarities of inner products: their logits are
// the proxies' scores.
struct Proxies {
  FoldedQuery pairs;
  FoldedQuery averaged;
};

// The same for all threads of a search.
struct Plan {
  Plan(const Similarity& similarity, const float* queries, int64_t count) {
    const SimilarityShape& shape = similarity.shape;
    const int64_t r_count = shape.item_components;
    const int64_t p_count = shape.query_components;
    const int64_t dim = shape.component_dim;
    pairs.shape.query_components = p_count;
    pairs.shape.item_components = r_count;
    pairs.shape.component_dim = dim;
    averaged.shape.component_dim = shape.components_dim();
    std::vector<float> proxy(shape.item_dim());
    for (int64_t i = 0; i < count; ++i) {
      const float* const query = queries + i * shape.query_dim();
      Proxies of_query;
      of_query.pairs.vectors.resize(shape.pairs() * dim);
      for (int64_t l = 0; l < shape.pairs(); ++l) {
        PairQuery(similarity, query, l, proxy.data());
        const int64_t r = l % r_count;
        for (int64_t d = r * dim; d < (r + 1) * dim; ++d) {
          of_query.pairs.vectors[d * p_count + l / r_count] = proxy[d];
        }
      }
      AveragedQuery(similarity, query, proxy.data());
      of_query.averaged.vectors.assign(proxy.begin(),
                                       proxy.begin() + shape.components_dim());
      queries_by_slot.push_back(of_query);
    }
  }

  const LearnedKernels& kernels = ActiveLearnedKernels();
  Similarity pairs;
  Similarity averaged;
  std::vector<Proxies> queries_by_slot;
};

// One thread's part of a search. Proxy l of the query in slot i is in slot
// i * (pairs + 1) + l of the collector.
class Worker {
 public:
  Worker(const Plan& plan, TileSegment* segment, TopKCollector* collector)
      : plan_(plan),
        kernels_(plan.kernels),
        segment_(segment),
        collector_(collector),
        pairs_(plan.pairs.shape.pairs()) {
    scores_.AssignZeros((pairs_ + 1) * kernels_.tile_rows);
    scratch_.AssignZeros(kernels_.ScratchSize(plan.pairs.shape));
  }

  void Run() {
    TileScan(segment_, kernels_).Run([&](const MaskRun& run, const Tile& tile) {
      for (const int64_t slot : run.slots) ScoreTile(slot, tile);
    });
  }

 private:
  void ScoreTile(int64_t slot, const Tile& tile) {
    const Proxies& proxies = plan_.queries_by_slot[slot];
    const int tile_rows = kernels_.tile_rows;
    kernels_.logits(plan_.pairs, proxies.pairs, tile.columns, scratch_.data(),
                    scores_.data(), tile.fetch);
    kernels_.logits(plan_.averaged, proxies.averaged, tile.columns,
                    scratch_.data(), scores_.data() + pairs_ * tile_rows,
                    tile.fetch);
    for (int64_t l = 0; l <= pairs_; ++l) {
      AddTileHits(kernels_, slot * (pairs_ + 1) + l,
                  scores_.data() + l * tile_rows, tile.rows, tile.count,
                  collector_);
    }
  }

  const Plan& plan_;
  const LearnedKernels& kernels_;
  TileSegment* segment_;
  TopKCollector* collector_;
  const int64_t pairs_;
  AlignedArray<float> scores_;  // [pairs + 1, tile_rows]
  AlignedArray<float> scratch_;
};

int64_t NumWorkers(const Similarity& similarity, int64_t rows, int64_t queries,
                   const Parallel& parallel) {
  const SimilarityShape& shape = similarity.shape;
  const double nanoseconds =
      static_cast<double>(rows) *
      (0.15 * static_cast<double>(shape.item_dim()) +
       0.03 *
           static_cast<double>(queries * shape.pairs() * shape.component_dim));
  return static_cast<int64_t>(
      std::clamp(nanoseconds / kMinWorkerNanoseconds, 1.0,
                 static_cast<double>(std::max(1, parallel.num_threads))));
}

}  // namespace

void PairKnn(const Similarity& similarity, const KnnInput& knn,
             const MaskSource& masks, const int32_t* mask_of_query,
             const Parallel& parallel, const KnnOutput& output) {
  const int64_t proxies = similarity.shape.pairs() + 1;
  const int64_t total = knn.num_queries * proxies;
  std::fill_n(output.scores, total * knn.k, kNoScore);
  std::fill_n(output.rows, total * knn.k, int64_t{-1});
  std::fill_n(output.counts, total, int32_t{0});
  if (knn.num_rows == 0 || knn.num_queries == 0) return;
  const int64_t segment_rows = std::min(knn.tuning.segment_rows, knn.num_rows);
  const int64_t slice_limit = std::min(kMaxSliceQueries, knn.num_queries);
  const int64_t workers =
      NumWorkers(similarity, segment_rows, slice_limit, parallel);
  const int64_t k = std::min(knn.k, segment_rows);
  const int64_t bytes_a_query =
      2 * k * proxies * static_cast<int64_t>(sizeof(uint64_t)) * workers;
  const int64_t slice = std::clamp<int64_t>(
      knn.tuning.candidate_bytes / bytes_a_query, 1, slice_limit);
  for (int64_t first = 0; first < knn.num_queries; first += slice) {
    const int64_t count = std::min(slice, knn.num_queries - first);
    const Plan plan(similarity,
                    knn.queries + first * similarity.shape.query_dim(), count);
    const std::vector<MaskRun> runs =
        MakeMaskRuns(mask_of_query, first, first + count);
    const std::vector<bool> is_used(count * proxies, true);
    for (int64_t begin = 0; begin < knn.num_rows; begin += segment_rows) {
      TileSegment segment(knn, masks, runs, begin,
                          std::min(begin + segment_rows, knn.num_rows), workers,
                          /*light=*/true, /*spread=*/false);
      std::vector<std::unique_ptr<TopKCollector>> collectors(workers);
      parallel.run(workers, [&](int64_t task) {
        const ScopedFloatEnvironment environment;
        collectors[task] = std::make_unique<TopKCollector>(is_used, k);
        Worker(plan, &segment, collectors[task].get()).Run();
      });
      for (int64_t slot = 0; slot < count * proxies; ++slot) {
        std::vector<uint64_t> keys;
        for (const auto& collector : collectors) {
          const uint64_t* const found = collector->keys(slot);
          keys.insert(keys.end(), found, found + collector->num_keys(slot));
        }
        SortTopK(k, &keys);
        const int64_t to = first * proxies + slot;
        MergeTopK(keys, begin, knn.k, output.scores + to * knn.k,
                  output.rows + to * knn.k, output.counts + to);
      }
    }
  }
}

}  // namespace lintf
