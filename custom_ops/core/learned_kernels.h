// SPDX-License-Identifier: Apache-2.0
// The inner loops of scoring by a learned similarity, one table of functions
// for each instruction set. All of them do the arithmetic that similarity.h
// fixes, one row in each vector lane, so their results are the same bits.
//
// A tile is a few vectors of rows, transposed: whatever has a number a row is
// an array of tile_rows numbers, next to each other.
#ifndef LINTF_CUSTOM_OPS_CORE_LEARNED_KERNELS_H_
#define LINTF_CUSTOM_OPS_CORE_LEARNED_KERNELS_H_

#include <algorithm>
#include <cstdint>

#include "custom_ops/core/item_matrix.h"
#include "custom_ops/core/planner.h"
#include "custom_ops/core/similarity.h"

namespace lintf {

// Upper limit of tile_rows.
inline constexpr int kMaxTileRows = 64;

// Rows on their way into the cache: those of the next tile, fetched a few lines
// at a time between the multiplications of this one, as only few can be under
// way at once.
class RowFetch {
 public:
  // Fetches rows[0] to rows[count - 1], of `bytes` each.
  RowFetch(const char* const* rows, int64_t count, int64_t bytes)
      : row_(rows), end_(rows + count), bytes_(bytes) {}

  void Some(int lines) {
    for (; lines > 0 && row_ != end_; --lines) {
      __builtin_prefetch(*row_ + at_, 0, 2);
      at_ += kLineBytes;
      // Rows need not begin with a line: the last byte is fetched for sure.
      if (at_ < bytes_) continue;
      __builtin_prefetch(*row_ + bytes_ - 1, 0, 2);
      at_ = 0;
      ++row_;
    }
  }

  void Rest() {
    while (row_ != end_) Some(kLineBytes);
  }

 private:
  static constexpr int kLineBytes = 64;
  const char* const* row_;
  const char* const* end_;
  const int64_t bytes_;
  int64_t at_ = 0;
};

// Rows into a tile, as float32.
struct LoadTileCall {
  ElementType type = ElementType::kFloat32;
  int64_t dim = 0;
  // [tile_rows]. Those that are not needed may repeat others.
  const char* const* rows = nullptr;
  const float* scales = nullptr;  // kInt8: [tile_rows]
  // Lines to fetch for each vector of numbers that is transposed: the more, the
  // less is done with the rows of a tile afterwards.
  int fetch_lines = 0;
  float* row = nullptr;   // scratch of PaddedDim numbers for each lane
  float* tile = nullptr;  // [PaddedDim, tile_rows]; `dim` are of use
};

struct LearnedKernels {
  int lanes;
  int tile_rows;
  SimilarityCosts costs;
  // Each of these takes the time to go on with `fetch`.
  void (*load)(const LoadTileCall& call, RowFetch* fetch);
  // The logits of a tile's rows, [pairs, tile_rows]. `scratch` has ScratchSize
  // numbers, here and below.
  void (*logits)(const Similarity& similarity, const FoldedQuery& query,
                 const float* tile, float* scratch, float* logits,
                 RowFetch* fetch);
  // LogitBound of each row.
  void (*bounds)(int64_t pairs, const float* logits, float* bounds);
  // The scores of rows whose logits are known and whose gates, B, are
  // [pairs, tile_rows]. A NaN stays a NaN.
  void (*scores)(const Similarity& similarity, const FoldedQuery& query,
                 const float* gates, const float* logits, float* scratch,
                 float* scores, RowFetch* fetch);
  // Bit i: !(values[i] <= threshold).
  uint64_t (*above)(const float* values, float threshold);

  int64_t PaddedDim(int64_t dim) const {
    return (dim + lanes - 1) / lanes * lanes;
  }
  int64_t ScratchSize(const SimilarityShape& shape) const {
    return (shape.pairs() + std::max(shape.hidden, shape.gate_hidden)) *
           tile_rows;
  }
};

// Null if this build or this CPU does not have the path.
const LearnedKernels* PlainLearnedKernels();
const LearnedKernels* Avx2LearnedKernels();
const LearnedKernels* Avx512LearnedKernels();

// Those of the path that knn_kernels.h has as active.
const LearnedKernels& ActiveLearnedKernels();

}  // namespace lintf

#endif  // LINTF_CUSTOM_OPS_CORE_LEARNED_KERNELS_H_
