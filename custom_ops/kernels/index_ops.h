// SPDX-License-Identifier: Apache-2.0
// What the kernels of custom_ops/ops/index_ops.cc, and Lintf>SimilarityCosts,
// have in common on all devices.
#ifndef LINTF_CUSTOM_OPS_KERNELS_INDEX_OPS_H_
#define LINTF_CUSTOM_OPS_KERNELS_INDEX_OPS_H_

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <mutex>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "custom_ops/core/planner.h"
#include "custom_ops/core/retrieval.h"
#include "custom_ops/core/sign_oporp.h"
#include "custom_ops/core/similarity.h"
#include "custom_ops/kernels/code_attrs.h"
#include "custom_ops/kernels/index_resource.h"
#include "custom_ops/kernels/index_variables.h"
#include "custom_ops/kernels/kernel_checks.h"
#include "custom_ops/kernels/similarity_attrs.h"
#include "tensorflow/core/framework/op_kernel.h"
#include "tensorflow/core/framework/resource_handle.h"
#include "tensorflow/core/framework/resource_mgr.h"
#include "tensorflow/core/framework/resource_var.h"
#include "tensorflow/core/framework/tensor.h"
#include "tensorflow/core/framework/tensor_shape.h"

namespace lintf {

// Lintf>IndexHandle of resources of one kind of device.
template <typename Resource>
class IndexHandleOp : public tensorflow::OpKernel {
 public:
  explicit IndexHandleOp(tensorflow::OpKernelConstruction* ctx)
      : OpKernel(ctx) {
    OP_REQUIRES_OK(ctx, ctx->GetAttr("container", &container_));
    OP_REQUIRES_OK(ctx, ctx->GetAttr("shared_name", &name_));
    if (name_.empty()) name_ = name();
    OP_REQUIRES_OK(ctx, ctx->GetAttr("anonymous", &anonymous_));
    if (anonymous_) {
      own_ = tensorflow::ResourceHandle::MakeRefCountingHandle(
          Make(), ctx->device()->name());
    }
  }

  void Compute(tensorflow::OpKernelContext* ctx) override {
    tensorflow::Tensor* output;
    OP_REQUIRES_OK(
        ctx, ctx->allocate_output(0, tensorflow::TensorShape({}), &output));
    tensorflow::ResourceHandle& handle =
        output->scalar<tensorflow::ResourceHandle>()();
    if (anonymous_) {
      handle = own_;
      return;
    }
    if (name_ == tensorflow::ResourceHandle::ANONYMOUS_NAME) {
      handle = tensorflow::ResourceHandle::MakeRefCountingHandle(
          Make(), ctx->device()->name());
      return;
    }
    handle =
        tensorflow::MakeResourceHandle<IndexResource>(ctx, container_, name_);
    tensorflow::core::RefCountPtr<IndexResource> resource;
    OP_REQUIRES_OK(ctx, tensorflow::LookupOrCreateResource<IndexResource>(
                            ctx, handle, &resource, [](IndexResource** made) {
                              *made = Make();
                              return absl::OkStatus();
                            }));
  }

  bool IsExpensive() override { return false; }

 private:
  // Its type is what handles are checked for.
  static IndexResource* Make() { return new Resource(); }

  std::string container_;
  std::string name_;
  bool anonymous_ = false;
  tensorflow::ResourceHandle own_;
};

// Lintf>IndexStats of variables that a `Reader` reads.
template <typename Reader>
class IndexStatsOp : public tensorflow::OpKernel {
 public:
  using tensorflow::OpKernel::OpKernel;

  void Compute(tensorflow::OpKernelContext* ctx) override {
    Reader index;
    OP_REQUIRES_OK(ctx, index.Open(ctx, Reader::Parts::kRows));
    tensorflow::Tensor* rows;
    OP_REQUIRES_OK(ctx,
                   ctx->allocate_output(0, tensorflow::TensorShape({}), &rows));
    tensorflow::Tensor* live_rows;
    OP_REQUIRES_OK(
        ctx, ctx->allocate_output(1, tensorflow::TensorShape({}), &live_rows));
    // The two belong together.
    std::lock_guard<std::mutex> no_update(index.state().write_mu());
    rows->scalar<int64_t>()() = index.state().num_rows();
    live_rows->scalar<int64_t>()() = index.state().live_rows();
  }
};

class SearchCountsOp : public tensorflow::OpKernel {
 public:
  explicit SearchCountsOp(tensorflow::OpKernelConstruction* ctx)
      : OpKernel(ctx) {
    OP_REQUIRES_OK(ctx, ctx->GetAttr("learned", &learned_));
  }

  void Compute(tensorflow::OpKernelContext* ctx) override {
    tensorflow::core::RefCountPtr<IndexResource> index;
    OP_REQUIRES_OK(ctx, LookupIndex(ctx, &index));
    tensorflow::Tensor* searches;
    OP_REQUIRES_OK(
        ctx, ctx->allocate_output(0, tensorflow::TensorShape({3}), &searches));
    const RetrievalCounts counts = index->searches();
    auto values = searches->vec<int64_t>();
    values(0) = learned_ ? counts.exact : counts.masked;
    values(1) = learned_ ? counts.bounded : counts.prefiltered;
    values(2) = learned_ ? counts.two_stage : counts.quantized;
  }

 private:
  bool learned_ = false;
};

class InvalidateIndexOp : public tensorflow::OpKernel {
 public:
  using tensorflow::OpKernel::OpKernel;

  void Compute(tensorflow::OpKernelContext* ctx) override {
    tensorflow::core::RefCountPtr<IndexResource> index;
    OP_REQUIRES_OK(ctx, LookupIndex(ctx, &index));
    index->Invalidate();
  }
};

// Rows [start, start + count) must lie in [0, capacity).
inline absl::Status CheckRange(int64_t start, int64_t count, int64_t capacity) {
  // Compared so that nothing can overflow.
  if (start < 0 || count > capacity || start > capacity - count) {
    return absl::InvalidArgumentError(absl::StrCat(
        "rows must lie in [0, ", capacity, "), the rows of `variable`; got ",
        count, " rows from row ", start));
  }
  return absl::OkStatus();
}

// What ops that write rows of a variable in place have in common. `Access`
// copies within the memory that variables are in.
template <typename Access>
class InPlaceWriteOp : public tensorflow::OpKernel {
 public:
  using tensorflow::OpKernel::OpKernel;

  void Compute(tensorflow::OpKernelContext* ctx) override {
    tensorflow::core::RefCountPtr<IndexResource> index;
    OP_REQUIRES_OK(ctx, LookupIndex(ctx, &index));
    tensorflow::core::RefCountPtr<tensorflow::Var> variable;
    OP_REQUIRES_OK(ctx,
                   LookupVariable(ctx, ctx->input(1), "variable", &variable));
    const tensorflow::Tensor& start_input = ctx->input(2);
    OP_REQUIRES(ctx, start_input.dims() == 0,
                absl::InvalidArgumentError(
                    absl::StrCat("`start` must be one row number, got shape ",
                                 start_input.shape().DebugString())));
    const int64_t start = start_input.scalar<int64_t>()();
    const tensorflow::Tensor& values = ctx->input(3);

    ExclusiveVariableLock lock(variable.get());
    OP_REQUIRES(
        ctx, variable->is_initialized,
        absl::FailedPreconditionError(
            "`variable` must have a value; restore or assign it first"));
    OP_REQUIRES_OK(ctx, Check(*variable->tensor(), start, values));
    // The index holds the buffer of the ids; without this they would look
    // shared below.
    index->Invalidate();
    tensorflow::Tensor* const rows = variable->tensor();
    if (!rows->RefCountIsOne()) {
      // A reader of the whole variable still has this buffer and must not see
      // it change.
      tensorflow::Tensor copy;
      OP_REQUIRES_OK(ctx,
                     ctx->allocate_temp(rows->dtype(), rows->shape(), &copy));
      OP_REQUIRES_OK(ctx, Access::Copy(ctx, rows->data(), rows->TotalBytes(),
                                       copy.data()));
      *rows = copy;
    }
    if (values.NumElements() == 0) return;
    OP_REQUIRES_OK(ctx, Write(ctx, start, values, rows));
  }

 private:
  // Whether the `values` fit, as rows from `start` on.
  virtual absl::Status Check(const tensorflow::Tensor& rows, int64_t start,
                             const tensorflow::Tensor& values) const = 0;
  virtual absl::Status Write(tensorflow::OpKernelContext* ctx, int64_t start,
                             const tensorflow::Tensor& values,
                             tensorflow::Tensor* rows) const = 0;
};

template <typename Access>
class AssignRowsOp : public InPlaceWriteOp<Access> {
 public:
  using InPlaceWriteOp<Access>::InPlaceWriteOp;

 private:
  absl::Status Check(const tensorflow::Tensor& rows, int64_t start,
                     const tensorflow::Tensor& values) const override {
    if (rows.dtype() != values.dtype()) {
      return absl::InvalidArgumentError(
          absl::StrCat("`values` must have the dtype of `variable`, ",
                       tensorflow::DataTypeString(rows.dtype()), ", got ",
                       tensorflow::DataTypeString(values.dtype())));
    }
    bool fits = rows.dims() >= 1 && values.dims() == rows.dims();
    for (int i = 1; fits && i < rows.dims(); ++i) {
      fits = rows.dim_size(i) == values.dim_size(i);
    }
    if (!fits) {
      return absl::InvalidArgumentError(
          absl::StrCat("`values` must be rows of `variable`, whose shape is ",
                       rows.shape().DebugString(), ", got shape ",
                       values.shape().DebugString()));
    }
    return CheckRange(start, values.dim_size(0), rows.dim_size(0));
  }

  absl::Status Write(tensorflow::OpKernelContext* ctx, int64_t start,
                     const tensorflow::Tensor& values,
                     tensorflow::Tensor* rows) const override {
    const size_t row_bytes = values.TotalBytes() / values.dim_size(0);
    return Access::Copy(ctx, values.data(), values.TotalBytes(),
                        static_cast<char*>(rows->data()) + start * row_bytes);
  }
};

template <typename Access>
class AssignCodesOp : public InPlaceWriteOp<Access> {
 public:
  using InPlaceWriteOp<Access>::InPlaceWriteOp;

 private:
  absl::Status Check(const tensorflow::Tensor& rows, int64_t start,
                     const tensorflow::Tensor& values) const override {
    if (rows.dtype() != tensorflow::DT_INT64 || rows.dims() != 3 ||
        rows.dim_size(2) != kCodeBlockRows) {
      return absl::InvalidArgumentError(absl::StrCat(
          "`variable` must be int64 [blocks, words, ", kCodeBlockRows,
          "], got ", tensorflow::DataTypeString(rows.dtype()), " ",
          rows.shape().DebugString()));
    }
    if (values.dims() != 2 || values.dim_size(1) != rows.dim_size(1)) {
      return absl::InvalidArgumentError(absl::StrCat(
          "`codes` must have shape [n, ", rows.dim_size(1),
          "], the words of `variable`, got ", values.shape().DebugString()));
    }
    return CheckRange(start, values.dim_size(0),
                      rows.dim_size(0) * kCodeBlockRows);
  }

  absl::Status Write(tensorflow::OpKernelContext* ctx, int64_t start,
                     const tensorflow::Tensor& values,
                     tensorflow::Tensor* rows) const override {
    return Access::StoreCodes(ctx, values, start, rows);
  }
};

// Lintf>PlannerCosts of variables that a `Reader` reads.
template <typename Reader>
class PlannerCostsOp : public tensorflow::OpKernel {
 public:
  explicit PlannerCostsOp(tensorflow::OpKernelConstruction* ctx)
      : OpKernel(ctx) {
    OP_REQUIRES_OK(ctx, code_attrs_.Init(ctx));
  }

  void Compute(tensorflow::OpKernelContext* ctx) override {
    Reader index;
    OP_REQUIRES_OK(ctx, index.Open(ctx, Reader::Parts::kItems));
    const RowTables& tables = index.tables();
    const bool has_items = tables.items.data != nullptr;
    const int64_t dim = has_items ? tables.dim : code_attrs_.dim();
    if (code_attrs_.has_codes()) {
      OP_REQUIRES_OK(ctx, code_attrs_.CheckRows(tables.code_words, dim));
    }
    const std::vector<float> costs = Measure(index, dim).ToList();
    tensorflow::Tensor* output;
    OP_REQUIRES_OK(
        ctx,
        AllocateOutput(ctx, 0, {static_cast<int64_t>(costs.size())}, &output));
    std::copy(costs.begin(), costs.end(), output->flat<float>().data());
  }

 protected:
  const CodeAttrs& code_attrs() const { return code_attrs_; }

 private:
  // The costs of queries of dimension `dim`.
  virtual PlannerCosts Measure(const Reader& index, int64_t dim) const = 0;

  CodeAttrs code_attrs_;
};

// Lintf>SimilarityCosts of variables that a `Reader` reads.
template <typename Reader>
class SimilarityCostsOp : public tensorflow::OpKernel {
 public:
  explicit SimilarityCostsOp(tensorflow::OpKernelConstruction* ctx)
      : OpKernel(ctx) {
    OP_REQUIRES_OK(ctx, similarity_.Init(ctx));
  }

  void Compute(tensorflow::OpKernelContext* ctx) override {
    Similarity similarity;
    OP_REQUIRES_OK(ctx, similarity_.Read(ctx, &similarity));
    Reader index;
    OP_REQUIRES_OK(ctx, index.Open(ctx, Reader::Parts::kItems));
    OP_REQUIRES_OK(ctx, similarity_.CheckItems(index.tables()));
    const std::vector<float> costs = Measure(index, similarity).ToList();
    tensorflow::Tensor* output;
    OP_REQUIRES_OK(
        ctx,
        AllocateOutput(ctx, 0, {static_cast<int64_t>(costs.size())}, &output));
    std::copy(costs.begin(), costs.end(), output->flat<float>().data());
  }

 private:
  virtual SimilarityCosts Measure(const Reader& index,
                                  const Similarity& similarity) const = 0;

  SimilarityAttrs similarity_;
};

}  // namespace lintf

#endif  // LINTF_CUSTOM_OPS_KERNELS_INDEX_OPS_H_
