// SPDX-License-Identifier: Apache-2.0
// Evaluates compiled filters over blocks of rows into bit words.
#ifndef LINTF_CUSTOM_OPS_CORE_FILTER_EVAL_H_
#define LINTF_CUSTOM_OPS_CORE_FILTER_EVAL_H_

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "custom_ops/core/column.h"
#include "custom_ops/core/filter_kernels.h"
#include "custom_ops/core/filter_program.h"
#include "custom_ops/core/mask_source.h"

namespace lintf {

// Scalar reference: does row `row` pass? Slow and obvious; the other versions
// (SIMD here, CUDA later) are tested against it. `ids` may be null if the
// program does not read the id column.
bool FilterPassesRow(const std::vector<FilterInstruction>& instructions,
                     const std::vector<Column>& columns, const int64_t* ids,
                     int64_t row);

// Finds the row of an item id; -1 if there is none. Lets `id in [...]` cost
// its number of ids instead of a pass over the id column.
class IdResolver {
 public:
  virtual ~IdResolver() = default;
  virtual int64_t RowOf(int64_t id) const = 0;
};

class FilterPlan;

// The masks of a batch of programs. Equal programs share a mask.
class FilterMasks : public MaskSource {
 public:
  // Tests may force an instruction set, at most BestFilterIsa().
  explicit FilterMasks(FilterIsa isa = BestFilterIsa());
  ~FilterMasks() override;

  // Decodes `num_programs` programs of `words_per_program` words each (row
  // stride the same). `columns`, `ids`, `live` and `resolver` must outlive
  // this object; the programs need not. `ids` may be null if no program reads
  // the id column; `live`, if not null, holds a bit for each row and is ANDed
  // to every mask; `resolver` may be null: then `id in` reads the `ids`
  // column. On failure returns the message and sets `*bad_program`.
  std::string Init(const int64_t* programs, int64_t num_programs,
                   int64_t words_per_program,
                   const std::vector<Column>* columns, const int64_t* ids,
                   const uint64_t* live, const IdResolver* resolver,
                   int64_t* bad_program);

  // Which mask belongs to program (query) i.
  const std::vector<int32_t>& mask_of_program() const {
    return mask_of_program_;
  }

  int64_t num_masks() const override;
  bool PassesAll(int64_t mask) const override;
  int64_t Fill(int64_t mask, int64_t begin, int64_t end,
               uint64_t* bits) const override;

 private:
  const FilterIsa isa_;
  std::vector<std::unique_ptr<const FilterPlan>> plans_;  // one a mask
  std::vector<int32_t> mask_of_program_;
  const uint64_t* live_ = nullptr;
};

}  // namespace lintf

#endif  // LINTF_CUSTOM_OPS_CORE_FILTER_EVAL_H_
