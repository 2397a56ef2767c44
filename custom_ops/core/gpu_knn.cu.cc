// SPDX-License-Identifier: Apache-2.0
#include "custom_ops/core/gpu_knn.h"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <vector>

#include "custom_ops/core/gpu.h"
#include "custom_ops/core/gpu_candidates.h"
#include "custom_ops/core/gpu_scan.h"
#include "custom_ops/core/gpu_select.h"

namespace lintf::gpu {
namespace {

// A block looks at its regions after so many tiles, memory permitting.
constexpr int64_t kMostCheckTiles = 16;
// Above so many candidates of a query, or queries, a second sample pays.
constexpr double kManyCandidates = 65536;
constexpr int64_t kManyQueries = 32;
constexpr int64_t kKeyBytes = sizeof(uint64_t);

int64_t DivideUp(int64_t a, int64_t b) { return (a + b - 1) / b; }

// How the queries of a slice share the GPU.
struct Layout {
  ScanShape shape;
  int64_t blocks = 1;  // of each group
  std::vector<ScanPart> parts;
  // A block has no more places than this.
  int64_t block_places = 0;
};

// What all slices of a batch have in common.
struct Search {
  const KnnInput& input;
  const Scan& scan;
  ScanRows rows;
  PlaceRows place_rows;
  bool one_by_one = false;  // each query has a list of its own
  int64_t k = 0;            // at most the number of places
  Context* context;
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

Layout LayoutOf(const Search& search, int64_t num_queries) {
  const KnnInput& input = search.input;
  Layout layout;
  layout.shape =
      search.scan.Shape(input.items, input.metric, num_queries,
                        search.one_by_one, input.dim, search.context);
  const int64_t tiles =
      DivideUp(search.rows.num_places, layout.shape.tile_rows);
  const int64_t groups = DivideUp(num_queries, layout.shape.group_queries);
  layout.blocks =
      std::clamp(layout.shape.resident_blocks / groups, int64_t{1}, tiles);
  layout.parts = PartsOf(search.rows.num_places, search.k, tiles, num_queries);
  // Each part is shared out on its own.
  const int64_t block_tiles = DivideUp(tiles, layout.blocks) +
                              static_cast<int64_t>(layout.parts.size()) - 1;
  layout.block_places = block_tiles * layout.shape.tile_rows;
  return layout;
}

// Places of a region that is looked at after `check_tiles` tiles.
int64_t RegionCapacity(const Search& search, const Layout& layout,
                       int64_t check_tiles) {
  return std::min(search.k + 2 * check_tiles * layout.shape.tile_rows,
                  layout.block_places);
}

// Searches queries [first, first + count).
void SearchSlice(const Search& search, const Layout& layout,
                 const std::vector<const uint64_t*>& masks, int64_t first,
                 int64_t count, const KnnOutput& output) {
  const KnnInput& input = search.input;
  Context* const context = search.context;
  ScanTask task;
  task.items = input.items;
  task.dim = input.dim;
  task.metric = input.metric;
  task.rows = search.rows;
  if (search.one_by_one && task.rows.rows64 != nullptr) {
    task.rows.rows64 += first * task.rows.stride;
    task.rows.count64 += first;
  }
  task.num_queries = count;
  task.group_queries = layout.shape.group_queries;
  if (!masks.empty()) {
    task.masks = context->Upload(masks.data() + first, count);
  }
  search.scan.PrepareQueries(input.queries + first * input.dim, &task, context);

  const int64_t tile_rows = layout.shape.tile_rows;
  const int64_t room =
      context->scratch_bytes() / (count * layout.blocks * kKeyBytes);
  task.check_tiles = std::clamp((room - search.k) / (2 * tile_rows), int64_t{1},
                                kMostCheckTiles);
  const int64_t slack = task.check_tiles * tile_rows;
  task.k = static_cast<uint32_t>(search.k);
  task.regions.num_queries = count;
  task.regions.num_blocks = layout.blocks;
  task.regions.capacity = RegionCapacity(search, layout, task.check_tiles);
  if (task.regions.capacity == layout.block_places) {
    // It never fills up.
    task.cut_above = std::numeric_limits<uint32_t>::max();
    task.cut_enough = task.cut_above;
  } else {
    task.cut_above = static_cast<uint32_t>(search.k + slack);
    task.cut_enough = static_cast<uint32_t>(search.k + slack / 2);
  }
  const int64_t num_regions = count * layout.blocks;
  task.regions.keys =
      context->Allocate<uint64_t>(num_regions * task.regions.capacity);
  task.regions.counts = context->Allocate<uint32_t>(num_regions);
  if (input.k > kMaxBlockK) {
    context->Fill(task.regions.keys, 0,
                  num_regions * task.regions.capacity * kKeyBytes);
  }

  for (size_t p = 0; p < layout.parts.size(); ++p) {
    task.part = layout.parts[p];
    if (p > 0) {
      uint64_t* const thresholds = context->Allocate<uint64_t>(count);
      FindThresholds(task.regions, search.k, context, thresholds);
      task.thresholds = thresholds;
    }
    search.scan.Run(task, layout.blocks, context);
  }

  PlaceRows place_rows = search.place_rows;
  if (place_rows.rows64 != nullptr) {
    place_rows.rows64 += first * place_rows.stride;
  }
  KnnOutput slice;
  slice.scores = output.scores + first * input.k;
  slice.rows = output.rows + first * input.k;
  slice.counts = output.counts + first;
  SelectBest(task.regions, input.k, place_rows, context, slice);
}

// Cuts the batch into slices whose regions fit the scratch memory.
void SearchAll(const Search& search, const std::vector<const uint64_t*>& masks,
               const KnnOutput& output) {
  const int64_t num_queries = search.input.num_queries;
  int64_t slice = num_queries;
  // blockIdx.y counts groups.
  if (search.one_by_one) slice = std::min<int64_t>(slice, 32768);
  Layout layout = LayoutOf(search, slice);
  while (slice > 1) {
    const int64_t bytes =
        layout.blocks * RegionCapacity(search, layout, 1) * kKeyBytes;
    const int64_t most =
        std::max<int64_t>(search.context->scratch_bytes() / bytes, 1);
    if (slice <= most) break;
    slice = std::min(most, slice - 1);
    layout = LayoutOf(search, slice);
  }
  for (int64_t first = 0; first < num_queries; first += slice) {
    const int64_t count = std::min(slice, num_queries - first);
    if (count < slice) layout = LayoutOf(search, count);
    SearchSlice(search, layout, masks, first, count, output);
  }
}

// Searches rows [begin, end), at most kMaxSegmentRows.
void SearchSegment(const KnnInput& input, const Masks& masks,
                   const int32_t* mask_of_query, const KnnOptions& options,
                   int64_t begin, int64_t end, Context* context,
                   const KnnOutput& output) {
  const int64_t num_rows = end - begin;
  Masks own = masks;
  if (own.words != nullptr) own.words += begin / kRowsPerWord;
  std::vector<int32_t> chosen(mask_of_query, mask_of_query + input.num_queries);
  std::sort(chosen.begin(), chosen.end());
  chosen.erase(std::unique(chosen.begin(), chosen.end()), chosen.end());
  const bool any_passes_all =
      std::any_of(chosen.begin(), chosen.end(),
                  [&](int32_t m) { return bool{own.passes_all[m]}; });

  const bool on_tensor_cores =
      TensorScanFits(input.items, input.dim, input.metric, options.precision);
  Search search{input,
                on_tensor_cores
                    ? TensorScan(input.items.type, options.precision)
                    : RowScan(),
                {},
                {},
                false,
                std::min(input.k, num_rows),
                context};
  search.rows.num_places = num_rows;
  search.rows.first_row = begin;
  search.place_rows.first_row = begin;
  const bool is_listed = options.order != ScanOrder::kAll && !any_passes_all;
  if (is_listed) {
    const uint64_t* words = own.words + chosen[0] * own.stride;
    if (chosen.size() > 1) {
      uint64_t* const united = context->Allocate<uint64_t>(MaskWords(num_rows));
      UniteMasks(own, chosen.data(), static_cast<int64_t>(chosen.size()),
                 num_rows, context, united);
      words = united;
    }
    uint32_t* const rows = context->Allocate<uint32_t>(num_rows);
    uint32_t* const count = context->Allocate<uint32_t>(1);
    ListRows(words, 1, MaskWords(num_rows), num_rows, context, rows, num_rows,
             count);
    search.rows.rows32 = rows;
    search.rows.count32 = count;
    search.place_rows.rows32 = rows;
  }
  // Of one mask's list, nothing has to be checked.
  std::vector<const uint64_t*> words;
  const bool is_checked =
      is_listed ? chosen.size() > 1
                : std::any_of(chosen.begin(), chosen.end(),
                              [&](int32_t m) { return !own.passes_all[m]; });
  if (is_checked) {
    for (int64_t b = 0; b < input.num_queries; ++b) {
      const int32_t m = mask_of_query[b];
      words.push_back(own.passes_all[m] ? nullptr : own.words + m * own.stride);
    }
  }
  SearchAll(search, words, output);
}

}  // namespace

void MaskedKnn(const KnnInput& input, const Masks& masks,
               const int32_t* mask_of_query, const KnnOptions& options,
               Context* context, const KnnOutput& output) {
  if (input.num_queries == 0) return;
  if (input.num_rows == 0) {
    return FillNoResults(input.num_queries, input.k, context, output);
  }
  const int64_t segment_rows =
      std::min(input.tuning.segment_rows, kMaxSegmentRows);
  const int64_t parts = DivideUp(input.num_rows, segment_rows);
  if (parts == 1) {
    return SearchSegment(input, masks, mask_of_query, options, 0,
                         input.num_rows, context, output);
  }
  const int64_t slots = input.num_queries * input.k;
  KnnOutput found;
  float* const scores = context->Allocate<float>(parts * slots);
  int64_t* const rows = context->Allocate<int64_t>(parts * slots);
  int32_t* const counts = context->Allocate<int32_t>(parts * input.num_queries);
  if (!context->ok()) return;
  for (int64_t p = 0; p < parts; ++p) {
    const int64_t begin = p * segment_rows;
    found.scores = scores + p * slots;
    found.rows = rows + p * slots;
    found.counts = counts + p * input.num_queries;
    SearchSegment(input, masks, mask_of_query, options, begin,
                  std::min(begin + segment_rows, input.num_rows), context,
                  found);
  }
  MergeResults(scores, rows, counts, parts, input.num_queries, input.k, context,
               output);
}

void RescoreRows(const KnnInput& input, const Shortlists& lists,
                 const KnnOptions& options, Context* context,
                 const KnnOutput& output) {
  if (input.num_queries == 0) return;
  if (input.num_rows == 0 || lists.stride == 0) {
    return FillNoResults(input.num_queries, input.k, context, output);
  }
  Search search{
      input,
      TensorScanFits(input.items, input.dim, input.metric, options.precision)
          ? TensorScan(input.items.type, options.precision)
          : RowScan(),
      {},
      {},
      true,
      std::min(input.k, lists.stride),
      context};
  search.rows.rows64 = lists.rows;
  search.rows.stride = lists.stride;
  search.rows.count64 = lists.counts;
  search.rows.num_places = lists.stride;
  search.place_rows.rows64 = lists.rows;
  search.place_rows.stride = lists.stride;
  SearchAll(search, {}, output);
}

}  // namespace lintf::gpu
