// SPDX-License-Identifier: Apache-2.0
#include "custom_ops/core/filter_eval.h"

#include <algorithm>

#include "custom_ops/core/filter_batch.h"
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
  live_ = live;
  const auto add = [&](const std::vector<FilterInstruction>& instructions) {
    plans_.push_back(std::make_unique<const FilterPlan>(instructions, *columns,
                                                        ids, resolver, isa_));
    return ids == nullptr && plans_.back()->reads_ids()
               ? std::string(kFilterNeedsIds)
               : std::string();
  };
  return AddFilterMasks(programs, num_programs, words_per_program, *columns,
                        add, &mask_of_program_, bad_program);
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
