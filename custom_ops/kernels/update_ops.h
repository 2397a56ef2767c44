// SPDX-License-Identifier: Apache-2.0
// What the kernels of custom_ops/ops/update_ops.cc have in common on all
// devices.
#ifndef LINTF_CUSTOM_OPS_KERNELS_UPDATE_OPS_H_
#define LINTF_CUSTOM_OPS_KERNELS_UPDATE_OPS_H_

#include <algorithm>
#include <cstdint>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "custom_ops/core/float_environment.h"
#include "custom_ops/core/id_map.h"
#include "custom_ops/core/item_encoding.h"
#include "custom_ops/core/item_matrix.h"
#include "custom_ops/core/log_positions.h"
#include "custom_ops/core/row_tables.h"
#include "custom_ops/core/row_writer.h"
#include "custom_ops/core/update_check.h"
#include "custom_ops/core/vectors.h"
#include "custom_ops/kernels/code_attrs.h"
#include "custom_ops/kernels/index_variables.h"
#include "custom_ops/kernels/kernel_checks.h"
#include "tensorflow/core/framework/op_kernel.h"
#include "tensorflow/core/framework/tensor.h"
#include "tensorflow/core/framework/types.h"

namespace lintf {

// The embeddings of a batch as the index stores them.
struct EncodedItems {
  std::vector<uint64_t> items;  // words, so that rows are aligned
  std::vector<float> scales;
  std::vector<uint64_t> codes;
};

// Lintf>Update of variables that a `Reader` reads.
template <typename Reader>
class UpdateOp : public tensorflow::OpKernel {
 public:
  explicit UpdateOp(tensorflow::OpKernelConstruction* ctx) : OpKernel(ctx) {
    std::string metric;
    OP_REQUIRES_OK(ctx, ctx->GetAttr("metric", &metric));
    normalize_ = metric == "cosine";
    OP_REQUIRES_OK(ctx, code_attrs_.Init(ctx));
  }

  void Compute(tensorflow::OpKernelContext* ctx) override {
    const tensorflow::Tensor& id = ctx->input(0);
    const tensorflow::Tensor& remove = ctx->input(1);
    OP_REQUIRES(
        ctx, id.dims() == 1,
        absl::InvalidArgumentError(absl::StrCat(
            "`id` must have shape [batch], got ", id.shape().DebugString())));
    const int64_t batch = id.dim_size(0);
    OP_REQUIRES_OK(ctx, CheckVector(remove, "delete", batch));

    Reader index;
    OP_REQUIRES_OK(ctx, index.Open(ctx, Reader::Parts::kWrite));
    const RowTables& tables = index.tables();
    RowUpdates updates;
    updates.count = batch;
    updates.ids = id.flat<int64_t>().data();
    updates.remove = remove.flat<bool>().data();
    LogPositions positions;
    OP_REQUIRES_OK(ctx, GetPositions(ctx, updates, &positions));
    OP_REQUIRES_OK(ctx, GetColumns(ctx, index, &updates));
    EncodedItems encoded;
    OP_REQUIRES_OK(ctx, GetItems(ctx, tables, &encoded, &updates));

    tensorflow::Tensor* status;
    OP_REQUIRES_OK(ctx, AllocateOutput(ctx, 0, {batch}, &status));
    tensorflow::Tensor* rows;
    OP_REQUIRES_OK(ctx, AllocateOutput(ctx, 1, {batch}, &rows));

    std::lock_guard<std::mutex> lock(index.state().write_mu());
    LogAdvance log;
    OP_REQUIRES_OK(ctx, CheckLog(positions, index, &log));
    const UpdatePlan plan(updates, index.state());
    OP_REQUIRES_OK(ctx, CheckRoom(plan, index));
    OP_REQUIRES_OK(ctx, Apply(ctx, updates, plan, log, index));
    for (int64_t i = 0; i < batch; ++i) {
      status->flat<int32_t>()(i) = static_cast<int32_t>(plan.status()[i]);
      rows->flat<int64_t>()(i) = index.state().num_rows();
    }
  }

 private:
  // Changes the rows, their number and the offsets of the log, or nothing.
  virtual absl::Status Apply(tensorflow::OpKernelContext* ctx,
                             const RowUpdates& updates, const UpdatePlan& plan,
                             const LogAdvance& log,
                             const Reader& index) const = 0;

  static absl::Status CheckVector(const tensorflow::Tensor& values,
                                  const char* name, int64_t batch) {
    if (values.dims() == 1 && values.dim_size(0) == batch) {
      return absl::OkStatus();
    }
    return absl::InvalidArgumentError(absl::StrCat(
        "`", name, "` must have shape [", batch, "], one for each `id`, got ",
        values.shape().DebugString()));
  }

  static absl::Status GetPositions(tensorflow::OpKernelContext* ctx,
                                   const RowUpdates& updates,
                                   LogPositions* positions) {
    const auto get = [&](const char* name, const int64_t** values) {
      const tensorflow::Tensor* input;
      TF_RETURN_IF_ERROR(ctx->input(name, &input));
      TF_RETURN_IF_ERROR(CheckVector(*input, name, updates.count));
      *values = input->flat<int64_t>().data();
      return absl::OkStatus();
    };
    positions->count = updates.count;
    TF_RETURN_IF_ERROR(get("log_partition", &positions->partition));
    TF_RETURN_IF_ERROR(get("log_previous_offset", &positions->previous_offset));
    TF_RETURN_IF_ERROR(get("log_offset", &positions->offset));
    for (int64_t i = 0; i < updates.count; ++i) {
      if (positions->offset[i] < kNoOffset) {
        return absl::InvalidArgumentError(
            absl::StrCat("row ", i,
                         ": `log_offset` must be -1 or an offset, "
                         "got ",
                         positions->offset[i]));
      }
      if (updates.ids[i] == kNoId && positions->offset[i] == kNoOffset) {
        return absl::InvalidArgumentError(absl::StrCat(
            "row ", i, ": `id` must not be ", kNoId,
            ", which means no item, unless the row comes from the log and "
            "only moves its offset on"));
      }
    }
    return absl::OkStatus();
  }

  static absl::Status GetColumns(tensorflow::OpKernelContext* ctx,
                                 const IndexReader& index,
                                 RowUpdates* updates) {
    tensorflow::OpInputList values;
    TF_RETURN_IF_ERROR(ctx->input_list("values", &values));
    const size_t count = index.tables().columns.size();
    if (static_cast<size_t>(values.size()) != count) {
      return absl::InvalidArgumentError(
          absl::StrCat("there must be values for each of the ", count,
                       " columns, got ", values.size()));
    }
    for (size_t i = 0; i < count; ++i) {
      const tensorflow::Tensor& variable =
          index.column_tensor(static_cast<int>(i));
      const tensorflow::Tensor& given = values[static_cast<int>(i)];
      bool fits = given.dtype() == variable.dtype() &&
                  given.dims() == variable.dims() &&
                  given.dim_size(0) == updates->count;
      if (fits && given.dims() == 2) {
        fits = given.dim_size(1) == variable.dim_size(1);
      }
      if (!fits) {
        return absl::InvalidArgumentError(
            absl::StrCat("`values[", i, "]` must be ",
                         tensorflow::DataTypeString(variable.dtype()),
                         " rows of a column ", variable.shape().DebugString(),
                         ", one for each of the ", updates->count, " ids, got ",
                         tensorflow::DataTypeString(given.dtype()), " ",
                         given.shape().DebugString()));
      }
      updates->columns.push_back(given.data());
    }
    return absl::OkStatus();
  }

  // Checks and encodes the embeddings, where there are any.
  absl::Status GetItems(tensorflow::OpKernelContext* ctx,
                        const RowTables& tables, EncodedItems* encoded,
                        RowUpdates* updates) const {
    tensorflow::OpInputList inputs;
    TF_RETURN_IF_ERROR(ctx->input_list("embedding", &inputs));
    updates->attributes_only = inputs.size() == 0;
    if (inputs.size() == 0) return absl::OkStatus();
    const tensorflow::Tensor& given = inputs[0];
    const bool has_items = tables.items.data != nullptr;
    const int64_t dim = has_items ? tables.dim : code_attrs_.dim();
    if (code_attrs_.has_codes()) {
      TF_RETURN_IF_ERROR(code_attrs_.CheckRows(tables.code_words, dim));
    }
    if (given.dims() != 2 || given.dim_size(0) != updates->count ||
        given.dim_size(1) != dim) {
      return absl::InvalidArgumentError(absl::StrCat(
          "`embedding` must have shape [", updates->count, ", ", dim,
          "], one row of the index's dimension for each id, got ",
          given.shape().DebugString()));
    }
    std::optional<ElementType> storage;
    if (has_items) storage = tables.items.type;
    // What is stored must not depend on the thread.
    const ScopedFloatEnvironment environment;
    // Rows without an embedding are encoded as zeros, which nobody reads.
    std::vector<float> vectors(given.NumElements());
    for (int64_t i = 0; i < updates->count; ++i) {
      if (updates->remove[i] || updates->ids[i] == kNoId) continue;
      const float* const vector = given.flat<float>().data() + i * dim;
      const std::string error = ItemError(vector, dim, normalize_, storage);
      if (!error.empty()) {
        return absl::InvalidArgumentError(absl::StrCat("row ", i, ": ", error));
      }
      float* const out = vectors.data() + i * dim;
      if (normalize_) {
        Normalize(vector, dim, out);
      } else {
        std::copy_n(vector, dim, out);
      }
    }
    if (has_items) {
      const int64_t bytes = tables.item_bytes();
      encoded->items.resize((updates->count * bytes + 7) / 8);
      encoded->scales.resize(updates->count);
      char* const out = reinterpret_cast<char*>(encoded->items.data());
      for (int64_t i = 0; i < updates->count; ++i) {
        EncodeRow(tables.items.type, vectors.data() + i * dim, dim,
                  out + i * bytes, &encoded->scales[i]);
      }
      updates->items = encoded->items.data();
      updates->scales = encoded->scales.data();
    }
    if (tables.codes != nullptr) {
      encoded->codes = code_attrs_.Encode(vectors.data(), updates->count, dim);
      updates->codes = encoded->codes.data();
    }
    return absl::OkStatus();
  }

  static absl::Status CheckLog(const LogPositions& positions,
                               const IndexReader& index, LogAdvance* log) {
    switch (
        log->Check(positions, index.log_offsets(), index.num_partitions())) {
      case LogAdvance::Result::kFine:
        break;
      case LogAdvance::Result::kInvalid:
        return absl::InvalidArgumentError(log->message());
      case LogAdvance::Result::kNotNext:
        return absl::FailedPreconditionError(log->message());
    }
    return absl::OkStatus();
  }

  static absl::Status CheckRoom(const UpdatePlan& plan,
                                const IndexReader& index) {
    if (plan.missing_room() == 0) return absl::OkStatus();
    return absl::ResourceExhaustedError(absl::StrCat(
        "the index is full: the batch needs ", plan.missing_room(),
        " more rows than the capacity of ", index.capacity(), " leaves (",
        index.state().live_rows(),
        " items); nothing was changed. Delete items, or serve a snapshot of "
        "more capacity."));
  }

  bool normalize_ = false;
  CodeAttrs code_attrs_;
};

// Lintf>LogOffsets of variables that a `Reader` reads.
template <typename Reader>
class LogOffsetsOp : public tensorflow::OpKernel {
 public:
  using tensorflow::OpKernel::OpKernel;

  void Compute(tensorflow::OpKernelContext* ctx) override {
    Reader index;
    OP_REQUIRES_OK(ctx, index.Open(ctx, Reader::Parts::kLog));
    const int64_t partitions = index.num_partitions();
    tensorflow::Tensor* offsets;
    OP_REQUIRES_OK(ctx, AllocateOutput(ctx, 0, {partitions}, &offsets));
    std::lock_guard<std::mutex> no_update(index.state().write_mu());
    std::copy_n(index.log_offsets(), partitions,
                offsets->flat<int64_t>().data());
  }
};

}  // namespace lintf

#endif  // LINTF_CUSTOM_OPS_KERNELS_UPDATE_OPS_H_
