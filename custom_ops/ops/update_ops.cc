// SPDX-License-Identifier: Apache-2.0
// Writes to an index that is being served.
#include <cstdint>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "custom_ops/ops/index_shapes.h"
#include "tensorflow/core/framework/op.h"
#include "tensorflow/core/framework/shape_inference.h"
#include "tensorflow/core/framework/types.h"

namespace lintf {
namespace {

using tensorflow::shape_inference::DimensionHandle;
using tensorflow::shape_inference::InferenceContext;
using tensorflow::shape_inference::ShapeHandle;

// Values of a column: [batch], or [batch, width] where the variable has
// rank 2.
absl::Status CheckColumnValues(InferenceContext* c, int values, int column,
                               DimensionHandle batch) {
  ShapeHandle shape = c->input(values);
  TF_RETURN_IF_ERROR(c->WithRankAtLeast(shape, 1, &shape));
  TF_RETURN_IF_ERROR(c->WithRankAtMost(shape, 2, &shape));
  if (c->RankKnown(shape)) {
    DimensionHandle unused;
    TF_RETURN_IF_ERROR(c->Merge(c->Dim(shape, 0), batch, &unused));
  }
  const auto* variable = c->input_handle_shapes_and_types(column);
  if (variable == nullptr || variable->size() != 1) return absl::OkStatus();
  const ShapeHandle stored = (*variable)[0].shape;
  if (!c->RankKnown(stored)) return absl::OkStatus();
  ShapeHandle rows;
  TF_RETURN_IF_ERROR(c->WithRankAtLeast(stored, 1, &rows));
  TF_RETURN_IF_ERROR(c->ReplaceDim(rows, 0, batch, &rows));
  return c->Merge(shape, rows, &shape);
}

absl::Status UpdateShape(InferenceContext* c) {
  int64_t num_embeddings;
  TF_RETURN_IF_ERROR(c->GetAttr("num_embeddings", &num_embeddings));
  if (num_embeddings > 1) {
    return absl::InvalidArgumentError(
        absl::StrCat("`num_embeddings` must be 0 or 1, got ", num_embeddings));
  }
  tensorflow::DataTypeVector types;
  TF_RETURN_IF_ERROR(c->GetAttr("value_types", &types));
  int64_t num_columns;
  TF_RETURN_IF_ERROR(c->GetAttr("N", &num_columns));
  if (static_cast<int64_t>(types.size()) != num_columns) {
    return absl::InvalidArgumentError(
        absl::StrCat("there must be values for each of the ", num_columns,
                     " columns, got ", types.size()));
  }
  TF_RETURN_IF_ERROR(CheckOptional(c));

  DimensionHandle batch = c->UnknownDim();
  const auto merge_vector = [&](int input) {
    ShapeHandle vector;
    TF_RETURN_IF_ERROR(c->WithRank(c->input(input), 1, &vector));
    return c->Merge(batch, c->Dim(vector, 0), &batch);
  };
  const int embedding = 2;
  const int values = embedding + static_cast<int>(num_embeddings);
  const int log = values + static_cast<int>(num_columns);
  const int index = log + 3;
  const int columns = index + 5;
  for (const int input : {0, 1, log, log + 1, log + 2}) {
    TF_RETURN_IF_ERROR(merge_vector(input));
  }
  TF_RETURN_IF_ERROR(CheckHandles(c, index));
  if (num_embeddings == 1) {
    ShapeHandle vectors;
    TF_RETURN_IF_ERROR(c->WithRank(c->input(embedding), 2, &vectors));
    TF_RETURN_IF_ERROR(c->Merge(batch, c->Dim(vectors, 0), &batch));
    DimensionHandle dim;
    TF_RETURN_IF_ERROR(EmbeddingDim(c, index + 2, &dim));
    TF_RETURN_IF_ERROR(c->Merge(dim, c->Dim(vectors, 1), &dim));
    TF_RETURN_IF_ERROR(CheckCodedDim(c, index + 2, &dim));
  }
  for (int i = 0; i < num_columns; ++i) {
    TF_RETURN_IF_ERROR(CheckColumnValues(c, values + i, columns + i, batch));
  }
  c->set_output(0, c->Vector(batch));
  c->set_output(1, c->Vector(batch));
  return absl::OkStatus();
}

REGISTER_OP("Lintf>Update")
    .Input("id: int64")
    .Input("delete: bool")
    .Input("embedding: num_embeddings * float")
    .Input("values: value_types")
    .Input("log_partition: int64")
    .Input("log_previous_offset: int64")
    .Input("log_offset: int64")
    .Input("index: resource")
    .Input("ids: resource")
    .Input("embeddings: resource")
    .Input("num_rows: resource")
    .Input("log_offsets: resource")
    .Input("columns: N * resource")
    .Input("scales: num_scales * resource")
    .Input("codes: num_codes * resource")
    .Output("status: int32")
    .Output("rows: int64")
    .Attr("num_embeddings: int >= 0 = 1")
    .Attr("value_types: list(type) >= 0")
    .Attr("N: int >= 0")
    .Attr("metric: {'inner_product', 'l2', 'cosine'} = 'inner_product'")
    .Attr("num_scales: int >= 0 = 0")
    .Attr("num_codes: int >= 0 = 0")
    .Attr("dim: int >= 0 = 0")
    .Attr("bins: int >= 0 = 0")
    .Attr("repeats: int >= 0 = 0")
    .Attr("seed: int = 0")
    .Attr("scoring: {'symmetric', 'asymmetric'} = 'asymmetric'")
    .SetIsStateful()
    .SetShapeFn(UpdateShape)
    .Doc(R"doc(
Upserts and deletes items of an index that is being searched.

The whole batch is checked first; after an error nothing has changed. Then its
rows are applied, each as a whole in the eyes of concurrent `Lintf>Retrieve` and
`Lintf>Lookup`: embedding, codes, attributes and id together. Of several rows
for one item the last one counts. Then, in the same step for whoever reads them,
the offsets of the log move on. Searches are not waited for; other updates are.

New items take the rows that deletes have freed, then rows after those in use.
No table is copied or moved.

A row from the log states the offset that it follows, that of the row before it
in its partition of the batch, or the stored one. A row whose id is -1 changes
nothing but the offset; it must come from the log.

INVALID_ARGUMENT for shapes and dtypes that do not fit the index, an embedding
that is not finite, is zero while the metric is cosine or does not fit the
storage type, and a position that no log has. FAILED_PRECONDITION if the batch
does not follow the stored offset, which the message names; RESOURCE_EXHAUSTED
if the index has too few rows left.

id: item ids; `[batch]`.
delete: whether the row takes the item out; the rest of such a row is not looked
  at; `[batch]`.
embedding: `[batch, dim]`; scaled to length 1 if the metric is cosine, then
  rounded to the storage type. None: attributes alone change, and items that the
  index does not have are left out.
values: for each column what it will hold, as it is stored; `[batch]` or
  `[batch, width]`.
log_partition: of the change log; not looked at without an offset; `[batch]`.
log_previous_offset: the offset that the row follows, -1 at the start;
  `[batch]`.
log_offset: of the row in its partition, -1 for a row that is not from the log;
  `[batch]`.
index: handle from `Lintf>IndexHandle`.
ids: handle of an int64 variable `[capacity]`; -1 in a dead row.
embeddings: handle of a float, bfloat16, half or int8 variable
  `[capacity, dim]`; of the codes again if there are no embeddings.
num_rows: handle of an int64 variable `[]`: rows in use.
log_offsets: handle of an int64 variable `[partitions]`: the last offset of each
  that the index holds, -1 for none.
columns: handles of the attribute variables in schema order, `[capacity]` or
  `[capacity, width]`.
scales: handle of a float variable `[capacity]`, for int8 embeddings.
codes: handle of the codes, or none.
status: what became of each row, as if they were applied one after another; 0:
  nothing changed, 1: inserted, 2: replaced, 3: deleted, 4: not found;
  `[batch]`.
rows: rows in use after the batch; `[batch]`.
num_embeddings: 1, or 0 if attributes alone change.
value_types: the dtypes of the columns.
metric: as in `Lintf>Retrieve`.
dim: how many numbers of an embedding, the first, are coded: the dimension of
  the embeddings, or the length of a learned similarity's item components;
  needed with codes.
bins: samples of one repeat of the codes (`Lintf>SignOporp`).
repeats: repeats of the codes.
seed: seed of the codes.
scoring: not looked at.
)doc");

REGISTER_OP("Lintf>LogOffsets")
    .Input("index: resource")
    .Input("ids: resource")
    .Input("num_rows: resource")
    .Input("log_offsets: resource")
    .Output("offsets: int64")
    .SetIsStateful()
    .SetShapeFn([](InferenceContext* c) -> absl::Status {
      TF_RETURN_IF_ERROR(CheckHandles(c, 0));
      c->set_output(0, c->Vector(InferenceContext::kUnknownDim));
      const auto* variable = c->input_handle_shapes_and_types(3);
      if (variable == nullptr || variable->size() != 1) {
        return absl::OkStatus();
      }
      ShapeHandle shape;
      TF_RETURN_IF_ERROR(c->WithRank((*variable)[0].shape, 1, &shape));
      c->set_output(0, shape);
      return absl::OkStatus();
    })
    .Doc(R"doc(
Reads how far an index has applied the change log, never in the middle of an
update.

index: handle from `Lintf>IndexHandle`.
ids: handle of an int64 variable `[capacity]`.
num_rows: handle of an int64 variable `[]`.
log_offsets: handle of an int64 variable `[partitions]`.
offsets: its value; `[partitions]`.
)doc");

}  // namespace
}  // namespace lintf
