// SPDX-License-Identifier: Apache-2.0
#include "custom_ops/core/filter_batch.h"

#include <string_view>
#include <unordered_map>

namespace lintf {

std::string AddFilterMasks(const int64_t* programs, int64_t num_programs,
                           int64_t words_per_program,
                           const std::vector<Column>& columns,
                           const AddFilterMask& add,
                           std::vector<int32_t>* mask_of_program,
                           int64_t* bad_program) {
  mask_of_program->clear();
  std::unordered_map<std::string_view, int32_t> mask_of_bytes;
  std::vector<FilterInstruction> instructions;
  for (int64_t i = 0; i < num_programs; ++i) {
    const int64_t* words = programs + i * words_per_program;
    const std::string_view bytes(reinterpret_cast<const char*>(words),
                                 words_per_program * sizeof(int64_t));
    const auto [entry, is_new] = mask_of_bytes.try_emplace(
        bytes, static_cast<int32_t>(mask_of_bytes.size()));
    mask_of_program->push_back(entry->second);
    if (!is_new) continue;
    std::string error =
        DecodeFilterProgram(words, words_per_program, columns, &instructions);
    if (error.empty()) error = add(instructions);
    if (!error.empty()) {
      *bad_program = i;
      return error;
    }
  }
  return "";
}

}  // namespace lintf
