// SPDX-License-Identifier: Apache-2.0
// Scans: kernels that score rows against queries and offer the scores to the
// candidates. What they have in common is here; there is one for the tensor
// cores and one for the rest.
#ifndef LINTF_CUSTOM_OPS_CORE_GPU_SCAN_H_
#define LINTF_CUSTOM_OPS_CORE_GPU_SCAN_H_

#include <cstdint>

#include "custom_ops/core/gpu.h"
#include "custom_ops/core/gpu_candidates.h"
#include "custom_ops/core/gpu_context.h"
#include "custom_ops/core/gpu_knn.h"
#include "custom_ops/core/item_matrix.h"
#include "custom_ops/core/masked_knn.h"

namespace lintf::gpu {

// Which rows are scanned. A place is a position in this order, and stands for
// its row in a candidate's key: places ascend with rows.
struct ScanRows {
  // The rows from `first_row` on, or of those the ones in a list.
  const uint32_t* rows32 = nullptr;  // for all queries
  const int64_t* rows64 = nullptr;   // [num_groups, stride], one a query
  int64_t stride = 0;
  // The length of the list, on the device: one, or one a query.
  const uint32_t* count32 = nullptr;
  const int64_t* count64 = nullptr;
  // Without a list its number of rows; with one, no list is longer.
  int64_t num_places = 0;
  int64_t first_row = 0;

  __device__ int64_t NumPlaces(int64_t group) const {
    if (count32 != nullptr) return *count32;
    if (count64 != nullptr) return count64[group];
    return num_places;
  }
  // Counted from first_row.
  __device__ int64_t RowAt(int64_t group, int64_t place) const {
    if (rows32 != nullptr) return rows32[place];
    if (rows64 != nullptr) return rows64[group * stride + place];
    return place;
  }
};

// Which tiles a scan takes: those of a first sample, multiples of `stride`; or
// the multiples of `unit` that are no multiples of `unit` * `stride`, which a
// sample before it took.
struct ScanPart {
  bool is_first = true;
  int64_t unit = 1;
  int64_t stride = 1;
};

// What a scan works on. Blocks [x, g] scan for group g of the queries; the
// same blocks must go over all parts, since each goes on filling its regions.
struct ScanTask {
  ItemMatrix items;
  int64_t dim = 0;
  Metric metric = Metric::kInnerProduct;
  ScanRows rows;
  ScanPart part;

  int64_t first_query = 0;  // of the search
  int64_t num_queries = 0;
  int64_t group_queries = 0;  // of a group; the last may have fewer
  // As the scan prepared them.
  const void* queries = nullptr;
  const float* query_scales = nullptr;
  const float* query_norms = nullptr;
  // Of each query, the words of its mask, or null: nothing to check.
  const uint64_t* const* masks = nullptr;

  Regions regions;
  const uint64_t* thresholds = nullptr;  // [num_queries]; may be null
  uint32_t k = 0;
  uint32_t cut_above = 0;   // regions are cut when they hold more
  uint32_t cut_enough = 0;  // down to this, or to k
  int64_t check_tiles = 1;  // how often a block looks
};

// The tiles of a block, in the order in which it takes them.
class TileWalk {
 public:
  __device__ TileWalk(const ScanTask& task, int64_t num_tiles)
      : part_(task.part), num_tiles_(num_tiles), index_(blockIdx.x) {}

  __device__ bool IsIn() const { return tile() < num_tiles_; }
  __device__ void Next() { index_ += gridDim.x; }
  __device__ int64_t tile() const {
    if (part_.is_first) return index_ * part_.stride;
    return part_.unit * (index_ + index_ / (part_.stride - 1) + 1);
  }

 private:
  const ScanPart& part_;
  const int64_t num_tiles_;
  int64_t index_;
};

// The candidates of a block's queries, in shared memory.
class Offers {
 public:
  // Bytes of shared memory for `queries` queries.
  static constexpr int64_t SharedBytes(int64_t queries) {
    return queries * static_cast<int64_t>(sizeof(uint64_t) + sizeof(float) +
                                          sizeof(uint32_t));
  }

  // `slots` queries, of which the group may have fewer. A barrier is needed
  // before the first offer.
  __device__ Offers(const ScanTask& task, int slots, char* shared)
      : task_(task),
        first_(static_cast<int64_t>(blockIdx.y) * task.group_queries),
        floors_(reinterpret_cast<uint64_t*>(shared)),
        scores_(reinterpret_cast<float*>(floors_ + slots)),
        counts_(reinterpret_cast<uint32_t*>(scores_ + slots)) {
    const int64_t left = task.num_queries - first_;
    used_ =
        static_cast<int>(left < task.group_queries ? left : task.group_queries);
    for (int q = threadIdx.x; q < slots; q += blockDim.x) {
      if (q < used_) {
        SetFloor(q,
                 task.thresholds == nullptr ? 0 : task.thresholds[first_ + q]);
        // Later parts go on where the one before ended.
        counts_[q] = task.part.is_first
                         ? 0
                         : *task.regions.CountOf(first_ + q, blockIdx.x);
      } else {
        // Nothing is above it but NaN and inf itself, which Add turns down.
        floors_[q] = ~uint64_t{0};
        scores_[q] = __uint_as_float(0x7F800000u);
        counts_[q] = 0;
      }
    }
  }

  // Scores below are no candidates: what kernels ask before they call Add.
  __device__ float floor_score(int query) const { return scores_[query]; }
  __device__ const float* floor_scores() const { return scores_; }

  __device__ void Add(int query, float score, int64_t place) {
    if (query >= used_) return;
    const uint64_t key = MakeKey(score, static_cast<uint32_t>(place));
    if (key < floors_[query]) return;
    const uint64_t* const mask =
        task_.masks == nullptr ? nullptr : task_.masks[first_ + query];
    if (mask != nullptr) {
      const int64_t row = task_.rows.RowAt(blockIdx.y, place);
      if ((mask[row / 64] >> (row % 64) & 1) == 0) return;
    }
    const uint32_t at = atomicAdd(&counts_[query], 1u);
    task_.regions.KeysOf(first_ + query, blockIdx.x)[at] = key;
  }

  // Makes room for what may come until the next call. All threads of the block
  // take part.
  template <int threads>
  __device__ void MakeRoom(FloorScratch* scratch) {
    bool is_full = false;
    __syncthreads();
    for (int q = threadIdx.x; q < used_; q += threads) {
      is_full |= counts_[q] > task_.cut_above;
    }
    if (__syncthreads_or(is_full) == 0) return;
    for (int q = 0; q < used_; ++q) {
      const uint32_t count = counts_[q];
      if (count <= task_.cut_above) continue;
      uint64_t floor;
      const uint32_t left =
          CutRegion<threads>(task_.regions.KeysOf(first_ + q, blockIdx.x),
                             count, task_.k, task_.cut_enough, scratch, &floor);
      if (threadIdx.x == 0) {
        counts_[q] = left;
        if (floor > floors_[q]) SetFloor(q, floor);
      }
    }
    __syncthreads();
  }

  // Leaves the counts for the next kernel, after a last call of MakeRoom: that
  // kernel, too, looks at them only after some tiles.
  __device__ void Store() const {
    for (int q = threadIdx.x; q < used_; q += blockDim.x) {
      *task_.regions.CountOf(first_ + q, blockIdx.x) = counts_[q];
    }
  }

 private:
  __device__ void SetFloor(int query, uint64_t floor) {
    floors_[query] = floor;
    scores_[query] = FloorScore(floor);
  }

  const ScanTask& task_;
  const int64_t first_;
  int used_;
  uint64_t* const floors_;
  float* const scores_;
  uint32_t* const counts_;
};

// How a scan cuts up its work.
struct ScanShape {
  int64_t tile_rows = 0;
  int64_t group_queries = 0;
  // Blocks that the GPU has room for at once.
  int64_t resident_blocks = 0;
};

// A scan: what fits the items and the queries.
class Scan {
 public:
  virtual ~Scan() = default;
  // For `num_queries` queries in groups as the scan likes them, or one by one.
  virtual ScanShape Shape(const ItemMatrix& items, Metric metric,
                          int64_t num_queries, bool one_by_one, int64_t dim,
                          Context* context) const = 0;
  // Makes `task.queries`, scales and norms from queries, [num_queries, dim].
  virtual void PrepareQueries(const float* queries, ScanTask* task,
                              Context* context) const = 0;
  // Queues the kernel: `blocks` for each group.
  virtual void Run(const ScanTask& task, int64_t blocks,
                   Context* context) const = 0;
};

// Whether the tensor cores can do it.
bool TensorScanFits(const ItemMatrix& items, int64_t dim, Metric metric,
                    QueryPrecision precision);
const Scan& TensorScan(ElementType type, QueryPrecision precision);
const Scan& RowScan();

}  // namespace lintf::gpu

#endif  // LINTF_CUSTOM_OPS_CORE_GPU_SCAN_H_
