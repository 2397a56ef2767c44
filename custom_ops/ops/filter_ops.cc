// SPDX-License-Identifier: Apache-2.0
// Ops that compile filters and evaluate them.
#include <cstdint>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "tensorflow/core/framework/op.h"
#include "tensorflow/core/framework/shape_inference.h"

namespace lintf {

using tensorflow::shape_inference::DimensionHandle;
using tensorflow::shape_inference::InferenceContext;
using tensorflow::shape_inference::ShapeHandle;

REGISTER_OP("Lintf>CompileFilter")
    .Input("filters: string")
    .Output("programs: int64")
    .Attr("names: list(string) >= 0")
    .Attr("kinds: list(string) >= 0")
    .Attr("encodings: list(string) >= 0")
    .Attr("types: list(string) >= 0")
    .Attr("widths: list(int) >= 0")
    .Attr("vocabularies: list(string) >= 0")
    .Attr("vocabulary_sizes: list(int) >= 0")
    .Attr("string_ids: bool = false")
    .Attr("max_length: int >= 1 = 262144")
    .Attr("max_depth: int >= 1 = 32")
    .Attr("max_words: int >= 1 = 16384")
    .Attr("pad_words: int >= 0 = 0")
    .SetShapeFn([](InferenceContext* c) -> absl::Status {
      ShapeHandle filters;
      TF_RETURN_IF_ERROR(c->WithRank(c->input(0), 1, &filters));
      std::vector<std::string> names;
      TF_RETURN_IF_ERROR(c->GetAttr("names", &names));
      const size_t count = names.size();
      // A fresh vector each time: GetAttr appends.
      for (const char* name : {"kinds", "encodings", "types"}) {
        std::vector<std::string> strings;
        TF_RETURN_IF_ERROR(c->GetAttr(name, &strings));
        if (strings.size() != count) {
          return absl::InvalidArgumentError(
              absl::StrCat("`", name, "` must have one entry for each of the ",
                           count, " `names`, got ", strings.size()));
        }
      }
      for (const char* name : {"widths", "vocabulary_sizes"}) {
        std::vector<int64_t> numbers;
        TF_RETURN_IF_ERROR(c->GetAttr(name, &numbers));
        if (numbers.size() != count) {
          return absl::InvalidArgumentError(
              absl::StrCat("`", name, "` must have one entry for each of the ",
                           count, " `names`, got ", numbers.size()));
        }
      }
      int64_t pad_words;
      TF_RETURN_IF_ERROR(c->GetAttr("pad_words", &pad_words));
      c->set_output(
          0, c->Matrix(c->Dim(filters, 0), pad_words > 0 ? c->MakeDim(pad_words)
                                                         : c->UnknownDim()));
      return absl::OkStatus();
    })
    .Doc(R"doc(
Compiles filters, one for each query of a batch, into programs.

A filter is text such as
`genre in ["Comedy", "Drama"] and not (company == 1441) and year >= 1990`;
blank text means no filter. The program of a filter is a row of int64 words
that `Lintf>Retrieve` and `Lintf>FilterMask` evaluate; its format is described
in custom_ops/core/filter_program.h. All zeros is "no filter".

The schema comes as attributes, one entry for each attribute of the index, in
the order of its columns. Everything that a person can get wrong in a filter is
found here: INVALID_ARGUMENT `filter[3]: ...` says which filter of the batch,
the position in it, what was expected and what was found.

filters: UTF-8 text; `[batch]`.
programs: `[batch, words]`, padded with 0.
names: attribute names.
kinds: `category`, `tags`, `int`, `float`, `timestamp` or `bool`.
encodings: `number`, `vocabulary`, `hash` or `bits`.
types: storage types: `int8`, `int16`, `int64`, `uint8`, `uint16`, `uint32`,
  `uint64` or `float32`.
widths: values a row; above 1 only for tags that are stored as codes.
vocabularies: the vocabularies of all attributes, one after the other.
vocabulary_sizes: how many of them belong to each attribute.
string_ids: whether item ids are strings (then fingerprints stand in the
  `ids` variable) or int64.
max_length: longest filter, in bytes.
max_depth: deepest nesting of parentheses and `not`.
max_words: longest program, in words.
pad_words: `words` of the output; 0 means the longest program of this batch, at
  least 1. A program that is longer is INVALID_ARGUMENT.
)doc");

REGISTER_OP("Lintf>FilterMask")
    .Input("programs: int64")
    .Input("index: resource")
    .Input("ids: resource")
    .Input("num_rows: resource")
    .Input("columns: N * resource")
    .Output("bits: uint64")
    .Output("num_passing: int64")
    .Attr("N: int >= 0")
    .SetIsStateful()
    .SetShapeFn([](InferenceContext* c) -> absl::Status {
      ShapeHandle programs;
      ShapeHandle unused;
      TF_RETURN_IF_ERROR(c->WithRank(c->input(0), 2, &programs));
      for (int i = 1; i < c->num_inputs(); ++i) {
        TF_RETURN_IF_ERROR(c->WithRank(c->input(i), 0, &unused));
      }
      const DimensionHandle batch = c->Dim(programs, 0);
      c->set_output(0, c->Matrix(batch, c->UnknownDim()));
      c->set_output(1, c->Vector(batch));
      return absl::OkStatus();
    })
    .Doc(R"doc(
Evaluates compiled filters over an index.

Reads the columns in place; nothing is copied. A row that `Lintf>Update` writes
meanwhile may be judged by a mix of its old and its new values.
Programs are checked before they run, whoever made them: INVALID_ARGUMENT
`program 3: ...` for a malformed one, and for one that does not fit the columns.

programs: from `Lintf>CompileFilter`; `[batch, words]`.
index: handle from `Lintf>IndexHandle`.
ids: handle of an int64 variable `[capacity]`; a row with id -1 is dead and
  never passes.
num_rows: handle of an int64 variable `[]`.
columns: handles of the attribute variables in schema order, `[capacity]` or
  `[capacity, width]`.
bits: bit `i` of word `w` says whether row `64 * w + i` passes; 0 past the last
  row; `[batch, ceil(num_rows / 64)]`.
num_passing: how many rows pass; `[batch]`.
)doc");

}  // namespace lintf
