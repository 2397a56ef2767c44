// SPDX-License-Identifier: Apache-2.0
// Selection of the k best (score, row) pairs of a stream, for many queries.
//
// A candidate is one 64-bit key: the score's bits, mapped so that unsigned
// order is score order, above the complement of the row. A greater key is a
// better candidate, all keys of a query differ, and so the k best are the
// same set whatever the order or the split of the stream.
#ifndef LINTF_CUSTOM_OPS_CORE_TOP_K_H_
#define LINTF_CUSTOM_OPS_CORE_TOP_K_H_

#include <cstdint>
#include <cstring>
#include <limits>
#include <memory>
#include <vector>

namespace lintf {

// NaN counts as -inf and -0 as +0, so that equal scores have equal bits.
inline uint64_t CandidateKey(float score, uint32_t row) {
  uint32_t bits;
  std::memcpy(&bits, &score, sizeof(bits));
  const uint32_t magnitude = bits & 0x7FFFFFFFu;
  if (magnitude > 0x7F800000u) bits = 0xFF800000u;
  if (magnitude == 0) bits = 0;
  const uint32_t ordered = (bits >> 31) != 0 ? ~bits : bits | 0x80000000u;
  return (static_cast<uint64_t>(ordered) << 32) | static_cast<uint32_t>(~row);
}

inline float CandidateScore(uint64_t key) {
  const uint32_t ordered = static_cast<uint32_t>(key >> 32);
  const uint32_t bits = (ordered >> 31) != 0 ? ordered & 0x7FFFFFFFu : ~ordered;
  float score;
  std::memcpy(&score, &bits, sizeof(score));
  return score;
}

inline uint32_t CandidateRow(uint64_t key) {
  return ~static_cast<uint32_t>(key);
}

// The candidates of one worker. Queries sit in slots; kernels compare whole
// vectors of scores with thresholds() and hand over only what is above.
//
// A threshold is NaN until k candidates have been seen, then the score of the
// k-th best as of the last time the slot's buffer filled up. Kernels report a
// hit where !(score <= threshold), which is true for a NaN on either side.
class TopKCollector {
 public:
  // Every slot keeps the `k` best. Slots that `is_used` has as false take part
  // in vector compares but must never be reported.
  TopKCollector(const std::vector<bool>& is_used, int64_t k);

  const float* thresholds() const { return thresholds_.data(); }

  // Bit i of `hits`: slot first_slot + i scored scores[i] on `row`.
  void AddSlotHits(int64_t first_slot, uint32_t hits, const float* scores,
                   uint32_t row);

  // Bit i of `hits`: `slot` scored scores[i] on rows[i].
  void AddRowHits(int64_t slot, uint32_t hits, const float* scores,
                  const uint32_t* rows);

  // The candidates of a slot, at least the k best of those added, in no
  // order. Valid until the next Add.
  const uint64_t* keys(int64_t slot) const { return slots_[slot].keys; }
  int64_t num_keys(int64_t slot) const { return slots_[slot].size; }

 private:
  struct Slot {
    uint64_t* keys = nullptr;
    int64_t size = 0;
    uint64_t worst_kept = 0;  // keys up to this one are not among the k best
  };

  void Add(int64_t slot, uint64_t key);
  void Shrink(int64_t slot);

  int64_t k_;
  int64_t capacity_;
  std::vector<float> thresholds_;
  std::vector<Slot> slots_;
  std::unique_ptr<uint64_t[]> storage_;
};

// Moves the `k` greatest of `keys` to the front, in descending order, and
// drops the rest.
void SortTopK(int64_t k, std::vector<uint64_t>* keys);

// Merges descending `keys`, whose rows are numbered from `first_row`, into the
// `*count` best of lower rows, of which at most `k` stay.
void MergeTopK(const std::vector<uint64_t>& keys, int64_t first_row, int64_t k,
               float* scores, int64_t* rows, int32_t* count);

}  // namespace lintf

#endif  // LINTF_CUSTOM_OPS_CORE_TOP_K_H_
