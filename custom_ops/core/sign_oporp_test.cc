// SPDX-License-Identifier: Apache-2.0
#include "custom_ops/core/sign_oporp.h"

#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <random>
#include <string>
#include <vector>

#ifdef __SSE2__
#include <xmmintrin.h>
#endif

#include "custom_ops/core/testing.h"

namespace lintf {
namespace {

using Random = std::mt19937_64;

OporpConfig Config(int64_t dim, int64_t bins, int64_t repeats, uint64_t seed) {
  OporpConfig config;
  config.dim = dim;
  config.bins = bins;
  config.repeats = repeats;
  config.seed = seed;
  return config;
}

std::vector<float> RandomVectors(int64_t count, int64_t dim, Random* random) {
  std::normal_distribution<float> normal;
  std::vector<float> vectors(count * dim);
  for (float& x : vectors) {
    // Zeros, and numbers that cancel, leave samples of exactly 0.
    const uint64_t kind = (*random)() % 4;
    x = kind == 0   ? 0.0f
        : kind == 1 ? static_cast<float>(static_cast<int>((*random)() % 3) - 1)
                    : normal(*random);
  }
  return vectors;
}

// From the same definition in numpy, tests/references/sign_oporp.py.
void TestKnownCode() {
  const SignOporp oporp(Config(10, 4, 16, 7));
  std::vector<float> vector;
  for (int i = 0; i < 10; ++i) {
    vector.push_back(static_cast<float>(i * i % 7) - 2.5f);
  }
  uint64_t code = 0;
  oporp.Encode(vector.data(), &code);
  CHECK_THAT(code == 0xB577D9EDFFFD1124u) << std::hex << code;
  std::vector<float> samples(64);
  oporp.Project(vector.data(), samples.data());
  CHECK_THAT((std::vector<float>(samples.begin(), samples.begin() + 6) ==
              std::vector<float>{-3.0f, -0.5f, 1.0f, -0.5f, -3.0f, 0.5f}));
}

// Each repeat sees every coordinate once: with a vector that is 2^i in
// coordinate i, the sizes and the disjointness of the bins show.
void TestEveryCoordinateIsInOneBinOfARepeat() {
  for (int64_t dim : {1, 2, 7, 20, 23}) {
    for (int64_t bins = 1; bins <= dim; ++bins) {
      const SignOporp oporp(Config(dim, bins, 64, 3));
      for (int64_t d = 0; d < dim; ++d) {
        std::vector<float> vector(dim, 0.0f);
        vector[d] = 1.0f;
        std::vector<float> samples(64 * bins);
        oporp.Project(vector.data(), samples.data());
        for (int64_t repeat = 0; repeat < 64; ++repeat) {
          float sum = 0.0f;
          for (int64_t i = 0; i < bins; ++i) {
            sum += std::fabs(samples[repeat * bins + i]);
          }
          CHECK_THAT(sum == 1.0f) << "dim " << dim << " bins " << bins;
        }
      }
      std::vector<int64_t> size(64 * bins);
      for (int64_t d = 0; d < dim; ++d) {
        std::vector<float> vector(dim, 0.0f);
        vector[d] = 1.0f;
        std::vector<float> samples(64 * bins);
        oporp.Project(vector.data(), samples.data());
        for (int64_t s = 0; s < 64 * bins; ++s) size[s] += samples[s] != 0.0f;
      }
      for (int64_t length : size) {
        CHECK_THAT(length == dim / bins || length == dim / bins + 1);
      }
    }
  }
}

void TestBatchesGiveTheSameBits() {
  Random random(11);
  const OporpConfig configs[] = {
      Config(50, 16, 8, 1),           Config(128, 128, 1, 2),
      Config(128, 8, 64, 3),          Config(33, 1, 64, 4),
      Config(7, 7, 64, ~uint64_t{0}), Config(1000, 32, 2, 5)};
  for (const OporpConfig& config : configs) {
    const SignOporp oporp(config);
    for (int64_t count : {0, 1, 15, 16, 17, 100}) {
      const std::vector<float> vectors =
          RandomVectors(count, config.dim, &random);
      std::vector<float> samples(count * config.bits(), 1e9f);
      std::vector<uint64_t> codes(count * config.words(), 12345);
      oporp.ProjectBatch(vectors.data(), count, samples.data());
      oporp.EncodeBatch(vectors.data(), count, codes.data());
      for (int64_t i = 0; i < count; ++i) {
        const float* vector = vectors.data() + i * config.dim;
        std::vector<float> alone(config.bits());
        oporp.Project(vector, alone.data());
        CHECK_THAT(std::memcmp(alone.data(), samples.data() + i * config.bits(),
                               alone.size() * sizeof(float)) == 0);
        std::vector<uint64_t> code(config.words());
        oporp.Encode(vector, code.data());
        for (int64_t bit = 0; bit < config.bits(); ++bit) {
          CHECK_THAT((code[bit / 64] >> (bit % 64) & 1) ==
                     static_cast<uint64_t>(alone[bit] >= 0.0f));
        }
        CHECK_THAT(std::memcmp(code.data(), codes.data() + i * config.words(),
                               code.size() * sizeof(uint64_t)) == 0);
      }
    }
  }
}

// TensorFlow's threads flush subnormals to zero.
void TestCallersFloatModeDoesNotMatter() {
#ifdef __SSE2__
  const SignOporp oporp(Config(64, 32, 2, 1));
  const std::vector<float> vector(64, -1e-41f);
  std::vector<float> expected(64);
  oporp.Project(vector.data(), expected.data());
  CHECK_THAT(expected[0] != 0.0f || expected[1] != 0.0f);
  const unsigned int saved = _mm_getcsr();
  _mm_setcsr(saved | 0x8040u);
  std::vector<float> samples(64);
  oporp.Project(vector.data(), samples.data());
  std::vector<float> batch(64);
  oporp.ProjectBatch(vector.data(), 1, batch.data());
  _mm_setcsr(saved);
  CHECK_THAT(samples == expected);
  CHECK_THAT(batch == expected);
#endif
}

void TestMoreRepeatsExtendACode() {
  Random random(5);
  const std::vector<float> vector = RandomVectors(1, 40, &random);
  uint64_t few[2];
  uint64_t many[6];
  SignOporp(Config(40, 8, 16, 9)).Encode(vector.data(), few);
  SignOporp(Config(40, 8, 48, 9)).Encode(vector.data(), many);
  CHECK_THAT(few[0] == many[0] && few[1] == many[1]);
}

void TestConfigsAreChecked() {
  CHECK_THAT(CheckOporpConfig(Config(128, 16, 32, 0)).empty());
  CHECK_THAT(CheckOporpConfig(Config(128, 128, 1, 0)).empty());
  CHECK_THAT(CheckOporpConfig(Config(128, 1, 4096, 0)).empty());
  const auto refused = [](const OporpConfig& config, const char* part) {
    const std::string message = CheckOporpConfig(config);
    CHECK_THAT(message.find(part) != std::string::npos) << message;
  };
  refused(Config(0, 1, 64, 0), "dim = 0");
  refused(Config(128, 0, 64, 0), "bins = 0");
  refused(Config(128, 129, 64, 0), "bins = 129");
  refused(Config(128, 64, 0, 0), "repeats = 0");
  refused(Config(128, 64, 65, 0), "4096");
  refused(Config(128, 64, std::numeric_limits<int64_t>::max(), 0), "4096");
  refused(Config(50, 16, 3, 0), "16 * 3 = 48");
  refused(Config(128, 128, 2, 0), "adds nothing");
}

}  // namespace
}  // namespace lintf

int main() {
  lintf::TestKnownCode();
  lintf::TestEveryCoordinateIsInOneBinOfARepeat();
  lintf::TestBatchesGiveTheSameBits();
  lintf::TestCallersFloatModeDoesNotMatter();
  lintf::TestMoreRepeatsExtendACode();
  lintf::TestConfigsAreChecked();
  return lintf::testing::Result();
}
