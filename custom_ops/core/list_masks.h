// SPDX-License-Identifier: Apache-2.0
// Masks of a few rows each.
#ifndef LINTF_CUSTOM_OPS_CORE_LIST_MASKS_H_
#define LINTF_CUSTOM_OPS_CORE_LIST_MASKS_H_

#include <algorithm>
#include <cstdint>

#include "custom_ops/core/mask_source.h"

namespace lintf {

// Passes the rows of ascending lists: mask b is list b of [lists, stride].
class ListMasks : public MaskSource {
 public:
  ListMasks(const int64_t* rows, const int64_t* counts, int64_t num_lists,
            int64_t stride)
      : rows_(rows), counts_(counts), num_lists_(num_lists), stride_(stride) {}

  int64_t num_masks() const override { return num_lists_; }
  bool PassesAll(int64_t /*mask*/) const override { return false; }

  int64_t Fill(int64_t mask, int64_t begin, int64_t end,
               uint64_t* bits) const override {
    const int64_t words = (end - begin + kRowsPerWord - 1) / kRowsPerWord;
    std::fill_n(bits, words, uint64_t{0});
    const int64_t* list_end = rows_ + mask * stride_ + counts_[mask];
    const int64_t* first =
        std::lower_bound(rows_ + mask * stride_, list_end, begin);
    const int64_t* row = first;
    for (; row != list_end && *row < end; ++row) {
      const int64_t bit = *row - begin;
      bits[bit / kRowsPerWord] |= uint64_t{1} << (bit % kRowsPerWord);
    }
    return row - first;
  }

 private:
  const int64_t* rows_;
  const int64_t* counts_;
  int64_t num_lists_;
  int64_t stride_;
};

}  // namespace lintf

#endif  // LINTF_CUSTOM_OPS_CORE_LIST_MASKS_H_
