// SPDX-License-Identifier: Apache-2.0
// The seam to a thread pool; TensorFlow's in the op kernels.
#ifndef LINTF_CUSTOM_OPS_CORE_PARALLEL_H_
#define LINTF_CUSTOM_OPS_CORE_PARALLEL_H_

#include <cstdint>
#include <functional>

namespace lintf {

// Runs `work(task)` once for each task in [0, num_tasks), on any threads, and
// returns when all are done. `num_threads` is a hint for how finely to split.
struct Parallel {
  using Work = std::function<void(int64_t task)>;
  int num_threads = 1;
  std::function<void(int64_t num_tasks, const Work& work)> run =
      [](int64_t num_tasks, const Work& work) {
        for (int64_t task = 0; task < num_tasks; ++task) work(task);
      };
};

}  // namespace lintf

#endif  // LINTF_CUSTOM_OPS_CORE_PARALLEL_H_
