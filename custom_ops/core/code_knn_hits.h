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

// Which hits are among the `keep` best, ties going to those that come first.
struct HitCut {
  // Those that score more are, and the first `ties` of those that score this.
  uint32_t score = 0;
  int64_t ties = 0;

  // Moves the hits that are kept to `to`, which may be `from`, in their order;
  // returns how many. `ties` becomes what is left of them.
  int64_t Move(const uint64_t* from, int64_t count, uint64_t* to);
};

// How many hits have each score, from `min_score` on; others are ignored.
class HitHistogram {
 public:
  HitHistogram(uint32_t min_score, uint32_t max_score)
      : min_score_(min_score),
        num_scores_(int64_t{max_score} + 1 - min_score),
        counts_((num_scores_ + 1) * kWays) {}

  void Add(const uint64_t* hits, int64_t count);
  // The same scores as this one.
  void Add(const HitHistogram& other);
  // Back to zeros; `hits` are all that was added.
  void Clear(const uint64_t* hits, int64_t count);

  int64_t num_scores() const { return num_scores_; }
  int64_t Count(uint32_t score) const {
    const int64_t* counts = counts_.data() + Bin(score) * kWays;
    return counts[0] + counts[1] + counts[2] + counts[3];
  }
  // If there are at most `keep` hits, the cut keeps them all.
  HitCut CutOf(int64_t keep) const;

 private:
  // Equal scores follow each other all the time: counted in one place, each
  // would wait for the one before.
  static constexpr int64_t kWays = 4;

  // Bin 0 is for what is ignored.
  int64_t Bin(uint32_t score) const {
    return score < min_score_ ? 0 : int64_t{score} + 1 - min_score_;
  }

  uint32_t min_score_;
  int64_t num_scores_;
  uint32_t greatest_ = 0;  // of those added
  std::vector<int64_t> counts_;
};

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
  // threshold above the last of them. `histogram` is empty before and after,
  // and takes all scores.
  void Shrink(HitHistogram* histogram);

  // Cuts the list for good.
  void Cut(HitCut cut) { size_ = cut.Move(hits_.get(), size_, hits_.get()); }

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
