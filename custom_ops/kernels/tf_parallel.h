// SPDX-License-Identifier: Apache-2.0
// TensorFlow's intra-op thread pool as the core's `Parallel`.
#ifndef LINTF_CUSTOM_OPS_KERNELS_TF_PARALLEL_H_
#define LINTF_CUSTOM_OPS_KERNELS_TF_PARALLEL_H_

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <memory>
#include <mutex>

#include "custom_ops/core/parallel.h"
#include "tensorflow/core/framework/op_kernel.h"
#include "tensorflow/core/lib/core/threadpool.h"

namespace lintf {

// Threads of the pool and the calling one take the tasks in turn from a
// counter. The caller works too and waits for tasks only, never for a thread
// of the pool to become free, so a busy pool slows a search down but cannot
// block it. The result must not outlive the kernel's Compute call.
inline Parallel TensorFlowParallel(tensorflow::OpKernelContext* ctx) {
  const auto* workers = ctx->device()->tensorflow_cpu_worker_threads();
  tensorflow::thread::ThreadPool* const pool = workers->workers;
  const int num_threads = std::max(1, workers->num_threads);

  Parallel parallel;
  parallel.num_threads = num_threads;
  parallel.run = [pool, num_threads](int64_t num_tasks,
                                     const Parallel::Work& work) {
    struct Shared {
      std::atomic<int64_t> next{0};
      std::mutex mu;
      std::condition_variable all_done;
      int64_t done = 0;
    };
    if (num_tasks <= 1 || num_threads == 1) {
      for (int64_t task = 0; task < num_tasks; ++task) work(task);
      return;
    }
    // Shared with pool threads that may start only after all is done: they
    // find no task left and do not touch `work`.
    auto shared = std::make_shared<Shared>();
    const auto take_tasks = [shared, num_tasks, &work] {
      int64_t done = 0;
      for (int64_t task = shared->next++; task < num_tasks;
           task = shared->next++) {
        work(task);
        ++done;
      }
      if (done == 0) return;
      std::lock_guard<std::mutex> lock(shared->mu);
      shared->done += done;
      if (shared->done == num_tasks) shared->all_done.notify_all();
    };
    const int64_t helpers = std::min<int64_t>(num_threads, num_tasks) - 1;
    for (int64_t i = 0; i < helpers; ++i) pool->Schedule(take_tasks);
    take_tasks();
    std::unique_lock<std::mutex> lock(shared->mu);
    while (shared->done < num_tasks) shared->all_done.wait(lock);
  };
  return parallel;
}

}  // namespace lintf

#endif  // LINTF_CUSTOM_OPS_KERNELS_TF_PARALLEL_H_
