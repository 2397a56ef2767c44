// SPDX-License-Identifier: Apache-2.0
// Going over the rows that pass, tile by tile, for searches by learned
// similarities.
#ifndef LINTF_CUSTOM_OPS_CORE_TILE_SCAN_H_
#define LINTF_CUSTOM_OPS_CORE_TILE_SCAN_H_

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <numeric>
#include <vector>

#include "custom_ops/core/aligned_array.h"
#include "custom_ops/core/knn_kernels.h"
#include "custom_ops/core/learned_kernels.h"
#include "custom_ops/core/mask_source.h"
#include "custom_ops/core/masked_knn.h"
#include "custom_ops/core/top_k.h"

namespace lintf {

// Queries with one mask.
struct MaskRun {
  int32_t mask;
  std::vector<int64_t> slots;
};

// The queries [begin, end) by their masks; query begin + i is in slot i.
inline std::vector<MaskRun> MakeMaskRuns(const int32_t* mask_of_query,
                                         int64_t begin, int64_t end) {
  std::vector<int64_t> order(end - begin);
  std::iota(order.begin(), order.end(), int64_t{0});
  std::stable_sort(order.begin(), order.end(), [&](int64_t a, int64_t b) {
    return mask_of_query[begin + a] < mask_of_query[begin + b];
  });
  std::vector<MaskRun> runs;
  for (const int64_t slot : order) {
    const int32_t mask = mask_of_query[begin + slot];
    if (runs.empty() || runs.back().mask != mask) runs.push_back({mask, {}});
    runs.back().slots.push_back(slot);
  }
  return runs;
}

// A segment of the rows, and how it is cut into blocks, in which masks are
// filled and threads take work. Shared by all threads.
struct TileSegment {
  // `light`: rows are mostly done with once they are decoded. `spread`: smaller
  // blocks, first every kStride-th one, then those after them, and so on.
  TileSegment(const KnnInput& knn, const MaskSource& masks,
              const std::vector<MaskRun>& runs, int64_t begin, int64_t end,
              int64_t max_workers, bool light, bool spread)
      : knn(knn),
        masks(masks),
        runs(runs),
        begin(begin),
        end(end),
        light(light),
        spread(spread) {
    const int64_t rows = end - begin;
    const int64_t share = (rows + 4 * max_workers - 1) / (4 * max_workers);
    block_rows =
        std::min(spread ? kSpreadBlockRows : kMaxBlockRows,
                 (share + kRowsPerWord - 1) / kRowsPerWord * kRowsPerWord);
    num_blocks = (rows + block_rows - 1) / block_rows;
  }

  // The `i`-th block to take.
  int64_t BlockOf(int64_t i) const {
    if (!spread) return i;
    const int64_t longer = num_blocks % kStride;
    const int64_t length = num_blocks / kStride;
    // The first `longer` rounds have a block more.
    const int64_t in_longer = longer * (length + 1);
    if (i < in_longer) return i / (length + 1) + i % (length + 1) * kStride;
    return longer + (i - in_longer) / length +
           (i - in_longer) % length * kStride;
  }

  static constexpr int64_t kMaxBlockRows = 4096;
  static constexpr int64_t kSpreadBlockRows = 1024;
  static constexpr int64_t kStride = 32;

  const KnnInput& knn;  // `dim` is item_dim
  const MaskSource& masks;
  const std::vector<MaskRun>& runs;
  const int64_t begin;  // rows are numbered from here
  const int64_t end;
  const bool light;
  const bool spread;
  int64_t block_rows;
  int64_t num_blocks;
  std::atomic<int64_t> next_block{0};
};

// Rows of a tile, decoded.
struct Tile {
  const float* columns = nullptr;  // [dim, tile_rows]
  const uint32_t* rows = nullptr;  // [count]
  int count = 0;
  RowFetch* fetch = nullptr;
};

// One thread's part of a scan.
class TileScan {
 public:
  TileScan(TileSegment* segment, const LearnedKernels& kernels)
      : segment_(*segment),
        kernels_(kernels),
        tile_rows_(kernels.tile_rows),
        row_bytes_(segment->knn.dim * ElementSize(segment->knn.items.type)),
        items_(static_cast<const char*>(segment->knn.items.data) +
               segment->begin * row_bytes_),
        listed_(segment->runs.size()) {
    const int64_t padded = kernels.PaddedDim(segment->knn.dim);
    bits_.resize(segment->block_rows / kRowsPerWord);
    appended_.resize(segment->block_rows + kRowsPerWord);
    columns_.AssignZeros(padded * tile_rows_);
    row_.AssignZeros(padded * kernels.lanes);
  }

  // Takes blocks until none are left, and calls on_tile(run, tile) for the rows
  // that pass for each run: for as many tiles as the number of rows needs.
  template <typename OnTile>
  void Run(const OnTile& on_tile) {
    for (int64_t i = segment_.next_block.fetch_add(1); i < segment_.num_blocks;
         i = segment_.next_block.fetch_add(1)) {
      ScanBlock(segment_.BlockOf(i), on_tile);
    }
    for (size_t run = 0; run < segment_.runs.size(); ++run) {
      ScanListed(run, /*all=*/true, on_tile);
    }
  }

 private:
  template <typename OnTile>
  void ScanBlock(int64_t block, const OnTile& on_tile) {
    const int64_t begin = segment_.begin + block * segment_.block_rows;
    const int64_t end = std::min(begin + segment_.block_rows, segment_.end);
    const int64_t words = (end - begin + kRowsPerWord - 1) / kRowsPerWord;
    const uint32_t first = static_cast<uint32_t>(begin - segment_.begin);
    for (size_t run = 0; run < segment_.runs.size(); ++run) {
      const int32_t mask = segment_.runs[run].mask;
      int64_t passing = end - begin;
      if (segment_.masks.PassesAll(mask)) {
        std::iota(appended_.begin(), appended_.begin() + passing, first);
      } else {
        if (segment_.masks.Fill(mask, begin, end, bits_.data()) == 0) continue;
        passing = ActiveKnnKernels().append_rows(bits_.data(), words, first,
                                                 appended_.data());
      }
      listed_[run].insert(listed_[run].end(), appended_.begin(),
                          appended_.begin() + passing);
      ScanListed(run, /*all=*/false, on_tile);
    }
  }

  // Goes over the rows listed for a run, up to whole tiles unless `all`.
  template <typename OnTile>
  void ScanListed(size_t run, bool all, const OnTile& on_tile) {
    std::vector<uint32_t>& listed = listed_[run];
    const int64_t count = static_cast<int64_t>(listed.size());
    int64_t done = 0;
    for (; done + tile_rows_ <= count || (all && done < count);
         done += tile_rows_) {
      ScanTile(run, done, on_tile);
    }
    listed.erase(listed.begin(), listed.begin() + std::min(done, count));
  }

  // The tile of rows from listed_[run][first] on.
  template <typename OnTile>
  void ScanTile(size_t run, int64_t first, const OnTile& on_tile) {
    const std::vector<uint32_t>& listed = listed_[run];
    const int64_t last = static_cast<int64_t>(listed.size()) - 1;
    const bool is_int8 = segment_.knn.items.type == ElementType::kInt8;
    const char* rows[kMaxTileRows];
    const char* next[kMaxTileRows];
    float scales[kMaxTileRows];
    for (int i = 0; i < tile_rows_; ++i) {
      const uint32_t row = listed[std::min<int64_t>(first + i, last)];
      const uint32_t ahead =
          listed[std::min<int64_t>(first + tile_rows_ + i, last)];
      rows[i] = items_ + row * row_bytes_;
      next[i] = items_ + ahead * row_bytes_;
      if (is_int8) scales[i] = segment_.knn.items.scales[segment_.begin + row];
    }
    LoadTileCall load;
    load.type = segment_.knn.items.type;
    load.dim = segment_.knn.dim;
    load.rows = rows;
    load.scales = scales;
    load.fetch_lines = segment_.light ? kLightLines : 0;
    load.row = row_.data();
    load.tile = columns_.data();
    const int64_t rest = last + 1 - first;
    RowFetch fetch(next, std::clamp<int64_t>(rest - tile_rows_, 0, tile_rows_),
                   row_bytes_);
    kernels_.load(load, &fetch);
    Tile tile;
    tile.columns = columns_.data();
    tile.rows = listed.data() + first;
    tile.count = static_cast<int>(std::min<int64_t>(tile_rows_, rest));
    tile.fetch = &fetch;
    on_tile(segment_.runs[run], tile);
    fetch.Rest();
  }

  // Most of what the next tile takes.
  static constexpr int kLightLines = 12;

  TileSegment& segment_;
  const LearnedKernels& kernels_;
  const int tile_rows_;
  const int64_t row_bytes_;
  const char* const items_;                    // of the segment
  std::vector<std::vector<uint32_t>> listed_;  // rows of each run
  std::vector<uint64_t> bits_;                 // of a block and a mask
  std::vector<uint32_t> appended_;
  AlignedArray<float> columns_;
  AlignedArray<float> row_;
};

// Hands those of the `count` rows over that a slot's threshold does not rule
// out, and returns them.
inline uint64_t AddTileHits(const LearnedKernels& kernels, int64_t slot,
                            const float* scores, const uint32_t* rows,
                            int count, TopKCollector* collector) {
  const uint64_t valid = ~uint64_t{0} >> (64 - count);
  const uint64_t hits =
      kernels.above(scores, collector->thresholds()[slot]) & valid;
  if (hits == 0) return 0;
  for (int half = 0; half < kMaxTileRows; half += 32) {
    const uint32_t some = static_cast<uint32_t>(hits >> half);
    if (some != 0) {
      collector->AddRowHits(slot, some, scores + half, rows + half);
    }
  }
  return hits;
}

}  // namespace lintf

#endif  // LINTF_CUSTOM_OPS_CORE_TILE_SCAN_H_
