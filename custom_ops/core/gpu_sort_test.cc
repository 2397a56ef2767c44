// SPDX-License-Identifier: Apache-2.0
#include "custom_ops/core/gpu_sort.h"

#include <algorithm>
#include <cstdint>
#include <functional>
#include <numeric>
#include <random>
#include <utility>
#include <vector>

#include "custom_ops/core/gpu_testing.h"
#include "custom_ops/core/testing.h"

namespace lintf::gpu {
namespace {

constexpr int64_t kCounts[] = {0, 1, 2, 31, 33, 1000, 4096, 100003};

template <typename T>
void TestExclusiveSum(uint64_t most) {
  std::mt19937_64 random(5);
  for (const int64_t count : kCounts) {
    std::vector<T> values(count);
    for (T& value : values) value = static_cast<T>(random() % most);
    std::vector<T> expected(count);
    T total = 0;
    for (int64_t i = 0; i < count; ++i) {
      expected[i] = total;
      total += values[i];
    }
    TestContext context;
    DeviceArray<T> device(values);
    DeviceArray<T> sums(count);
    ExclusiveSum(device.data(), count, &context, sums.data());
    // In place too.
    ExclusiveSum(device.data(), count, &context, device.data());
    CHECK_THAT(context.Finish());
    CHECK_THAT(sums.ToHost() == expected) << count;
    CHECK_THAT(device.ToHost() == expected) << count;
  }
}

void TestSortDescending() {
  std::mt19937_64 random(6);
  for (const int64_t count : kCounts) {
    for (const bool few : {false, true}) {
      std::vector<uint64_t> keys(count);
      for (uint64_t& key : keys) key = few ? random() % 3 - 1 : random();
      std::vector<uint64_t> expected = keys;
      std::sort(expected.begin(), expected.end(), std::greater<>());
      TestContext context;
      const DeviceArray<uint64_t> device(keys);
      DeviceArray<uint64_t> sorted(count);
      SortDescending(device.data(), count, &context, sorted.data());
      CHECK_THAT(context.Finish());
      CHECK_THAT(sorted.ToHost() == expected) << count;
    }
  }
}

void TestStableSortDescending() {
  std::mt19937_64 random(7);
  for (const int64_t count : kCounts) {
    for (const int bits : {1, 7, 10, 16}) {
      std::vector<uint16_t> keys(count);
      std::vector<uint32_t> values(count);
      for (uint16_t& key : keys) key = static_cast<uint16_t>(random());
      for (uint32_t& value : values) value = static_cast<uint32_t>(random());
      const uint32_t mask = (1u << bits) - 1;
      std::vector<std::pair<uint16_t, uint32_t>> expected(count);
      for (int64_t i = 0; i < count; ++i) expected[i] = {keys[i], values[i]};
      std::stable_sort(expected.begin(), expected.end(),
                       [mask](const auto& a, const auto& b) {
                         return (a.first & mask) > (b.first & mask);
                       });
      TestContext context;
      const DeviceArray<uint16_t> device_keys(keys);
      const DeviceArray<uint32_t> device_values(values);
      DeviceArray<uint16_t> sorted_keys(count);
      DeviceArray<uint32_t> sorted_values(count);
      StableSortDescending(device_keys.data(), device_values.data(), count,
                           bits, &context, sorted_keys.data(),
                           sorted_values.data());
      CHECK_THAT(context.Finish());
      const std::vector<uint16_t> got_keys = sorted_keys.ToHost();
      const std::vector<uint32_t> got_values = sorted_values.ToHost();
      int64_t wrong = 0;
      for (int64_t i = 0; i < count; ++i) {
        wrong += got_keys[i] != expected[i].first ||
                 got_values[i] != expected[i].second;
      }
      CHECK_THAT(wrong == 0) << count << " " << bits;
    }
  }
}

// After an error nothing is written.
void TestAfterAnError() {
  TestContext context;
  context.Fail("no");
  DeviceArray<uint64_t> keys(std::vector<uint64_t>{1, 2, 3});
  DeviceArray<uint64_t> sorted(std::vector<uint64_t>{7, 7, 7});
  SortDescending(keys.data(), 3, &context, sorted.data());
  ExclusiveSum(keys.data(), 3, &context, sorted.data());
  CHECK_THAT(sorted.ToHost() == std::vector<uint64_t>(3, 7));
}

}  // namespace
}  // namespace lintf::gpu

int main() {
  using namespace lintf::gpu;
  TestExclusiveSum<uint32_t>(10000);
  TestExclusiveSum<uint64_t>(uint64_t{1} << 45);
  TestSortDescending();
  TestStableSortDescending();
  TestAfterAnError();
  return lintf::testing::Result();
}
