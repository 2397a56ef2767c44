// SPDX-License-Identifier: Apache-2.0
// What the attributes and inputs of an op say about a learned similarity.
#ifndef LINTF_CUSTOM_OPS_KERNELS_SIMILARITY_ATTRS_H_
#define LINTF_CUSTOM_OPS_KERNELS_SIMILARITY_ATTRS_H_

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "custom_ops/core/row_tables.h"
#include "custom_ops/core/similarity.h"
#include "custom_ops/core/vectors.h"
#include "tensorflow/core/framework/op_kernel.h"
#include "tensorflow/core/framework/tensor.h"
#include "tensorflow/core/framework/tensor_shape.h"

namespace lintf {

// The similarity of an op that has the attributes of one.
class SimilarityAttrs {
 public:
  absl::Status Init(tensorflow::OpKernelConstruction* ctx) {
    TF_RETURN_IF_ERROR(
        ctx->GetAttr("query_components", &shape_.query_components));
    TF_RETURN_IF_ERROR(
        ctx->GetAttr("item_components", &shape_.item_components));
    TF_RETURN_IF_ERROR(ctx->GetAttr("component_dim", &shape_.component_dim));
    TF_RETURN_IF_ERROR(ctx->GetAttr("hidden", &shape_.hidden));
    TF_RETURN_IF_ERROR(ctx->GetAttr("temperature", &shape_.temperature));
    TF_RETURN_IF_ERROR(ctx->GetAttr("gate_hidden", &shape_.gate_hidden));
    std::string component;
    std::string gate;
    TF_RETURN_IF_ERROR(ctx->GetAttr("component", &component));
    TF_RETURN_IF_ERROR(ctx->GetAttr("gate", &gate));
    if (!ParsePairSimilarity(component, &shape_.component) ||
        !ParseGate(gate, &shape_.gate)) {
      return absl::InvalidArgumentError(
          absl::StrCat("similarity: there is no `component` ", component,
                       " or no `gate` ", gate));
    }
    const std::string error = shape_.Error();
    if (error.empty()) return absl::OkStatus();
    return absl::InvalidArgumentError(error);
  }

  const SimilarityShape& shape() const { return shape_; }

  // The rows must be item vectors of the similarity.
  absl::Status CheckItems(const RowTables& tables) const {
    if (tables.items.data == nullptr) {
      return absl::InvalidArgumentError(
          "`embeddings` must be given for a learned similarity, which is made "
          "of them, got codes alone");
    }
    if (tables.dim == shape_.item_dim()) return absl::OkStatus();
    return absl::InvalidArgumentError(absl::StrCat(
        "`embeddings` must have shape [capacity, ", shape_.item_dim(),
        "], the item vectors of the similarity, got [capacity, ", tables.dim,
        "]"));
  }

  // Checks the input `weights`, and makes the similarity of them, which it
  // points to.
  absl::Status Read(tensorflow::OpKernelContext* ctx,
                    Similarity* similarity) const {
    tensorflow::OpInputList weights;
    TF_RETURN_IF_ERROR(ctx->input_list("weights", &weights));
    const std::vector<SimilarityWeight> wanted = Similarity::Weights(shape_);
    if (static_cast<size_t>(weights.size()) != wanted.size()) {
      return absl::InvalidArgumentError(absl::StrCat(
          "there must be ", wanted.size(),
          " `weights`, those of the similarity, got ", weights.size()));
    }
    std::vector<const float*> values;
    for (size_t i = 0; i < wanted.size(); ++i) {
      const tensorflow::Tensor& given = weights[static_cast<int>(i)];
      const tensorflow::TensorShape shape(wanted[i].dims);
      if (given.shape() != shape) {
        return absl::InvalidArgumentError(absl::StrCat(
            "the weight ", wanted[i].name, " must have shape ",
            shape.DebugString(), ", got ", given.shape().DebugString()));
      }
      const float* const numbers = given.flat<float>().data();
      const int64_t bad = FindNonFinite(numbers, given.NumElements());
      if (bad >= 0) {
        return absl::InvalidArgumentError(
            absl::StrCat("the weight ", wanted[i].name, " must be finite, got ",
                         numbers[bad], " at ", bad));
      }
      values.push_back(numbers);
    }
    *similarity = Similarity::Of(shape_, values);
    return absl::OkStatus();
  }

 private:
  SimilarityShape shape_;
};

}  // namespace lintf

#endif  // LINTF_CUSTOM_OPS_KERNELS_SIMILARITY_ATTRS_H_
