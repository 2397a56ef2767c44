// SPDX-License-Identifier: Apache-2.0
#include "custom_ops/core/bool_masks.h"

#include <algorithm>
#include <cstdint>

#include "custom_ops/core/mask_source.h"

namespace lintf {

int64_t BoolMasks::Fill(int64_t mask, int64_t begin, int64_t end,
                        uint64_t* bits) const {
  const bool* const passes = mask_ + mask * num_rows_;
  int64_t count = 0;
  for (int64_t row = begin; row < end; row += kRowsPerWord) {
    const int64_t rows = std::min(kRowsPerWord, end - row);
    uint64_t word = 0;
    for (int64_t i = 0; i < rows; ++i) {
      word |= static_cast<uint64_t>(passes[row + i]) << i;
    }
    count += __builtin_popcountll(word);
    *bits++ = word;
  }
  return count;
}

}  // namespace lintf
