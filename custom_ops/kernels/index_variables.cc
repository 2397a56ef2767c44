// SPDX-License-Identifier: Apache-2.0
#include "custom_ops/kernels/index_variables.h"

#include <algorithm>
#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "custom_ops/core/column.h"
#include "custom_ops/core/item_matrix.h"
#include "custom_ops/core/row_tables.h"
#include "custom_ops/core/sign_oporp.h"
#include "custom_ops/kernels/index_resource.h"
#include "tensorflow/core/framework/op_kernel.h"
#include "tensorflow/core/framework/resource_handle.h"
#include "tensorflow/core/framework/resource_mgr.h"
#include "tensorflow/core/framework/resource_var.h"
#include "tensorflow/core/framework/types.h"
#include "tensorflow/core/platform/errors.h"

namespace lintf {

using tensorflow::DataType;
using tensorflow::OpInputList;
using tensorflow::OpKernelContext;
using tensorflow::ResourceHandle;
using tensorflow::Tensor;
using tensorflow::Var;
using tensorflow::core::RefCountPtr;

namespace {

// A resource input that is used as one handle.
absl::Status ScalarHandle(const Tensor& input, absl::string_view what,
                          ResourceHandle* handle) {
  if (input.NumElements() != 1) {
    return absl::InvalidArgumentError(
        absl::StrCat("`", what, "` must be one resource handle, got shape ",
                     input.shape().DebugString()));
  }
  *handle = input.flat<ResourceHandle>()(0);
  return absl::OkStatus();
}

absl::Status CheckVariable(const Var& variable, const Tensor& value,
                           absl::string_view what, DataType dtype, int rank) {
  if (!variable.is_initialized) {
    return absl::FailedPreconditionError(
        absl::StrCat("the variable `", what,
                     "` must have a value; restore or assign it first"));
  }
  if (value.dtype() != dtype) {
    return absl::InvalidArgumentError(absl::StrCat(
        "the variable `", what, "` must be ", tensorflow::DataTypeString(dtype),
        ", got ", tensorflow::DataTypeString(value.dtype())));
  }
  if (value.dims() != rank) {
    return absl::InvalidArgumentError(
        absl::StrCat("the variable `", what, "` must have rank ", rank,
                     ", got shape ", value.shape().DebugString()));
  }
  return absl::OkStatus();
}

// Whether nobody else holds the buffer of `values`.
bool IsOwn(const Tensor& values) {
  // Without elements there is no buffer.
  return values.NumElements() == 0 || values.RefCountIsOne();
}

// The variable of a list input that has one handle or none.
absl::Status LookupOptional(OpKernelContext* ctx, absl::string_view name,
                            RefCountPtr<Var>* variable) {
  OpInputList inputs;
  TF_RETURN_IF_ERROR(ctx->input_list(name, &inputs));
  if (inputs.size() == 0) return absl::OkStatus();
  if (inputs.size() > 1) {
    return absl::InvalidArgumentError(absl::StrCat(
        "`", name, "` must be one variable or none, got ", inputs.size()));
  }
  return LookupVariable(ctx, inputs[0], name, variable);
}

}  // namespace

bool ColumnTypeOf(DataType dtype, ColumnType* type) {
  switch (dtype) {
    case tensorflow::DT_INT8:
      *type = ColumnType::kInt8;
      return true;
    case tensorflow::DT_INT16:
      *type = ColumnType::kInt16;
      return true;
    case tensorflow::DT_INT64:
      *type = ColumnType::kInt64;
      return true;
    case tensorflow::DT_UINT8:
      *type = ColumnType::kUint8;
      return true;
    case tensorflow::DT_UINT16:
      *type = ColumnType::kUint16;
      return true;
    case tensorflow::DT_UINT32:
      *type = ColumnType::kUint32;
      return true;
    case tensorflow::DT_UINT64:
      *type = ColumnType::kUint64;
      return true;
    case tensorflow::DT_FLOAT:
      *type = ColumnType::kFloat;
      return true;
    default:
      return false;
  }
}

bool ElementTypeOf(DataType dtype, ElementType* type) {
  switch (dtype) {
    case tensorflow::DT_FLOAT:
      *type = ElementType::kFloat32;
      return true;
    case tensorflow::DT_BFLOAT16:
      *type = ElementType::kBfloat16;
      return true;
    case tensorflow::DT_HALF:
      *type = ElementType::kFloat16;
      return true;
    case tensorflow::DT_INT8:
      *type = ElementType::kInt8;
      return true;
    default:
      return false;
  }
}

absl::Status LookupIndex(OpKernelContext* ctx,
                         RefCountPtr<IndexResource>* index) {
  const Tensor* input;
  ResourceHandle handle;
  TF_RETURN_IF_ERROR(ctx->input("index", &input));
  TF_RETURN_IF_ERROR(ScalarHandle(*input, "index", &handle));
  const absl::Status status = tensorflow::LookupResource(ctx, handle, index);
  if (status.ok()) return status;
  return absl::InvalidArgumentError(absl::StrCat(
      "`index` must be a handle from Lintf>IndexHandle: ", status.message()));
}

absl::Status LookupVariable(OpKernelContext* ctx, const Tensor& input,
                            absl::string_view what,
                            RefCountPtr<Var>* variable) {
  ResourceHandle handle;
  TF_RETURN_IF_ERROR(ScalarHandle(input, what, &handle));
  const absl::Status status = tensorflow::LookupResource(ctx, handle, variable);
  if (status.ok()) return status;
  if (absl::IsNotFound(status)) {
    return absl::FailedPreconditionError(
        absl::StrCat("the variable `", what,
                     "` must have a value; restore or assign it first"));
  }
  return absl::InvalidArgumentError(absl::StrCat(
      "`", what, "` must be the handle of a variable: ", status.message()));
}

IndexReader::~IndexReader() { UnlockAll(); }

absl::Status IndexReader::Open(OpKernelContext* ctx, Parts parts) {
  TF_RETURN_IF_ERROR(LookupVariables(ctx, parts));
  for (;;) {
    LockAll();
    TF_RETURN_IF_ERROR(CheckAll());
    TF_RETURN_IF_ERROR(FindState(ctx, parts));
    if (parts != Parts::kWrite || IsPrivate()) return absl::OkStatus();
    UnlockAll();
    TF_RETURN_IF_ERROR(MakePrivate(ctx));
  }
}

absl::Status IndexReader::LookupVariables(OpKernelContext* ctx, Parts parts) {
  const Tensor* input;
  TF_RETURN_IF_ERROR(LookupIndex(ctx, &index_));
  TF_RETURN_IF_ERROR(ctx->input("ids", &input));
  TF_RETURN_IF_ERROR(LookupVariable(ctx, *input, "ids", &ids_variable_));
  TF_RETURN_IF_ERROR(ctx->input("num_rows", &input));
  TF_RETURN_IF_ERROR(
      LookupVariable(ctx, *input, "num_rows", &num_rows_variable_));
  const bool all = parts == Parts::kAll || parts == Parts::kWrite;
  if (all || parts == Parts::kItems) {
    TF_RETURN_IF_ERROR(ctx->input("embeddings", &input));
    TF_RETURN_IF_ERROR(
        LookupVariable(ctx, *input, "embeddings", &embeddings_variable_));
    TF_RETURN_IF_ERROR(LookupOptional(ctx, "scales", &scales_variable_));
    TF_RETURN_IF_ERROR(LookupOptional(ctx, "codes", &codes_variable_));
  }
  if (all || parts == Parts::kColumns) {
    OpInputList inputs;
    TF_RETURN_IF_ERROR(ctx->input_list("columns", &inputs));
    column_variables_.resize(inputs.size());
    for (int i = 0; i < inputs.size(); ++i) {
      TF_RETURN_IF_ERROR(LookupVariable(ctx, inputs[i],
                                        absl::StrCat("columns[", i, "]"),
                                        &column_variables_[i]));
    }
  }
  if (parts != Parts::kLog && parts != Parts::kWrite) return absl::OkStatus();
  TF_RETURN_IF_ERROR(ctx->input("log_offsets", &input));
  return LookupVariable(ctx, *input, "log_offsets", &log_offsets_variable_);
}

std::vector<Var*> IndexReader::AllVariables() const {
  std::vector<Var*> all = {ids_variable_.get(), num_rows_variable_.get()};
  for (const auto* variable : {&embeddings_variable_, &scales_variable_,
                               &codes_variable_, &log_offsets_variable_}) {
    if (*variable != nullptr) all.push_back(variable->get());
  }
  for (const auto& variable : column_variables_) all.push_back(variable.get());
  return all;
}

void IndexReader::LockAll() {
  std::vector<Var*> all = AllVariables();
  // By the mutex's address: TensorFlow's own order for locking several
  // variables. The same variable may be there twice, but must not be locked
  // twice.
  std::sort(all.begin(), all.end(), [](Var* a, Var* b) {
    return std::less<const void*>()(a->mu(), b->mu());
  });
  all.erase(std::unique(all.begin(), all.end()), all.end());
  for (Var* variable : all) {
    variable->mu()->lock_shared();
    locked_.push_back(variable);
  }
}

void IndexReader::UnlockAll() {
  for (Var* variable : locked_) variable->mu()->unlock_shared();
  locked_.clear();
}

bool IndexReader::IsPrivate() const {
  for (Var* variable : AllVariables()) {
    const bool is_private =
        Holds(variable) ? Owns(variable) : IsOwn(*variable->tensor());
    if (!is_private) return false;
  }
  return true;
}

absl::Status IndexReader::MakePrivate(OpKernelContext* ctx) {
  for (Var* variable : AllVariables()) {
    ExclusiveVariableLock lock(variable);
    if (Holds(variable)) {
      if (Owns(variable)) continue;
      LetGo();
    }
    Tensor* const values = variable->tensor();
    if (IsOwn(*values)) continue;
    Tensor copy;
    TF_RETURN_IF_ERROR(
        ctx->allocate_temp(values->dtype(), values->shape(), &copy));
    TF_RETURN_IF_ERROR(CopyValues(ctx, *values, &copy));
    *values = copy;
  }
  return absl::OkStatus();
}

std::vector<Var*> IndexReader::ScannedVariables() const {
  std::vector<Var*> scanned;
  if (embeddings_variable_ == nullptr) return scanned;
  scanned.push_back(embeddings_variable_.get());
  if (codes_variable_ != nullptr) scanned.push_back(codes_variable_.get());
  for (const auto& column : column_variables_) scanned.push_back(column.get());
  return scanned;
}

absl::Status IndexReader::CheckNumRowsValue(int64_t num_rows) const {
  if (num_rows >= 0 && num_rows <= capacity_) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat("`num_rows` must be in [0, ", capacity_,
                   "], the capacity of `ids`, got ", num_rows));
}

absl::Status IndexReader::CheckAll() {
  const Tensor& ids = *ids_variable_->tensor();
  TF_RETURN_IF_ERROR(
      CheckVariable(*ids_variable_, ids, "ids", tensorflow::DT_INT64, 1));
  capacity_ = ids.dim_size(0);
  if (capacity_ < 1) {
    return absl::InvalidArgumentError(
        "the variable `ids` must have at least one row; make the index with a "
        "capacity of 1 or more");
  }
  tables_ = RowTables();
  tables_.ids = ids.flat<int64_t>().data();

  const Tensor& num_rows = *num_rows_variable_->tensor();
  TF_RETURN_IF_ERROR(CheckVariable(*num_rows_variable_, num_rows, "num_rows",
                                   tensorflow::DT_INT64, 0));
  TF_RETURN_IF_ERROR(CheckNumRows());

  if (embeddings_variable_ != nullptr) {
    TF_RETURN_IF_ERROR(CheckEmbeddings());
    TF_RETURN_IF_ERROR(CheckCodes());
  }
  if (log_offsets_variable_ != nullptr) {
    TF_RETURN_IF_ERROR(CheckVariable(*log_offsets_variable_,
                                     *log_offsets_variable_->tensor(),
                                     "log_offsets", tensorflow::DT_INT64, 1));
  }
  return CheckColumns();
}

absl::Status IndexReader::CheckEmbeddings() {
  // An index of codes alone names them twice.
  if (embeddings_variable_.get() == codes_variable_.get()) {
    return absl::OkStatus();
  }
  const Tensor& embeddings = *embeddings_variable_->tensor();
  TF_RETURN_IF_ERROR(CheckVariable(*embeddings_variable_, embeddings,
                                   "embeddings", embeddings.dtype(), 2));
  if (!ElementTypeOf(embeddings.dtype(), &tables_.items.type)) {
    return absl::InvalidArgumentError(absl::StrCat(
        "the variable `embeddings` must be float, bfloat16, half or int8 (or "
        "that of the codes), got ",
        tensorflow::DataTypeString(embeddings.dtype())));
  }
  if (embeddings.dim_size(0) != capacity_ || embeddings.dim_size(1) < 1) {
    return absl::InvalidArgumentError(
        absl::StrCat("the variable `embeddings` must have shape [", capacity_,
                     ", dim], as many rows as `ids`, got ",
                     embeddings.shape().DebugString()));
  }
  tables_.dim = embeddings.dim_size(1);
  tables_.items.data = embeddings.data();
  const bool scaled = tables_.items.type == ElementType::kInt8;
  if (scaled != (scales_variable_ != nullptr)) {
    return absl::InvalidArgumentError(
        absl::StrCat("`scales` must be given with embeddings of int8 and with "
                     "no others, got ",
                     scaled ? "none" : "some", " with ",
                     tensorflow::DataTypeString(embeddings.dtype())));
  }
  if (!scaled) return absl::OkStatus();
  if (tables_.dim > kMaxInt8Dim) {
    return absl::InvalidArgumentError(absl::StrCat(
        "embeddings of int8 must have at most ", kMaxInt8Dim,
        " dimensions, or their sums would overflow, got ", tables_.dim));
  }
  const Tensor& scales = *scales_variable_->tensor();
  TF_RETURN_IF_ERROR(CheckVariable(*scales_variable_, scales, "scales",
                                   tensorflow::DT_FLOAT, 1));
  if (scales.dim_size(0) != capacity_) {
    return absl::InvalidArgumentError(absl::StrCat(
        "the variable `scales` must have shape [", capacity_,
        "], as many rows as `ids`, got ", scales.shape().DebugString()));
  }
  tables_.items.scales = scales.flat<float>().data();
  return absl::OkStatus();
}

absl::Status IndexReader::CheckCodes() {
  if (codes_variable_ == nullptr) return absl::OkStatus();
  const Tensor& codes = *codes_variable_->tensor();
  TF_RETURN_IF_ERROR(
      CheckVariable(*codes_variable_, codes, "codes", tensorflow::DT_INT64, 3));
  const int64_t blocks = (capacity_ + kCodeBlockRows - 1) / kCodeBlockRows;
  if (codes.dim_size(0) != blocks || codes.dim_size(1) < 1 ||
      codes.dim_size(2) != kCodeBlockRows) {
    return absl::InvalidArgumentError(
        absl::StrCat("the variable `codes` must have shape [", blocks,
                     ", words, ", kCodeBlockRows, "], blocks of ",
                     kCodeBlockRows, " rows for a capacity of ", capacity_,
                     ", got ", codes.shape().DebugString()));
  }
  tables_.codes = static_cast<const uint64_t*>(codes.data());
  tables_.code_words = codes.dim_size(1);
  return absl::OkStatus();
}

absl::Status IndexReader::CheckColumns() {
  tables_.columns.resize(column_variables_.size());
  for (size_t i = 0; i < column_variables_.size(); ++i) {
    const Tensor& values = *column_variables_[i]->tensor();
    const std::string what = absl::StrCat("columns[", i, "]");
    const int rank = values.dims() == 2 ? 2 : 1;
    TF_RETURN_IF_ERROR(CheckVariable(*column_variables_[i], values, what,
                                     values.dtype(), rank));
    if (values.dim_size(0) != capacity_ ||
        (rank == 2 && values.dim_size(1) < 1)) {
      return absl::InvalidArgumentError(absl::StrCat(
          "the variable `", what, "` must have shape [", capacity_, "] or [",
          capacity_, ", width], as many rows as `ids`, got ",
          values.shape().DebugString()));
    }
    if (!ColumnTypeOf(values.dtype(), &tables_.columns[i].type)) {
      return absl::InvalidArgumentError(absl::StrCat(
          "the variable `", what,
          "` must be int8, int16, int64, uint8, uint16, uint32, uint64 or "
          "float, got ",
          tensorflow::DataTypeString(values.dtype())));
    }
    tables_.columns[i].width = rank == 2 ? values.dim_size(1) : 1;
    tables_.columns[i].data = values.data();
  }
  return absl::OkStatus();
}

}  // namespace lintf
