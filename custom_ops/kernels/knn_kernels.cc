// SPDX-License-Identifier: Apache-2.0
// Kernels of custom_ops/ops/knn_ops.cc.
#include <algorithm>
#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "custom_ops/core/bool_masks.h"
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
namespace {

using tensorflow::OpKernel;
using tensorflow::OpKernelConstruction;
using tensorflow::OpKernelContext;
using tensorflow::Tensor;

// What searches on plain tensors have in common.
class KnnOp : public OpKernel {
 public:
  explicit KnnOp(OpKernelConstruction* ctx) : OpKernel(ctx) {
    OP_REQUIRES_OK(ctx, ctx->GetAttr("k", &k_));
    std::string metric;
    OP_REQUIRES_OK(ctx, ctx->GetAttr("metric", &metric));
    metric_ = metric == "l2" ? Metric::kL2 : Metric::kInnerProduct;
  }

  void Compute(OpKernelContext* ctx) override {
    const Tensor& queries = ctx->input(0);
    const Tensor& items = ctx->input(1);
    const Tensor& mask = ctx->input(ctx->num_inputs() - 1);
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

    const BoolMasks masks(mask.flat<bool>().data(), mask.dim_size(0),
                          num_items);
    std::vector<int32_t> mask_of_query(batch, 0);
    if (mask.dim_size(0) > 1) {
      for (int64_t i = 0; i < batch; ++i) mask_of_query[i] = i;
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
    Search(ctx, input, masks, mask_of_query, output);
  }

 private:
  virtual void Search(OpKernelContext* ctx, const KnnInput& input,
                      const BoolMasks& masks,
                      const std::vector<int32_t>& mask_of_query,
                      const KnnOutput& output) const = 0;

  int64_t k_ = 0;
  Metric metric_ = Metric::kInnerProduct;
};

template <KnnLayout kLayout>
class ExactKnnOp : public KnnOp {
 public:
  using KnnOp::KnnOp;

 private:
  void Search(OpKernelContext* ctx, const KnnInput& input,
              const BoolMasks& masks, const std::vector<int32_t>& mask_of_query,
              const KnnOutput& output) const override {
    if (input.num_queries == 0) return;
    KnnInput tuned = input;
    tuned.tuning.layout = kLayout;
    MaskedKnn(tuned, masks, mask_of_query.data(), TensorFlowParallel(ctx),
              output);
  }
};

class QuantizedKnnOp : public KnnOp {
 public:
  explicit QuantizedKnnOp(OpKernelConstruction* ctx) : KnnOp(ctx) {
    OP_REQUIRES_OK(ctx, GetOporpAttrs(ctx, &config_));
    OP_REQUIRES_OK(ctx, ctx->GetAttr("shortlist", &shortlist_));
    std::string scoring;
    OP_REQUIRES_OK(ctx, ctx->GetAttr("scoring", &scoring));
    scoring_ = scoring == "symmetric" ? CodeScoring::kSymmetric
                                      : CodeScoring::kAsymmetric;
  }

 private:
  void Search(OpKernelContext* ctx, const KnnInput& input,
              const BoolMasks& masks, const std::vector<int32_t>& mask_of_query,
              const KnnOutput& output) const override {
    OporpConfig config = config_;
    config.dim = input.dim;
    OP_REQUIRES_OK(ctx, CheckOporp(config));
    const Tensor& codes = ctx->input(2);
    const int64_t words = config.words();
    OP_REQUIRES(ctx,
                codes.dims() == 2 && codes.dim_size(0) == input.num_rows &&
                    codes.dim_size(1) == words,
                absl::InvalidArgumentError(absl::StrCat(
                    "`codes` must have shape [", input.num_rows, ", ", words,
                    "], a code an item, got ", codes.shape().DebugString())));
    if (input.num_queries == 0) return;

    const SignOporp oporp(config);
    std::vector<float> samples(input.num_queries * config.bits());
    oporp.ProjectBatch(input.queries, input.num_queries, samples.data());
    const int64_t blocks =
        (input.num_rows + kCodeBlockRows - 1) / kCodeBlockRows;
    std::vector<uint64_t> laid_out(blocks * words * kCodeBlockRows);
    const int64_t* from = codes.flat<int64_t>().data();
    for (int64_t row = 0; row < input.num_rows; ++row) {
      for (int64_t w = 0; w < words; ++w) {
        laid_out[CodeWordIndex(row, w, words)] = static_cast<uint64_t>(*from++);
      }
    }
    CodeSide code;
    code.samples = samples.data();
    code.codes = laid_out.data();
    code.words = words;
    code.scoring = scoring_;
    code.shortlist = shortlist_;
    QuantizedKnn(input, code, masks, mask_of_query.data(),
                 TensorFlowParallel(ctx), output);
  }

  OporpConfig config_;
  int64_t shortlist_ = 0;
  CodeScoring scoring_ = CodeScoring::kAsymmetric;
};

class SignOporpOp : public OpKernel {
 public:
  explicit SignOporpOp(OpKernelConstruction* ctx) : OpKernel(ctx) {
    OP_REQUIRES_OK(ctx, GetOporpAttrs(ctx, &config_));
  }

  void Compute(OpKernelContext* ctx) override {
    const Tensor& vectors = ctx->input(0);
    OP_REQUIRES(ctx, vectors.dims() == 2,
                absl::InvalidArgumentError(
                    absl::StrCat("`vectors` must have shape [n, dim], got ",
                                 vectors.shape().DebugString())));
    OporpConfig config = config_;
    config.dim = vectors.dim_size(1);
    OP_REQUIRES_OK(ctx, CheckOporp(config));
    const int64_t count = vectors.dim_size(0);
    Tensor* codes;
    OP_REQUIRES_OK(ctx,
                   AllocateOutput(ctx, 0, {count, config.words()}, &codes));
    Tensor* samples;
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

REGISTER_KERNEL_BUILDER(Name("Lintf>MaskedKnn").Device(tensorflow::DEVICE_CPU),
                        ExactKnnOp<KnnLayout::kAuto>);
REGISTER_KERNEL_BUILDER(
    Name("Lintf>PrefilteredKnn").Device(tensorflow::DEVICE_CPU),
    ExactKnnOp<KnnLayout::kOwn>);
REGISTER_KERNEL_BUILDER(
    Name("Lintf>QuantizedKnn").Device(tensorflow::DEVICE_CPU), QuantizedKnnOp);
REGISTER_KERNEL_BUILDER(Name("Lintf>SignOporp").Device(tensorflow::DEVICE_CPU),
                        SignOporpOp);

}  // namespace
}  // namespace lintf
