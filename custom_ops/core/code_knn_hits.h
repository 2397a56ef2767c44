// SPDX-License-Identifier: Apache-2.0
// Counting selection of the best rows by small integer scores: no heap, no
// sort.
#ifndef LINTF_CUSTOM_OPS_CORE_CODE_KNN_HITS_H_
#define LINTF_CUSTOM_OPS_CORE_CODE_KNN_HITS_H_

#include <algorithm>
#include <cstdint>
#include <memory>
#include <vector>

#include "custom_ops/core/mask_source.h"

namespace lintf {

// A row and its score in one word: the score in the upper 16 bits.
inline constexpr int kHitRowBits = 48;

inline uint64_t MakeHit(uint32_t score, int64_t row) {
  return static_cast<uint64_t>(score) << kHitRowBits |
         static_cast<uint64_t>(row);
}
inline uint32_t HitScore(uint64_t hit) {
  return static_cast<uint32_t>(hit >> kHitRowBits);
}
inline int64_t HitRow(uint64_t hit) {
  return static_cast<int64_t>(hit & ((uint64_t{1} << kHitRowBits) - 1));
}

// How many hits have each score, from some least score on. That of a worker is
// for all scores, [max_score + 1], and all zeros between uses.
using HitHistogram = std::vector<int64_t>;

// Which hits are among the `keep` best, ties going to those that come first.
struct HitCut {
  // Those that score more are, and the first `ties` of those that score this.
  uint32_t score = 0;
  int64_t ties = 0;

  bool Keeps(uint64_t hit) {
    const uint32_t hit_score = HitScore(hit);
    const bool tied = hit_score == score && ties > 0;
    ties -= tied ? 1 : 0;
    return hit_score > score || tied;
  }
};

// The cut for hits that score `min_score` to `max_score`, counted in a
// histogram from `min_score` on. If there are at most `keep`, it keeps them
// all.
HitCut CutOf(const HitHistogram& histogram, uint32_t min_score,
             uint32_t max_score, int64_t keep);

// What one query has found in a stretch of rows, which come in ascending order:
// at least the `keep` best, those that tie with the last of them in the order
// of their rows.
class HitList {
 public:
  // `max_rows`: how many rows may come at most.
  HitList(int64_t keep, int64_t max_rows)
      : keep_(keep), capacity_(Capacity(keep, max_rows)) {
    // Left uninitialised: pages that no hit reaches are never touched.
    hits_.reset(new uint64_t[capacity_]);
  }

  static int64_t Capacity(int64_t keep, int64_t max_rows) {
    // Room beyond `keep`, so that the cost of a cut is shared; and for whole
    // vectors past the end.
    constexpr int64_t kMany = 1 << 16;
    const int64_t room = keep <= kMany ? std::max<int64_t>(keep, 256)
                                       : std::max<int64_t>(keep / 2, kMany);
    return std::min(keep + room, max_rows) + 2 * kRowsPerWord;
  }

  // Rows that score less cannot be among the best.
  uint32_t threshold() const { return threshold_; }
  void RaiseThreshold(uint32_t threshold) {
    threshold_ = std::max(threshold_, threshold);
  }

  // Where up to kRowsPerWord hits may be written (8 more elements may be
  // overwritten); Commit says how many were, and whether the list is full.
  uint64_t* end() { return hits_.get() + size_; }
  bool Commit(int64_t count) {
    size_ += count;
    return size_ > capacity_ - 2 * kRowsPerWord;
  }

  // Cuts the list back to `keep` hits, which it must have, and raises the
  // threshold above the last of them.
  void Shrink(HitHistogram* histogram);

  const uint64_t* hits() const { return hits_.get(); }
  int64_t size() const { return size_; }
  int64_t keep() const { return keep_; }

 private:
  int64_t keep_;
  int64_t capacity_;
  int64_t size_ = 0;
  uint32_t threshold_ = 0;
  std::unique_ptr<uint64_t[]> hits_;
};

}  // namespace lintf

#endif  // LINTF_CUSTOM_OPS_CORE_CODE_KNN_HITS_H_
