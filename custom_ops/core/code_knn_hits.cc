// SPDX-License-Identifier: Apache-2.0
#include "custom_ops/core/code_knn_hits.h"

#include <algorithm>
#include <cstdint>

namespace lintf {

int64_t HitCut::Move(const uint64_t* from, int64_t count, uint64_t* to) {
  const uint64_t first_tied = MakeHit(score, 0);
  const uint64_t first_above = MakeHit(score + 1, 0);
  int64_t kept = 0;
  int64_t i = 0;
  for (; i < count && ties > 0; ++i) {
    const uint64_t hit = from[i];
    to[kept] = hit;
    kept += hit >= first_tied ? 1 : 0;
    ties -= hit >= first_tied && hit < first_above ? 1 : 0;
  }
  for (; i < count; ++i) {
    const uint64_t hit = from[i];
    to[kept] = hit;
    kept += hit >= first_above ? 1 : 0;
  }
  return kept;
}

void HitHistogram::Add(const uint64_t* hits, int64_t count) {
  int64_t* counts = counts_.data();
  uint64_t greatest = 0;
  int64_t i = 0;
  for (; i + kWays <= count; i += kWays) {
    for (int64_t way = 0; way < kWays; ++way) {
      const uint64_t hit = hits[i + way];
      ++counts[Bin(HitScore(hit)) * kWays + way];
      greatest = std::max(greatest, hit);
    }
  }
  for (; i < count; ++i) {
    ++counts[Bin(HitScore(hits[i])) * kWays];
    greatest = std::max(greatest, hits[i]);
  }
  greatest_ = std::max(greatest_, HitScore(greatest));
}

void HitHistogram::Add(const HitHistogram& other) {
  for (size_t i = 0; i < counts_.size(); ++i) counts_[i] += other.counts_[i];
  greatest_ = std::max(greatest_, other.greatest_);
}

void HitHistogram::Clear(const uint64_t* hits, int64_t count) {
  greatest_ = 0;
  if (count > num_scores_) {
    std::fill(counts_.begin(), counts_.end(), 0);
    return;
  }
  for (int64_t i = 0; i < count; ++i) {
    std::fill_n(counts_.data() + Bin(HitScore(hits[i])) * kWays, kWays, 0);
  }
}

HitCut HitHistogram::CutOf(int64_t keep) const {
  HitCut cut;
  int64_t above = 0;
  for (cut.score = std::max(greatest_, min_score_);; --cut.score) {
    const int64_t count = Count(cut.score);
    if (above + count >= keep || cut.score == min_score_) {
      cut.ties = std::min(count, keep - above);
      return cut;
    }
    above += count;
  }
}

void HitList::Shrink(HitHistogram* histogram) {
  uint64_t* hits = hits_.get();
  histogram->Add(hits, size_);
  const HitCut cut = histogram->CutOf(keep_);
  histogram->Clear(hits, size_);
  Cut(cut);
  RaiseThreshold(cut.score + 1);
}

}  // namespace lintf
