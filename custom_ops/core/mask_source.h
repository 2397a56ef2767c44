// SPDX-License-Identifier: Apache-2.0
// Where a search gets its masks from: 64 rows a word, bit set = row passes.
#ifndef LINTF_CUSTOM_OPS_CORE_MASK_SOURCE_H_
#define LINTF_CUSTOM_OPS_CORE_MASK_SOURCE_H_

#include <cstdint>

namespace lintf {

inline constexpr int64_t kRowsPerWord = 64;

// A batch has `num_masks` distinct masks; queries with the same filter share
// one. Implementations are immutable while a search runs, so Fill may be
// called from many threads.
class MaskSource {
 public:
  virtual ~MaskSource() = default;

  virtual int64_t num_masks() const = 0;

  // True if mask `mask` passes every row; searches then skip Fill.
  virtual bool PassesAll(int64_t mask) const = 0;

  // Writes the bits of rows [begin, end) of mask `mask`; `begin` is a multiple
  // of 64, bit i of bits[w] is row begin + 64 * w + i, and the bits past `end`
  // in the last word are 0. Returns the number of rows that pass.
  virtual int64_t Fill(int64_t mask, int64_t begin, int64_t end,
                       uint64_t* bits) const = 0;
};

}  // namespace lintf

#endif  // LINTF_CUSTOM_OPS_CORE_MASK_SOURCE_H_
