// SPDX-License-Identifier: Apache-2.0
// What the kernels of custom_ops/ops/retrieve_ops.cc and
// retrieve_similar_ops.cc have in common on all devices.
#ifndef LINTF_CUSTOM_OPS_KERNELS_RETRIEVE_OPS_H_
#define LINTF_CUSTOM_OPS_KERNELS_RETRIEVE_OPS_H_

#include <algorithm>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "custom_ops/core/masked_knn.h"
#include "custom_ops/core/retrieval.h"
#include "custom_ops/core/row_tables.h"
#include "custom_ops/core/similarity.h"
#include "custom_ops/core/vectors.h"
#include "custom_ops/kernels/code_attrs.h"
#include "custom_ops/kernels/index_variables.h"
#include "custom_ops/kernels/kernel_checks.h"
#include "custom_ops/kernels/returned_columns.h"
#include "custom_ops/kernels/similarity_attrs.h"
#include "tensorflow/core/framework/op_kernel.h"
#include "tensorflow/core/framework/tensor.h"

namespace lintf {

// Lintf>Retrieve and Lintf>RetrieveSimilar on variables that a `Reader` reads.
template <typename Reader>
class RetrieveOp : public tensorflow::OpKernel {
 public:
  explicit RetrieveOp(tensorflow::OpKernelConstruction* ctx) : OpKernel(ctx) {
    OP_REQUIRES_OK(ctx, ctx->GetAttr("k", &k_));
    OP_REQUIRES_OK(ctx, ctx->GetAttr("return_columns", &returned_.columns));
    OP_REQUIRES_OK(ctx, ctx->GetAttr("return_types", &returned_.types));
    std::vector<int64_t> missing;
    OP_REQUIRES_OK(ctx, ctx->GetAttr("return_missing", &missing));
    OP_REQUIRES_OK(ctx, returned_.Init(missing));
    OP_REQUIRES_OK(ctx, ctx->GetAttr("costs", &costs_));
    OP_REQUIRES_OK(ctx, code_attrs_.Init(ctx));
    if (ctx->HasAttr("query_components")) {
      OP_REQUIRES_OK(ctx, InitLearned(ctx));
    } else {
      OP_REQUIRES_OK(ctx, InitPlain(ctx));
    }
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
    int first_value = 4;
    if (similarity_.has_value()) {
      OP_REQUIRES_OK(ctx, AllocateOutput(ctx, first_value++, {batch},
                                         &outputs.num_scored));
    }
    outputs.values.resize(returned_.columns.size());
    for (size_t i = 0; i < outputs.values.size(); ++i) {
      OP_REQUIRES_OK(ctx, returned_.Allocate(ctx, index, i, first_value + i,
                                             {batch, k_}, &outputs.values[i]));
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
    tensorflow::Tensor* num_scored = nullptr;  // of Lintf>RetrieveSimilar
    std::vector<tensorflow::Tensor*> values;
  };

  // A batch of queries as it is searched for, in host memory; the tables are
  // left out.
  struct Batch {
    RetrievalInput input;
    Similarity similarity;  // which `input` points to, if there is one
    std::vector<float> normalized;
    std::vector<float> samples;
  };

  absl::Status Prepare(tensorflow::OpKernelContext* ctx,
                       const tensorflow::Tensor& queries,
                       const RowTables& tables, Batch* batch) const {
    RetrievalInput& input = batch->input;
    const int64_t count = queries.dim_size(0);
    input.knn.queries = Queries(queries, &batch->normalized);
    input.knn.num_queries = count;
    input.knn.dim = queries.dim_size(1);
    input.knn.metric = metric_;
    input.knn.k = k_;
    input.algorithm = algorithm_;
    if (code_attrs_.has_codes() && !similarity_.has_value() &&
        algorithm_ != Algorithm::kMasked &&
        algorithm_ != Algorithm::kPrefiltered) {
      batch->samples =
          code_attrs_.Project(input.knn.queries, count, input.knn.dim);
      input.code.samples = batch->samples.data();
      input.code.scoring = code_attrs_.scoring();
      input.code.shortlist = shortlist_;
    }
    const std::string error =
        PlannerCosts::FromList(costs_, tables.items.type, &input.costs);
    if (!error.empty()) return absl::InvalidArgumentError(error);
    if (!similarity_.has_value()) return absl::OkStatus();
    return PrepareLearned(ctx, tables, batch);
  }

  const ReturnedColumns& returned() const { return returned_; }

 private:
  // Fills the outputs; there is at least one query.
  virtual absl::Status Search(tensorflow::OpKernelContext* ctx,
                              const tensorflow::Tensor& queries,
                              const tensorflow::Tensor& programs,
                              const Reader& index,
                              const Outputs& outputs) const = 0;

  absl::Status InitPlain(tensorflow::OpKernelConstruction* ctx) {
    std::string metric;
    TF_RETURN_IF_ERROR(ctx->GetAttr("metric", &metric));
    metric_ = metric == "l2" ? Metric::kL2 : Metric::kInnerProduct;
    normalize_ = metric == "cosine";
    std::string algorithm;
    TF_RETURN_IF_ERROR(ctx->GetAttr("algorithm", &algorithm));
    algorithm_ = algorithm == "masked"        ? Algorithm::kMasked
                 : algorithm == "prefiltered" ? Algorithm::kPrefiltered
                 : algorithm == "quantized"   ? Algorithm::kQuantized
                                              : Algorithm::kAuto;
    TF_RETURN_IF_ERROR(ctx->GetAttr("shortlist", &shortlist_));
    if (algorithm_ == Algorithm::kQuantized && !code_attrs_.has_codes()) {
      return absl::InvalidArgumentError(
          "`algorithm` must not be quantized for an index without `codes`; "
          "give codes or take another");
    }
    return absl::OkStatus();
  }

  absl::Status InitLearned(tensorflow::OpKernelConstruction* ctx) {
    SimilarityAttrs& similarity = similarity_.emplace();
    TF_RETURN_IF_ERROR(similarity.Init(ctx));
    std::string algorithm;
    TF_RETURN_IF_ERROR(ctx->GetAttr("algorithm", &algorithm));
    algorithm_ = algorithm == "exact"       ? Algorithm::kExact
                 : algorithm == "bounded"   ? Algorithm::kBounded
                 : algorithm == "two_stage" ? Algorithm::kTwoStage
                                            : Algorithm::kAuto;
    if (algorithm_ == Algorithm::kBounded && !similarity.shape().is_convex()) {
      return absl::InvalidArgumentError(
          "`algorithm` bounded needs a convex `gate`, none, softmax or "
          "silu_softmax: with relu and sigmoid a score may exceed its largest "
          "logit; take exact or two_stage");
    }
    std::string candidates;
    TF_RETURN_IF_ERROR(ctx->GetAttr("candidates", &candidates));
    candidates_ = candidates == "components" ? Candidates::kComponents
                  : candidates == "codes"    ? Candidates::kCodes
                                             : Candidates::kAveraged;
    TF_RETURN_IF_ERROR(ctx->GetAttr("budget", &budget_));
    TF_RETURN_IF_ERROR(ctx->GetAttr("similarity_costs", &similarity_costs_));
    const int64_t coded = similarity.shape().components_dim();
    if (code_attrs_.has_codes() && code_attrs_.dim() != coded) {
      return absl::InvalidArgumentError(
          absl::StrCat("`dim` must be ", coded,
                       ", the length of the item components, which are what "
                       "is coded, got ",
                       code_attrs_.dim()));
    }
    if (candidates_ == Candidates::kCodes && !code_attrs_.has_codes()) {
      return absl::InvalidArgumentError(
          "`candidates` must not be codes for an index without `codes`; give "
          "codes, or take averaged or components");
    }
    return absl::OkStatus();
  }

  // What a search by a learned similarity takes beyond the others.
  absl::Status PrepareLearned(tensorflow::OpKernelContext* ctx,
                              const RowTables& tables, Batch* batch) const {
    RetrievalInput& input = batch->input;
    TF_RETURN_IF_ERROR(similarity_->Read(ctx, &batch->similarity));
    const std::string error =
        SimilarityCosts::FromList(similarity_costs_, &input.similarity_costs);
    if (!error.empty()) return absl::InvalidArgumentError(error);
    input.similarity = &batch->similarity;
    input.candidates = candidates_;
    input.budget = budget_;
    input.knn.dim = tables.dim;
    const bool may_take_codes =
        candidates_ == Candidates::kCodes &&
        (algorithm_ == Algorithm::kTwoStage || algorithm_ == Algorithm::kAuto);
    if (!may_take_codes) return absl::OkStatus();
    // Of the averaged query's components, which are what is coded of rows.
    const SimilarityShape& shape = similarity_->shape();
    const int64_t count = input.knn.num_queries;
    const int64_t dim = shape.item_dim();
    std::vector<float> averaged(count * dim);
    for (int64_t i = 0; i < count; ++i) {
      AveragedQuery(batch->similarity,
                    input.knn.queries + i * shape.query_dim(),
                    averaged.data() + i * dim);
    }
    batch->samples = code_attrs_.Project(averaged.data(), count, dim);
    input.code.samples = batch->samples.data();
    input.code.scoring = code_attrs_.scoring();
    return absl::OkStatus();
  }

  // The queries, the embeddings and the codes must fit the similarity.
  absl::Status CheckLearned(const RowTables& tables,
                            const tensorflow::Tensor& queries) const {
    const SimilarityShape& shape = similarity_->shape();
    TF_RETURN_IF_ERROR(similarity_->CheckItems(tables));
    if (queries.dim_size(1) != shape.query_dim()) {
      return absl::InvalidArgumentError(
          absl::StrCat("`queries` must have shape [batch, ", shape.query_dim(),
                       "], the query vectors of the similarity, got ",
                       queries.shape().DebugString()));
    }
    if (!code_attrs_.has_codes()) return absl::OkStatus();
    return code_attrs_.CheckRows(tables.code_words, tables.dim);
  }

  // The queries, the embeddings and the codes must fit each other.
  absl::Status CheckIndex(const Reader& index,
                          const tensorflow::Tensor& queries) const {
    const RowTables& tables = index.tables();
    if (similarity_.has_value()) return CheckLearned(tables, queries);
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
  // Of Lintf>RetrieveSimilar.
  std::optional<SimilarityAttrs> similarity_;
  Candidates candidates_ = Candidates::kAveraged;
  int64_t budget_ = 0;
  std::vector<float> similarity_costs_;
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
