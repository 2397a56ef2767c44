// SPDX-License-Identifier: Apache-2.0
// The variables of an index in a GPU's memory.
#ifndef LINTF_CUSTOM_OPS_KERNELS_GPU_INDEX_READER_H_
#define LINTF_CUSTOM_OPS_KERNELS_GPU_INDEX_READER_H_

#include "custom_ops/kernels/gpu_device.h"

#ifdef LINTF_HAS_GPU_KERNELS

#include <cstdint>
#include <memory>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "custom_ops/core/gpu_context.h"
#include "custom_ops/kernels/gpu_index_resource.h"
#include "custom_ops/kernels/index_variables.h"
#include "tensorflow/core/framework/op_kernel.h"
#include "tensorflow/core/framework/resource_var.h"
#include "tensorflow/core/framework/tensor.h"

namespace lintf {

// tables() are device memory. Whoever uses what is behind them or the state
// holds the state's write_mu from reading the state until all is queued.
class GpuIndexReader : public IndexReader {
 public:
  ~GpuIndexReader() override;

  const int64_t* log_offsets() const override { return log_->offsets.data(); }

  // The live bits of all rows, on the GPU; null while all rows in use are.
  const uint64_t* live_bits() const {
    return state().live_bits() == nullptr ? nullptr : all_live_bits();
  }

  // With kWrite.
  uint64_t* all_live_bits() const {
    return static_cast<uint64_t*>(rows_->live.data());
  }
  // Sets the variables to the state's number of rows, which was `before`, and
  // to the new offsets of partitions.
  void StoreNumRows(int64_t before, gpu::Context* context) const;
  void StoreLogOffsets(const std::vector<std::pair<int64_t, int64_t>>& offsets,
                       gpu::Context* context) const;

 private:
  GpuIndexResource& gpu_resource() const {
    return static_cast<GpuIndexResource&>(resource());
  }

  absl::Status CheckNumRows() override { return absl::OkStatus(); }
  absl::Status FindState(tensorflow::OpKernelContext* ctx,
                         Parts parts) override;
  bool Holds(const tensorflow::Var* variable) const override;
  bool Owns(const tensorflow::Var* variable) const override;
  void LetGo() override;
  absl::Status CopyValues(tensorflow::OpKernelContext* ctx,
                          const tensorflow::Tensor& from,
                          tensorflow::Tensor* to) override;

  std::shared_ptr<const GpuRows> rows_;
  std::shared_ptr<GpuLog> log_;
};

}  // namespace lintf

#endif  // LINTF_HAS_GPU_KERNELS

#endif  // LINTF_CUSTOM_OPS_KERNELS_GPU_INDEX_READER_H_
