// SPDX-License-Identifier: Apache-2.0
// Kernels of custom_ops/ops/knn_ops.cc on a GPU.
#include "custom_ops/kernels/gpu_device.h"

#ifdef LINTF_HAS_GPU_KERNELS

#include <cstdint>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "custom_ops/core/gpu_knn.h"
#include "custom_ops/core/gpu_masks.h"
#include "custom_ops/core/gpu_retrieval.h"
#include "custom_ops/core/gpu_rows.h"
#include "custom_ops/core/masked_knn.h"
#include "custom_ops/core/quantized_knn.h"
#include "custom_ops/core/sign_oporp.h"
#include "custom_ops/kernels/knn_ops.h"
#include "tensorflow/core/framework/op_kernel.h"

namespace lintf {
namespace {

using tensorflow::OpKernelContext;

absl::Status CheckRows(int64_t num_rows) {
  if (num_rows <= gpu::kMaxSegmentRows) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat("`items` on a GPU must have at most ", gpu::kMaxSegmentRows,
                   " rows, got ", num_rows));
}

// The masks as bits.
gpu::Masks Pack(const bool* passes, int64_t num_masks, int64_t num_rows,
                gpu::Context* context) {
  gpu::Masks masks;
  masks.stride = gpu::MaskWords(num_rows);
  masks.passes_all.assign(num_masks, false);
  uint64_t* const words = context->Allocate<uint64_t>(num_masks * masks.stride);
  gpu::PackMasks(passes, num_masks, num_rows, masks.stride, context, words);
  masks.words = words;
  return masks;
}

template <gpu::ScanOrder kOrder>
class GpuExactKnnOp : public KnnOp {
 public:
  using KnnOp::KnnOp;

 private:
  absl::Status Search(OpKernelContext* ctx, const KnnInput& input,
                      const BoolMask& mask,
                      const KnnOutput& output) const override {
    TF_RETURN_IF_ERROR(CheckRows(input.num_rows));
    if (input.num_queries == 0) return absl::OkStatus();
    GpuWork work(ctx);
    KnnInput uploaded = input;
    uploaded.queries =
        UploadInput(input.queries, input.num_queries * input.dim, &work);
    const gpu::Masks masks =
        Pack(mask.passes, mask.num_masks, input.num_rows, work.context());
    gpu::KnnOptions options;
    options.order = kOrder;
    gpu::MaskedKnn(uploaded, masks, mask.of_query.data(), options,
                   work.context(), output);
    return work.status();
  }
};

class GpuQuantizedKnnOp : public QuantizedKnnOp {
 public:
  using QuantizedKnnOp::QuantizedKnnOp;

 private:
  absl::Status SearchByCodes(OpKernelContext* ctx, const KnnInput& input,
                             const CodeSide& code, const BoolMask& mask,
                             const KnnOutput& output) const override {
    TF_RETURN_IF_ERROR(CheckRows(input.num_rows));
    GpuWork work(ctx);
    gpu::Context* const context = work.context();
    const int64_t blocks =
        (input.num_rows + kCodeBlockRows - 1) / kCodeBlockRows;
    uint64_t* const laid_out =
        context->Allocate<uint64_t>(blocks * code.words * kCodeBlockRows);
    gpu::StoreCodes(code.codes, 0, input.num_rows, code.words, context,
                    laid_out);
    RetrievalInput retrieval;
    retrieval.knn = input;
    retrieval.knn.queries =
        UploadInput(input.queries, input.num_queries * input.dim, &work);
    retrieval.code = code;
    retrieval.code.codes = laid_out;
    retrieval.code.samples =
        context->Upload(code.samples, input.num_queries * code.words * 64);
    retrieval.algorithm = Algorithm::kQuantized;
    const gpu::Masks masks =
        Pack(mask.passes, mask.num_masks, input.num_rows, context);
    gpu::RetrieveRows(retrieval, masks, mask.of_query.data(), gpu::KnnOptions(),
                      context, output);
    return work.status();
  }
};

REGISTER_KERNEL_BUILDER(
    Name("Lintf>MaskedKnn").Device(kGpuDevice).HostMemory("queries"),
    GpuExactKnnOp<gpu::ScanOrder::kAuto>);
REGISTER_KERNEL_BUILDER(
    Name("Lintf>PrefilteredKnn").Device(kGpuDevice).HostMemory("queries"),
    GpuExactKnnOp<gpu::ScanOrder::kListed>);
REGISTER_KERNEL_BUILDER(
    Name("Lintf>QuantizedKnn").Device(kGpuDevice).HostMemory("queries"),
    GpuQuantizedKnnOp);
REGISTER_KERNEL_BUILDER(Name("Lintf>SignOporp")
                            .Device(kGpuDevice)
                            .HostMemory("vectors")
                            .HostMemory("codes")
                            .HostMemory("samples"),
                        SignOporpOp);

}  // namespace
}  // namespace lintf

#endif  // LINTF_HAS_GPU_KERNELS
