// SPDX-License-Identifier: Apache-2.0
// What the kernels of custom_ops/ops/knn_ops.cc have in common on all devices.
#ifndef LINTF_CUSTOM_OPS_KERNELS_KNN_OPS_H_
#define LINTF_CUSTOM_OPS_KERNELS_KNN_OPS_H_

#include <algorithm>
#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "custom_ops/core/code_knn.h"
#include "custom_ops/core/item_matrix.h"
#include "custom_ops/core/masked_knn.h"
#include "custom_ops/core/quantized_knn.h"
#include "custom_ops/core/sign_oporp.h"
#include "custom_ops/kernels/code_attrs.h"
#include "custom_ops/kernels/kernel_checks.h"
#include "custom_ops/kernels/tf_parallel.h"
#include "tensorflow/core/framework/op_kernel.h"
#include "tensorflow/core/framework/tensor.h"

namespace lintf {

// What searches on plain tensors have in common. Queries are host memory; the
// items, the mask and the outputs are in that of the device.
class KnnOp : public tensorflow::OpKernel {
 public:
  explicit KnnOp(tensorflow::OpKernelConstruction* ctx) : OpKernel(ctx) {
    OP_REQUIRES_OK(ctx, ctx->GetAttr("k", &k_));
    std::string metric;
    OP_REQUIRES_OK(ctx, ctx->GetAttr("metric", &metric));
    metric_ = metric == "l2" ? Metric::kL2 : Metric::kInnerProduct;
  }

  void Compute(tensorflow::OpKernelContext* ctx) override {
    const tensorflow::Tensor& queries = ctx->input(0);
    const tensorflow::Tensor& items = ctx->input(1);
    const tensorflow::Tensor& mask = ctx->input(ctx->num_inputs() - 1);
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

    tensorflow::Tensor* scores;
    OP_REQUIRES_OK(ctx, AllocateOutput(ctx, 0, {batch, k_}, &scores));
    tensorflow::Tensor* indices;
    OP_REQUIRES_OK(ctx, AllocateOutput(ctx, 1, {batch, k_}, &indices));
    tensorflow::Tensor* num_results;
    OP_REQUIRES_OK(ctx, AllocateOutput(ctx, 2, {batch}, &num_results));

    BoolMask bools;
    bools.passes = mask.flat<bool>().data();
    bools.num_masks = mask.dim_size(0);
    bools.of_query.assign(batch, 0);
    if (bools.num_masks > 1) {
      for (int64_t i = 0; i < batch; ++i) bools.of_query[i] = i;
    }
    KnnInput input;
    input.queries = queries.flat<float>().data();
    input.num_queries = batch;
    input.items = ItemMatrix(items.flat<float>().data(), ElementType::kFloat32);
    input.num_rows = num_items;
    input.dim = dim;
    input.metric = metric_;
    input.k = k_;
    KnnOutput output;
    output.scores = scores->flat<float>().data();
    output.rows = indices->flat<int64_t>().data();
    output.counts = num_results->flat<int32_t>().data();
    OP_REQUIRES_OK(ctx, Search(ctx, input, bools, output));
  }

 protected:
  struct BoolMask {
    const bool* passes = nullptr;  // [num_masks, num_rows]
    int64_t num_masks = 0;
    std::vector<int32_t> of_query;
  };

 private:
  virtual absl::Status Search(tensorflow::OpKernelContext* ctx,
                              const KnnInput& input, const BoolMask& mask,
                              const KnnOutput& output) const = 0;

  int64_t k_ = 0;
  Metric metric_ = Metric::kInnerProduct;
};

// Lintf>QuantizedKnn. The codes are in the memory of the device, too.
class QuantizedKnnOp : public KnnOp {
 public:
  explicit QuantizedKnnOp(tensorflow::OpKernelConstruction* ctx) : KnnOp(ctx) {
    OP_REQUIRES_OK(ctx, GetOporpAttrs(ctx, &config_));
    OP_REQUIRES_OK(ctx, ctx->GetAttr("shortlist", &shortlist_));
    std::string scoring;
    OP_REQUIRES_OK(ctx, ctx->GetAttr("scoring", &scoring));
    scoring_ = scoring == "symmetric" ? CodeScoring::kSymmetric
                                      : CodeScoring::kAsymmetric;
  }

 private:
  absl::Status Search(tensorflow::OpKernelContext* ctx, const KnnInput& input,
                      const BoolMask& mask,
                      const KnnOutput& output) const override {
    OporpConfig config = config_;
    config.dim = input.dim;
    TF_RETURN_IF_ERROR(CheckOporp(config));
    const tensorflow::Tensor& codes = ctx->input(2);
    const int64_t words = config.words();
    if (codes.dims() != 2 || codes.dim_size(0) != input.num_rows ||
        codes.dim_size(1) != words) {
      return absl::InvalidArgumentError(
          absl::StrCat("`codes` must have shape [", input.num_rows, ", ", words,
                       "], a code an item, got ", codes.shape().DebugString()));
    }
    if (input.num_queries == 0) return absl::OkStatus();
    const SignOporp oporp(config);
    std::vector<float> samples(input.num_queries * config.bits());
    oporp.ProjectBatch(input.queries, input.num_queries, samples.data());
    CodeSide code;
    code.samples = samples.data();
    code.codes = static_cast<const uint64_t*>(codes.data());
    code.words = words;
    code.scoring = scoring_;
    code.shortlist = shortlist_;
    return SearchByCodes(ctx, input, code, mask, output);
  }

  // The samples are host memory; the codes lie row by row.
  virtual absl::Status SearchByCodes(tensorflow::OpKernelContext* ctx,
                                     const KnnInput& input,
                                     const CodeSide& code, const BoolMask& mask,
                                     const KnnOutput& output) const = 0;

  OporpConfig config_;
  int64_t shortlist_ = 0;
  CodeScoring scoring_ = CodeScoring::kAsymmetric;
};

// Lintf>SignOporp, in host memory on all devices.
class SignOporpOp : public tensorflow::OpKernel {
 public:
  explicit SignOporpOp(tensorflow::OpKernelConstruction* ctx) : OpKernel(ctx) {
    OP_REQUIRES_OK(ctx, GetOporpAttrs(ctx, &config_));
  }

  void Compute(tensorflow::OpKernelContext* ctx) override {
    const tensorflow::Tensor& vectors = ctx->input(0);
    OP_REQUIRES(ctx, vectors.dims() == 2,
                absl::InvalidArgumentError(
                    absl::StrCat("`vectors` must have shape [n, dim], got ",
                                 vectors.shape().DebugString())));
    OporpConfig config = config_;
    config.dim = vectors.dim_size(1);
    OP_REQUIRES_OK(ctx, CheckOporp(config));
    const int64_t count = vectors.dim_size(0);
    tensorflow::Tensor* codes;
    OP_REQUIRES_OK(ctx,
                   AllocateOutput(ctx, 0, {count, config.words()}, &codes));
    tensorflow::Tensor* samples;
    OP_REQUIRES_OK(ctx,
                   AllocateOutput(ctx, 1, {count, config.bits()}, &samples));
    const SignOporp oporp(config);
    const float* const vector = vectors.flat<float>().data();
    int64_t* const code = codes->flat<int64_t>().data();
    float* const sample = samples->flat<float>().data();
    const int64_t tasks = (count + kTaskRows - 1) / kTaskRows;
    TensorFlowParallel(ctx).run(tasks, [&](int64_t task) {
      const int64_t end = std::min(count, (task + 1) * kTaskRows);
      const int64_t begin = task * kTaskRows;
      oporp.ProjectBatch(vector + begin * config.dim, end - begin,
                         sample + begin * config.bits());
      for (int64_t i = begin; i < end; ++i) {
        std::vector<uint64_t> words(config.words());
        EncodeSamples(sample + i * config.bits(), config.words(), words.data());
        std::copy(words.begin(), words.end(), code + i * config.words());
      }
    });
  }

 private:
  static constexpr int64_t kTaskRows = 256;
  OporpConfig config_;
};

}  // namespace lintf

#endif  // LINTF_CUSTOM_OPS_KERNELS_KNN_OPS_H_
