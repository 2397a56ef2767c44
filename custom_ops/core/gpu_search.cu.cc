// SPDX-License-Identifier: Apache-2.0
#include "custom_ops/core/gpu_search.h"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <vector>

#include "custom_ops/core/gpu.h"
#include "custom_ops/core/gpu_candidates.h"

namespace lintf::gpu {
namespace {

// A block looks at its regions after so many tiles, memory permitting.
constexpr int64_t kMostCheckTiles = 16;
// Above so many candidates of a query, or queries, a second sample pays.
constexpr double kManyCandidates = 65536;
constexpr int64_t kManyQueries = 32;
constexpr int64_t kKeyBytes = sizeof(uint64_t);

int64_t DivideUp(int64_t a, int64_t b) { return (a + b - 1) / b; }

// At most the number of places.
int64_t WantedOf(const ScanSearch& search) {
  return std::min(search.input.k, search.rows.num_places);
}

// How the queries of a slice share the GPU.
struct Layout {
  ScanShape shape;
  int64_t blocks = 1;  // of each group
  std::vector<ScanPart> parts;
  // A block has no more places than this.
  int64_t block_places = 0;
};

// In which parts `tiles` tiles are scanned. All rows of a first sample of 1 /
// stride are candidates, and of what follows, about k times the stride: both
// together are fewest at stride = sqrt(rows / k). A second sample between them
// leaves 3 k (rows / k)^(1/3) instead of 2 k (rows / k)^(1/2).
std::vector<ScanPart> PartsOf(int64_t num_places, int64_t k, int64_t tiles,
                              int64_t num_queries) {
  const double ratio = static_cast<double>(num_places) / static_cast<double>(k);
  const bool is_twice =
      num_queries >= kManyQueries || 2 * k * std::sqrt(ratio) > kManyCandidates;
  const int64_t last =
      static_cast<int64_t>(std::pow(ratio, is_twice ? 1.0 / 3 : 1.0 / 2));
  if (last < 4 || tiles < 4 * last) return {ScanPart{}};
  if (!is_twice) return {{true, 1, last}, {false, 1, last}};
  const int64_t between = std::min(last, tiles / (2 * last));
  return {{true, 1, last * between}, {false, last, between}, {false, 1, last}};
}

Layout LayoutOf(const ScanSearch& search, int64_t num_queries,
                Context* context) {
  const KnnInput& input = search.input;
  Layout layout;
  layout.shape = search.scan->Shape(input.items, input.metric, num_queries,
                                    search.one_by_one, input.dim, context);
  const int64_t tiles =
      DivideUp(search.rows.num_places, layout.shape.tile_rows);
  const int64_t groups = DivideUp(num_queries, layout.shape.group_queries);
  layout.blocks =
      std::clamp(layout.shape.resident_blocks / groups, int64_t{1}, tiles);
  if (search.floors != nullptr) {
    layout.parts = {ScanPart{}};
  } else {
    layout.parts =
        PartsOf(search.rows.num_places, WantedOf(search), tiles, num_queries);
  }
  // Each part is shared out on its own.
  const int64_t block_tiles = DivideUp(tiles, layout.blocks) +
                              static_cast<int64_t>(layout.parts.size()) - 1;
  layout.block_places = block_tiles * layout.shape.tile_rows;
  return layout;
}

// Places of a region that is looked at after `check_tiles` tiles.
int64_t RegionCapacity(const ScanSearch& search, const Layout& layout,
                       int64_t check_tiles) {
  return std::min(WantedOf(search) + 2 * check_tiles * layout.shape.tile_rows,
                  layout.block_places);
}

// Searches queries [first, first + count).
void SearchSlice(const ScanSearch& search, const Layout& layout, int64_t first,
                 int64_t count, Context* context, const KnnOutput& output) {
  const KnnInput& input = search.input;
  const int64_t k = WantedOf(search);
  ScanTask task;
  task.items = input.items;
  task.dim = input.dim;
  task.metric = input.metric;
  task.rows = search.rows;
  if (search.one_by_one && task.rows.rows64 != nullptr) {
    task.rows.rows64 += first * task.rows.stride;
    task.rows.count64 += first;
  }
  task.first_query = first;
  task.num_queries = count;
  task.group_queries = layout.shape.group_queries;
  if (!search.masks.empty()) {
    task.masks = context->Upload(search.masks.data() + first, count);
  }
  search.scan->PrepareQueries(input.queries + first * search.query_dim, &task,
                              context);

  const int64_t tile_rows = layout.shape.tile_rows;
  const int64_t room =
      context->scratch_bytes() / (count * layout.blocks * kKeyBytes);
  task.check_tiles =
      std::clamp((room - k) / (2 * tile_rows), int64_t{1}, kMostCheckTiles);
  const int64_t slack = task.check_tiles * tile_rows;
  task.k = static_cast<uint32_t>(k);
  task.regions.num_queries = count;
  task.regions.num_blocks = layout.blocks;
  task.regions.capacity = RegionCapacity(search, layout, task.check_tiles);
  if (task.regions.capacity == layout.block_places) {
    // It never fills up.
    task.cut_above = std::numeric_limits<uint32_t>::max();
    task.cut_enough = task.cut_above;
  } else {
    task.cut_above = static_cast<uint32_t>(k + slack);
    task.cut_enough = static_cast<uint32_t>(k + slack / 2);
  }
  const int64_t num_regions = count * layout.blocks;
  task.regions.keys =
      context->Allocate<uint64_t>(num_regions * task.regions.capacity);
  task.regions.counts = context->Allocate<uint32_t>(num_regions);
  if (input.k > kMaxBlockK) {
    context->Fill(task.regions.keys, 0,
                  num_regions * task.regions.capacity * kKeyBytes);
  }

  if (search.floors != nullptr) task.thresholds = search.floors + first;
  for (size_t p = 0; p < layout.parts.size(); ++p) {
    task.part = layout.parts[p];
    if (p > 0) {
      uint64_t* const thresholds = context->Allocate<uint64_t>(count);
      FindThresholds(task.regions, k, context, thresholds);
      task.thresholds = thresholds;
    }
    search.scan->Run(task, layout.blocks, context);
  }

  PlaceRows place_rows = search.place_rows;
  if (place_rows.rows64 != nullptr) {
    place_rows.rows64 += first * place_rows.stride;
  }
  if (place_rows.list_of_query != nullptr) place_rows.list_of_query += first;
  KnnOutput slice;
  slice.scores = output.scores + first * input.k;
  slice.rows = output.rows + first * input.k;
  slice.counts = output.counts + first;
  SelectBest(task.regions, input.k, place_rows, context, slice);
}

}  // namespace

// Cuts the batch into slices whose regions fit the scratch memory.
void SearchRows(const ScanSearch& search, Context* context,
                const KnnOutput& output) {
  const int64_t num_queries = search.input.num_queries;
  int64_t slice = num_queries;
  // blockIdx.y counts groups.
  if (search.one_by_one) slice = std::min<int64_t>(slice, 32768);
  Layout layout = LayoutOf(search, slice, context);
  while (slice > 1) {
    const int64_t bytes =
        layout.blocks * RegionCapacity(search, layout, 1) * kKeyBytes;
    const int64_t most = std::max<int64_t>(context->scratch_bytes() / bytes, 1);
    if (slice <= most) break;
    slice = std::min(most, slice - 1);
    layout = LayoutOf(search, slice, context);
  }
  for (int64_t first = 0; first < num_queries; first += slice) {
    const int64_t count = std::min(slice, num_queries - first);
    if (count < slice) layout = LayoutOf(search, count, context);
    SearchSlice(search, layout, first, count, context, output);
  }
}

}  // namespace lintf::gpu
