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
#include "custom_ops/core/similarity.h"

namespace lintf {

// Upper limit of tile_rows.
inline constexpr int kMaxTileRows = 64;

// Rows into a tile, as float32.
struct LoadTileCall {
  ElementType type = ElementType::kFloat32;
  int64_t dim = 0;
  // [tile_rows]. Those that are not needed may repeat others.
  const char* const* rows = nullptr;
  const float* scales = nullptr;  // kInt8: [tile_rows]
  // [tile_rows], fetched into the cache: those of the next tile.
  const char* const* next = nullptr;
  float* row = nullptr;   // scratch of PaddedDim numbers for each lane
  float* tile = nullptr;  // [PaddedDim, tile_rows]; `dim` are of use
};

struct LearnedKernels {
  int lanes;
  int tile_rows;
  void (*load)(const LoadTileCall& call);
  // The logits of a tile's rows, [pairs, tile_rows]. `scratch` has ScratchSize
  // numbers, here and below.
  void (*logits)(const Similarity& similarity, const FoldedQuery& query,
                 const float* tile, float* scratch, float* logits);
  // LogitBound of each row.
  void (*bounds)(int64_t pairs, const float* logits, float* bounds);
  // The scores of rows whose logits are known and whose gates, B, are
  // [pairs, tile_rows]. A NaN stays a NaN.
  void (*scores)(const Similarity& similarity, const FoldedQuery& query,
                 const float* gates, const float* logits, float* scratch,
                 float* scores);
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
