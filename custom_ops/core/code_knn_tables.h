// SPDX-License-Identifier: Apache-2.0
// What a query is turned into for a search by codes: the score that each value
// of four neighbouring bits of a row's code adds.
#ifndef LINTF_CUSTOM_OPS_CORE_CODE_KNN_TABLES_H_
#define LINTF_CUSTOM_OPS_CORE_CODE_KNN_TABLES_H_

#include <algorithm>
#include <cstdint>
#include <limits>
#include <vector>

#include "custom_ops/core/code_knn.h"

namespace lintf {

inline constexpr int kNibblesOfWord = 16;
inline constexpr int kNibbleValues = 16;
// The greatest entry of an asymmetric table: four of them fit a byte.
inline constexpr int kAsymmetricLevels = 63;

struct CodeQuery {
  // [words, kNibblesOfWord, kNibbleValues]: nibble n of word w is its bits
  // 4n to 4n + 3.
  std::vector<uint8_t> table;
  std::vector<uint64_t> code;  // [words]
  uint32_t max_score = 0;      // no row scores more
  // The reported score of an integer score.
  double step = 1.0;
  double offset = 0.0;

  // Finite: beyond what a float holds it is the greatest one.
  float Reported(uint32_t score) const {
    constexpr double kMost = std::numeric_limits<float>::max();
    return static_cast<float>(
        std::clamp(offset + step * static_cast<double>(score), -kMost, kMost));
  }
};

CodeQuery MakeCodeQuery(const float* samples, int64_t words,
                        CodeScoring scoring);

}  // namespace lintf

#endif  // LINTF_CUSTOM_OPS_CORE_CODE_KNN_TABLES_H_
