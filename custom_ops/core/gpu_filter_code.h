// SPDX-License-Identifier: Apache-2.0
// What the masks of a batch are compiled to for the GPU: steps of a small
// machine, which all threads of a warp take together.
//
// A thread evaluates kFilterThreadRows rows at a time; a mask of them is one
// value of 16 bits. The machine has the values of one column in registers,
// a stack of masks, and numbered slots for masks. One mask alone is evaluated
// leaf by leaf, and leaves are skipped whose outcome no row waits for. For
// several masks every column is loaded once, all leaves on it are evaluated
// into slots, equal ones of different masks once, and the masks are put
// together from the slots.
#ifndef LINTF_CUSTOM_OPS_CORE_GPU_FILTER_CODE_H_
#define LINTF_CUSTOM_OPS_CORE_GPU_FILTER_CODE_H_

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "custom_ops/core/column.h"
#include "custom_ops/core/filter_eval.h"
#include "custom_ops/core/filter_program.h"

namespace lintf::gpu {

inline constexpr int kFilterThreadRows = 16;
// Slots of a thread; masks that need more are evaluated in groups.
inline constexpr int kMaxFilterSlots = 64;
// A kSlots step names as many.
inline constexpr int kFilterStepSlots = 16;
inline constexpr uint32_t kNegatedSlot = 0x80;
// Masks on the stack that fit registers, and those of any filter: each level
// takes at least twice as many leaves.
inline constexpr int kShallowFilterStack = 5;
inline constexpr int kDeepFilterStack = 40;

enum class FilterStepOp : uint8_t {
  kEnd,
  kLoad,    // column: type, width in `number`, address of the value in `a`; if
            // `negate`, they can't be loaded as vectors
  kPop,     // the mask on top, merged with the one below it
  kOutput,  // pops the rows that mask `number` passes
  kSkip,    // to step `number` if all of the top is `type` (0 or 1)
  // Masks that are merged:
  kConstant,  // all rows
  kRows,      // `a` rows, ascending, in the payload from `c` on
  kSlots,     // what all of `type` slots pass, one in each byte of `a` and `b`,
              // with kNegatedSlot for its opposite
  // Leaves on the loaded values, of 32 bits; those of 64 bits follow.
  kEqual,       // a
  kRange,       // value - a <= b
  kFloatRange,  // the same on FloatKey(value)
  kBitsAny,     // a
  kBitsAll,     // a
  kValues,      // `a` of them in the payload from `c` on
  kSearch,      // the same, ascending: unsigned; of 64 bits: signed
  kBitmap,      // value - a <= b, and that bit of the payload from `c` on
  kEqual64,
  kRange64,
  kBitsAny64,
  kBitsAll64,
  kValues64,
  kSearch64,
  kBitmap64,
};

enum class FilterMerge : uint8_t {
  kPush,
  kAnd,      // with the top of the stack
  kOr,       // with the top of the stack
  kStore,    // to slot `number`
  kStoreOr,  // with slot `number`
  kOutput,   // they are the rows that mask `number` passes
};

struct alignas(16) FilterStep {
  FilterStepOp op = FilterStepOp::kEnd;
  FilterMerge merge = FilterMerge::kPush;
  uint8_t negate = 0;  // of a mask: before it is merged
  uint8_t type = 0;
  uint32_t number = 0;
  uint64_t a = 0;
  uint64_t b = 0;
  uint64_t c = 0;
};
static_assert(sizeof(FilterStep) == 32);

struct FilterCode {
  std::vector<FilterStep> steps;
  std::vector<uint64_t> payload;
  int stack = 0;  // masks on it at most
  int slots = 0;  // used
};

// The filters of a batch, on their way to a FilterCode.
class FilterCodeBuilder {
 public:
  // `ids` and the columns' data are device memory. The columns are copied;
  // `resolver` must live until the last Add.
  FilterCodeBuilder(const std::vector<Column>& columns, const int64_t* ids,
                    const IdResolver* resolver);
  ~FilterCodeBuilder();

  // Adds a mask. Returns what is wrong, or nothing.
  std::string Add(const std::vector<FilterInstruction>& instructions);

  // For each mask whether every row passes, known without looking at any.
  const std::vector<bool>& passes_all() const;

  // The code of all masks.
  FilterCode Build() const;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace lintf::gpu

#endif  // LINTF_CUSTOM_OPS_CORE_GPU_FILTER_CODE_H_
