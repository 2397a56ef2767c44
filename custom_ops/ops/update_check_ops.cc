// SPDX-License-Identifier: Apache-2.0
// What must hold before several shards of an index change together.
#include <cstdint>

#include "absl/status/status.h"
#include "tensorflow/core/framework/op.h"
#include "tensorflow/core/framework/shape_inference.h"

namespace lintf {
namespace {

using tensorflow::shape_inference::DimensionHandle;
using tensorflow::shape_inference::InferenceContext;
using tensorflow::shape_inference::ShapeHandle;

absl::Status CheckUpdateShape(InferenceContext* c) {
  DimensionHandle batch = c->UnknownDim();
  for (int input = 0; input < 7; ++input) {
    ShapeHandle vector;
    TF_RETURN_IF_ERROR(c->WithRank(c->input(input), 1, &vector));
    TF_RETURN_IF_ERROR(c->Merge(batch, c->Dim(vector, 0), &batch));
  }
  ShapeHandle unused;
  TF_RETURN_IF_ERROR(c->WithRank(c->input(7), 1, &unused));
  TF_RETURN_IF_ERROR(c->WithRank(c->input(8), 1, &unused));
  int64_t num_embeddings;
  TF_RETURN_IF_ERROR(c->GetAttr("num_embeddings", &num_embeddings));
  if (num_embeddings > 1) {
    return absl::InvalidArgumentError("`num_embeddings` must be 0 or 1");
  }
  if (num_embeddings == 1) {
    ShapeHandle vectors;
    TF_RETURN_IF_ERROR(c->WithRank(c->input(9), 2, &vectors));
    TF_RETURN_IF_ERROR(c->Merge(batch, c->Dim(vectors, 0), &batch));
  }
  c->set_output(0, c->Vector(batch));
  return absl::OkStatus();
}

REGISTER_OP("Lintf>CheckUpdate")
    .Input("id: int64")
    .Input("delete: bool")
    .Input("shard: int64")
    .Input("found: bool")
    .Input("log_partition: int64")
    .Input("log_previous_offset: int64")
    .Input("log_offset: int64")
    .Input("live_rows: int64")
    .Input("log_offsets: int64")
    .Input("embedding: num_embeddings * float")
    .Output("checked: int64")
    .Attr("num_embeddings: int >= 0 = 1")
    .Attr("capacity: int >= 1")
    .Attr("shard_capacity: int >= 1")
    .Attr("normalize: bool = false")
    .Attr(
        "storage: {'float32', 'bfloat16', 'float16', 'int8', 'none'} = "
        "'float32'")
    .SetIsStateful()
    .SetShapeFn(CheckUpdateShape)
    .Doc(R"doc(
Checks a batch of `Lintf>Update` for an index that is kept in several shards.

All that `Lintf>Update` would find wrong with the batch in an index of one
piece, with the same errors; so that it fails before the first shard changes.
Plain tensors, and no index: the caller sees to it that what they say of the
shards stays true until the shards have changed.

INVALID_ARGUMENT for a row that no index would take. FAILED_PRECONDITION if the
batch does not follow the stored offsets. RESOURCE_EXHAUSTED if the items would
become more than the index, or one of its shards, has room for.

id: item ids, -1 for a row that only moves an offset; `[batch]`.
delete: as `Lintf>Update` takes it; `[batch]`.
shard: where the row's item belongs; `[batch]`.
found: whether its shard has the item now; `[batch]`.
log_partition: as `Lintf>Update` takes it; `[batch]`.
log_previous_offset: the same; `[batch]`.
log_offset: the same; `[batch]`.
live_rows: items that each shard holds now; `[shards]`.
log_offsets: the last offset that the index holds of each partition;
  `[partitions]`.
embedding: as `Lintf>Update` takes it; `[batch, dim]`.
checked: `id`, of a batch that is right; `[batch]`.
num_embeddings: 1, or 0 if attributes alone change.
capacity: items that the index may hold.
shard_capacity: items that a shard may hold.
normalize: embeddings are scaled to length 1 before they are stored.
storage: how embeddings are stored.
)doc");

}  // namespace
}  // namespace lintf
