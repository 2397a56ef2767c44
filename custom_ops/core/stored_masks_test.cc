// SPDX-License-Identifier: Apache-2.0
#include "custom_ops/core/stored_masks.h"

#include <cstdint>
#include <memory>
#include <random>
#include <thread>
#include <vector>

#include "custom_ops/core/bool_masks.h"
#include "custom_ops/core/testing.h"

namespace lintf {
namespace {

// Every task on a thread of its own.
Parallel Threads() {
  Parallel parallel;
  parallel.num_threads = 4;
  parallel.run = [](int64_t num_tasks, const Parallel::Work& work) {
    std::vector<std::thread> threads;
    for (int64_t task = 0; task < num_tasks; ++task) {
      threads.emplace_back([&work, task] { work(task); });
    }
    for (std::thread& thread : threads) thread.join();
  };
  return parallel;
}

// A mask of no rows, one of all, and some in between.
void SaysWhatItsSourceSays(int64_t num_rows, int64_t max_bytes) {
  std::mt19937 random(3);
  constexpr int64_t kMasks = 4;
  const auto mask = std::make_unique<bool[]>(kMasks * num_rows + 1);
  for (int64_t i = 0; i < kMasks * num_rows; ++i) {
    mask[i] = i >= 3 * num_rows || (i >= num_rows && random() % 5 == 0);
  }
  const BoolMasks source(mask.get(), kMasks, num_rows);
  const StoredMasks stored(source, num_rows, max_bytes, Threads());
  CHECK_THAT(stored.num_masks() == kMasks);
  std::vector<uint64_t> expected(num_rows / kRowsPerWord + 2);
  std::vector<uint64_t> bits(expected.size());
  for (int64_t m = 0; m < kMasks; ++m) {
    int64_t passing = 0;
    for (int64_t i = 0; i < num_rows; ++i) passing += mask[m * num_rows + i];
    CHECK_THAT(stored.passing(m) == passing) << num_rows << " mask " << m;
    CHECK_THAT(stored.PassesAll(m) == (passing == num_rows)) << num_rows;
    for (int64_t begin = 0; begin < num_rows; begin += 7 * kRowsPerWord) {
      for (int64_t end : {begin + 1, (begin + num_rows) / 2, num_rows}) {
        if (end <= begin) continue;
        const int64_t words = (end - begin + kRowsPerWord - 1) / kRowsPerWord;
        const int64_t count = source.Fill(m, begin, end, expected.data());
        CHECK_THAT(stored.Fill(m, begin, end, bits.data()) == count);
        for (int64_t w = 0; w < words; ++w) {
          CHECK_THAT(bits[w] == expected[w])
              << num_rows << " mask " << m << " " << begin << " to " << end;
        }
      }
    }
  }
}

}  // namespace
}  // namespace lintf

int main() {
  for (int64_t num_rows : {0, 1, 63, 64, 65, 1000, 70000, 200001}) {
    lintf::SaysWhatItsSourceSays(num_rows, int64_t{1} << 30);
    lintf::SaysWhatItsSourceSays(num_rows, /*max_bytes=*/0);
  }
  return lintf::testing::Result();
}
