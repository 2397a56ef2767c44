// SPDX-License-Identifier: Apache-2.0
// Values of columns that ops return.
#ifndef LINTF_CUSTOM_OPS_KERNELS_RETURNED_COLUMNS_H_
#define LINTF_CUSTOM_OPS_KERNELS_RETURNED_COLUMNS_H_

#include <cstdint>
#include <cstring>
#include <limits>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "absl/types/span.h"
#include "custom_ops/core/column.h"
#include "custom_ops/kernels/index_variables.h"
#include "custom_ops/kernels/kernel_checks.h"
#include "tensorflow/core/framework/op_kernel.h"
#include "tensorflow/core/framework/tensor.h"
#include "tensorflow/core/framework/types.h"

namespace lintf {

// The bytes of a value of a column that stands for "missing".
class MissingValue {
 public:
  // `value` as the op's attribute gives it; not used for float.
  absl::Status Init(tensorflow::DataType dtype, bool has_value, int64_t value) {
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

  // A value of it.
  const void* data() const { return bytes_; }

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
  tensorflow::DataTypeVector types;
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
  absl::Status Allocate(tensorflow::OpKernelContext* ctx,
                        const IndexReader& index, size_t i, int output,
                        absl::Span<const int64_t> leading,
                        tensorflow::Tensor** values) const {
    const std::vector<Column>& all = index.tables().columns;
    if (columns[i] < 0 || columns[i] >= static_cast<int64_t>(all.size())) {
      return absl::InvalidArgumentError(
          absl::StrCat("returned columns must be in [0, ", all.size(),
                       "), got ", columns[i]));
    }
    const tensorflow::Tensor& variable = index.column_tensor(columns[i]);
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
  void FillMissing(size_t i, const tensorflow::Tensor& rows,
                   tensorflow::Tensor* values) const {
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

}  // namespace lintf

#endif  // LINTF_CUSTOM_OPS_KERNELS_RETURNED_COLUMNS_H_
