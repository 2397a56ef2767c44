// SPDX-License-Identifier: Apache-2.0
// Masks that are evaluated once, counted, and read more than once.
#ifndef LINTF_CUSTOM_OPS_CORE_STORED_MASKS_H_
#define LINTF_CUSTOM_OPS_CORE_STORED_MASKS_H_

#include <cstdint>
#include <vector>

#include "custom_ops/core/mask_source.h"
#include "custom_ops/core/parallel.h"

namespace lintf {

// For searches: above this, the filters of a batch are evaluated once to count
// and once more to search, rather than kept.
inline constexpr int64_t kMaxStoredMaskBytes = int64_t{256} << 20;

// Knows how many of the rows [0, num_rows) pass for each mask of `source`, and
// keeps their bits if all of them take at most `max_bytes`; otherwise Fill
// asks `source` again, which must outlive this object.
class StoredMasks : public MaskSource {
 public:
  StoredMasks(const MaskSource& source, int64_t num_rows, int64_t max_bytes,
              const Parallel& parallel);

  // The number of rows that pass for `mask`.
  int64_t passing(int64_t mask) const { return passing_[mask]; }

  int64_t num_masks() const override { return source_.num_masks(); }
  bool PassesAll(int64_t mask) const override;
  int64_t Fill(int64_t mask, int64_t begin, int64_t end,
               uint64_t* bits) const override;

 private:
  const MaskSource& source_;
  const int64_t num_rows_;
  int64_t words_;
  std::vector<int64_t> passing_;
  std::vector<int64_t> offset_;  // of each mask in bits_; -1: not kept
  std::vector<uint64_t> bits_;
};

}  // namespace lintf

#endif  // LINTF_CUSTOM_OPS_CORE_STORED_MASKS_H_
