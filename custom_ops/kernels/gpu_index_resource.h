// SPDX-License-Identifier: Apache-2.0
// The index resource where the variables are in a GPU's memory.
//
// The state is the host's, as on the CPU, and is kept up by updates, which are
// planned on the host. What searches and updates queue goes to one stream, and
// they queue it while they hold the state's write_mu: so every search sees
// whole batches, on the GPU and in the state.
#ifndef LINTF_CUSTOM_OPS_KERNELS_GPU_INDEX_RESOURCE_H_
#define LINTF_CUSTOM_OPS_KERNELS_GPU_INDEX_RESOURCE_H_

#include "custom_ops/kernels/gpu_device.h"

#ifdef LINTF_HAS_GPU_KERNELS

#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "custom_ops/core/index_state.h"
#include "custom_ops/kernels/index_resource.h"
#include "tensorflow/core/framework/op_kernel.h"
#include "tensorflow/core/framework/tensor.h"

namespace lintf {

// What is known about the rows of an index.
struct GpuRows {
  // They keep the buffers alive, so that no other ones can get their address.
  tensorflow::Tensor ids;
  tensorflow::Tensor num_rows;
  // Whether the buffers were nobody else's, so that updates may write to them.
  bool owns_ids = false;
  bool owns_num_rows = false;
  absl::Status status;
  std::shared_ptr<IndexState> state;  // null if there is something wrong
  // The live bits of all rows, on the GPU.
  tensorflow::Tensor live;
};

// The same about the positions in the log. The state's write_mu guards
// `offsets`, which is what the variable will hold when the stream has come to
// the end of what is queued.
struct GpuLog {
  tensorflow::Tensor variable;
  bool owns_variable = false;
  std::vector<int64_t> offsets;
};

class GpuIndexResource : public IndexResource {
 public:
  // What is known about rows [0, num_rows) of the variable `ids`, whose locks
  // the caller holds (shared is enough). Reads them from the GPU when one of
  // the variables has another buffer than before (a restore, an assignment) or
  // after Invalidate; `check` says whether the number of rows is possible.
  // FAILED_PRECONDITION if two rows have the same id.
  absl::Status GetRows(
      tensorflow::OpKernelContext* ctx, const tensorflow::Tensor& ids,
      const tensorflow::Tensor& num_rows,
      const std::function<absl::Status(int64_t num_rows)>& check,
      std::shared_ptr<const GpuRows>* rows);

  // The same about the variable `log_offsets`.
  absl::Status GetLog(tensorflow::OpKernelContext* ctx,
                      const tensorflow::Tensor& log_offsets,
                      std::shared_ptr<GpuLog>* log);

  void Invalidate() override;

  std::string DebugString() const override;
  int64_t MemoryUsed() const override;

 private:
  // Held while reading from the GPU; always taken before mu_.
  std::mutex build_mu_;
  // Guards what follows; never held for long.
  mutable std::mutex mu_;
  std::shared_ptr<const GpuRows> rows_;
  std::shared_ptr<GpuLog> log_;
};

}  // namespace lintf

#endif  // LINTF_HAS_GPU_KERNELS

#endif  // LINTF_CUSTOM_OPS_KERNELS_GPU_INDEX_RESOURCE_H_
