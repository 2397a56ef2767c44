// SPDX-License-Identifier: Apache-2.0
// The masks of a batch on the device, and the rows that they pass.
#ifndef LINTF_CUSTOM_OPS_CORE_GPU_MASKS_H_
#define LINTF_CUSTOM_OPS_CORE_GPU_MASKS_H_

#include <cstdint>
#include <vector>

#include "custom_ops/core/gpu_context.h"
#include "custom_ops/core/mask_source.h"

namespace lintf::gpu {

// Rows are numbered by 32 bits inside a search; larger tables are searched
// segment by segment. A multiple of 64.
inline constexpr int64_t kMaxSegmentRows = (int64_t{1} << 32) - 64;

constexpr int64_t MaskWords(int64_t num_rows) {
  return (num_rows + kRowsPerWord - 1) / kRowsPerWord;
}

// Bit words as MaskSource::Fill writes them: bits past the rows are 0.
struct Masks {
  const uint64_t* words = nullptr;  // device, [num_masks, stride]
  int64_t stride = 0;               // at least MaskWords(num_rows)
  // Host, [num_masks]: masks that pass every row. Their words are not read.
  std::vector<bool> passes_all;

  int64_t num_masks() const { return static_cast<int64_t>(passes_all.size()); }
};

// Packs bools, [num_masks, num_rows], into words, [num_masks, stride].
void PackMasks(const bool* passes, int64_t num_masks, int64_t num_rows,
               int64_t stride, Context* context, uint64_t* words);

// The rows that pass any of the masks `chosen` (host, [num_chosen], none of
// which passes all): writes words, [MaskWords(num_rows)].
void UniteMasks(const Masks& masks, const int32_t* chosen, int64_t num_chosen,
                int64_t num_rows, Context* context, uint64_t* words);

// The rows whose bits are set, ascending, for each of `num_lists` lists of
// words, [num_lists, stride]: rows, [num_lists, rows_stride], of which the
// first counts[list] are written; what has no room there is left out, but
// counted. `num_rows` is at most kMaxSegmentRows. Deterministic.
void ListRows(const uint64_t* words, int64_t num_lists, int64_t stride,
              int64_t num_rows, Context* context, uint32_t* rows,
              int64_t rows_stride, uint32_t* counts);

}  // namespace lintf::gpu

#endif  // LINTF_CUSTOM_OPS_CORE_GPU_MASKS_H_
