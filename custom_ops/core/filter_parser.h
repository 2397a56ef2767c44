// SPDX-License-Identifier: Apache-2.0
// Filter text -> syntax tree. Knows the grammar (top of filter_compiler.cc),
// not the schema.
#ifndef LINTF_CUSTOM_OPS_CORE_FILTER_PARSER_H_
#define LINTF_CUSTOM_OPS_CORE_FILTER_PARSER_H_

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "custom_ops/core/filter_lexer.h"

namespace lintf {

enum class FilterNodeType : uint8_t {
  kAnd,          // children, two or more
  kOr,           // children, two or more
  kNot,          // one child
  kCompare,      // name comparison literals[0]
  kIn,           // name in literals
  kNotIn,        // name not in literals
  kContainsAny,  // contains_any(name, literals)
  kContainsAll,  // contains_all(name, literals)
  kExists,       // exists(name)
  kBare,         // name alone: a bool that must be true
};

struct FilterNode {
  FilterNodeType type = FilterNodeType::kBare;
  // Predicates: the attribute, the operator (or the function's name) and the
  // values. A literal is a token of type kString, kInt, kFloat, kTrue, kFalse.
  FilterToken name;
  FilterToken op;
  std::vector<FilterToken> literals;
  // kAnd, kOr, kNot: positions in FilterTree::nodes.
  std::vector<int64_t> children;
};

struct FilterTree {
  std::vector<FilterNode> nodes;
  int64_t root = -1;  // -1: blank text, no filter
};

// Parses `text`, which must outlive the tree. `max_depth` limits the nesting
// of parentheses and `not`; more than kMaxFilterTextDepth is cut to that, so
// that neither this nor a walk over the tree can exhaust a thread's stack.
// Returns an empty string, or the error.
inline constexpr int64_t kMaxFilterTextDepth = 100;
std::string ParseFilter(std::string_view text, int64_t max_depth,
                        FilterTree* tree);

}  // namespace lintf

#endif  // LINTF_CUSTOM_OPS_CORE_FILTER_PARSER_H_
