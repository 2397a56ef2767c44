// SPDX-License-Identifier: Apache-2.0
// Reads of an index: the k best rows of a query, and rows by id.
#include <cstdint>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "custom_ops/ops/index_shapes.h"
#include "custom_ops/ops/retrieve_shapes.h"
#include "tensorflow/core/framework/op.h"
#include "tensorflow/core/framework/shape_inference.h"
#include "tensorflow/core/framework/types.h"

namespace lintf {
namespace {

using tensorflow::shape_inference::DimensionHandle;
using tensorflow::shape_inference::InferenceContext;
using tensorflow::shape_inference::ShapeHandle;

REGISTER_OP("Lintf>Retrieve")
    .Input("queries: float")
    .Input("programs: int64")
    .Input("index: resource")
    .Input("ids: resource")
    .Input("embeddings: resource")
    .Input("num_rows: resource")
    .Input("columns: N * resource")
    .Input("scales: num_scales * resource")
    .Input("codes: num_codes * resource")
    .Output("result_ids: int64")
    .Output("scores: float")
    .Output("num_results: int32")
    .Output("rows: int64")
    .Output("values: return_types")
    .Attr("N: int >= 0")
    .Attr("k: int >= 1")
    .Attr("metric: {'inner_product', 'l2', 'cosine'} = 'inner_product'")
    .Attr("return_columns: list(int) >= 0 = []")
    .Attr("return_types: list(type) >= 0 = []")
    .Attr("return_missing: list(int) >= 0 = []")
    .Attr("num_scales: int >= 0 = 0")
    .Attr("num_codes: int >= 0 = 0")
    .Attr("algorithm: {'auto', 'masked', 'prefiltered', 'quantized'} = 'auto'")
    .Attr("dim: int >= 0 = 0")
    .Attr("bins: int >= 0 = 0")
    .Attr("repeats: int >= 0 = 0")
    .Attr("seed: int = 0")
    .Attr("scoring: {'symmetric', 'asymmetric'} = 'asymmetric'")
    .Attr("shortlist: int >= 0 = 0")
    .Attr("costs: list(float) >= 0 = []")
    .SetIsStateful()
    .SetShapeFn([](InferenceContext* c) -> absl::Status {
      DimensionHandle dim;
      TF_RETURN_IF_ERROR(EmbeddingDim(c, 4, &dim));
      TF_RETURN_IF_ERROR(MergeDimAttr(c, &dim));
      return RetrieveShapes(c, dim, 4);
    })
    .Doc(R"doc(
Finds the k best items of an index that pass a filter.

Filters, scores, selects and gathers in place; nothing of the index is copied.
`Lintf>Update` may run meanwhile: every result is one version of its row, a row
that was upserted before the search began is found, and one that was deleted
before it is not. Scores are summed in
float32 by fused multiply-add over ascending dimensions (int8 embeddings: in
int32), so a query's result is the same bits alone and in any batch. Best first;
equal scores by lower row. A filtered or dead row is never returned, whatever
its score. Unused slots, where fewer than k rows pass, hold id -1, score -inf,
row -1 and missing values.

The algorithms are LiNR's (section 3.1 of arXiv 2407.13218). `masked` scores
each row that passes for any query of the batch for all of them; `prefiltered`
scores for each query the rows that pass for it. Both are exact and give the
same bits. `quantized` selects a shortlist by 1-bit codes among the rows that
pass, and rescores it exactly; with no embeddings, scores are those of the
codes: matched bits, or the estimated inner product of the samples. `auto`
takes codes, if there are any, for queries where they cost less by the
constants in `costs`, which depends on a query's own pass count and not on the
batch; and otherwise, for each tile of rows, the cheaper of the exact two.

On a GPU all of the variables are in its memory. A search sees each batch of
`Lintf>Update` whole or not at all. Results are those of the CPU, bit by bit,
but for inner products of bfloat16 and half embeddings: those are summed in
float32 in another order, which depends on the dimension alone. `auto` scores
exactly wherever there are embeddings. RESOURCE_EXHAUSTED if too little of the
GPU's memory is left for the search.

INVALID_ARGUMENT if shapes do not fit each other or the index, if a query holds
NaN or an infinity, and for a malformed program (`program 3: ...`).
FAILED_PRECONDITION if a variable has no value yet or two rows have the same id.

queries: `[batch, dim]`.
programs: from `Lintf>CompileFilter`; `[batch, words]`.
index: handle from `Lintf>IndexHandle`.
ids: handle of an int64 variable `[capacity]`; -1 in a dead row.
embeddings: handle of a float, bfloat16, half or int8 variable
  `[capacity, dim]`; of the codes again if there are no embeddings.
num_rows: handle of an int64 variable `[]`: rows in use.
columns: handles of the attribute variables in schema order, `[capacity]` or
  `[capacity, width]`.
scales: handle of a float variable `[capacity]`, for int8 embeddings: what each
  row is multiplied by.
codes: handle of an int64 variable `[ceil(capacity / 64), words, 64]`, written
  by `Lintf>AssignCodes`; or none.
result_ids: item ids; `[batch, k]`.
scores: `[batch, k]`.
num_results: slots in use; `[batch]`.
rows: rows of the index; `[batch, k]`.
values: for each of `return_columns`, what it holds in those rows; `[batch, k]`
  or `[batch, k, width]`.
k: results a query; may exceed the number of rows.
metric: `inner_product`; `l2`: minus the squared Euclidean distance; `cosine`:
  the inner product with the query scaled to length 1 (the embeddings are
  expected to have length 1).
return_columns: positions in `columns`.
return_types: their dtypes.
return_missing: what stands for missing in each of them; for a float column
  always NaN. Without it: the lowest value of a signed column, 0 of others.
algorithm: as above.
dim: dimension of the queries; needed with codes.
bins: samples of one repeat of the codes (`Lintf>SignOporp`).
repeats: repeats of the codes.
seed: seed of the codes.
scoring: how codes are compared: `symmetric` counts the bits that the query's
  code has too, `asymmetric` keeps the query's samples in full.
shortlist: rows that codes select for rescoring; raised to k.
costs: constants of the cost model, from `Lintf>PlannerCosts`; empty for those
  that are compiled in.
)doc");

REGISTER_OP("Lintf>Lookup")
    .Input("id: int64")
    .Input("index: resource")
    .Input("ids: resource")
    .Input("embeddings: resource")
    .Input("num_rows: resource")
    .Input("columns: N * resource")
    .Input("scales: num_scales * resource")
    .Input("codes: num_codes * resource")
    .Output("embedding: float")
    .Output("values: value_types")
    .Output("found: bool")
    .Output("row: int64")
    .Attr("N: int >= 0")
    .Attr("value_types: list(type) >= 0")
    .Attr("value_missing: list(int) >= 0 = []")
    .Attr("num_scales: int >= 0 = 0")
    .Attr("num_codes: int >= 0 = 0")
    .Attr("dim: int >= 0 = 0")
    .SetIsStateful()
    .SetShapeFn([](InferenceContext* c) -> absl::Status {
      ShapeHandle id;
      TF_RETURN_IF_ERROR(c->WithRank(c->input(0), 1, &id));
      TF_RETURN_IF_ERROR(CheckHandles(c, 1));
      DimensionHandle dim;
      TF_RETURN_IF_ERROR(EmbeddingDim(c, 3, &dim));
      TF_RETURN_IF_ERROR(MergeDimAttr(c, &dim));
      TF_RETURN_IF_ERROR(CheckOptional(c));
      int num_columns;
      TF_RETURN_IF_ERROR(c->GetAttr("N", &num_columns));
      tensorflow::DataTypeVector types;
      TF_RETURN_IF_ERROR(c->GetAttr("value_types", &types));
      if (static_cast<int>(types.size()) != num_columns) {
        return absl::InvalidArgumentError(
            absl::StrCat("`value_types` must have one entry for each of the ",
                         num_columns, " columns, got ", types.size()));
      }
      TF_RETURN_IF_ERROR(CheckMissing(c, "value_missing", types.size()));
      c->set_output(0, c->Matrix(c->Dim(id, 0), dim));
      for (int i = 0; i < num_columns; ++i) {
        ShapeHandle values;
        TF_RETURN_IF_ERROR(ColumnValues(c, 5 + i, types[i], id, &values));
        c->set_output(1 + i, values);
      }
      c->set_output(1 + num_columns, id);
      c->set_output(2 + num_columns, id);
      return absl::OkStatus();
    })
    .Doc(R"doc(
Reads rows of an index by item id.

Each row is one version of it, whatever updates run meanwhile; nothing is copied
but the rows asked for. Errors as in `Lintf>Retrieve`.

id: item ids; `[batch]`. -1 is never found.
index: handle from `Lintf>IndexHandle`.
ids: handle of an int64 variable `[capacity]`; -1 in a dead row.
embeddings: handle of a float, bfloat16, half or int8 variable
  `[capacity, dim]`; of the codes if there are no embeddings.
num_rows: handle of an int64 variable `[]`: rows in use.
columns: handles of attribute variables, `[capacity]` or `[capacity, width]`.
scales: handle of a float variable `[capacity]`, for int8 embeddings.
codes: handle of the codes, or none; needed if there are no embeddings.
embedding: as float; 0 where not found, and if there are none; `[batch, dim]`.
values: what each column holds, missing where not found; `[batch]` or
  `[batch, width]`.
found: whether the index has the item; `[batch]`.
row: its row, -1 where not found; `[batch]`.
value_types: the dtypes of the columns.
value_missing: what stands for missing in each column; for a float column
  always NaN. Without it: the lowest value of a signed column, 0 of others.
dim: dimension of `embedding` if there are no embeddings.
)doc");

}  // namespace
}  // namespace lintf
