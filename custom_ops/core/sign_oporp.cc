// SPDX-License-Identifier: Apache-2.0
#include "custom_ops/core/sign_oporp.h"

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

// `transposed` is [dim, kLanes]; `samples` becomes [bits, kLanes]. Forced
// inline, so that it is compiled once for each instruction set.
__attribute__((always_inline)) inline void ProjectLanes(const Places& places,
                                                        const float* transposed,
                                                        float* samples) {
  for (int64_t s = 0; s < places.bits; ++s) {
    float sums[kLanes] = {};
    for (int64_t p = places.begin[s]; p < places.begin[s + 1]; ++p) {
      const float* values = transposed + places.coordinates[p] * kLanes;
      const float sign = places.signs[p];
      for (int64_t i = 0; i < kLanes; ++i) sums[i] += sign * values[i];
    }
    for (int64_t i = 0; i < kLanes; ++i) samples[s * kLanes + i] = sums[i];
  }
}

void ProjectLanesPlain(const Places& places, const float* transposed,
                       float* samples) {
  ProjectLanes(places, transposed, samples);
}

#if defined(__x86_64__) && defined(__GNUC__)
__attribute__((target("avx2"))) void ProjectLanesAvx2(const Places& places,
                                                      const float* transposed,
                                                      float* samples) {
  ProjectLanes(places, transposed, samples);
}
#endif

using ProjectLanesFunction = void (*)(const Places&, const float*, float*);

ProjectLanesFunction BestProjectLanes() {
#if defined(__x86_64__) && defined(__GNUC__)
  static const bool has_avx2 = __builtin_cpu_supports("avx2");
  if (has_avx2) return ProjectLanesAvx2;
#endif
  return ProjectLanesPlain;
}

// Calls use(first, count, samples) for groups of `count` <= kLanes vectors from
// vector `first` on; `samples` is [bits, kLanes].
template <typename Use>
void ForEachGroup(const Places& places, const float* vectors, int64_t count,
                  int64_t dim, const Use& use) {
  const ScopedFloatEnvironment environment;
  const ProjectLanesFunction project = BestProjectLanes();
  std::vector<float> transposed(dim * kLanes);
  std::vector<float> samples(places.bits * kLanes);
  for (int64_t first = 0; first < count; first += kLanes) {
    const int64_t lanes = std::min(kLanes, count - first);
    for (int64_t i = 0; i < lanes; ++i) {
      const float* vector = vectors + (first + i) * dim;
      for (int64_t d = 0; d < dim; ++d) transposed[d * kLanes + i] = vector[d];
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
  ForEachGroup(places, vectors, count, config_.dim,
               [&](int64_t first, int64_t lanes, const float* lane_samples) {
                 for (int64_t i = 0; i < lanes; ++i) {
                   float* out = samples + (first + i) * bits;
                   for (int64_t s = 0; s < bits; ++s) {
                     out[s] = lane_samples[s * kLanes + i];
                   }
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
      [&](int64_t first, int64_t lanes, const float* lane_samples) {
        for (int64_t w = 0; w < words; ++w) {
          uint64_t lane_words[kLanes] = {};
          for (int64_t bit = 0; bit < 64; ++bit) {
            const float* values = lane_samples + (w * 64 + bit) * kLanes;
            for (int64_t i = 0; i < kLanes; ++i) {
              lane_words[i] |= static_cast<uint64_t>(values[i] >= 0.0f) << bit;
            }
          }
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
