// SPDX-License-Identifier: Apache-2.0
// What an index knows beyond its variables; the resource of Lintf>IndexHandle.
#ifndef LINTF_CUSTOM_OPS_KERNELS_INDEX_RESOURCE_H_
#define LINTF_CUSTOM_OPS_KERNELS_INDEX_RESOURCE_H_

#include <atomic>
#include <cstdint>

#include "absl/status/status.h"
#include "custom_ops/core/id_map.h"
#include "custom_ops/core/retrieval.h"
#include "tensorflow/core/framework/resource_base.h"

namespace lintf {

// What the resources of all kinds of devices have in common. An op finds the
// kind of its own device behind a handle: TensorFlow checks the device.
class IndexResource : public tensorflow::ResourceBase {
 public:
  // Forgets the state; the next use makes it again. The caller holds the lock
  // of the variable that it writes exclusively, or knows in another way that
  // no search and no update is using the old state.
  virtual void Invalidate() = 0;

  // Counts queries that were answered.
  void CountSearches(const RetrievalCounts& counts) {
    masked_.fetch_add(counts.masked, std::memory_order_relaxed);
    prefiltered_.fetch_add(counts.prefiltered, std::memory_order_relaxed);
    quantized_.fetch_add(counts.quantized, std::memory_order_relaxed);
    exact_.fetch_add(counts.exact, std::memory_order_relaxed);
    bounded_.fetch_add(counts.bounded, std::memory_order_relaxed);
    two_stage_.fetch_add(counts.two_stage, std::memory_order_relaxed);
  }
  RetrievalCounts searches() const {
    RetrievalCounts counts;
    counts.masked = masked_.load();
    counts.prefiltered = prefiltered_.load();
    counts.quantized = quantized_.load();
    counts.exact = exact_.load();
    counts.bounded = bounded_.load();
    counts.two_stage = two_stage_.load();
    return counts;
  }

 private:
  std::atomic<int64_t> masked_{0};
  std::atomic<int64_t> prefiltered_{0};
  std::atomic<int64_t> quantized_{0};
  std::atomic<int64_t> exact_{0};
  std::atomic<int64_t> bounded_{0};
  std::atomic<int64_t> two_stage_{0};
};

// FAILED_PRECONDITION if two of the `num_rows` rows have the same id.
absl::Status CheckIds(const IdMap::Summary& ids, int64_t num_rows);

}  // namespace lintf

#endif  // LINTF_CUSTOM_OPS_KERNELS_INDEX_RESOURCE_H_
