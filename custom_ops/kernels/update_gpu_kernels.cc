// SPDX-License-Identifier: Apache-2.0
// Kernels of custom_ops/ops/update_ops.cc on a GPU.
#include "custom_ops/kernels/gpu_device.h"

#ifdef LINTF_HAS_GPU_KERNELS

#include <cstdint>
#include <vector>

#include "absl/status/status.h"
#include "custom_ops/core/gpu_rows.h"
#include "custom_ops/core/id_map.h"
#include "custom_ops/core/log_positions.h"
#include "custom_ops/core/row_writer.h"
#include "custom_ops/kernels/gpu_index_reader.h"
#include "custom_ops/kernels/update_ops.h"
#include "tensorflow/core/framework/op_kernel.h"

namespace lintf {
namespace {

class GpuUpdateOp : public UpdateOp<GpuIndexReader> {
 public:
  using UpdateOp::UpdateOp;

 private:
  absl::Status Apply(tensorflow::OpKernelContext* ctx,
                     const RowUpdates& updates, const UpdatePlan& plan,
                     const LogAdvance& log,
                     const GpuIndexReader& index) const override {
    GpuWork work(ctx);
    // After this only a broken GPU can keep the tables from following the
    // state.
    TF_RETURN_IF_ERROR(work.memory().Reserve(
        gpu::StoreRowsBytes(index.tables(), updates.count), 1));
    const int64_t num_rows_before = index.state().num_rows();
    const std::vector<UpdatePlan::RowChange> changes =
        plan.ApplyToState(index.mutable_state());
    std::vector<int64_t> rows;
    std::vector<int64_t> ids;
    std::vector<int64_t> places;
    for (const auto& [row, update] : changes) {
      rows.push_back(row);
      ids.push_back(update < 0 ? kNoId : updates.ids[update]);
      places.push_back(update);
    }
    gpu::RowContents contents;
    contents.count = static_cast<int64_t>(rows.size());
    contents.rows = rows.data();
    contents.ids = ids.data();
    contents.places = places.data();
    contents.columns = updates.columns;
    if (!updates.attributes_only) {
      contents.items = updates.items;
      contents.scales = updates.scales;
      contents.codes = updates.codes;
    }
    gpu::StoreRows(index.tables(), contents, work.context(),
                   index.all_live_bits());
    index.StoreNumRows(num_rows_before, work.context());
    index.StoreLogOffsets(log.offsets(), work.context());
    const absl::Status status = work.status();
    if (!status.ok()) index.resource().Invalidate();
    return status;
  }
};

REGISTER_KERNEL_BUILDER(Name("Lintf>Update")
                            .Device(kGpuDevice)
                            .HostMemory("id")
                            .HostMemory("delete")
                            .HostMemory("embedding")
                            .HostMemory("values")
                            .HostMemory("log_partition")
                            .HostMemory("log_previous_offset")
                            .HostMemory("log_offset")
                            .HostMemory("index")
                            .HostMemory("ids")
                            .HostMemory("embeddings")
                            .HostMemory("num_rows")
                            .HostMemory("log_offsets")
                            .HostMemory("columns")
                            .HostMemory("scales")
                            .HostMemory("codes")
                            .HostMemory("status")
                            .HostMemory("rows"),
                        GpuUpdateOp);
REGISTER_KERNEL_BUILDER(Name("Lintf>LogOffsets")
                            .Device(kGpuDevice)
                            .HostMemory("index")
                            .HostMemory("ids")
                            .HostMemory("num_rows")
                            .HostMemory("log_offsets")
                            .HostMemory("offsets"),
                        LogOffsetsOp<GpuIndexReader>);

}  // namespace
}  // namespace lintf

#endif  // LINTF_HAS_GPU_KERNELS
