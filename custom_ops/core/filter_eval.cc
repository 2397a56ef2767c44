// SPDX-License-Identifier: Apache-2.0
#include "custom_ops/core/filter_eval.h"

#include <algorithm>
#include <string_view>
#include <unordered_map>

#include "custom_ops/core/filter_plan.h"

namespace lintf {

FilterMasks::FilterMasks(FilterIsa isa) : isa_(isa) {}
FilterMasks::~FilterMasks() = default;

std::string FilterMasks::Init(const int64_t* programs, int64_t num_programs,
                              int64_t words_per_program,
                              const std::vector<Column>* columns,
                              const int64_t* ids, const uint64_t* live,
                              const IdResolver* resolver,
                              int64_t* bad_program) {
  plans_.clear();
  mask_of_program_.clear();
  live_ = live;
  std::unordered_map<std::string_view, int32_t> mask_of_bytes;
  std::vector<FilterInstruction> instructions;
  for (int64_t i = 0; i < num_programs; ++i) {
    const int64_t* words = programs + i * words_per_program;
    const std::string_view bytes(reinterpret_cast<const char*>(words),
                                 words_per_program * sizeof(int64_t));
    const auto [entry, is_new] =
        mask_of_bytes.try_emplace(bytes, static_cast<int32_t>(plans_.size()));
    mask_of_program_.push_back(entry->second);
    if (!is_new) continue;
    std::string error =
        DecodeFilterProgram(words, words_per_program, *columns, &instructions);
    if (error.empty()) {
      plans_.push_back(std::make_unique<const FilterPlan>(
          instructions, *columns, ids, resolver, isa_));
      if (ids == nullptr && plans_.back()->reads_ids()) {
        error = "filter program: it reads the ids, which are not there";
      }
    }
    if (!error.empty()) {
      *bad_program = i;
      return error;
    }
  }
  return "";
}

int64_t FilterMasks::num_masks() const {
  return static_cast<int64_t>(plans_.size());
}

bool FilterMasks::PassesAll(int64_t mask) const {
  return live_ == nullptr && plans_[mask]->PassesAll();
}

int64_t FilterMasks::Fill(int64_t mask, int64_t begin, int64_t end,
                          uint64_t* bits) const {
  constexpr int64_t kBlockRows = FilterPlan::kBlockWords * kRowsPerWord;
  const FilterPlan& plan = *plans_[mask];
  int64_t num_passing = 0;
  for (; begin < end; begin += kBlockRows, bits += FilterPlan::kBlockWords) {
    const int64_t num_rows = std::min(end - begin, kBlockRows);
    const int64_t num_words = (num_rows + kRowsPerWord - 1) / kRowsPerWord;
    const uint64_t* live =
        live_ == nullptr ? nullptr : live_ + begin / kRowsPerWord;
    plan.Evaluate(begin, num_rows, live, bits);
    if (live != nullptr) {
      for (int64_t w = 0; w < num_words; ++w) bits[w] &= live[w];
    }
    const int64_t rest = num_rows % kRowsPerWord;
    if (rest != 0) bits[num_words - 1] &= (uint64_t{1} << rest) - 1;
    for (int64_t w = 0; w < num_words; ++w) {
      num_passing += __builtin_popcountll(bits[w]);
    }
  }
  return num_passing;
}

}  // namespace lintf
