// SPDX-License-Identifier: Apache-2.0
// Search on plain tensors.
#include <cstdint>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "tensorflow/core/framework/op.h"
#include "tensorflow/core/framework/shape_inference.h"

namespace lintf {

using tensorflow::shape_inference::DimensionHandle;
using tensorflow::shape_inference::InferenceContext;
using tensorflow::shape_inference::ShapeHandle;

REGISTER_OP("Lintf>MaskedKnn")
    .Input("queries: float")
    .Input("items: float")
    .Input("mask: bool")
    .Output("scores: float")
    .Output("indices: int64")
    .Output("num_results: int32")
    .Attr("k: int >= 1")
    .Attr("metric: {'inner_product', 'l2'} = 'inner_product'")
    .SetShapeFn([](InferenceContext* c) -> absl::Status {
      ShapeHandle queries;
      ShapeHandle items;
      ShapeHandle mask;
      TF_RETURN_IF_ERROR(c->WithRank(c->input(0), 2, &queries));
      TF_RETURN_IF_ERROR(c->WithRank(c->input(1), 2, &items));
      TF_RETURN_IF_ERROR(c->WithRank(c->input(2), 2, &mask));
      DimensionHandle unused;
      TF_RETURN_IF_ERROR(
          c->Merge(c->Dim(queries, 1), c->Dim(items, 1), &unused));
      TF_RETURN_IF_ERROR(c->Merge(c->Dim(items, 0), c->Dim(mask, 1), &unused));
      const DimensionHandle batch = c->Dim(queries, 0);
      const DimensionHandle masks = c->Dim(mask, 0);
      if (c->ValueKnown(batch) && c->ValueKnown(masks) &&
          c->Value(masks) != 1 && c->Value(masks) != c->Value(batch)) {
        return absl::InvalidArgumentError(
            absl::StrCat("`mask` must have 1 row, or one for each of the ",
                         c->Value(batch), " queries, got ", c->Value(masks)));
      }
      int64_t k;
      TF_RETURN_IF_ERROR(c->GetAttr("k", &k));
      c->set_output(0, c->Matrix(batch, c->MakeDim(k)));
      c->set_output(1, c->Matrix(batch, c->MakeDim(k)));
      c->set_output(2, c->Vector(batch));
      return absl::OkStatus();
    })
    .Doc(R"doc(
Finds the k best items that pass a mask: exact, filtered nearest neighbours.

Scores are summed in float32 by fused multiply-add over ascending dimensions,
so a result depends neither on the batch nor on the machine. Best first; equal
scores by lower index. An item whose mask is false is never returned, whatever
its score. Where fewer than k items pass, the unused slots hold index -1 and
score -inf.

INVALID_ARGUMENT if shapes do not fit each other or a query holds NaN or an
infinity. Items may hold any value; a NaN score counts as -inf.

queries: `[batch, dim]`, dim at least 1.
items: `[items, dim]`.
mask: true where an item may be returned; `[batch, items]`, or `[1, items]` for
  all queries alike.
scores: `[batch, k]`.
indices: rows of `items`; `[batch, k]`.
num_results: slots in use; `[batch]`.
k: results a query; may exceed the number of items.
metric: `inner_product`, or `l2`: minus the squared Euclidean distance.
)doc");

}  // namespace lintf
