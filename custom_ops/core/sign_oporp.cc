// SPDX-License-Identifier: Apache-2.0
#include "custom_ops/core/sign_oporp.h"

#ifdef __SSE2__
#include <xmmintrin.h>
#endif

#include <algorithm>
#include <cstdint>
#include <numeric>
#include <string>
#include <utility>
#include <vector>

#include "custom_ops/core/float_environment.h"

namespace lintf {
namespace {

class SplitMix64 {
 public:
  explicit SplitMix64(uint64_t seed) : state_(seed) {}

  uint64_t Draw() {
    state_ += 0x9E3779B97F4A7C15u;
    uint64_t x = state_;
    x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9u;
    x = (x ^ (x >> 27)) * 0x94D049BB133111EBu;
    return x ^ (x >> 31);
  }

  uint64_t Below(uint64_t n) {
    const uint64_t excess = (~uint64_t{0} % n + 1) % n;  // 2^64 % n
    for (;;) {
      const uint64_t draw = Draw();
      if (draw <= ~uint64_t{0} - excess) return draw % n;
    }
  }

 private:
  uint64_t state_;
};

// Vectors that are projected together, one in each lane of the inner loops.
constexpr int64_t kLanes = 16;

struct Places {
  const int32_t* coordinates;
  const float* signs;
  const int64_t* begin;
  int64_t bits;
};

// Samples of kLanes vectors.
struct alignas(64) LaneSamples {
  float lanes[kLanes];
};

#ifdef __GNUC__
// Eight lanes: one register, or what the compiler makes of it.
typedef float Eight __attribute__((vector_size(32), may_alias));

// `transposed` is [dim], `samples` becomes [bits]. Forced inline, so that it is
// compiled once for each instruction set.
__attribute__((always_inline)) inline void ProjectLanes(
    const Places& places, const LaneSamples* transposed, LaneSamples* samples) {
  for (int64_t s = 0; s < places.bits; ++s) {
    Eight low = {};
    Eight high = {};
    for (int64_t p = places.begin[s]; p < places.begin[s + 1]; ++p) {
      const Eight* values =
          reinterpret_cast<const Eight*>(transposed + places.coordinates[p]);
      const float sign = places.signs[p];
      low += sign * values[0];
      high += sign * values[1];
    }
    Eight* sums = reinterpret_cast<Eight*>(samples + s);
    sums[0] = low;
    sums[1] = high;
  }
}
#else
inline void ProjectLanes(const Places& places, const LaneSamples* transposed,
                         LaneSamples* samples) {
  for (int64_t s = 0; s < places.bits; ++s) {
    samples[s] = {};
    for (int64_t p = places.begin[s]; p < places.begin[s + 1]; ++p) {
      for (int64_t i = 0; i < kLanes; ++i) {
        samples[s].lanes[i] +=
            places.signs[p] * transposed[places.coordinates[p]].lanes[i];
      }
    }
  }
}
#endif

void ProjectLanesPlain(const Places& places, const LaneSamples* transposed,
                       LaneSamples* samples) {
  ProjectLanes(places, transposed, samples);
}

#if defined(__x86_64__) && defined(__GNUC__)
__attribute__((target("avx2"))) void ProjectLanesAvx2(
    const Places& places, const LaneSamples* transposed, LaneSamples* samples) {
  ProjectLanes(places, transposed, samples);
}
#endif

using ProjectLanesFunction = void (*)(const Places&, const LaneSamples*,
                                      LaneSamples*);

ProjectLanesFunction BestProjectLanes() {
#if defined(__x86_64__) && defined(__GNUC__)
  static const bool has_avx2 = __builtin_cpu_supports("avx2");
  if (has_avx2) return ProjectLanesAvx2;
#endif
  return ProjectLanesPlain;
}

// Bit i: sample i is >= 0.
uint32_t SignsOf(const LaneSamples& samples) {
  uint32_t signs = 0;
#ifdef __SSE2__
  for (int i = 0; i < kLanes; i += 4) {
    signs |= static_cast<uint32_t>(_mm_movemask_ps(_mm_cmpge_ps(
                 _mm_load_ps(samples.lanes + i), _mm_setzero_ps())))
             << i;
  }
#else
  for (int i = 0; i < kLanes; ++i) {
    signs |= static_cast<uint32_t>(samples.lanes[i] >= 0.0f) << i;
  }
#endif
  return signs;
}

// Bits 8i + j and 8j + i change places.
uint64_t TransposeBits(uint64_t x) {
  uint64_t swap = (x ^ (x >> 7)) & 0x00AA00AA00AA00AAu;
  x ^= swap ^ (swap << 7);
  swap = (x ^ (x >> 14)) & 0x0000CCCC0000CCCCu;
  x ^= swap ^ (swap << 14);
  swap = (x ^ (x >> 28)) & 0x00000000F0F0F0F0u;
  return x ^ swap ^ (swap << 28);
}

// A word of the codes of kLanes vectors, from 64 samples of each.
void PackWord(const LaneSamples* samples, uint64_t* words) {
  std::fill_n(words, kLanes, uint64_t{0});
  for (int byte = 0; byte < 8; ++byte) {
    // Byte j: the signs of sample j, of lanes 0 to 7 and of 8 to 15.
    uint64_t low = 0;
    uint64_t high = 0;
    for (int j = 0; j < 8; ++j) {
      const uint64_t signs = SignsOf(samples[8 * byte + j]);
      low |= (signs & 0xFF) << (8 * j);
      high |= (signs >> 8) << (8 * j);
    }
    low = TransposeBits(low);
    high = TransposeBits(high);
    for (int i = 0; i < 8; ++i) {
      words[i] |= (low >> (8 * i) & 0xFF) << (8 * byte);
      words[8 + i] |= (high >> (8 * i) & 0xFF) << (8 * byte);
    }
  }
}

// Calls use(first, count, samples) for groups of `count` <= kLanes vectors from
// vector `first` on; `samples` is [bits].
template <typename Use>
void ForEachGroup(const Places& places, const float* vectors, int64_t count,
                  int64_t dim, const Use& use) {
  const ScopedFloatEnvironment environment;
  const ProjectLanesFunction project = BestProjectLanes();
  std::vector<LaneSamples> transposed(dim);
  std::vector<LaneSamples> samples(places.bits);
  for (int64_t first = 0; first < count; first += kLanes) {
    const int64_t lanes = std::min(kLanes, count - first);
    for (int64_t i = 0; i < lanes; ++i) {
      const float* vector = vectors + (first + i) * dim;
      for (int64_t d = 0; d < dim; ++d) transposed[d].lanes[i] = vector[d];
    }
    project(places, transposed.data(), samples.data());
    use(first, lanes, samples.data());
  }
}

}  // namespace

std::string CheckOporpConfig(const OporpConfig& config) {
  const auto got = [](const char* name, int64_t value) {
    return std::string(name) + " = " + std::to_string(value);
  };
  if (config.dim < 1) {
    return "Sign-OPORP needs vectors of at least one dimension, got " +
           got("dim", config.dim) + ".";
  }
  if (config.bins < 1 || config.bins > config.dim) {
    return "Sign-OPORP needs bins from 1 to the dimension, " +
           std::to_string(config.dim) + ", got " + got("bins", config.bins) +
           "; for longer codes raise repeats.";
  }
  if (config.repeats < 1 || config.repeats > kMaxCodeBits / config.bins) {
    return "Codes have 64 to " + std::to_string(kMaxCodeBits) +
           " bits (bins * repeats), got " + got("bins", config.bins) + " and " +
           got("repeats", config.repeats) + ".";
  }
  if (config.bits() % 64 != 0) {
    return "Codes are stored in words of 64 bits: bins * repeats must be a "
           "multiple of 64, got " +
           std::to_string(config.bins) + " * " +
           std::to_string(config.repeats) + " = " +
           std::to_string(config.bits()) + ".";
  }
  if (config.bins == config.dim && config.repeats > 1) {
    return "With bins equal to the dimension, " + std::to_string(config.dim) +
           ", every repeat is the same bits in another order, so that " +
           got("repeats", config.repeats) +
           " adds nothing; take dim / 16 to dim / 2 bins and more repeats.";
  }
  return "";
}

SignOporp::SignOporp(const OporpConfig& config) : config_(config) {
  const int64_t dim = config.dim;
  SplitMix64 random(config.seed);
  std::vector<int32_t> permutation(dim);
  for (int64_t repeat = 0; repeat < config.repeats; ++repeat) {
    std::iota(permutation.begin(), permutation.end(), 0);
    for (int64_t i = dim - 1; i > 0; --i) {
      std::swap(permutation[i], permutation[random.Below(i + 1)]);
    }
    coordinates_.insert(coordinates_.end(), permutation.begin(),
                        permutation.end());
    for (int64_t i = 0; i < dim; ++i) {
      signs_.push_back(random.Draw() >> 63 != 0 ? -1.0f : 1.0f);
    }
    for (int64_t bin = 0; bin < config.bins; ++bin) {
      begin_.push_back(repeat * dim + bin * dim / config.bins);
    }
  }
  begin_.push_back(config.repeats * dim);
}

void SignOporp::Project(const float* vector, float* samples) const {
  const ScopedFloatEnvironment environment;
  for (int64_t s = 0; s < config_.bits(); ++s) {
    float sum = 0.0f;
    for (int64_t p = begin_[s]; p < begin_[s + 1]; ++p) {
      sum += signs_[p] * vector[coordinates_[p]];
    }
    samples[s] = sum;
  }
}

void SignOporp::Encode(const float* vector, uint64_t* code) const {
  std::vector<float> samples(config_.bits());
  Project(vector, samples.data());
  EncodeSamples(samples.data(), config_.words(), code);
}

void SignOporp::ProjectBatch(const float* vectors, int64_t count,
                             float* samples) const {
  const int64_t bits = config_.bits();
  const Places places = {coordinates_.data(), signs_.data(), begin_.data(),
                         bits};
  ForEachGroup(
      places, vectors, count, config_.dim,
      [&](int64_t first, int64_t lanes, const LaneSamples* lane_samples) {
        for (int64_t i = 0; i < lanes; ++i) {
          float* out = samples + (first + i) * bits;
          for (int64_t s = 0; s < bits; ++s) out[s] = lane_samples[s].lanes[i];
        }
      });
}

void SignOporp::EncodeBatch(const float* vectors, int64_t count,
                            uint64_t* codes) const {
  const int64_t words = config_.words();
  const Places places = {coordinates_.data(), signs_.data(), begin_.data(),
                         config_.bits()};
  ForEachGroup(
      places, vectors, count, config_.dim,
      [&](int64_t first, int64_t lanes, const LaneSamples* lane_samples) {
        for (int64_t w = 0; w < words; ++w) {
          uint64_t lane_words[kLanes];
          PackWord(lane_samples + 64 * w, lane_words);
          for (int64_t i = 0; i < lanes; ++i) {
            codes[(first + i) * words + w] = lane_words[i];
          }
        }
      });
}

void EncodeSamples(const float* samples, int64_t words, uint64_t* code) {
  for (int64_t w = 0; w < words; ++w) {
    uint64_t word = 0;
    for (int64_t bit = 0; bit < 64; ++bit) {
      word |= static_cast<uint64_t>(samples[w * 64 + bit] >= 0.0f) << bit;
    }
    code[w] = word;
  }
}

}  // namespace lintf
