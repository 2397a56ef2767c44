// SPDX-License-Identifier: Apache-2.0
// Kernels of custom_ops/ops/retrieve_ops.cc.
#include <algorithm>
#include <cstdint>
#include <cstring>
#include <limits>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "absl/types/span.h"
#include "custom_ops/core/column.h"
#include "custom_ops/core/item_encoding.h"
#include "custom_ops/core/live_search.h"
#include "custom_ops/core/masked_knn.h"
#include "custom_ops/core/retrieval.h"
#include "custom_ops/core/row_tables.h"
#include "custom_ops/core/vectors.h"
#include "custom_ops/kernels/code_attrs.h"
#include "custom_ops/kernels/index_variables.h"
#include "custom_ops/kernels/kernel_checks.h"
#include "custom_ops/kernels/tf_parallel.h"
#include "tensorflow/core/framework/op_kernel.h"
#include "tensorflow/core/framework/tensor.h"
#include "tensorflow/core/framework/types.h"

namespace lintf {
namespace {

using tensorflow::DataType;
using tensorflow::DataTypeVector;
using tensorflow::OpKernel;
using tensorflow::OpKernelConstruction;
using tensorflow::OpKernelContext;
using tensorflow::Tensor;

// The bytes of a value of a column that stands for "missing".
class MissingValue {
 public:
  // `value` as the op's attribute gives it; not used for float.
  absl::Status Init(DataType dtype, bool has_value, int64_t value) {
    ColumnType type;
    if (!ColumnTypeOf(dtype, &type)) {
      return absl::InvalidArgumentError(absl::StrCat(
          "a column cannot be ", tensorflow::DataTypeString(dtype)));
    }
    switch (type) {
      case ColumnType::kInt8:
        return SetNumber<int8_t>(has_value, value);
      case ColumnType::kInt16:
        return SetNumber<int16_t>(has_value, value);
      case ColumnType::kInt64:
        return SetNumber<int64_t>(has_value, value);
      case ColumnType::kUint8:
        return SetNumber<uint8_t>(has_value, value);
      case ColumnType::kUint16:
        return SetNumber<uint16_t>(has_value, value);
      case ColumnType::kUint32:
        return SetNumber<uint32_t>(has_value, value);
      case ColumnType::kUint64:
        return SetBytes(static_cast<uint64_t>(has_value ? value : 0));
      case ColumnType::kFloat:
        return SetBytes(std::numeric_limits<float>::quiet_NaN());
    }
    return absl::OkStatus();
  }

  // Writes it `width` times.
  void Write(int64_t width, char* out) const {
    for (int64_t i = 0; i < width; ++i, out += size_) {
      std::memcpy(out, bytes_, size_);
    }
  }

 private:
  template <typename T>
  absl::Status SetNumber(bool has_value, int64_t value) {
    // The lowest value is 0 for unsigned types.
    if (!has_value) return SetBytes(std::numeric_limits<T>::min());
    if (static_cast<int64_t>(static_cast<T>(value)) != value) {
      return absl::InvalidArgumentError(absl::StrCat(
          "the value that stands for missing must fit its column, got ",
          value));
    }
    return SetBytes(static_cast<T>(value));
  }

  template <typename T>
  absl::Status SetBytes(T value) {
    static_assert(sizeof(T) <= sizeof(bytes_));
    size_ = sizeof(T);
    std::memcpy(bytes_, &value, size_);
    return absl::OkStatus();
  }

  int64_t size_ = 0;
  char bytes_[8];
};

// What the attributes of an op say about the column values that it returns.
struct ReturnedColumns {
  std::vector<int64_t> columns;
  DataTypeVector types;
  std::vector<MissingValue> missing;

  absl::Status Init(absl::Span<const int64_t> missing_values) {
    if (types.size() != columns.size() ||
        (!missing_values.empty() && missing_values.size() != columns.size())) {
      return absl::InvalidArgumentError(
          absl::StrCat("each of the ", columns.size(),
                       " returned columns must have one type, and one value "
                       "for missing or none"));
    }
    missing.resize(columns.size());
    for (size_t i = 0; i < columns.size(); ++i) {
      const bool has_value = !missing_values.empty();
      TF_RETURN_IF_ERROR(missing[i].Init(types[i], has_value,
                                         has_value ? missing_values[i] : 0));
    }
    return absl::OkStatus();
  }

  // Allocates output `output` for value `i` of rows: of shape `leading` and the
  // column's width.
  absl::Status Allocate(OpKernelContext* ctx, const IndexReader& index,
                        size_t i, int output, absl::Span<const int64_t> leading,
                        Tensor** values) const {
    const std::vector<Column>& all = index.tables().columns;
    if (columns[i] < 0 || columns[i] >= static_cast<int64_t>(all.size())) {
      return absl::InvalidArgumentError(
          absl::StrCat("returned columns must be in [0, ", all.size(),
                       "), got ", columns[i]));
    }
    const Tensor& variable = index.column_tensor(columns[i]);
    if (variable.dtype() != types[i]) {
      return absl::InvalidArgumentError(
          absl::StrCat("the variable `columns[", columns[i], "]` must be ",
                       tensorflow::DataTypeString(types[i]),
                       ", as it is to be returned, "
                       "got ",
                       tensorflow::DataTypeString(variable.dtype())));
    }
    std::vector<int64_t> shape(leading.begin(), leading.end());
    if (variable.dims() == 2) shape.push_back(all[columns[i]].width);
    return AllocateOutput(ctx, output, shape, values);
  }

  // Writes what stands for missing to value `i` where there is no row (-1).
  void FillMissing(size_t i, const Tensor& rows, Tensor* values) const {
    const int64_t num_rows = rows.NumElements();
    if (values->NumElements() == 0) return;
    const int64_t width = values->NumElements() / num_rows;
    const int64_t row_bytes =
        static_cast<int64_t>(values->TotalBytes()) / num_rows;
    char* const out = static_cast<char*>(values->data());
    for (int64_t r = 0; r < num_rows; ++r) {
      if (rows.flat<int64_t>()(r) >= 0) continue;
      missing[i].Write(width, out + r * row_bytes);
    }
  }
};

class RetrieveOp : public OpKernel {
 public:
  explicit RetrieveOp(OpKernelConstruction* ctx) : OpKernel(ctx) {
    OP_REQUIRES_OK(ctx, ctx->GetAttr("k", &k_));
    std::string metric;
    OP_REQUIRES_OK(ctx, ctx->GetAttr("metric", &metric));
    metric_ = metric == "l2" ? Metric::kL2 : Metric::kInnerProduct;
    normalize_ = metric == "cosine";
    OP_REQUIRES_OK(ctx, ctx->GetAttr("return_columns", &returned_.columns));
    OP_REQUIRES_OK(ctx, ctx->GetAttr("return_types", &returned_.types));
    std::vector<int64_t> missing;
    OP_REQUIRES_OK(ctx, ctx->GetAttr("return_missing", &missing));
    OP_REQUIRES_OK(ctx, returned_.Init(missing));
    std::string algorithm;
    OP_REQUIRES_OK(ctx, ctx->GetAttr("algorithm", &algorithm));
    algorithm_ = algorithm == "masked"        ? Algorithm::kMasked
                 : algorithm == "prefiltered" ? Algorithm::kPrefiltered
                 : algorithm == "quantized"   ? Algorithm::kQuantized
                                              : Algorithm::kAuto;
    OP_REQUIRES_OK(ctx, ctx->GetAttr("shortlist", &shortlist_));
    OP_REQUIRES_OK(ctx, ctx->GetAttr("costs", &costs_));
    OP_REQUIRES_OK(ctx, code_attrs_.Init(ctx));
    OP_REQUIRES(ctx,
                algorithm_ != Algorithm::kQuantized || code_attrs_.has_codes(),
                absl::InvalidArgumentError(
                    "`algorithm` must not be quantized for an index without "
                    "`codes`; give codes or take another"));
  }

  void Compute(OpKernelContext* ctx) override {
    const Tensor& queries = ctx->input(0);
    const Tensor& programs = ctx->input(1);
    OP_REQUIRES_OK(ctx, CheckQueries(queries));
    OP_REQUIRES_OK(ctx, CheckPrograms(programs));
    const int64_t batch = queries.dim_size(0);
    OP_REQUIRES(ctx, programs.dim_size(0) == batch,
                absl::InvalidArgumentError(absl::StrCat(
                    "there must be one program for each of the ", batch,
                    " queries, got ", programs.dim_size(0))));

    IndexReader index;
    OP_REQUIRES_OK(ctx, index.Open(ctx, IndexReader::Parts::kAll));
    OP_REQUIRES_OK(ctx, CheckIndex(index, queries));
    Tensor* ids;
    OP_REQUIRES_OK(ctx, AllocateOutput(ctx, 0, {batch, k_}, &ids));
    Tensor* scores;
    OP_REQUIRES_OK(ctx, AllocateOutput(ctx, 1, {batch, k_}, &scores));
    Tensor* num_results;
    OP_REQUIRES_OK(ctx, AllocateOutput(ctx, 2, {batch}, &num_results));
    Tensor* rows;
    OP_REQUIRES_OK(ctx, AllocateOutput(ctx, 3, {batch, k_}, &rows));
    LiveOutput output;
    std::vector<Tensor*> values(returned_.columns.size());
    for (size_t i = 0; i < values.size(); ++i) {
      OP_REQUIRES_OK(ctx, returned_.Allocate(ctx, index, i, 4 + i, {batch, k_},
                                             &values[i]));
      output.columns.push_back(values[i]->data());
    }
    if (batch == 0) return;
    output.scores = scores->flat<float>().data();
    output.rows = rows->flat<int64_t>().data();
    output.counts = num_results->flat<int32_t>().data();
    output.ids = ids->flat<int64_t>().data();
    OP_REQUIRES_OK(ctx, Search(ctx, queries, programs, index, output));
    for (size_t i = 0; i < values.size(); ++i) {
      returned_.FillMissing(i, *rows, values[i]);
    }
  }

 private:
  absl::Status Search(OpKernelContext* ctx, const Tensor& queries,
                      const Tensor& programs, const IndexReader& index,
                      const LiveOutput& output) const {
    LiveQuery query;
    query.programs = programs.flat<int64_t>().data();
    query.words_per_program = programs.dim_size(1);
    query.returned_columns = returned_.columns;
    RetrievalInput& input = query.retrieval;
    std::vector<float> normalized;
    std::vector<float> samples;
    const int64_t batch = queries.dim_size(0);
    input.knn.queries = Queries(queries, &normalized);
    input.knn.num_queries = batch;
    input.knn.dim = queries.dim_size(1);
    input.knn.metric = metric_;
    input.knn.k = k_;
    input.algorithm = algorithm_;
    if (code_attrs_.has_codes() && algorithm_ != Algorithm::kMasked &&
        algorithm_ != Algorithm::kPrefiltered) {
      samples = code_attrs_.Project(input.knn.queries, batch);
      input.code.samples = samples.data();
      input.code.scoring = code_attrs_.scoring();
      input.code.shortlist = shortlist_;
    }
    std::string error =
        PlannerCosts::FromList(costs_, index.tables().items.type, &input.costs);
    if (!error.empty()) return absl::InvalidArgumentError(error);
    RetrievalCounts counts;
    int64_t bad_program = -1;
    error = SearchLive(index.tables(), index.state(), query,
                       TensorFlowParallel(ctx), output, &counts, &bad_program);
    if (!error.empty()) return BadProgram(bad_program, error);
    index.resource().CountSearches(counts);
    return absl::OkStatus();
  }

  // The queries, the embeddings and the codes must fit each other.
  absl::Status CheckIndex(const IndexReader& index,
                          const Tensor& queries) const {
    const RowTables& tables = index.tables();
    const bool has_items = tables.items.data != nullptr;
    if (!has_items && (algorithm_ == Algorithm::kMasked ||
                       algorithm_ == Algorithm::kPrefiltered)) {
      return absl::InvalidArgumentError(
          "`algorithm` must be auto or quantized for an index of codes alone");
    }
    const int64_t dim = has_items ? tables.dim : code_attrs_.dim();
    if (queries.dim_size(1) != dim) {
      return absl::InvalidArgumentError(
          absl::StrCat("`queries` must have shape [batch, ", dim,
                       "], the dimension of the index, got ",
                       queries.shape().DebugString()));
    }
    if (!code_attrs_.has_codes()) return absl::OkStatus();
    return code_attrs_.Check(tables.code_words, dim);
  }

  // The queries as they are scored; in `normalized` if they are changed.
  const float* Queries(const Tensor& queries,
                       std::vector<float>* normalized) const {
    const float* const values = queries.flat<float>().data();
    if (!normalize_) return values;
    const int64_t dim = queries.dim_size(1);
    normalized->resize(queries.NumElements());
    for (int64_t i = 0; i < queries.NumElements(); i += dim) {
      Normalize(values + i, dim, normalized->data() + i);
    }
    return normalized->data();
  }

  int64_t k_ = 0;
  Metric metric_ = Metric::kInnerProduct;
  bool normalize_ = false;
  ReturnedColumns returned_;
  Algorithm algorithm_ = Algorithm::kAuto;
  CodeAttrs code_attrs_;
  int64_t shortlist_ = 0;
  std::vector<float> costs_;
};

class LookupOp : public OpKernel {
 public:
  explicit LookupOp(OpKernelConstruction* ctx) : OpKernel(ctx) {
    OP_REQUIRES_OK(ctx, ctx->GetAttr("dim", &dim_));
    OP_REQUIRES_OK(ctx, ctx->GetAttr("value_types", &returned_.types));
    for (size_t i = 0; i < returned_.types.size(); ++i) {
      returned_.columns.push_back(static_cast<int64_t>(i));
    }
    std::vector<int64_t> missing;
    OP_REQUIRES_OK(ctx, ctx->GetAttr("value_missing", &missing));
    OP_REQUIRES_OK(ctx, returned_.Init(missing));
  }

  void Compute(OpKernelContext* ctx) override {
    const Tensor& input = ctx->input(0);
    OP_REQUIRES(ctx, input.dims() == 1,
                absl::InvalidArgumentError(
                    absl::StrCat("`id` must have shape [batch], got ",
                                 input.shape().DebugString())));
    const int64_t batch = input.dim_size(0);
    const int64_t* const id = input.flat<int64_t>().data();

    IndexReader index;
    OP_REQUIRES_OK(ctx, index.Open(ctx, IndexReader::Parts::kAll));
    const RowTables& tables = index.tables();
    const bool has_items = tables.items.data != nullptr;
    const int64_t dim = has_items ? tables.dim : dim_;
    const int num_values = static_cast<int>(returned_.types.size());
    Tensor* embeddings;
    OP_REQUIRES_OK(ctx, AllocateOutput(ctx, 0, {batch, dim}, &embeddings));
    Tensor* found;
    OP_REQUIRES_OK(ctx, AllocateOutput(ctx, 1 + num_values, {batch}, &found));
    Tensor* rows;
    OP_REQUIRES_OK(ctx, AllocateOutput(ctx, 2 + num_values, {batch}, &rows));
    std::vector<Tensor*> values(num_values);
    for (int i = 0; i < num_values; ++i) {
      OP_REQUIRES_OK(
          ctx, returned_.Allocate(ctx, index, i, 1 + i, {batch}, &values[i]));
    }
    int64_t* const row = rows->flat<int64_t>().data();
    float* embedding = embeddings->flat<float>().data();
    RowCopies copy(tables, 1);
    for (int64_t i = 0; i < batch; ++i, embedding += dim) {
      row[i] = LookupLive(tables, index.state(), id[i], 0, &copy);
      found->flat<bool>()(i) = row[i] >= 0;
      if (row[i] >= 0 && has_items) {
        DecodeRow(copy.tables().items, 0, dim, embedding);
      } else {
        std::fill_n(embedding, dim, 0.0f);
      }
      for (int v = 0; row[i] >= 0 && v < num_values; ++v) {
        const int64_t bytes = tables.column_bytes(v);
        std::memcpy(static_cast<char*>(values[v]->data()) + i * bytes,
                    copy.tables().columns[v].data, bytes);
      }
    }
    for (int i = 0; i < num_values; ++i) {
      returned_.FillMissing(i, *rows, values[i]);
    }
  }

 private:
  int64_t dim_ = 0;
  ReturnedColumns returned_;
};

REGISTER_KERNEL_BUILDER(Name("Lintf>Retrieve").Device(tensorflow::DEVICE_CPU),
                        RetrieveOp);
REGISTER_KERNEL_BUILDER(Name("Lintf>Lookup").Device(tensorflow::DEVICE_CPU),
                        LookupOp);

}  // namespace
}  // namespace lintf
