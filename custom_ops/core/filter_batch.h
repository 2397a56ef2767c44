// SPDX-License-Identifier: Apache-2.0
// The programs of a batch, of which equal ones share a mask.
#ifndef LINTF_CUSTOM_OPS_CORE_FILTER_BATCH_H_
#define LINTF_CUSTOM_OPS_CORE_FILTER_BATCH_H_

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "custom_ops/core/column.h"
#include "custom_ops/core/filter_program.h"

namespace lintf {

// What is wrong with a program that reads the ids of an index without any.
inline constexpr char kFilterNeedsIds[] =
    "filter program: it reads the ids, which are not there";

// Takes the next distinct program; returns what is wrong with it, or nothing.
using AddFilterMask =
    std::function<std::string(const std::vector<FilterInstruction>&)>;

// Decodes `num_programs` programs of `words_per_program` words each (row
// stride the same), calls `add` once for each distinct one in the order of
// their first use, and sets which of them each program is. On failure returns
// the message and sets `*bad_program`.
std::string AddFilterMasks(const int64_t* programs, int64_t num_programs,
                           int64_t words_per_program,
                           const std::vector<Column>& columns,
                           const AddFilterMask& add,
                           std::vector<int32_t>* mask_of_program,
                           int64_t* bad_program);

}  // namespace lintf

#endif  // LINTF_CUSTOM_OPS_CORE_FILTER_BATCH_H_
