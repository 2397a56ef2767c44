// SPDX-License-Identifier: Apache-2.0
// The variables of an index, as its ops read them: in place, under locks.
#ifndef LINTF_CUSTOM_OPS_KERNELS_INDEX_VARIABLES_H_
#define LINTF_CUSTOM_OPS_KERNELS_INDEX_VARIABLES_H_

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "custom_ops/core/column.h"
#include "custom_ops/core/index_state.h"
#include "custom_ops/core/item_matrix.h"
#include "custom_ops/core/row_tables.h"
#include "custom_ops/kernels/index_resource.h"
#include "tensorflow/core/framework/op_kernel.h"
#include "tensorflow/core/framework/resource_var.h"
#include "tensorflow/core/framework/tensor.h"
#include "tensorflow/core/framework/types.h"
#include "tensorflow/core/platform/refcount.h"

namespace lintf {

// The column type that stores values of `dtype`; false if there is none.
bool ColumnTypeOf(tensorflow::DataType dtype, ColumnType* type);

// The storage type of embeddings of `dtype`; false if there is none.
bool ElementTypeOf(tensorflow::DataType dtype, ElementType* type);

// Finds the index behind the input `index` of the op.
absl::Status LookupIndex(tensorflow::OpKernelContext* ctx,
                         tensorflow::core::RefCountPtr<IndexResource>* index);

// Finds the variable behind the resource input `input`. `what` names it in
// messages. The caller locks it. FAILED_PRECONDITION if it does not exist.
absl::Status LookupVariable(
    tensorflow::OpKernelContext* ctx, const tensorflow::Tensor& input,
    absl::string_view what,
    tensorflow::core::RefCountPtr<tensorflow::Var>* variable);

// Holds the lock of a variable exclusively. (TensorFlow's own lock classes
// cannot be named without deprecation warnings.)
class ExclusiveVariableLock {
 public:
  explicit ExclusiveVariableLock(tensorflow::Var* variable)
      : variable_(variable) {
    variable_->mu()->lock();
  }
  ExclusiveVariableLock(const ExclusiveVariableLock&) = delete;
  ExclusiveVariableLock& operator=(const ExclusiveVariableLock&) = delete;
  ~ExclusiveVariableLock() { variable_->mu()->unlock(); }

 private:
  tensorflow::Var* const variable_;
};

// The variables of an index in place. From `Open` until it goes out of scope it
// holds the lock of every variable, shared: searches and updates run side by
// side, and whoever replaces a variable waits. How searches get along with
// updates is in core/live_search.h. Never copies a variable that is read, and
// leaves its copy-on-read mode as it is.
class IndexReader {
 public:
  IndexReader() = default;
  IndexReader(const IndexReader&) = delete;
  IndexReader& operator=(const IndexReader&) = delete;
  ~IndexReader();

  // What an op reads besides `index`, `ids` and `num_rows`.
  enum class Parts : uint8_t { kRows, kColumns, kItems, kAll, kLog, kWrite };

  // Reads the inputs of the op: with kColumns also `columns`, with kItems also
  // `embeddings`, `scales` and `codes`, with kAll all of these, with kLog
  // `log_offsets`. Checks that they fit together. With kWrite it is everything,
  // and the variables' buffers are nobody else's from then on.
  absl::Status Open(tensorflow::OpKernelContext* ctx, Parts parts);

  int64_t capacity() const { return capacity_; }
  // Views of [capacity] rows; what the op does not read is missing. The
  // dimension is 0 if the index has codes alone; columns are in the order of
  // the input.
  const RowTables& tables() const { return tables_; }
  const tensorflow::Tensor& column_tensor(int i) const {
    return *column_variables_[i]->tensor();
  }
  const IndexState& state() const { return *state_; }
  IndexResource& resource() const { return *index_; }

  // With kLog or kWrite.
  const int64_t* log_offsets() const;
  int64_t num_partitions() const;

  // With kWrite: what the caller changes while it holds the state's write_mu.
  IndexState* mutable_state() const { return state_.get(); }
  // Sets the variable to the state's number of rows.
  void StoreNumRows() const;
  void StoreLogOffset(int64_t partition, int64_t offset) const;

 private:
  absl::Status LookupVariables(tensorflow::OpKernelContext* ctx, Parts parts);
  std::vector<tensorflow::Var*> AllVariables() const;
  void LockAll();
  void UnlockAll();
  // Gives each variable whose buffer someone else holds a copy of its own.
  absl::Status MakePrivate(tensorflow::OpKernelContext* ctx);
  bool IsPrivate() const;
  void PrepareTables();
  absl::Status CheckAll();
  absl::Status CheckEmbeddings();
  absl::Status CheckCodes();
  absl::Status CheckColumns();

  tensorflow::core::RefCountPtr<IndexResource> index_;
  tensorflow::core::RefCountPtr<tensorflow::Var> ids_variable_;
  tensorflow::core::RefCountPtr<tensorflow::Var> num_rows_variable_;
  tensorflow::core::RefCountPtr<tensorflow::Var> embeddings_variable_;
  tensorflow::core::RefCountPtr<tensorflow::Var> scales_variable_;
  tensorflow::core::RefCountPtr<tensorflow::Var> codes_variable_;
  tensorflow::core::RefCountPtr<tensorflow::Var> log_offsets_variable_;
  std::vector<tensorflow::core::RefCountPtr<tensorflow::Var>> column_variables_;
  std::vector<tensorflow::Var*> locked_;

  int64_t capacity_ = 0;
  RowTables tables_;
  std::shared_ptr<IndexState> state_;
};

}  // namespace lintf

#endif  // LINTF_CUSTOM_OPS_KERNELS_INDEX_VARIABLES_H_
