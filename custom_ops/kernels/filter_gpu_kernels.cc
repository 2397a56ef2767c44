// SPDX-License-Identifier: Apache-2.0
// Kernels of custom_ops/ops/filter_ops.cc on a GPU.
#include "custom_ops/kernels/gpu_device.h"

#ifdef LINTF_HAS_GPU_KERNELS

#include <cstdint>
#include <mutex>
#include <string>

#include "custom_ops/core/gpu_filter.h"
#include "custom_ops/core/gpu_mask_rows.h"
#include "custom_ops/core/gpu_masks.h"
#include "custom_ops/kernels/gpu_index_reader.h"
#include "custom_ops/kernels/kernel_checks.h"
#include "tensorflow/core/framework/op_kernel.h"
#include "tensorflow/core/framework/tensor.h"

namespace lintf {
namespace {

using tensorflow::OpKernel;
using tensorflow::OpKernelContext;
using tensorflow::Tensor;

class GpuFilterMaskOp : public OpKernel {
 public:
  using OpKernel::OpKernel;

  void Compute(OpKernelContext* ctx) override {
    const Tensor& programs = ctx->input(0);
    OP_REQUIRES_OK(ctx, CheckPrograms(programs));
    const int64_t batch = programs.dim_size(0);
    GpuIndexReader index;
    OP_REQUIRES_OK(ctx, index.Open(ctx, GpuIndexReader::Parts::kColumns));
    GpuWork work(ctx);
    // From here on until all is queued no update is.
    const std::lock_guard<std::mutex> lock(index.state().write_mu());
    gpu::FilterMasks filters;
    int64_t bad_program = -1;
    const std::string error = filters.Init(
        programs.flat<int64_t>().data(), batch, programs.dim_size(1),
        index.tables().columns, index.tables().ids, &index.state().row_of_id(),
        &bad_program);
    OP_REQUIRES(ctx, error.empty(), BadProgram(bad_program, error));
    const int64_t num_rows = index.state().num_rows();
    Tensor* bits;
    OP_REQUIRES_OK(
        ctx, AllocateOutput(ctx, 0, {batch, gpu::MaskWords(num_rows)}, &bits));
    Tensor* passing;
    OP_REQUIRES_OK(ctx, AllocateOutput(ctx, 1, {batch}, &passing));
    if (batch == 0) return;
    const gpu::Masks masks =
        filters.Evaluate(num_rows, index.live_bits(), work.context());
    gpu::CopyMasks(masks, filters.mask_of_program().data(), batch, num_rows,
                   work.context(), static_cast<uint64_t*>(bits->data()),
                   passing->flat<int64_t>().data());
    OP_REQUIRES_OK(ctx, work.status());
  }
};

REGISTER_KERNEL_BUILDER(Name("Lintf>FilterMask")
                            .Device(kGpuDevice)
                            .HostMemory("programs")
                            .HostMemory("index")
                            .HostMemory("ids")
                            .HostMemory("num_rows")
                            .HostMemory("columns"),
                        GpuFilterMaskOp);

}  // namespace
}  // namespace lintf

#endif  // LINTF_HAS_GPU_KERNELS
