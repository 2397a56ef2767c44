// SPDX-License-Identifier: Apache-2.0
#include "custom_ops/core/top_k.h"

#include <algorithm>
#include <array>
#include <functional>

namespace lintf {
namespace {

// Room for candidates beyond k: a buffer is cut back to k when it is full, so
// this many candidates share the cost of one cut.
int64_t BufferCapacity(int64_t k) { return k + std::max<int64_t>(k, 64); }

}  // namespace

TopKCollector::TopKCollector(const std::vector<bool>& is_used, int64_t k)
    : k_(k),
      capacity_(BufferCapacity(k)),
      // +inf: an unused slot hits on NaN alone, which the kernels mask out.
      thresholds_(is_used.size(), std::numeric_limits<float>::infinity()),
      slots_(is_used.size()) {
  const int64_t num_used = std::count(is_used.begin(), is_used.end(), true);
  // Left uninitialised: pages that no candidate reaches are never touched.
  storage_.reset(new uint64_t[num_used * capacity_]);
  uint64_t* next = storage_.get();
  for (size_t slot = 0; slot < is_used.size(); ++slot) {
    if (!is_used[slot]) continue;
    thresholds_[slot] = std::numeric_limits<float>::quiet_NaN();
    slots_[slot].keys = next;
    next += capacity_;
  }
}

inline void TopKCollector::Add(int64_t slot, uint64_t key) {
  Slot& s = slots_[slot];
  if (key <= s.worst_kept) return;
  s.keys[s.size++] = key;
  if (s.size == capacity_) Shrink(slot);
}

void TopKCollector::Shrink(int64_t slot) {
  Slot& s = slots_[slot];
  std::nth_element(s.keys, s.keys + (k_ - 1), s.keys + s.size,
                   std::greater<uint64_t>());
  s.size = k_;
  s.worst_kept = s.keys[k_ - 1];
  thresholds_[slot] = CandidateScore(s.worst_kept);
}

void TopKCollector::AddSlotHits(int64_t first_slot, uint32_t hits,
                                const float* scores, uint32_t row) {
  for (; hits != 0; hits &= hits - 1) {
    const int i = __builtin_ctz(hits);
    Add(first_slot + i, CandidateKey(scores[i], row));
  }
}

void TopKCollector::AddRowHits(int64_t slot, uint32_t hits, const float* scores,
                               const uint32_t* rows) {
  for (; hits != 0; hits &= hits - 1) {
    const int i = __builtin_ctz(hits);
    Add(slot, CandidateKey(scores[i], rows[i]));
  }
}

namespace {

// From here on a sort by digits is faster than one by comparisons.
constexpr size_t kRadixSortKeys = 2048;

// Sorts in descending order, by one byte after the other from the lowest up.
void RadixSortDescending(std::vector<uint64_t>* keys) {
  constexpr int kDigits = 8;
  constexpr int kValues = 256;
  const size_t size = keys->size();
  std::vector<std::array<size_t, kValues>> counts(kDigits);
  for (auto& count : counts) count.fill(0);
  for (uint64_t key : *keys) {
    for (int digit = 0; digit < kDigits; ++digit) {
      ++counts[digit][key >> (8 * digit) & 0xFF];
    }
  }
  std::vector<uint64_t> other(size);
  for (int digit = 0; digit < kDigits; ++digit) {
    std::array<size_t, kValues>& next = counts[digit];
    // Nothing to do where all keys have the same digit, as high bytes of rows.
    if (next[keys->front() >> (8 * digit) & 0xFF] == size) continue;
    size_t begin = 0;
    for (int value = kValues - 1; value >= 0; --value) {
      const size_t count = next[value];
      next[value] = begin;
      begin += count;
    }
    for (uint64_t key : *keys) {
      other[next[key >> (8 * digit) & 0xFF]++] = key;
    }
    keys->swap(other);
  }
}

}  // namespace

void SortTopK(int64_t k, std::vector<uint64_t>* keys) {
  if (static_cast<int64_t>(keys->size()) > k) {
    std::nth_element(keys->begin(), keys->begin() + (k - 1), keys->end(),
                     std::greater<uint64_t>());
    keys->resize(k);
  }
  if (keys->size() >= kRadixSortKeys) {
    RadixSortDescending(keys);
  } else {
    std::sort(keys->begin(), keys->end(), std::greater<uint64_t>());
  }
}

void MergeTopK(const std::vector<uint64_t>& keys, int64_t first_row, int64_t k,
               float* scores, int64_t* rows, int32_t* count) {
  const int64_t before = *count;
  const int64_t found = static_cast<int64_t>(keys.size());
  const int64_t total = std::min(k, before + found);
  // On ties the earlier results have the lower rows, so they go first.
  int64_t kept = 0;
  int64_t taken = 0;
  while (kept + taken < total) {
    if (taken == found ||
        (kept < before && scores[kept] >= CandidateScore(keys[taken]))) {
      ++kept;
    } else {
      ++taken;
    }
  }
  *count = static_cast<int32_t>(total);
  // From the back, so that nothing is overwritten before it was moved.
  for (int64_t i = total - 1; taken > 0; --i) {
    if (kept > 0 && scores[kept - 1] < CandidateScore(keys[taken - 1])) {
      --kept;
      scores[i] = scores[kept];
      rows[i] = rows[kept];
    } else {
      --taken;
      scores[i] = CandidateScore(keys[taken]);
      rows[i] = first_row + CandidateRow(keys[taken]);
    }
  }
}

}  // namespace lintf
