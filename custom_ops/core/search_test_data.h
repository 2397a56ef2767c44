// SPDX-License-Identifier: Apache-2.0
// What the tests of searches share: masks of bools, and threads.
#ifndef LINTF_CUSTOM_OPS_CORE_SEARCH_TEST_DATA_H_
#define LINTF_CUSTOM_OPS_CORE_SEARCH_TEST_DATA_H_

#include <atomic>
#include <cstdint>
#include <thread>
#include <utility>
#include <vector>

#include "custom_ops/core/mask_source.h"
#include "custom_ops/core/parallel.h"
#include "custom_ops/core/testing.h"

namespace lintf {

// Masks as vectors of bools; an empty one passes every row.
class VectorMasks : public MaskSource {
 public:
  explicit VectorMasks(std::vector<std::vector<bool>> masks)
      : masks_(std::move(masks)) {}
  int64_t num_masks() const override {
    return static_cast<int64_t>(masks_.size());
  }
  bool PassesAll(int64_t mask) const override { return masks_[mask].empty(); }
  int64_t Fill(int64_t mask, int64_t begin, int64_t end,
               uint64_t* bits) const override {
    CHECK_THAT(begin % kRowsPerWord == 0 && begin < end);
    CHECK_THAT(!PassesAll(mask));
    int64_t count = 0;
    for (int64_t row = begin; row < end; ++row) {
      uint64_t* word = bits + (row - begin) / kRowsPerWord;
      if (row % kRowsPerWord == 0) *word = 0;
      if (!masks_[mask][row]) continue;
      *word |= uint64_t{1} << (row % kRowsPerWord);
      ++count;
    }
    return count;
  }

 private:
  std::vector<std::vector<bool>> masks_;
};

// Runs tasks on `count` threads of its own.
inline Parallel Threads(int count) {
  Parallel parallel;
  parallel.num_threads = count;
  if (count == 1) return parallel;
  parallel.run = [count](int64_t num_tasks, const Parallel::Work& work) {
    std::atomic<int64_t> next{0};
    std::vector<std::thread> threads;
    for (int i = 0; i < count; ++i) {
      threads.emplace_back([&] {
        for (int64_t task = next++; task < num_tasks; task = next++) {
          work(task);
        }
      });
    }
    for (std::thread& thread : threads) thread.join();
  };
  return parallel;
}

}  // namespace lintf

#endif  // LINTF_CUSTOM_OPS_CORE_SEARCH_TEST_DATA_H_
