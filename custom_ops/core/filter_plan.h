// SPDX-License-Identifier: Apache-2.0
// A program made ready to run: a tree whose leaves know their data, their
// kernel and their cost.
#ifndef LINTF_CUSTOM_OPS_CORE_FILTER_PLAN_H_
#define LINTF_CUSTOM_OPS_CORE_FILTER_PLAN_H_

#include <cstdint>
#include <vector>

#include "custom_ops/core/column.h"
#include "custom_ops/core/filter_eval.h"
#include "custom_ops/core/filter_kernels.h"
#include "custom_ops/core/filter_program.h"

namespace lintf {

class FilterPlan {
 public:
  // Words that are evaluated at a time: enough to forget the cost of a call,
  // few enough that a rare predicate often leaves nothing to do for the next.
  static constexpr int64_t kBlockWords = 32;

  // Copies what it needs of `instructions` (checked by DecodeFilterProgram);
  // the columns' and ids' data must outlive the plan. `ids` and `resolver` as
  // in FilterMasks::Init.
  FilterPlan(const std::vector<FilterInstruction>& instructions,
             const std::vector<Column>& columns, const int64_t* ids,
             const IdResolver* resolver, FilterIsa isa);

  // Whether every row passes, known without looking at any.
  bool PassesAll() const;

  // Whether some part reads the id column, and so needs `ids`.
  bool reads_ids() const { return reads_ids_; }

  // Evaluates rows [begin, begin + num_rows), at most kBlockWords words;
  // `begin` is a multiple of 64. Sets the bits of `out` right wherever `need`
  // (null: everywhere) has a 1; other bits, and those past the rows, mean
  // nothing.
  void Evaluate(int64_t begin, int64_t num_rows, const uint64_t* need,
                uint64_t* out) const;

 private:
  enum class NodeType : uint8_t { kConstant, kLeaf, kRows, kAll, kAny };

  struct Node {
    NodeType type = NodeType::kConstant;
    bool negate = false;
    bool value = false;             // kConstant
    double cost = 0;                // of a row, in bytes read or so
    std::vector<int32_t> children;  // kAll (and), kAny (or), cheapest first
    FilterLeaf leaf;                // kLeaf
    FilterKernel kernel = nullptr;
    const char* data = nullptr;
    int64_t width = 1;
    std::vector<int64_t> rows;  // kRows, ascending: answered by the resolver
  };

  int32_t AddConstant(bool value);
  int32_t AddLeaf(const FilterInstruction& instruction,
                  const std::vector<Column>& columns, const int64_t* ids,
                  const IdResolver* resolver, FilterIsa isa);
  int32_t AddRows(const FilterInstruction& instruction,
                  const IdResolver& resolver);
  int32_t Negate(int32_t node);
  int32_t Combine(NodeType type, int32_t left, int32_t right);
  void SortByCost(int32_t node);

  void EvaluateNode(int32_t index, int64_t begin, int64_t num_rows,
                    const uint64_t* need, uint64_t* out) const;
  void EvaluateChain(const Node& node, int64_t begin, int64_t num_rows,
                     const uint64_t* need, uint64_t* out) const;

  std::vector<Node> nodes_;
  int32_t root_ = -1;
  bool reads_ids_ = false;
};

}  // namespace lintf

#endif  // LINTF_CUSTOM_OPS_CORE_FILTER_PLAN_H_
