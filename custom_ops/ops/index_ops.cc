// SPDX-License-Identifier: Apache-2.0
// Ops on the index as a whole.
#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "tensorflow/core/framework/common_shape_fns.h"
#include "tensorflow/core/framework/op.h"
#include "tensorflow/core/framework/shape_inference.h"
#include "tensorflow/core/framework/types.h"

namespace lintf {

using tensorflow::shape_inference::DimensionHandle;
using tensorflow::shape_inference::InferenceContext;
using tensorflow::shape_inference::ScalarShape;
using tensorflow::shape_inference::ShapeHandle;

REGISTER_OP("Lintf>IndexHandle")
    .Output("index: resource")
    .Attr("container: string = ''")
    .Attr("shared_name: string = ''")
    .Attr("anonymous: bool = false")
    .SetIsStateful()
    .SetShapeFn(ScalarShape)
    .Doc(R"doc(
Makes a handle of what an index knows beyond its variables: the map from item
ids to rows, and which rows are live. Both are made from the `ids` and
`num_rows` variables when an op first needs them.

Nodes of the same name and container in a session, or in one eager context, give
the same resource, which lives as long as the session or context. With the
shared name of anonymous variables, every execution gives a new resource. A node
that is `anonymous` has one of its own. The last two live as long as a handle.

index: the handle; `[]`.
container: of the resource manager; empty means the default one.
shared_name: the resource's name; empty means the name of the node.
anonymous: whether the node has a resource of its own, whatever the name.
)doc");

REGISTER_OP("Lintf>IndexStats")
    .Input("index: resource")
    .Input("ids: resource")
    .Input("num_rows: resource")
    .Output("rows: int64")
    .Output("live_rows: int64")
    .SetIsStateful()
    .SetShapeFn([](InferenceContext* c) -> absl::Status {
      ShapeHandle unused;
      for (int i = 0; i < 3; ++i) {
        TF_RETURN_IF_ERROR(c->WithRank(c->input(i), 0, &unused));
      }
      c->set_output(0, c->Scalar());
      c->set_output(1, c->Scalar());
      return absl::OkStatus();
    })
    .Doc(R"doc(
Counts the rows of an index.

index: handle from `Lintf>IndexHandle`.
ids: handle of an int64 variable `[capacity]`: the item of each row, -1 for a
  dead row.
num_rows: handle of an int64 variable `[]`: rows in use.
rows: the value of `num_rows`; `[]`.
live_rows: rows in use that have an item; `[]`.
)doc");

// An op of its own: TensorFlow does not load a SavedModel in which an op has
// fewer outputs than it has now.
REGISTER_OP("Lintf>SearchCounts")
    .Input("index: resource")
    .Output("searches: int64")
    .Attr("learned: bool = false")
    .SetIsStateful()
    .SetShapeFn([](InferenceContext* c) -> absl::Status {
      ShapeHandle unused;
      TF_RETURN_IF_ERROR(c->WithRank(c->input(0), 0, &unused));
      c->set_output(0, c->Vector(3));
      return absl::OkStatus();
    })
    .Doc(R"doc(
Counts the queries that an index has answered.

index: handle from `Lintf>IndexHandle`.
searches: queries that were answered by masked, prefiltered and quantized search
  since the index was loaded; `[3]`. A batch whose rows were scored in both
  exact ways counts as the one that scored more.
learned: counts searches by a learned similarity instead, by exact, bounded and
  two-stage search.
)doc");

REGISTER_OP("Lintf>InvalidateIndex")
    .Input("index: resource")
    .SetIsStateful()
    .SetShapeFn([](InferenceContext* c) -> absl::Status {
      ShapeHandle unused;
      return c->WithRank(c->input(0), 0, &unused);
    })
    .Doc(R"doc(
Makes an index forget its map from ids to rows; the next use makes it again.

Needed only after the `ids` variable was written in place by other means than
`Lintf>AssignRows`. A variable that was restored or assigned as a whole, and a
new number of rows, are noticed without it.

index: handle from `Lintf>IndexHandle`.
)doc");

REGISTER_OP("Lintf>AssignRows")
    .Input("index: resource")
    .Input("variable: resource")
    .Input("start: int64")
    .Input("values: T")
    .Attr(
        "T: {bool, int8, int16, int32, int64, uint8, uint16, uint32, uint64, "
        "half, bfloat16, float, double}")
    .SetIsStateful()
    .SetShapeFn([](InferenceContext* c) -> absl::Status {
      ShapeHandle unused;
      TF_RETURN_IF_ERROR(c->WithRank(c->input(0), 0, &unused));
      TF_RETURN_IF_ERROR(c->WithRank(c->input(1), 0, &unused));
      TF_RETURN_IF_ERROR(c->WithRank(c->input(2), 0, &unused));
      ShapeHandle values;
      TF_RETURN_IF_ERROR(c->WithRankAtLeast(c->input(3), 1, &values));
      const auto* variable = c->input_handle_shapes_and_types(1);
      if (variable == nullptr || variable->size() != 1) return absl::OkStatus();
      tensorflow::DataType dtype;
      TF_RETURN_IF_ERROR(c->GetAttr("T", &dtype));
      if ((*variable)[0].dtype != dtype) {
        return absl::InvalidArgumentError(
            absl::StrCat("`values` must have the dtype of `variable`, ",
                         tensorflow::DataTypeString((*variable)[0].dtype),
                         ", got ", tensorflow::DataTypeString(dtype)));
      }
      const ShapeHandle shape = (*variable)[0].shape;
      if (!c->RankKnown(shape)) return absl::OkStatus();
      ShapeHandle variable_row;
      ShapeHandle values_row;
      TF_RETURN_IF_ERROR(c->WithRankAtLeast(shape, 1, &unused));
      TF_RETURN_IF_ERROR(c->Subshape(shape, 1, &variable_row));
      TF_RETURN_IF_ERROR(c->Subshape(values, 1, &values_row));
      return c->Merge(variable_row, values_row, &unused);
    })
    .Doc(R"doc(
Writes rows of an index variable in place.

Rows `[start, start + n)` of the variable's own buffer are overwritten, under
its exclusive lock, so that dense reads of the variable stay free of copies
(the stock scatter and slice assignments would switch it to copy-on-read mode
for good). A buffer that somebody is still reading is first copied, once. The
index forgets its map from ids to rows; it is made again at the next use.

Fails, with nothing written, with INVALID_ARGUMENT if dtype, shape or range do
not fit, and with FAILED_PRECONDITION if the variable has no value yet.

index: handle from `Lintf>IndexHandle`.
variable: handle of a variable `[capacity, ...]`.
start: the first row; `[]`.
values: the rows; `[n, ...]`. `n` may be 0.
)doc");

REGISTER_OP("Lintf>AssignCodes")
    .Input("index: resource")
    .Input("variable: resource")
    .Input("start: int64")
    .Input("codes: int64")
    .SetIsStateful()
    .SetShapeFn([](InferenceContext* c) -> absl::Status {
      ShapeHandle unused;
      for (int i = 0; i < 3; ++i) {
        TF_RETURN_IF_ERROR(c->WithRank(c->input(i), 0, &unused));
      }
      ShapeHandle codes;
      TF_RETURN_IF_ERROR(c->WithRank(c->input(3), 2, &codes));
      const auto* variable = c->input_handle_shapes_and_types(1);
      if (variable == nullptr || variable->size() != 1) return absl::OkStatus();
      ShapeHandle shape;
      TF_RETURN_IF_ERROR(c->WithRank((*variable)[0].shape, 3, &shape));
      DimensionHandle merged;
      return c->Merge(c->Dim(shape, 1), c->Dim(codes, 1), &merged);
    })
    .Doc(R"doc(
Writes the codes of rows of an index in place.

A variable of codes holds blocks of 64 rows, word by word: word `w` of row `r`
is element `[r / 64, w, r % 64]`. Errors as in `Lintf>AssignRows`.

index: handle from `Lintf>IndexHandle`.
variable: handle of an int64 variable `[blocks, words, 64]`.
start: the first row; `[]`.
codes: a code a row, as `Lintf>SignOporp` makes them; `[n, words]`. `n` may be
  0.
)doc");

REGISTER_OP("Lintf>PlannerCosts")
    .Input("index: resource")
    .Input("ids: resource")
    .Input("embeddings: resource")
    .Input("num_rows: resource")
    .Input("scales: num_scales * resource")
    .Input("codes: num_codes * resource")
    .Output("costs: float")
    .Attr("num_scales: int >= 0 = 0")
    .Attr("num_codes: int >= 0 = 0")
    .Attr("dim: int >= 0 = 0")
    .Attr("bins: int >= 0 = 0")
    .Attr("repeats: int >= 0 = 0")
    .Attr("seed: int = 0")
    .Attr("scoring: {'symmetric', 'asymmetric'} = 'asymmetric'")
    .SetIsStateful()
    .SetShapeFn([](InferenceContext* c) -> absl::Status {
      ShapeHandle unused;
      for (int i = 0; i < c->num_inputs(); ++i) {
        TF_RETURN_IF_ERROR(c->WithRank(c->input(i), 0, &unused));
      }
      c->set_output(0, c->UnknownShapeOfRank(1));
      return absl::OkStatus();
    })
    .Doc(R"doc(
Measures what searches cost on this machine, for the `costs` of
`Lintf>Retrieve`.

Times the kernels of each algorithm on one thread over the first rows of the
index, for about a second. The result differs from run to run. On a GPU, whose
searches need no costs, it is what is compiled in for the CPU.

index: handle from `Lintf>IndexHandle`.
ids: as in `Lintf>Retrieve`, and so are the others.
embeddings: as there.
num_rows: as there.
scales: as there.
codes: as there.
costs: nanoseconds; `[5]`: for each row and dimension, one vector of queries in
  masked search, one row of pre-filtered search, and each query of it; for each
  word of a row's code; for each row of a shortlist.
dim: as in `Lintf>Retrieve`, and so are the others.
bins: as there.
repeats: as there.
seed: as there.
scoring: as there.
)doc");

}  // namespace lintf
