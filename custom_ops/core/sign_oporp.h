// SPDX-License-Identifier: Apache-2.0
// Sign-OPORP: 1-bit codes from one permutation and one random projection
// (arXiv 2302.03505; LiNR, section 3.1.3 of arXiv 2407.13218).
//
// One repeat permutes the coordinates of a vector (padded by zeros to a
// multiple of `bins`), multiplies each by a random sign, cuts the result into
// `bins` bins of equal length and sums each of them. That gives `bins`
// samples; sample i of repeat r is bit r * bins + i of the code, set where the
// sample is >= 0. Each repeat has its own permutation and signs.
//
// With bins == dim a repeat is the signs of the coordinates in another order,
// so that more than one of them adds nothing.
#ifndef LINTF_CUSTOM_OPS_CORE_SIGN_OPORP_H_
#define LINTF_CUSTOM_OPS_CORE_SIGN_OPORP_H_

#include <cstdint>
#include <vector>

namespace lintf {

struct OporpConfig {
  int64_t dim = 0;
  int64_t bins = 0;     // 1 to dim
  int64_t repeats = 0;  // bins * repeats is a multiple of 64
  uint64_t seed = 0;

  int64_t bits() const { return bins * repeats; }
  int64_t words() const { return bits() / 64; }
};

class SignOporp {
 public:
  explicit SignOporp(const OporpConfig& config);

  const OporpConfig& config() const { return config_; }

  // The samples of a vector [dim]: [bits]. Summed in float32 over the bin in
  // ascending order of the permuted coordinates.
  void Project(const float* vector, float* samples) const;

  // The code of a vector [dim]: [words], bit b in bit b % 64 of word b / 64.
  void Encode(const float* vector, uint64_t* code) const;

 private:
  OporpConfig config_;
  int64_t bin_length_;
  // For each sample and each place of its bin: the coordinate, and its sign.
  std::vector<int32_t> coordinates_;  // -1: padding
  std::vector<float> signs_;
};

// The codes of an index are stored in blocks of 64 rows, word by word:
// [ceil(rows / 64), words, 64], so that a vector of neighbouring rows can be
// loaded for any word and one thread a row reads them coalesced.
inline constexpr int64_t kCodeBlockRows = 64;

inline int64_t CodeWordIndex(int64_t row, int64_t word, int64_t words) {
  return (row / kCodeBlockRows * words + word) * kCodeBlockRows +
         row % kCodeBlockRows;
}

}  // namespace lintf

#endif  // LINTF_CUSTOM_OPS_CORE_SIGN_OPORP_H_
