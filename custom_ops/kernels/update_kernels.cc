// SPDX-License-Identifier: Apache-2.0
// Kernels of custom_ops/ops/update_ops.cc on the CPU.
#include "absl/status/status.h"
#include "custom_ops/core/log_positions.h"
#include "custom_ops/core/row_writer.h"
#include "custom_ops/kernels/host_index_reader.h"
#include "custom_ops/kernels/update_ops.h"
#include "tensorflow/core/framework/op_kernel.h"

namespace lintf {
namespace {

class HostUpdateOp : public UpdateOp<HostIndexReader> {
 public:
  using UpdateOp::UpdateOp;

 private:
  absl::Status Apply(tensorflow::OpKernelContext* /*ctx*/,
                     const RowUpdates& /*updates*/, const UpdatePlan& plan,
                     const LogAdvance& log,
                     const HostIndexReader& index) const override {
    plan.Apply(index.tables(), index.mutable_state());
    index.StoreNumRows();
    for (const auto& [partition, offset] : log.offsets()) {
      index.StoreLogOffset(partition, offset);
    }
    return absl::OkStatus();
  }
};

REGISTER_KERNEL_BUILDER(Name("Lintf>Update").Device(tensorflow::DEVICE_CPU),
                        HostUpdateOp);
REGISTER_KERNEL_BUILDER(Name("Lintf>LogOffsets").Device(tensorflow::DEVICE_CPU),
                        LogOffsetsOp<HostIndexReader>);

}  // namespace
}  // namespace lintf
