// SPDX-License-Identifier: Apache-2.0
#include "custom_ops/core/code_knn_hits.h"

#include <algorithm>
#include <cstdint>

namespace lintf {

HitCut CutOf(const HitHistogram& histogram, uint32_t min_score,
             uint32_t max_score, int64_t keep) {
  HitCut cut;
  int64_t above = 0;
  for (cut.score = max_score;; --cut.score) {
    const int64_t count = histogram[cut.score - min_score];
    if (above + count >= keep || cut.score == min_score) {
      cut.ties = std::min(count, keep - above);
      return cut;
    }
    above += count;
  }
}

void HitList::Shrink(HitHistogram* histogram) {
  int64_t* counts = histogram->data();
  uint32_t max_score = 0;
  for (int64_t i = 0; i < size_; ++i) {
    const uint32_t score = HitScore(hits_[i]);
    ++counts[score];
    max_score = std::max(max_score, score);
  }
  const HitCut cut = CutOf(*histogram, 0, max_score, keep_);
  HitCut left = cut;
  int64_t kept = 0;
  for (int64_t i = 0; i < size_; ++i) {
    const uint64_t hit = hits_[i];
    counts[HitScore(hit)] = 0;
    hits_[kept] = hit;
    kept += left.Keeps(hit) ? 1 : 0;
  }
  size_ = kept;
  RaiseThreshold(cut.score + 1);
}

}  // namespace lintf
