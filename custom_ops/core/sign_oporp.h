// SPDX-License-Identifier: Apache-2.0
// Sign-OPORP: 1-bit codes from one permutation and one random projection
// (arXiv 2302.03505; LiNR, arXiv 2407.13218).
//
// One repeat permutes the coordinates of a vector, multiplies each by a random
// sign, cuts the result into `bins` bins and sums each of them. That gives
// `bins` samples; sample i of repeat r is bit r * bins + i of the code, set
// where the sample is >= 0. Each repeat has its own permutation and signs.
//
// Bin i takes the permuted places [i * dim / bins, (i + 1) * dim / bins)
// (rounded down): bins of one length where `bins` divides `dim`, as in the
// paper, and of two lengths that differ by one otherwise. (Zeros appended up
// to a multiple of `bins` would leave some bins with nothing but zeros.)
//
// With bins == dim a repeat is the signs of the coordinates in another order,
// so that more than one of them adds nothing.
//
// The random numbers, one stream for all repeats: SplitMix64, whose state
// starts as `seed`. A draw adds 0x9E3779B97F4A7C15 to the state and returns
// x ^ (x >> 31), where x = (y ^ (y >> 27)) * 0x94D049BB133111EB and
// y = (state ^ (state >> 30)) * 0xBF58476D1CE4E5B9. A number below n is
// draw % n of the first draw that is below the greatest multiple of n up to
// 2^64. For each repeat: the permutation p starts as the identity; for i from
// dim - 1 down to 1, p[i] and p[a number below i + 1] change places; then for
// each place in ascending order a draw, whose top bit says minus. Place j holds
// coordinate p[j]. So a code with more repeats begins with the code of fewer.
#ifndef LINTF_CUSTOM_OPS_CORE_SIGN_OPORP_H_
#define LINTF_CUSTOM_OPS_CORE_SIGN_OPORP_H_

#include <cstdint>
#include <string>
#include <vector>

namespace lintf {

// Longer codes would overflow the 16 bits of a score in code_knn.h.
inline constexpr int64_t kMaxCodeBits = 4096;

struct OporpConfig {
  int64_t dim = 0;
  int64_t bins = 0;     // 1 to dim
  int64_t repeats = 0;  // bins * repeats is a multiple of 64
  uint64_t seed = 0;

  int64_t bits() const { return bins * repeats; }
  int64_t words() const { return bits() / 64; }
};

// What is wrong with a config, for the person who wrote it; empty if nothing.
std::string CheckOporpConfig(const OporpConfig& config);

// Immutable once made, so that many threads may share one. Results do not
// depend on the caller's floating-point mode.
class SignOporp {
 public:
  // `config` has passed CheckOporpConfig.
  explicit SignOporp(const OporpConfig& config);

  const OporpConfig& config() const { return config_; }
  // The places of all repeats, one after another: [repeats * dim] coordinates
  // and signs, 1 or -1. Those of sample s are [begin()[s], begin()[s + 1]).
  const std::vector<int32_t>& coordinates() const { return coordinates_; }
  const std::vector<float>& signs() const { return signs_; }
  const std::vector<int64_t>& begin() const { return begin_; }

  // The samples of a vector [dim]: [bits]. Summed in float32, from 0, over the
  // places of the bin in ascending order.
  void Project(const float* vector, float* samples) const;

  // The code of a vector [dim]: [words], bit b in bit b % 64 of word b / 64.
  void Encode(const float* vector, uint64_t* code) const;

  // The same of vectors [count, dim], much faster: samples [count, bits],
  // codes [count, words].
  void ProjectBatch(const float* vectors, int64_t count, float* samples) const;
  void EncodeBatch(const float* vectors, int64_t count, uint64_t* codes) const;

 private:
  OporpConfig config_;
  std::vector<int32_t> coordinates_;
  std::vector<float> signs_;
  std::vector<int64_t> begin_;  // [bits + 1]
};

// The code [words] of samples [64 * words].
void EncodeSamples(const float* samples, int64_t words, uint64_t* code);

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
