// SPDX-License-Identifier: Apache-2.0
// Shape inference that searches and look-ups of an index share.
#ifndef LINTF_CUSTOM_OPS_OPS_RETRIEVE_SHAPES_H_
#define LINTF_CUSTOM_OPS_OPS_RETRIEVE_SHAPES_H_

#include <cstddef>
#include <cstdint>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "custom_ops/ops/index_shapes.h"
#include "tensorflow/core/framework/shape_inference.h"
#include "tensorflow/core/framework/types.h"

namespace lintf {

// The shape of values from the column behind a handle: `leading`, and the
// column's width where the variable has rank 2.
inline absl::Status ColumnValues(
    tensorflow::shape_inference::InferenceContext* c, int input,
    tensorflow::DataType dtype,
    tensorflow::shape_inference::ShapeHandle leading,
    tensorflow::shape_inference::ShapeHandle* values) {
  *values = c->UnknownShape();
  const auto* variable = c->input_handle_shapes_and_types(input);
  if (variable == nullptr || variable->size() != 1) return absl::OkStatus();
  if ((*variable)[0].dtype != dtype) {
    return absl::InvalidArgumentError(
        absl::StrCat("values must have the dtype of their column, ",
                     tensorflow::DataTypeString((*variable)[0].dtype), ", got ",
                     tensorflow::DataTypeString(dtype)));
  }
  const tensorflow::shape_inference::ShapeHandle shape = (*variable)[0].shape;
  if (!c->RankKnown(shape)) return absl::OkStatus();
  tensorflow::shape_inference::ShapeHandle row;
  TF_RETURN_IF_ERROR(c->WithRankAtLeast(shape, 1, &row));
  TF_RETURN_IF_ERROR(c->WithRankAtMost(shape, 2, &row));
  TF_RETURN_IF_ERROR(c->Subshape(shape, 1, &row));
  return c->Concatenate(leading, row, values);
}

// `name` must have an entry for each of `count` values, or none at all.
inline absl::Status CheckMissing(
    tensorflow::shape_inference::InferenceContext* c, const char* name,
    size_t count) {
  std::vector<int64_t> missing;
  TF_RETURN_IF_ERROR(c->GetAttr(name, &missing));
  if (!missing.empty() && missing.size() != count) {
    return absl::InvalidArgumentError(
        absl::StrCat("`", name, "` must have ", count, " entries or none, got ",
                     missing.size()));
  }
  return absl::OkStatus();
}

// The shapes of the outputs of a search whose queries have dimension `dim`.
// Those of `values` begin at output `first_value`.
inline absl::Status RetrieveShapes(
    tensorflow::shape_inference::InferenceContext* c,
    tensorflow::shape_inference::DimensionHandle dim, int first_value) {
  tensorflow::shape_inference::ShapeHandle queries;
  tensorflow::shape_inference::ShapeHandle programs;
  TF_RETURN_IF_ERROR(c->WithRank(c->input(0), 2, &queries));
  TF_RETURN_IF_ERROR(c->WithRank(c->input(1), 2, &programs));
  tensorflow::shape_inference::DimensionHandle unused;
  tensorflow::shape_inference::DimensionHandle batch;
  TF_RETURN_IF_ERROR(c->Merge(c->Dim(queries, 0), c->Dim(programs, 0), &batch));
  TF_RETURN_IF_ERROR(CheckOptional(c));
  TF_RETURN_IF_ERROR(c->Merge(c->Dim(queries, 1), dim, &unused));

  int num_columns;
  TF_RETURN_IF_ERROR(c->GetAttr("N", &num_columns));
  int num_scales;
  TF_RETURN_IF_ERROR(c->GetAttr("num_scales", &num_scales));
  int num_codes;
  TF_RETURN_IF_ERROR(c->GetAttr("num_codes", &num_codes));
  TF_RETURN_IF_ERROR(
      CheckHandles(c, 2, 6 + num_columns + num_scales + num_codes));
  std::vector<int64_t> columns;
  TF_RETURN_IF_ERROR(c->GetAttr("return_columns", &columns));
  tensorflow::DataTypeVector types;
  TF_RETURN_IF_ERROR(c->GetAttr("return_types", &types));
  if (types.size() != columns.size()) {
    return absl::InvalidArgumentError(
        absl::StrCat("`return_types` must have one entry for each of the ",
                     columns.size(), " `return_columns`, got ", types.size()));
  }
  TF_RETURN_IF_ERROR(CheckMissing(c, "return_missing", columns.size()));

  int64_t k;
  TF_RETURN_IF_ERROR(c->GetAttr("k", &k));
  const tensorflow::shape_inference::ShapeHandle slots =
      c->Matrix(batch, c->MakeDim(k));
  c->set_output(0, slots);
  c->set_output(1, slots);
  c->set_output(2, c->Vector(batch));
  c->set_output(3, slots);
  if (first_value > 4) c->set_output(4, c->Vector(batch));
  for (size_t i = 0; i < columns.size(); ++i) {
    if (columns[i] < 0 || columns[i] >= num_columns) {
      return absl::InvalidArgumentError(
          absl::StrCat("`return_columns` must be in [0, ", num_columns,
                       "), the number of columns, got ", columns[i]));
    }
    tensorflow::shape_inference::ShapeHandle values;
    TF_RETURN_IF_ERROR(ColumnValues(c, 6 + static_cast<int>(columns[i]),
                                    types[i], slots, &values));
    c->set_output(first_value + static_cast<int>(i), values);
  }
  return absl::OkStatus();
}

}  // namespace lintf

#endif  // LINTF_CUSTOM_OPS_OPS_RETRIEVE_SHAPES_H_
