// SPDX-License-Identifier: Apache-2.0
#include "custom_ops/core/top_k.h"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <functional>
#include <limits>
#include <random>
#include <utility>
#include <vector>

#include "custom_ops/core/testing.h"

namespace lintf {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();

bool SameBits(float a, float b) {
  return std::memcmp(&a, &b, sizeof(float)) == 0;
}

void TestKeysKeepScoresAndRows() {
  const std::vector<float> scores = {0.0f,      1.0f,      -1.0f,  1e-45f,
                                     -1e-45f,   3e38f,     -3e38f, 1.5f,
                                     kInfinity, -kInfinity};
  for (float score : scores) {
    for (uint32_t row : {0u, 1u, 12345u, 0xFFFFFFFEu}) {
      const uint64_t key = CandidateKey(score, row);
      CHECK_THAT(SameBits(CandidateScore(key), score)) << score;
      CHECK_THAT(CandidateRow(key) == row) << row;
      CHECK_THAT(key != 0);
    }
  }
}

void TestKeysOrderByScoreThenLowerRow() {
  const std::vector<float> ascending = {-kInfinity, -3e38f,   -1.0f, -1e-45f,
                                        0.0f,       1e-45f,   1.0f,  1.5f,
                                        3e38f,      kInfinity};
  for (size_t i = 0; i + 1 < ascending.size(); ++i) {
    CHECK_THAT(CandidateKey(ascending[i], 0) <
               CandidateKey(ascending[i + 1], 0xFFFFFFFEu))
        << ascending[i];
    CHECK_THAT(CandidateKey(ascending[i], 7) > CandidateKey(ascending[i], 8));
  }
}

void TestKeysOfEqualScoresAgree() {
  CHECK_THAT(CandidateKey(-0.0f, 3) == CandidateKey(0.0f, 3));
  CHECK_THAT(!std::signbit(CandidateScore(CandidateKey(-0.0f, 3))));
  const float nan = std::numeric_limits<float>::quiet_NaN();
  CHECK_THAT(CandidateKey(nan, 3) == CandidateKey(-kInfinity, 3));
  CHECK_THAT(CandidateKey(-nan, 3) == CandidateKey(-kInfinity, 3));
}

// The k greatest of a slot's keys, in descending order.
std::vector<uint64_t> Best(const TopKCollector& collector, int64_t slot,
                           int64_t k) {
  std::vector<uint64_t> keys(collector.keys(slot),
                             collector.keys(slot) + collector.num_keys(slot));
  SortTopK(k, &keys);
  return keys;
}

// Feeds a collector as kernels do: only what is a hit by the thresholds.
void TestCollectorKeepsTheBest() {
  std::mt19937 random(11);
  for (int64_t k : {1, 2, 10, 63, 64, 65, 1000}) {
    for (int64_t rows : {0, 1, 50, 1000, 5000}) {
      constexpr int64_t kSlots = 16;
      std::vector<bool> used(kSlots, true);
      used[3] = false;
      used[15] = false;
      TopKCollector collector(used, k);
      std::vector<std::vector<uint64_t>> all(kSlots);
      for (int64_t row = 0; row < rows; ++row) {
        float scores[kSlots];
        uint32_t hits = 0;
        for (int64_t slot = 0; slot < kSlots; ++slot) {
          // Few distinct values, so that most scores tie; some NaN and -0.
          const uint32_t draw = random() % 50;
          scores[slot] = draw == 0   ? std::nanf("")
                         : draw == 1 ? -0.0f
                                     : static_cast<float>(draw % 25) - 2.0f;
          if (!used[slot]) continue;
          all[slot].push_back(
              CandidateKey(scores[slot], static_cast<uint32_t>(row)));
          if (!(scores[slot] <= collector.thresholds()[slot])) {
            hits |= 1u << slot;
          }
        }
        collector.AddSlotHits(0, hits, scores, static_cast<uint32_t>(row));
      }
      for (int64_t slot = 0; slot < kSlots; ++slot) {
        SortTopK(k, &all[slot]);
        CHECK_THAT(Best(collector, slot, k) == all[slot])
            << "k " << k << " rows " << rows << " slot " << slot;
      }
    }
  }
}

void TestRowHitsAreSlotHits() {
  std::mt19937 random(12);
  const std::vector<bool> used(2, true);
  TopKCollector by_row(used, 5);
  TopKCollector by_slot(used, 5);
  for (uint32_t first = 0; first < 2000; first += 16) {
    float scores[16];
    uint32_t rows[16];
    for (uint32_t i = 0; i < 16; ++i) {
      scores[i] = static_cast<float>(random() % 1000);
      rows[i] = first + i;
    }
    const uint32_t hits = random() & 0xFFFFu;
    by_row.AddRowHits(1, hits, scores, rows);
    for (uint32_t i = 0; i < 16; ++i) {
      if ((hits >> i & 1) != 0) by_slot.AddSlotHits(1, 1, scores + i, rows[i]);
    }
  }
  CHECK_THAT(by_row.num_keys(0) == 0);
  CHECK_THAT(Best(by_row, 1, 5) == Best(by_slot, 1, 5));
  CHECK_THAT(Best(by_row, 1, 5).size() == 5);
}

void TestThresholdsLetAllInUntilFull() {
  const std::vector<bool> used = {true, false};
  TopKCollector collector(used, 3);
  CHECK_THAT(std::isnan(collector.thresholds()[0]));
  CHECK_THAT(collector.thresholds()[1] == kInfinity);
  for (uint32_t row = 0; row < 1000; ++row) {
    const float score = static_cast<float>(row);
    collector.AddSlotHits(0, 1, &score, row);
  }
  // At least the third best of all but the last few, at most of all.
  CHECK_THAT(collector.thresholds()[0] > 800.0f);
  CHECK_THAT(collector.thresholds()[0] <= 997.0f);
}

void TestSortTopK() {
  std::vector<uint64_t> keys = {5, 9, 1, 7};
  SortTopK(3, &keys);
  CHECK_THAT((keys == std::vector<uint64_t>{9, 7, 5}));
  keys = {5, 9};
  SortTopK(3, &keys);
  CHECK_THAT((keys == std::vector<uint64_t>{9, 5}));
  keys.clear();
  SortTopK(3, &keys);
  CHECK_THAT(keys.empty());
  // Sizes on both sides of where the way of sorting changes, with digits that
  // all keys share and keys that share the high half.
  std::mt19937_64 random(14);
  for (size_t size : {2047, 2048, 2049, 20000}) {
    for (uint64_t mask : {~uint64_t{0}, uint64_t{0xFF00FF0000FFFFFF}}) {
      keys.resize(size);
      for (uint64_t& key : keys) key = random() & mask;
      std::vector<uint64_t> expected = keys;
      std::sort(expected.begin(), expected.end(), std::greater<uint64_t>());
      expected.resize(std::min<size_t>(size, 3000));
      SortTopK(3000, &keys);
      CHECK_THAT(keys == expected) << size;
    }
  }
}

}  // namespace
}  // namespace lintf

int main() {
  lintf::TestKeysKeepScoresAndRows();
  lintf::TestKeysOrderByScoreThenLowerRow();
  lintf::TestKeysOfEqualScoresAgree();
  lintf::TestCollectorKeepsTheBest();
  lintf::TestRowHitsAreSlotHits();
  lintf::TestThresholdsLetAllInUntilFull();
  lintf::TestSortTopK();
  return lintf::testing::Result();
}
