// SPDX-License-Identifier: Apache-2.0
// Compiled filters, evaluated on the GPU: filter_eval.h's FilterMasks with
// columns in device memory. Same programs, same masks, bit for bit.
#ifndef LINTF_CUSTOM_OPS_CORE_GPU_FILTER_H_
#define LINTF_CUSTOM_OPS_CORE_GPU_FILTER_H_

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "custom_ops/core/column.h"
#include "custom_ops/core/filter_eval.h"
#include "custom_ops/core/gpu_context.h"
#include "custom_ops/core/gpu_masks.h"

namespace lintf::gpu {

// The masks of a batch of programs. Equal programs share a mask.
class FilterMasks {
 public:
  FilterMasks();
  ~FilterMasks();

  // As lintf::FilterMasks::Init. The programs and the resolver are host
  // memory, and are not used after this returns; the data of the columns and
  // the ids are device memory. Nothing is queued yet.
  std::string Init(const int64_t* programs, int64_t num_programs,
                   int64_t words_per_program,
                   const std::vector<Column>& columns, const int64_t* ids,
                   const IdResolver* resolver, int64_t* bad_program);

  // Which mask belongs to program (query) i; host.
  const std::vector<int32_t>& mask_of_program() const;
  int64_t num_masks() const;

  // Evaluates all masks on rows [0, num_rows), at most kMaxSegmentRows.
  // `live`, if not null, is a bit for each row on the device and is ANDed to
  // every mask; then no mask counts as one that passes all. The words are
  // scratch memory of the context.
  Masks Evaluate(int64_t num_rows, const uint64_t* live,
                 Context* context) const;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace lintf::gpu

#endif  // LINTF_CUSTOM_OPS_CORE_GPU_FILTER_H_
