// SPDX-License-Identifier: Apache-2.0
// Kernels of custom_ops/ops/index_ops.cc on a GPU.
#include "custom_ops/kernels/gpu_device.h"

#ifdef LINTF_HAS_GPU_KERNELS

#include <cstddef>
#include <cstdint>

#include "absl/status/status.h"
#include "custom_ops/core/gpu_copies.h"
#include "custom_ops/core/gpu_rows.h"
#include "custom_ops/core/planner.h"
#include "custom_ops/kernels/gpu_index_reader.h"
#include "custom_ops/kernels/gpu_index_resource.h"
#include "custom_ops/kernels/index_ops.h"
#include "tensorflow/core/framework/op_kernel.h"
#include "tensorflow/core/framework/tensor.h"

namespace lintf {
namespace {

using tensorflow::OpKernelContext;
using tensorflow::Tensor;

struct GpuAccess {
  static absl::Status Copy(OpKernelContext* ctx, const void* from, size_t bytes,
                           void* to) {
    GpuWork work(ctx);
    gpu::CopyOnDevice(from, static_cast<int64_t>(bytes), work.context(), to);
    return work.status();
  }

  static absl::Status StoreCodes(OpKernelContext* ctx, const Tensor& values,
                                 int64_t start, Tensor* rows) {
    GpuWork work(ctx);
    gpu::StoreCodes(static_cast<const uint64_t*>(values.data()), start,
                    values.dim_size(0), values.dim_size(1), work.context(),
                    static_cast<uint64_t*>(rows->data()));
    return work.status();
  }
};

// Searches on a GPU do not choose by costs: those that are compiled in.
class GpuPlannerCostsOp : public PlannerCostsOp<GpuIndexReader> {
 public:
  using PlannerCostsOp::PlannerCostsOp;

 private:
  PlannerCosts Measure(const GpuIndexReader& index,
                       int64_t /*dim*/) const override {
    PlannerCosts costs;
    PlannerCosts::FromList({}, index.tables().items.type, &costs);
    return costs;
  }
};

class GpuSimilarityCostsOp : public SimilarityCostsOp<GpuIndexReader> {
 public:
  using SimilarityCostsOp::SimilarityCostsOp;

 private:
  SimilarityCosts Measure(const GpuIndexReader& /*index*/,
                          const Similarity& /*similarity*/) const override {
    return DefaultSimilarityCosts();
  }
};

REGISTER_KERNEL_BUILDER(
    Name("Lintf>IndexHandle").Device(kGpuDevice).HostMemory("index"),
    IndexHandleOp<GpuIndexResource>);
REGISTER_KERNEL_BUILDER(Name("Lintf>IndexStats")
                            .Device(kGpuDevice)
                            .HostMemory("index")
                            .HostMemory("ids")
                            .HostMemory("num_rows")
                            .HostMemory("rows")
                            .HostMemory("live_rows"),
                        IndexStatsOp<GpuIndexReader>);
REGISTER_KERNEL_BUILDER(Name("Lintf>SearchCounts")
                            .Device(kGpuDevice)
                            .HostMemory("index")
                            .HostMemory("searches"),
                        SearchCountsOp);
REGISTER_KERNEL_BUILDER(
    Name("Lintf>InvalidateIndex").Device(kGpuDevice).HostMemory("index"),
    InvalidateIndexOp);
REGISTER_KERNEL_BUILDER(Name("Lintf>AssignRows")
                            .Device(kGpuDevice)
                            .HostMemory("index")
                            .HostMemory("variable")
                            .HostMemory("start"),
                        AssignRowsOp<GpuAccess>);
REGISTER_KERNEL_BUILDER(Name("Lintf>AssignCodes")
                            .Device(kGpuDevice)
                            .HostMemory("index")
                            .HostMemory("variable")
                            .HostMemory("start"),
                        AssignCodesOp<GpuAccess>);
REGISTER_KERNEL_BUILDER(Name("Lintf>PlannerCosts")
                            .Device(kGpuDevice)
                            .HostMemory("index")
                            .HostMemory("ids")
                            .HostMemory("embeddings")
                            .HostMemory("num_rows")
                            .HostMemory("scales")
                            .HostMemory("codes")
                            .HostMemory("costs"),
                        GpuPlannerCostsOp);
REGISTER_KERNEL_BUILDER(Name("Lintf>SimilarityCosts")
                            .Device(kGpuDevice)
                            .HostMemory("index")
                            .HostMemory("ids")
                            .HostMemory("embeddings")
                            .HostMemory("num_rows")
                            .HostMemory("scales")
                            .HostMemory("codes")
                            .HostMemory("weights")
                            .HostMemory("costs"),
                        GpuSimilarityCostsOp);

}  // namespace
}  // namespace lintf

#endif  // LINTF_HAS_GPU_KERNELS
