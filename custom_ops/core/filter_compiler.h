// SPDX-License-Identifier: Apache-2.0
// Filter text -> program. Grammar, types and limits are in filter_compiler.cc
// and in the documentation of Lintf>CompileFilter.
#ifndef LINTF_CUSTOM_OPS_CORE_FILTER_COMPILER_H_
#define LINTF_CUSTOM_OPS_CORE_FILTER_COMPILER_H_

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "custom_ops/core/filter_schema.h"

namespace lintf {

// What a filter may cost, so that no request can exhaust the server.
struct FilterLimits {
  int64_t max_length = 1 << 20;  // bytes of text
  int64_t max_depth = 32;        // nesting of parentheses and `not`
  int64_t max_words = 1 << 16;   // words of the compiled program
};

// Compiles `text` into `program` (empty for a blank text: no filter). Returns
// an empty string, or a message for the person who wrote the filter: the
// position (1-based column in bytes), what was expected and what was found.
// Never throws, whatever the bytes are.
std::string CompileFilter(std::string_view text, const FilterSchema& schema,
                          const FilterLimits& limits,
                          std::vector<int64_t>* program);

}  // namespace lintf

#endif  // LINTF_CUSTOM_OPS_CORE_FILTER_COMPILER_H_
