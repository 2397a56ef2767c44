// SPDX-License-Identifier: Apache-2.0
// Search on plain tensors.
#include <cstdint>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "tensorflow/core/framework/op.h"
#include "tensorflow/core/framework/shape_inference.h"

namespace lintf {
namespace {

using tensorflow::shape_inference::DimensionHandle;
using tensorflow::shape_inference::InferenceContext;
using tensorflow::shape_inference::ShapeHandle;

// Queries, items and masks that fit each other, and the outputs of a search.
absl::Status KnnShape(InferenceContext* c, int mask_input) {
  ShapeHandle queries;
  ShapeHandle items;
  ShapeHandle mask;
  TF_RETURN_IF_ERROR(c->WithRank(c->input(0), 2, &queries));
  TF_RETURN_IF_ERROR(c->WithRank(c->input(1), 2, &items));
  TF_RETURN_IF_ERROR(c->WithRank(c->input(mask_input), 2, &mask));
  DimensionHandle unused;
  TF_RETURN_IF_ERROR(c->Merge(c->Dim(queries, 1), c->Dim(items, 1), &unused));
  TF_RETURN_IF_ERROR(c->Merge(c->Dim(items, 0), c->Dim(mask, 1), &unused));
  const DimensionHandle batch = c->Dim(queries, 0);
  const DimensionHandle masks = c->Dim(mask, 0);
  if (c->ValueKnown(batch) && c->ValueKnown(masks) && c->Value(masks) != 1 &&
      c->Value(masks) != c->Value(batch)) {
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
}

// The bits of a code, from the attributes; a multiple of 64.
absl::Status CodeBits(InferenceContext* c, int64_t* bits) {
  int64_t bins;
  int64_t repeats;
  TF_RETURN_IF_ERROR(c->GetAttr("bins", &bins));
  TF_RETURN_IF_ERROR(c->GetAttr("repeats", &repeats));
  if (bins > int64_t{1} << 20 || repeats > int64_t{1} << 20 ||
      bins * repeats % 64 != 0) {
    return absl::InvalidArgumentError(
        absl::StrCat("`bins` times `repeats` must be a multiple of 64 and "
                     "each at most 2^20, got ",
                     bins, " and ", repeats));
  }
  *bits = bins * repeats;
  return absl::OkStatus();
}

}  // namespace

REGISTER_OP("Lintf>MaskedKnn")
    .Input("queries: float")
    .Input("items: float")
    .Input("mask: bool")
    .Output("scores: float")
    .Output("indices: int64")
    .Output("num_results: int32")
    .Attr("k: int >= 1")
    .Attr("metric: {'inner_product', 'l2'} = 'inner_product'")
    .SetShapeFn([](InferenceContext* c) { return KnnShape(c, 2); })
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

REGISTER_OP("Lintf>PrefilteredKnn")
    .Input("queries: float")
    .Input("items: float")
    .Input("mask: bool")
    .Output("scores: float")
    .Output("indices: int64")
    .Output("num_results: int32")
    .Attr("k: int >= 1")
    .Attr("metric: {'inner_product', 'l2'} = 'inner_product'")
    .SetShapeFn([](InferenceContext* c) { return KnnShape(c, 2); })
    .Doc(R"doc(
As `Lintf>MaskedKnn`, the same bits; scores for each query the items that pass
for it and no others, where `Lintf>MaskedKnn` scores those that pass for any
query of the batch for all of them. Faster where few pass.

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

REGISTER_OP("Lintf>SignOporp")
    .Input("vectors: float")
    .Output("codes: int64")
    .Output("samples: float")
    .Attr("bins: int >= 1")
    .Attr("repeats: int >= 1 = 1")
    .Attr("seed: int = 0")
    .SetShapeFn([](InferenceContext* c) -> absl::Status {
      ShapeHandle vectors;
      TF_RETURN_IF_ERROR(c->WithRank(c->input(0), 2, &vectors));
      int64_t bits;
      TF_RETURN_IF_ERROR(CodeBits(c, &bits));
      const DimensionHandle count = c->Dim(vectors, 0);
      c->set_output(0, c->Matrix(count, c->MakeDim(bits / 64)));
      c->set_output(1, c->Matrix(count, c->MakeDim(bits)));
      return absl::OkStatus();
    })
    .Doc(R"doc(
Makes 1-bit Sign-OPORP codes (arXiv 2302.03505).

A repeat permutes the coordinates, multiplies each by a random sign, and sums
them in `bins` bins of equal length; a bit is set where its sum is at least 0.
The random draws follow from `seed`, the dimension, `bins` and the repeat.

vectors: `[n, dim]`.
codes: bit `b` is bit `b % 64` of word `b / 64`; `[n, bins * repeats / 64]`.
samples: the sums; `[n, bins * repeats]`.
bins: of one repeat; at most dim.
repeats: `bins * repeats` is a multiple of 64.
seed: of the permutations and signs.
)doc");

REGISTER_OP("Lintf>QuantizedKnn")
    .Input("queries: float")
    .Input("items: float")
    .Input("codes: int64")
    .Input("mask: bool")
    .Output("scores: float")
    .Output("indices: int64")
    .Output("num_results: int32")
    .Attr("k: int >= 1")
    .Attr("metric: {'inner_product', 'l2'} = 'inner_product'")
    .Attr("shortlist: int >= 0 = 0")
    .Attr("bins: int >= 1")
    .Attr("repeats: int >= 1 = 1")
    .Attr("seed: int = 0")
    .Attr("scoring: {'symmetric', 'asymmetric'} = 'asymmetric'")
    .SetShapeFn([](InferenceContext* c) -> absl::Status {
      TF_RETURN_IF_ERROR(KnnShape(c, 3));
      int64_t bits;
      TF_RETURN_IF_ERROR(CodeBits(c, &bits));
      ShapeHandle codes;
      TF_RETURN_IF_ERROR(c->WithRank(c->input(2), 2, &codes));
      DimensionHandle unused;
      TF_RETURN_IF_ERROR(
          c->Merge(c->Dim(codes, 1), c->MakeDim(bits / 64), &unused));
      return c->Merge(c->Dim(codes, 0), c->Dim(c->input(1), 0), &unused);
    })
    .Doc(R"doc(
Finds about the k best items that pass a mask: a shortlist by 1-bit codes, then
exact scores for it (LiNR's V3, arXiv 2407.13218).

The mask applies before the selection. Where no more items pass than the
shortlist holds, the result is exact. Scores are those of `Lintf>MaskedKnn`, bit
by bit. Errors as there.

queries: `[batch, dim]`.
items: `[items, dim]`.
codes: of the items, from `Lintf>SignOporp` with the same attributes;
  `[items, bins * repeats / 64]`.
mask: `[batch, items]` or `[1, items]`.
scores: `[batch, k]`.
indices: rows of `items`; `[batch, k]`.
num_results: slots in use; `[batch]`.
k: results a query; may exceed the number of items.
metric: `inner_product`, or `l2`: minus the squared Euclidean distance.
shortlist: items that codes select for each query; raised to k.
bins: as in `Lintf>SignOporp`.
repeats: as there.
seed: as there.
scoring: `symmetric` counts the bits that the query's code has too;
  `asymmetric` keeps the query's samples in full.
)doc");

}  // namespace lintf
