// SPDX-License-Identifier: Apache-2.0
// What the kernels of custom_ops/ops/retrieve_ops.cc have in common on all
// devices.
#ifndef LINTF_CUSTOM_OPS_KERNELS_RETRIEVE_OPS_H_
#define LINTF_CUSTOM_OPS_KERNELS_RETRIEVE_OPS_H_

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "custom_ops/core/masked_knn.h"
#include "custom_ops/core/retrieval.h"
#include "custom_ops/core/row_tables.h"
#include "custom_ops/core/vectors.h"
#include "custom_ops/kernels/code_attrs.h"
#include "custom_ops/kernels/index_variables.h"
#include "custom_ops/kernels/kernel_checks.h"
#include "custom_ops/kernels/returned_columns.h"
#include "tensorflow/core/framework/op_kernel.h"
#include "tensorflow/core/framework/tensor.h"

namespace lintf {

// Lintf>Retrieve on variables that a `Reader` reads.
template <typename Reader>
class RetrieveOp : public tensorflow::OpKernel {
 public:
  explicit RetrieveOp(tensorflow::OpKernelConstruction* ctx) : OpKernel(ctx) {
    OP_REQUIRES_OK(ctx, ctx->GetAttr("k", &k_));
    std::string metric;
    OP_REQUIRES_OK(ctx, ctx->GetAttr("metric", &metric));
    metric_ = metric == "l2" ? Metric::kL2 : Metric::kInnerProduct;
    normalize_ = metric == "cosine";
    OP_REQUIRES_OK(ctx, ctx->GetAttr("return_columns", &returned_.columns));
    OP_REQUIRES_OK(ctx, ctx->GetAttr("return_types", &returned_.types));
    std::vector<int64_t> missing;
    OP_REQUIRES_OK(ctx, ctx->GetAttr("return_missing", &missing));
    OP_REQUIRES_OK(ctx, returned_.Init(missing));
    std::string algorithm;
    OP_REQUIRES_OK(ctx, ctx->GetAttr("algorithm", &algorithm));
    algorithm_ = algorithm == "masked"        ? Algorithm::kMasked
                 : algorithm == "prefiltered" ? Algorithm::kPrefiltered
                 : algorithm == "quantized"   ? Algorithm::kQuantized
                                              : Algorithm::kAuto;
    OP_REQUIRES_OK(ctx, ctx->GetAttr("shortlist", &shortlist_));
    OP_REQUIRES_OK(ctx, ctx->GetAttr("costs", &costs_));
    OP_REQUIRES_OK(ctx, code_attrs_.Init(ctx));
    OP_REQUIRES(ctx,
                algorithm_ != Algorithm::kQuantized || code_attrs_.has_codes(),
                absl::InvalidArgumentError(
                    "`algorithm` must not be quantized for an index without "
                    "`codes`; give codes or take another"));
  }

  void Compute(tensorflow::OpKernelContext* ctx) override {
    const tensorflow::Tensor& queries = ctx->input(0);
    const tensorflow::Tensor& programs = ctx->input(1);
    OP_REQUIRES_OK(ctx, CheckQueries(queries));
    OP_REQUIRES_OK(ctx, CheckPrograms(programs));
    const int64_t batch = queries.dim_size(0);
    OP_REQUIRES(ctx, programs.dim_size(0) == batch,
                absl::InvalidArgumentError(absl::StrCat(
                    "there must be one program for each of the ", batch,
                    " queries, got ", programs.dim_size(0))));

    Reader index;
    OP_REQUIRES_OK(ctx, index.Open(ctx, Reader::Parts::kAll));
    OP_REQUIRES_OK(ctx, CheckIndex(index, queries));
    Outputs outputs;
    OP_REQUIRES_OK(ctx, AllocateOutput(ctx, 0, {batch, k_}, &outputs.ids));
    OP_REQUIRES_OK(ctx, AllocateOutput(ctx, 1, {batch, k_}, &outputs.scores));
    OP_REQUIRES_OK(ctx, AllocateOutput(ctx, 2, {batch}, &outputs.counts));
    OP_REQUIRES_OK(ctx, AllocateOutput(ctx, 3, {batch, k_}, &outputs.rows));
    outputs.values.resize(returned_.columns.size());
    for (size_t i = 0; i < outputs.values.size(); ++i) {
      OP_REQUIRES_OK(ctx, returned_.Allocate(ctx, index, i, 4 + i, {batch, k_},
                                             &outputs.values[i]));
    }
    if (batch == 0) return;
    OP_REQUIRES_OK(ctx, Search(ctx, queries, programs, index, outputs));
  }

 protected:
  // In the memory of the device.
  struct Outputs {
    tensorflow::Tensor* ids;
    tensorflow::Tensor* scores;
    tensorflow::Tensor* counts;
    tensorflow::Tensor* rows;
    std::vector<tensorflow::Tensor*> values;
  };

  // A batch of queries as it is searched for, in host memory; the tables are
  // left out.
  struct Batch {
    RetrievalInput input;
    std::vector<float> normalized;
    std::vector<float> samples;
  };

  absl::Status Prepare(const tensorflow::Tensor& queries,
                       const RowTables& tables, Batch* batch) const {
    RetrievalInput& input = batch->input;
    const int64_t count = queries.dim_size(0);
    input.knn.queries = Queries(queries, &batch->normalized);
    input.knn.num_queries = count;
    input.knn.dim = queries.dim_size(1);
    input.knn.metric = metric_;
    input.knn.k = k_;
    input.algorithm = algorithm_;
    if (code_attrs_.has_codes() && algorithm_ != Algorithm::kMasked &&
        algorithm_ != Algorithm::kPrefiltered) {
      batch->samples = code_attrs_.Project(input.knn.queries, count);
      input.code.samples = batch->samples.data();
      input.code.scoring = code_attrs_.scoring();
      input.code.shortlist = shortlist_;
    }
    const std::string error =
        PlannerCosts::FromList(costs_, tables.items.type, &input.costs);
    if (error.empty()) return absl::OkStatus();
    return absl::InvalidArgumentError(error);
  }

  const ReturnedColumns& returned() const { return returned_; }

 private:
  // Fills the outputs; there is at least one query.
  virtual absl::Status Search(tensorflow::OpKernelContext* ctx,
                              const tensorflow::Tensor& queries,
                              const tensorflow::Tensor& programs,
                              const Reader& index,
                              const Outputs& outputs) const = 0;

  // The queries, the embeddings and the codes must fit each other.
  absl::Status CheckIndex(const Reader& index,
                          const tensorflow::Tensor& queries) const {
    const RowTables& tables = index.tables();
    const bool has_items = tables.items.data != nullptr;
    if (!has_items && (algorithm_ == Algorithm::kMasked ||
                       algorithm_ == Algorithm::kPrefiltered)) {
      return absl::InvalidArgumentError(
          "`algorithm` must be auto or quantized for an index of codes alone");
    }
    const int64_t dim = has_items ? tables.dim : code_attrs_.dim();
    if (queries.dim_size(1) != dim) {
      return absl::InvalidArgumentError(
          absl::StrCat("`queries` must have shape [batch, ", dim,
                       "], the dimension of the index, got ",
                       queries.shape().DebugString()));
    }
    if (!code_attrs_.has_codes()) return absl::OkStatus();
    return code_attrs_.Check(tables.code_words, dim);
  }

  // The queries as they are scored; in `normalized` if they are changed.
  const float* Queries(const tensorflow::Tensor& queries,
                       std::vector<float>* normalized) const {
    const float* const values = queries.flat<float>().data();
    if (!normalize_) return values;
    const int64_t dim = queries.dim_size(1);
    normalized->resize(queries.NumElements());
    for (int64_t i = 0; i < queries.NumElements(); i += dim) {
      Normalize(values + i, dim, normalized->data() + i);
    }
    return normalized->data();
  }

  int64_t k_ = 0;
  Metric metric_ = Metric::kInnerProduct;
  bool normalize_ = false;
  ReturnedColumns returned_;
  Algorithm algorithm_ = Algorithm::kAuto;
  CodeAttrs code_attrs_;
  int64_t shortlist_ = 0;
  std::vector<float> costs_;
};

// Lintf>Lookup on variables that a `Reader` reads.
template <typename Reader>
class LookupOp : public tensorflow::OpKernel {
 public:
  explicit LookupOp(tensorflow::OpKernelConstruction* ctx) : OpKernel(ctx) {
    OP_REQUIRES_OK(ctx, ctx->GetAttr("dim", &dim_));
    OP_REQUIRES_OK(ctx, ctx->GetAttr("value_types", &returned_.types));
    for (size_t i = 0; i < returned_.types.size(); ++i) {
      returned_.columns.push_back(static_cast<int64_t>(i));
    }
    std::vector<int64_t> missing;
    OP_REQUIRES_OK(ctx, ctx->GetAttr("value_missing", &missing));
    OP_REQUIRES_OK(ctx, returned_.Init(missing));
  }

  void Compute(tensorflow::OpKernelContext* ctx) override {
    const tensorflow::Tensor& input = ctx->input(0);
    OP_REQUIRES(ctx, input.dims() == 1,
                absl::InvalidArgumentError(
                    absl::StrCat("`id` must have shape [batch], got ",
                                 input.shape().DebugString())));
    const int64_t batch = input.dim_size(0);

    Reader index;
    OP_REQUIRES_OK(ctx, index.Open(ctx, Reader::Parts::kAll));
    const RowTables& tables = index.tables();
    const int64_t dim = tables.items.data != nullptr ? tables.dim : dim_;
    const int num_values = static_cast<int>(returned_.types.size());
    Outputs outputs;
    outputs.dim = dim;
    OP_REQUIRES_OK(ctx,
                   AllocateOutput(ctx, 0, {batch, dim}, &outputs.embeddings));
    OP_REQUIRES_OK(
        ctx, AllocateOutput(ctx, 1 + num_values, {batch}, &outputs.found));
    OP_REQUIRES_OK(ctx,
                   AllocateOutput(ctx, 2 + num_values, {batch}, &outputs.rows));
    outputs.values.resize(num_values);
    for (int i = 0; i < num_values; ++i) {
      OP_REQUIRES_OK(ctx, returned_.Allocate(ctx, index, i, 1 + i, {batch},
                                             &outputs.values[i]));
    }
    OP_REQUIRES_OK(
        ctx, Fill(ctx, input.flat<int64_t>().data(), batch, index, outputs));
  }

 protected:
  struct Outputs {
    int64_t dim;
    tensorflow::Tensor* embeddings;
    tensorflow::Tensor* found;
    tensorflow::Tensor* rows;
    std::vector<tensorflow::Tensor*> values;
  };

  const ReturnedColumns& returned() const { return returned_; }

 private:
  // Fills the outputs for the items `id`, [batch].
  virtual absl::Status Fill(tensorflow::OpKernelContext* ctx, const int64_t* id,
                            int64_t batch, const Reader& index,
                            const Outputs& outputs) const = 0;

  int64_t dim_ = 0;
  ReturnedColumns returned_;
};

}  // namespace lintf

#endif  // LINTF_CUSTOM_OPS_KERNELS_RETRIEVE_OPS_H_
