// SPDX-License-Identifier: Apache-2.0
// Search in an index by a learned similarity.
#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "custom_ops/core/similarity.h"
#include "custom_ops/ops/index_shapes.h"
#include "custom_ops/ops/retrieve_shapes.h"
#include "tensorflow/core/framework/op.h"
#include "tensorflow/core/framework/shape_inference.h"

namespace lintf {
namespace {

using tensorflow::shape_inference::DimensionHandle;
using tensorflow::shape_inference::InferenceContext;
using tensorflow::shape_inference::ShapeHandle;

// What a similarity's attributes say about shapes. The kernels check the
// attributes themselves.
absl::Status GetShape(InferenceContext* c, SimilarityShape* shape) {
  TF_RETURN_IF_ERROR(c->GetAttr("query_components", &shape->query_components));
  TF_RETURN_IF_ERROR(c->GetAttr("item_components", &shape->item_components));
  TF_RETURN_IF_ERROR(c->GetAttr("component_dim", &shape->component_dim));
  TF_RETURN_IF_ERROR(c->GetAttr("hidden", &shape->hidden));
  TF_RETURN_IF_ERROR(c->GetAttr("gate_hidden", &shape->gate_hidden));
  std::string component;
  std::string gate;
  TF_RETURN_IF_ERROR(c->GetAttr("component", &component));
  TF_RETURN_IF_ERROR(c->GetAttr("gate", &gate));
  // The attributes' types allow no other names.
  ParsePairSimilarity(component, &shape->component);
  ParseGate(gate, &shape->gate);
  // Larger numbers are refused by the kernels; here they would overflow.
  constexpr int64_t kMost = 1 << 20;
  for (const int64_t size :
       {shape->query_components, shape->item_components, shape->component_dim,
        shape->hidden, shape->gate_hidden}) {
    if (size <= kMost) continue;
    return absl::InvalidArgumentError(absl::StrCat(
        "the sizes of a similarity must be at most ", kMost, ", got ", size));
  }
  return absl::OkStatus();
}

// The inputs from `first` on must be the weights.
absl::Status CheckWeights(InferenceContext* c, int first,
                          const SimilarityShape& shape) {
  const std::vector<SimilarityWeight> wanted = Similarity::Weights(shape);
  const size_t count = c->num_inputs() - first;
  if (count != wanted.size()) {
    return absl::InvalidArgumentError(
        absl::StrCat("there must be ", wanted.size(),
                     " `weights`, those of the similarity, got ", count));
  }
  for (size_t i = 0; i < count; ++i) {
    std::vector<DimensionHandle> sizes;
    for (const int64_t size : wanted[i].dims) sizes.push_back(c->MakeDim(size));
    ShapeHandle unused;
    TF_RETURN_IF_ERROR(c->Merge(c->input(first + static_cast<int>(i)),
                                c->MakeShape(sizes), &unused));
  }
  return absl::OkStatus();
}

absl::Status CheckItems(InferenceContext* c, const SimilarityShape& shape) {
  DimensionHandle item;
  TF_RETURN_IF_ERROR(EmbeddingDim(c, 4, &item));
  TF_RETURN_IF_ERROR(c->Merge(item, c->MakeDim(shape.item_dim()), &item));
  int64_t coded;
  TF_RETURN_IF_ERROR(c->GetAttr("dim", &coded));
  if (coded == 0 || coded == shape.components_dim()) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat("`dim` must be ", shape.components_dim(),
                   ", the length of the item components, which are what is "
                   "coded, got ",
                   coded));
}

REGISTER_OP("Lintf>RetrieveSimilar")
    .Input("queries: float")
    .Input("programs: int64")
    .Input("index: resource")
    .Input("ids: resource")
    .Input("embeddings: resource")
    .Input("num_rows: resource")
    .Input("columns: N * resource")
    .Input("scales: num_scales * resource")
    .Input("codes: num_codes * resource")
    .Input("weights: num_weights * float")
    .Output("result_ids: int64")
    .Output("scores: float")
    .Output("num_results: int32")
    .Output("rows: int64")
    .Output("num_scored: int64")
    .Output("values: return_types")
    .Attr("N: int >= 0")
    .Attr("k: int >= 1")
    .Attr("return_columns: list(int) >= 0 = []")
    .Attr("return_types: list(type) >= 0 = []")
    .Attr("return_missing: list(int) >= 0 = []")
    .Attr("num_scales: int >= 0 = 0")
    .Attr("num_codes: int >= 0 = 0")
    .Attr("num_weights: int >= 0 = 0")
    .Attr("query_components: int >= 1 = 1")
    .Attr("item_components: int >= 1 = 1")
    .Attr("component_dim: int >= 1")
    .Attr(
        "component: {'inner_product', 'weighted', 'hadamard'} = "
        "'inner_product'")
    .Attr("hidden: int >= 0 = 0")
    .Attr("temperature: float = 1.0")
    .Attr(
        "gate: {'none', 'softmax', 'silu_softmax', 'relu', 'sigmoid'} = "
        "'none'")
    .Attr("gate_hidden: int >= 0 = 0")
    .Attr("algorithm: {'auto', 'exact', 'bounded', 'two_stage'} = 'auto'")
    .Attr("candidates: {'averaged', 'components', 'codes'} = 'averaged'")
    .Attr("budget: int >= 1 = 1000")
    .Attr("dim: int >= 0 = 0")
    .Attr("bins: int >= 0 = 0")
    .Attr("repeats: int >= 0 = 0")
    .Attr("seed: int = 0")
    .Attr("scoring: {'symmetric', 'asymmetric'} = 'asymmetric'")
    .Attr("costs: list(float) >= 0 = []")
    .Attr("similarity_costs: list(float) >= 0 = []")
    .SetIsStateful()
    .SetShapeFn([](InferenceContext* c) -> absl::Status {
      SimilarityShape shape;
      TF_RETURN_IF_ERROR(GetShape(c, &shape));
      TF_RETURN_IF_ERROR(RetrieveShapes(c, c->MakeDim(shape.query_dim()), 5));
      TF_RETURN_IF_ERROR(CheckItems(c, shape));
      int num_weights;
      TF_RETURN_IF_ERROR(c->GetAttr("num_weights", &num_weights));
      return CheckWeights(c, c->num_inputs() - num_weights, shape);
    })
    .Doc(R"doc(
Finds the k best items of an index by a learned similarity.

As `Lintf>Retrieve`, but what a query and a row score is no inner product. Of P
query components f_p and R item components g_r each pair l = p R + r has a
logit, and a gate weighs the L = P R logits: Mixture of Logits (section 3.3 of
arXiv 2407.13218, section 3 of arXiv 2306.04039). A query is
q = [f_1 .. f_P | A], a row x = [g_1 .. g_R | B], the gates A and B have L
numbers each, and

    l_l   = s(f_p, g_r) / temperature
    z     = A * B + silu(l gate_kernel + gate_bias) gate_output + gate_offset
    score = sum over l of gate(z)_l l_l

where s is sum_j f_j g_j (`inner_product`), sum_j w_lj f_j g_j (`weighted`) or
joint_output . relu(joint_kernel (f * g) + joint_bias) + joint_offset
(`hadamard`), and z = A * B with no `gate_hidden`. With the gate `none` there is
one pair, no A and B, and the score is its logit. With `hadamard` that is the
paper's Hadamard MLP.

Scores are computed in float32 by a fixed order of operations, so a query's
result is the same bits alone and in any batch.

`exact` scores every row that passes. `bounded` gives the same results, and
leaves out the gate of rows whose largest logit can't reach the k-th best score;
it needs a convex gate, none, softmax or silu_softmax, because no score exceeds
its largest logit then. `two_stage` selects `budget` candidates among the rows
that pass, and scores these: by the inner product with the averaged component
(`averaged`), by those of each pair of components and their union
(`components`), or by 1-bit codes of the item components (`codes`). `auto` takes
for each query what costs least, by its own number of passing rows.

INVALID_ARGUMENT also if weights are not those of the similarity, or not finite.

queries: `[batch, P component_dim + L]`; without a gate without the L.
programs: as in `Lintf>Retrieve`, and so are the next ones but for `embeddings`.
index: as there.
ids: as there.
embeddings: handle of a float, bfloat16, half or int8 variable
  `[capacity, R component_dim + L]`; without a gate without the L.
num_rows: as there.
columns: as there.
scales: as there.
codes: handle of the codes of the item components; or none.
weights: pair_weights `[L, component_dim]` (`weighted`); joint_kernel
  `[hidden, component_dim]`, joint_bias `[hidden]`, joint_output `[hidden]`,
  joint_offset `[1]` (`hadamard`); gate_kernel `[L, gate_hidden]`, gate_bias
  `[gate_hidden]`, gate_output `[gate_hidden, L]`, gate_offset `[L]` (with
  `gate_hidden`).
result_ids: item ids; `[batch, k]`.
scores: `[batch, k]`.
num_results: slots in use; `[batch]`.
rows: rows of the index; `[batch, k]`.
num_scored: rows whose full score was computed, gate and all; `[batch]`.
values: as in `Lintf>Retrieve`.
k: results a query; may exceed the number of rows.
return_columns: positions in `columns`.
return_types: their dtypes.
return_missing: as in `Lintf>Retrieve`.
query_components: P.
item_components: R; P R is at most 64.
component_dim: length of each component, at most 1024.
component: how a pair of components is compared.
hidden: units of the joint MLP, at most 64; with `hadamard`, else 0.
temperature: logits are divided by it.
gate: what z goes through.
gate_hidden: units of the gate's hidden layer, at most 256; 0: there is none.
algorithm: as above.
candidates: what selects those of `two_stage`, and of `auto` if it takes that.
budget: how many candidates; raised to k.
dim: length of the item components, of which codes are made; needed with codes.
bins: as in `Lintf>Retrieve`, and so are the next three.
repeats: as there.
seed: as there.
scoring: as there.
costs: as there; of the first stage.
similarity_costs: constants of the cost model of scoring, from
  `Lintf>SimilarityCosts`; empty for those that are compiled in.
)doc");

REGISTER_OP("Lintf>SimilarityCosts")
    .Input("index: resource")
    .Input("ids: resource")
    .Input("embeddings: resource")
    .Input("num_rows: resource")
    .Input("scales: num_scales * resource")
    .Input("codes: num_codes * resource")
    .Input("weights: num_weights * float")
    .Output("costs: float")
    .Attr("num_scales: int >= 0 = 0")
    .Attr("num_codes: int >= 0 = 0")
    .Attr("num_weights: int >= 0 = 0")
    .Attr("query_components: int >= 1 = 1")
    .Attr("item_components: int >= 1 = 1")
    .Attr("component_dim: int >= 1")
    .Attr(
        "component: {'inner_product', 'weighted', 'hadamard'} = "
        "'inner_product'")
    .Attr("hidden: int >= 0 = 0")
    .Attr("temperature: float = 1.0")
    .Attr(
        "gate: {'none', 'softmax', 'silu_softmax', 'relu', 'sigmoid'} = "
        "'none'")
    .Attr("gate_hidden: int >= 0 = 0")
    .SetIsStateful()
    .SetShapeFn([](InferenceContext* c) -> absl::Status {
      SimilarityShape shape;
      TF_RETURN_IF_ERROR(GetShape(c, &shape));
      int num_weights;
      TF_RETURN_IF_ERROR(c->GetAttr("num_weights", &num_weights));
      const int first = c->num_inputs() - num_weights;
      TF_RETURN_IF_ERROR(CheckHandles(c, 0, first));
      TF_RETURN_IF_ERROR(CheckWeights(c, first, shape));
      c->set_output(0, c->UnknownShapeOfRank(1));
      return absl::OkStatus();
    })
    .Doc(R"doc(
Measures what scoring by a learned similarity costs on this machine, for the
`similarity_costs` of `Lintf>RetrieveSimilar`.

Times searches on one thread over the first rows of the index, for about a
second. The result differs from run to run. On a GPU, whose searches need no
costs, it is what is compiled in for the CPU.

index: handle from `Lintf>IndexHandle`.
ids: as in `Lintf>RetrieveSimilar`, and so are the others.
embeddings: as there.
num_rows: as there.
scales: as there.
codes: as there.
weights: as there.
costs: nanoseconds; `[4]`: for each number of a row; for each multiply-add of a
  score; for each exponential; and the share of rows, 0 to 1, whose full score
  `bounded` computes.
query_components: as there.
item_components: as there.
component_dim: as there.
component: as there.
hidden: as there.
temperature: as there.
gate: as there.
gate_hidden: as there.
)doc");

}  // namespace
}  // namespace lintf
