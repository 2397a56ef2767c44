// SPDX-License-Identifier: Apache-2.0
// Kernels of custom_ops/ops/knn_ops.cc.
#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "custom_ops/core/bool_masks.h"
#include "custom_ops/core/masked_knn.h"
#include "custom_ops/kernels/kernel_checks.h"
#include "custom_ops/kernels/tf_parallel.h"
#include "tensorflow/core/framework/op_kernel.h"
#include "tensorflow/core/framework/tensor.h"

namespace lintf {
namespace {

using tensorflow::OpKernel;
using tensorflow::OpKernelConstruction;
using tensorflow::OpKernelContext;
using tensorflow::Tensor;

class MaskedKnnOp : public OpKernel {
 public:
  explicit MaskedKnnOp(OpKernelConstruction* ctx) : OpKernel(ctx) {
    OP_REQUIRES_OK(ctx, ctx->GetAttr("k", &k_));
    std::string metric;
    OP_REQUIRES_OK(ctx, ctx->GetAttr("metric", &metric));
    metric_ = metric == "l2" ? Metric::kL2 : Metric::kInnerProduct;
  }

  void Compute(OpKernelContext* ctx) override {
    const Tensor& queries = ctx->input(0);
    const Tensor& items = ctx->input(1);
    const Tensor& mask = ctx->input(2);
    OP_REQUIRES_OK(ctx, CheckQueries(queries));
    const int64_t batch = queries.dim_size(0);
    const int64_t dim = queries.dim_size(1);
    OP_REQUIRES(ctx, items.dims() == 2 && items.dim_size(1) == dim,
                absl::InvalidArgumentError(
                    absl::StrCat("`items` must have shape [items, ", dim,
                                 "], the dimension of the queries, got ",
                                 items.shape().DebugString())));
    const int64_t num_items = items.dim_size(0);
    OP_REQUIRES(ctx,
                mask.dims() == 2 && mask.dim_size(1) == num_items &&
                    (mask.dim_size(0) == 1 || mask.dim_size(0) == batch),
                absl::InvalidArgumentError(absl::StrCat(
                    "`mask` must have shape [1, ", num_items, "] or [", batch,
                    ", ", num_items, "], got ", mask.shape().DebugString())));

    Tensor* scores;
    OP_REQUIRES_OK(ctx, AllocateOutput(ctx, 0, {batch, k_}, &scores));
    Tensor* indices;
    OP_REQUIRES_OK(ctx, AllocateOutput(ctx, 1, {batch, k_}, &indices));
    Tensor* num_results;
    OP_REQUIRES_OK(ctx, AllocateOutput(ctx, 2, {batch}, &num_results));
    if (batch == 0) return;

    const BoolMasks masks(mask.flat<bool>().data(), mask.dim_size(0),
                          num_items);
    std::vector<int32_t> mask_of_query(batch, 0);
    if (mask.dim_size(0) > 1) {
      for (int64_t i = 0; i < batch; ++i) mask_of_query[i] = i;
    }
    KnnInput input;
    input.queries = queries.flat<float>().data();
    input.num_queries = batch;
    input.items = items.flat<float>().data();
    input.num_rows = num_items;
    input.dim = dim;
    input.metric = metric_;
    input.k = k_;
    KnnOutput output;
    output.scores = scores->flat<float>().data();
    output.rows = indices->flat<int64_t>().data();
    output.counts = num_results->flat<int32_t>().data();
    MaskedKnn(input, masks, mask_of_query.data(), TensorFlowParallel(ctx),
              output);
  }

 private:
  int64_t k_ = 0;
  Metric metric_ = Metric::kInnerProduct;
};

REGISTER_KERNEL_BUILDER(Name("Lintf>MaskedKnn").Device(tensorflow::DEVICE_CPU),
                        MaskedKnnOp);

}  // namespace
}  // namespace lintf
