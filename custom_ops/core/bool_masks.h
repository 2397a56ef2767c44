// SPDX-License-Identifier: Apache-2.0
// Masks that are given as a matrix of bools, one byte a row.
#ifndef LINTF_CUSTOM_OPS_CORE_BOOL_MASKS_H_
#define LINTF_CUSTOM_OPS_CORE_BOOL_MASKS_H_

#include <cstdint>

#include "custom_ops/core/mask_source.h"

namespace lintf {

// `mask` is [num_masks, num_rows], row-major, and must outlive this object.
class BoolMasks : public MaskSource {
 public:
  BoolMasks(const bool* mask, int64_t num_masks, int64_t num_rows)
      : mask_(mask), num_masks_(num_masks), num_rows_(num_rows) {}

  int64_t num_masks() const override { return num_masks_; }
  // Finding out would cost as much as filling.
  bool PassesAll(int64_t /*mask*/) const override { return false; }
  int64_t Fill(int64_t mask, int64_t begin, int64_t end,
               uint64_t* bits) const override;

 private:
  const bool* const mask_;
  const int64_t num_masks_;
  const int64_t num_rows_;
};

}  // namespace lintf

#endif  // LINTF_CUSTOM_OPS_CORE_BOOL_MASKS_H_
