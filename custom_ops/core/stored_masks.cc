// SPDX-License-Identifier: Apache-2.0
#include "custom_ops/core/stored_masks.h"

#include <algorithm>
#include <atomic>
#include <memory>

namespace lintf {
namespace {

// Rows that a thread evaluates at a time.
constexpr int64_t kTaskRows = 1 << 16;

int64_t CountBits(const uint64_t* bits, int64_t words) {
  int64_t count = 0;
  for (int64_t w = 0; w < words; ++w) count += __builtin_popcountll(bits[w]);
  return count;
}

int64_t WordsOf(int64_t rows) {
  return (rows + kRowsPerWord - 1) / kRowsPerWord;
}

}  // namespace

StoredMasks::StoredMasks(const MaskSource& source, int64_t num_rows,
                         int64_t max_bytes, const Parallel& parallel)
    : source_(source),
      num_rows_(num_rows),
      words_(WordsOf(num_rows)),
      passing_(source.num_masks(), num_rows),
      offset_(source.num_masks(), -1) {
  std::vector<int64_t> evaluated;
  for (int64_t m = 0; m < source.num_masks(); ++m) {
    if (!source.PassesAll(m)) evaluated.push_back(m);
  }
  const int64_t count = static_cast<int64_t>(evaluated.size());
  if (count == 0 || num_rows == 0) return;
  const bool keep = words_ <= max_bytes / 8 / count;
  if (keep) {
    bits_.resize(count * words_);
    for (int64_t i = 0; i < count; ++i) offset_[evaluated[i]] = i * words_;
  }
  const int64_t tasks = (num_rows + kTaskRows - 1) / kTaskRows;
  const auto totals = std::make_unique<std::atomic<int64_t>[]>(count);
  parallel.run(tasks, [&](int64_t task) {
    const int64_t begin = task * kTaskRows;
    const int64_t end = std::min(begin + kTaskRows, num_rows);
    std::vector<uint64_t> scratch;
    if (!keep) scratch.resize(WordsOf(end - begin));
    for (int64_t i = 0; i < count; ++i) {
      uint64_t* const bits =
          keep ? bits_.data() + i * words_ + begin / kRowsPerWord
               : scratch.data();
      totals[i] += source.Fill(evaluated[i], begin, end, bits);
    }
  });
  for (int64_t i = 0; i < count; ++i) passing_[evaluated[i]] = totals[i];
}

bool StoredMasks::PassesAll(int64_t mask) const {
  return passing_[mask] == num_rows_;
}

int64_t StoredMasks::Fill(int64_t mask, int64_t begin, int64_t end,
                          uint64_t* bits) const {
  const int64_t words = WordsOf(end - begin);
  const int64_t last = (end - begin) % kRowsPerWord;
  if (PassesAll(mask)) {
    std::fill_n(bits, words, ~uint64_t{0});
    if (last != 0) bits[words - 1] >>= kRowsPerWord - last;
    return end - begin;
  }
  if (offset_[mask] < 0) return source_.Fill(mask, begin, end, bits);
  std::copy_n(bits_.data() + offset_[mask] + begin / kRowsPerWord, words, bits);
  if (last != 0) bits[words - 1] &= ~uint64_t{0} >> (kRowsPerWord - last);
  return CountBits(bits, words);
}

}  // namespace lintf
