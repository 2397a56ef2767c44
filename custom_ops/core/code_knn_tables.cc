// SPDX-License-Identifier: Apache-2.0
#include "custom_ops/core/code_knn_tables.h"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <vector>

#include "custom_ops/core/float_environment.h"
#include "custom_ops/core/sign_oporp.h"

namespace lintf {
namespace {

double Magnitude(float sample) {
  if (std::isnan(sample)) return 0.0;
  return std::min<double>(std::fabs(sample), std::numeric_limits<float>::max());
}

// What the value `bits` of a nibble adds, given the query's own bits there.
double Agreement(const float* samples, int own, int bits) {
  double sum = 0.0;
  for (int i = 0; i < 4; ++i) {
    if (((own ^ bits) >> i & 1) == 0) sum += 2.0 * Magnitude(samples[i]);
  }
  return sum;
}

}  // namespace

CodeQuery MakeCodeQuery(const float* samples, int64_t words,
                        CodeScoring scoring) {
  const ScopedFloatEnvironment environment;
  CodeQuery query;
  query.code.resize(words);
  EncodeSamples(samples, words, query.code.data());
  const int64_t nibbles = words * kNibblesOfWord;
  const auto own = [&](int64_t n) {
    return static_cast<int>(
        query.code[n / kNibblesOfWord] >> (4 * (n % kNibblesOfWord)) & 15);
  };
  query.table.resize(nibbles * kNibbleValues);
  if (scoring == CodeScoring::kSymmetric) {
    for (int64_t n = 0; n < nibbles; ++n) {
      for (int bits = 0; bits < kNibbleValues; ++bits) {
        query.table[n * kNibbleValues + bits] =
            static_cast<uint8_t>(4 - __builtin_popcount(own(n) ^ bits));
      }
    }
    query.max_score = static_cast<uint32_t>(64 * words);
    return query;
  }
  double most = 0.0;
  for (int64_t n = 0; n < nibbles; ++n) {
    most = std::max(most, Agreement(samples + 4 * n, own(n), own(n)));
  }
  const double scale = most == 0.0 ? 0.0 : kAsymmetricLevels / most;
  for (int64_t n = 0; n < nibbles; ++n) {
    uint32_t best = 0;
    for (int bits = 0; bits < kNibbleValues; ++bits) {
      const double level =
          std::floor(Agreement(samples + 4 * n, own(n), bits) * scale + 0.5);
      query.table[n * kNibbleValues + bits] = static_cast<uint8_t>(level);
      best = std::max(best, static_cast<uint32_t>(level));
    }
    query.max_score += best;
  }
  query.step = most / kAsymmetricLevels;
  for (int64_t i = 0; i < 64 * words; ++i) {
    query.offset -= Magnitude(samples[i]);
  }
  return query;
}

}  // namespace lintf
