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
// side, and whoever replaces a variable waits. Never copies a variable that is
// read, and leaves its copy-on-read mode as it is. What depends on where the
// variables are is for the classes that derive from it.
class IndexReader {
 public:
  IndexReader() = default;
  IndexReader(const IndexReader&) = delete;
  IndexReader& operator=(const IndexReader&) = delete;
  virtual ~IndexReader();

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

  // With kLog or kWrite; host memory. The caller holds the state's write_mu.
  virtual const int64_t* log_offsets() const = 0;
  int64_t num_partitions() const { return log_offsets_tensor().dim_size(0); }

  // With kWrite: what the caller changes while it holds the state's write_mu.
  IndexState* mutable_state() const { return state_.get(); }

 protected:
  // What must hold of the number of rows, if it can be read at once.
  virtual absl::Status CheckNumRows() = 0;
  // Sets state_.
  virtual absl::Status FindState(tensorflow::OpKernelContext* ctx,
                                 Parts parts) = 0;
  // Whether the index resource holds the buffer of a variable, and if so,
  // whether it was nobody else's before, so that updates may write to it.
  virtual bool Holds(const tensorflow::Var* variable) const = 0;
  virtual bool Owns(const tensorflow::Var* variable) const = 0;
  // Makes the index resource let go of all buffers, and forgets state_.
  virtual void LetGo() = 0;
  // Copies the contents of a variable.
  virtual absl::Status CopyValues(tensorflow::OpKernelContext* ctx,
                                  const tensorflow::Tensor& from,
                                  tensorflow::Tensor* to) = 0;

  // `num_rows` must be in [0, capacity].
  absl::Status CheckNumRowsValue(int64_t num_rows) const;

  const tensorflow::Var* ids_variable() const { return ids_variable_.get(); }
  const tensorflow::Var* num_rows_variable() const {
    return num_rows_variable_.get();
  }
  const tensorflow::Var* log_offsets_variable() const {
    return log_offsets_variable_.get();
  }
  tensorflow::Tensor& ids_tensor() const { return *ids_variable_->tensor(); }
  tensorflow::Tensor& num_rows_tensor() const {
    return *num_rows_variable_->tensor();
  }
  tensorflow::Tensor& log_offsets_tensor() const {
    return *log_offsets_variable_->tensor();
  }
  // The variables that searches scan.
  std::vector<tensorflow::Var*> ScannedVariables() const;
  void UnlockAll();

  std::shared_ptr<IndexState> state_;

 private:
  absl::Status LookupVariables(tensorflow::OpKernelContext* ctx, Parts parts);
  std::vector<tensorflow::Var*> AllVariables() const;
  void LockAll();
  // Gives each variable whose buffer someone else holds a copy of its own.
  absl::Status MakePrivate(tensorflow::OpKernelContext* ctx);
  bool IsPrivate() const;
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
};

}  // namespace lintf

#endif  // LINTF_CUSTOM_OPS_KERNELS_INDEX_VARIABLES_H_
