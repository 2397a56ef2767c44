// SPDX-License-Identifier: Apache-2.0
// Samples and codes of the GPU against the CPU's: the same bits.
#include "custom_ops/core/gpu_sign_oporp.h"

#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <random>
#include <vector>

#include "custom_ops/core/gpu_testing.h"
#include "custom_ops/core/testing.h"

namespace lintf::gpu {
namespace {

using Random = std::mt19937_64;

std::vector<float> RandomVectors(int64_t count, Random* random) {
  std::normal_distribution<float> normal;
  std::vector<float> values(count);
  for (float& value : values) {
    value = normal(*random);
    switch ((*random)() % 8) {
      case 0:  // sums that round
        value = std::ldexp(value, static_cast<int>((*random)() % 40));
        break;
      case 1:  // denormals
        value = std::ldexp(value, -140);
        break;
      case 2:
        value = -0.0f;
        break;
      default:
        break;
    }
  }
  return values;
}

void Check(const OporpConfig& config, int64_t count, Random* random) {
  CHECK_THAT(CheckOporpConfig(config).empty()) << CheckOporpConfig(config);
  const SignOporp oporp(config);
  const std::vector<float> vectors = RandomVectors(count * config.dim, random);
  std::vector<float> samples(count * config.bits());
  std::vector<uint64_t> codes(count * config.words());
  oporp.ProjectBatch(vectors.data(), count, samples.data());
  oporp.EncodeBatch(vectors.data(), count, codes.data());

  const DeviceArray<float> device_vectors(vectors);
  DeviceArray<float> device_samples(count * config.bits());
  DeviceArray<uint64_t> device_codes(count * config.words());
  TestContext context;
  ProjectBatch(oporp, device_vectors.data(), count, &context,
               device_samples.data());
  EncodeBatch(oporp, device_vectors.data(), count, &context,
              device_codes.data());
  CHECK_THAT(context.Finish());
  const std::vector<float> got = device_samples.ToHost();
  CHECK_THAT(samples.empty() ||
             std::memcmp(got.data(), samples.data(),
                         samples.size() * sizeof(float)) == 0)
      << "dim " << config.dim << " bins " << config.bins << " repeats "
      << config.repeats << " count " << count;
  CHECK_THAT(device_codes.ToHost() == codes);
}

void TestShapes() {
  Random random(1);
  const OporpConfig kConfigs[] = {
      {64, 64, 1, 5},  {128, 16, 8, 6}, {100, 32, 2, 7},   {7, 4, 16, 8},
      {300, 48, 4, 9}, {33, 16, 4, 10}, {130, 64, 64, 11}, {2, 1, 64, 12},
  };
  for (const OporpConfig& config : kConfigs) {
    for (const int64_t count : {0, 1, 7, 8, 9, 100}) {
      Check(config, count, &random);
    }
  }
}

// Vectors that shared memory does not hold eight of.
void TestLongVectors() {
  Random random(2);
  Check({9001, 64, 1, 3}, 11, &random);
}

void TestNotANumber() {
  const OporpConfig config = {64, 64, 1, 4};
  const SignOporp oporp(config);
  std::vector<float> vector(64, std::numeric_limits<float>::quiet_NaN());
  vector[5] = std::numeric_limits<float>::infinity();
  std::vector<uint64_t> code(1);
  oporp.Encode(vector.data(), code.data());
  const DeviceArray<float> device_vector(vector);
  DeviceArray<uint64_t> device_code(1);
  TestContext context;
  EncodeBatch(oporp, device_vector.data(), 1, &context, device_code.data());
  CHECK_THAT(context.Finish());
  CHECK_THAT(device_code.ToHost() == code);
}

}  // namespace
}  // namespace lintf::gpu

int main() {
  lintf::gpu::UnderEachSchedule(lintf::gpu::TestShapes);
  lintf::gpu::TestLongVectors();
  lintf::gpu::TestNotANumber();
  return lintf::testing::Result();
}
