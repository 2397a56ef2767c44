// SPDX-License-Identifier: Apache-2.0
// Shape inference that ops on the rows of an index share.
#ifndef LINTF_CUSTOM_OPS_OPS_INDEX_SHAPES_H_
#define LINTF_CUSTOM_OPS_OPS_INDEX_SHAPES_H_

#include <cstdint>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "tensorflow/core/framework/shape_inference.h"
#include "tensorflow/core/framework/types.h"

namespace lintf {

// The dimension of the `embeddings` variable behind a handle, where known.
inline absl::Status EmbeddingDim(
    tensorflow::shape_inference::InferenceContext* c, int input,
    tensorflow::shape_inference::DimensionHandle* dim) {
  *dim = c->UnknownDim();
  const auto* variable = c->input_handle_shapes_and_types(input);
  if (variable == nullptr || variable->size() != 1) return absl::OkStatus();
  // An index of codes alone names its codes here.
  if ((*variable)[0].dtype == tensorflow::DT_INT64) return absl::OkStatus();
  tensorflow::shape_inference::ShapeHandle shape;
  TF_RETURN_IF_ERROR(c->WithRank((*variable)[0].shape, 2, &shape));
  *dim = c->Dim(shape, 1);
  return absl::OkStatus();
}

// Merges `dim` with the attribute `dim`, where that is given.
inline absl::Status MergeDimAttr(
    tensorflow::shape_inference::InferenceContext* c,
    tensorflow::shape_inference::DimensionHandle* dim) {
  int64_t given;
  TF_RETURN_IF_ERROR(c->GetAttr("dim", &given));
  if (given == 0) return absl::OkStatus();
  return c->Merge(*dim, c->MakeDim(given), dim);
}

// Checks the attribute `dim`, where it is given, as the number of an
// embedding's first numbers that are coded; all of them, if there are codes
// alone behind the handle `input`.
inline absl::Status CheckCodedDim(
    tensorflow::shape_inference::InferenceContext* c, int input,
    tensorflow::shape_inference::DimensionHandle* dim) {
  int64_t given;
  TF_RETURN_IF_ERROR(c->GetAttr("dim", &given));
  if (given == 0) return absl::OkStatus();
  const auto* variable = c->input_handle_shapes_and_types(input);
  if (variable != nullptr && variable->size() == 1 &&
      (*variable)[0].dtype == tensorflow::DT_INT64) {
    return c->Merge(*dim, c->MakeDim(given), dim);
  }
  if (c->ValueKnown(*dim) && given > c->Value(*dim)) {
    return absl::InvalidArgumentError(
        absl::StrCat("`dim`, the coded numbers of an embedding, must be at "
                     "most its length, ",
                     c->Value(*dim), ", got ", given));
  }
  return absl::OkStatus();
}

// `scales` and `codes` are one variable each, or none.
inline absl::Status CheckOptional(
    tensorflow::shape_inference::InferenceContext* c) {
  for (const char* name : {"num_scales", "num_codes"}) {
    int64_t count;
    TF_RETURN_IF_ERROR(c->GetAttr(name, &count));
    if (count > 1) {
      return absl::InvalidArgumentError(
          absl::StrCat("`", name, "` must be 0 or 1, got ", count));
    }
  }
  return absl::OkStatus();
}

// The inputs in [first, end) are handles.
inline absl::Status CheckHandles(
    tensorflow::shape_inference::InferenceContext* c, int first, int end) {
  tensorflow::shape_inference::ShapeHandle unused;
  for (int i = first; i < end; ++i) {
    TF_RETURN_IF_ERROR(c->WithRank(c->input(i), 0, &unused));
  }
  return absl::OkStatus();
}

// The inputs from `first` on are handles.
inline absl::Status CheckHandles(
    tensorflow::shape_inference::InferenceContext* c, int first) {
  return CheckHandles(c, first, c->num_inputs());
}

}  // namespace lintf

#endif  // LINTF_CUSTOM_OPS_OPS_INDEX_SHAPES_H_
