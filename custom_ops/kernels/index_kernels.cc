// SPDX-License-Identifier: Apache-2.0
// Kernels of custom_ops/ops/index_ops.cc.
#include <cstdint>
#include <cstring>
#include <string>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "custom_ops/kernels/index_resource.h"
#include "custom_ops/kernels/index_variables.h"
#include "tensorflow/core/framework/op_kernel.h"
#include "tensorflow/core/framework/resource_handle.h"
#include "tensorflow/core/framework/resource_mgr.h"
#include "tensorflow/core/framework/resource_var.h"
#include "tensorflow/core/framework/tensor.h"
#include "tensorflow/core/framework/tensor_shape.h"

namespace lintf {
namespace {

using tensorflow::OpKernel;
using tensorflow::OpKernelConstruction;
using tensorflow::OpKernelContext;
using tensorflow::ResourceHandle;
using tensorflow::Tensor;
using tensorflow::TensorShape;
using tensorflow::Var;
using tensorflow::core::RefCountPtr;

class IndexHandleOp : public OpKernel {
 public:
  explicit IndexHandleOp(OpKernelConstruction* ctx) : OpKernel(ctx) {
    OP_REQUIRES_OK(ctx, ctx->GetAttr("container", &container_));
    OP_REQUIRES_OK(ctx, ctx->GetAttr("shared_name", &name_));
    if (name_.empty()) name_ = name();
    OP_REQUIRES_OK(ctx, ctx->GetAttr("anonymous", &anonymous_));
    if (anonymous_) {
      own_ = ResourceHandle::MakeRefCountingHandle(new IndexResource(),
                                                   ctx->device()->name());
    }
  }

  void Compute(OpKernelContext* ctx) override {
    Tensor* output;
    OP_REQUIRES_OK(ctx, ctx->allocate_output(0, TensorShape({}), &output));
    ResourceHandle& handle = output->scalar<ResourceHandle>()();
    if (anonymous_) {
      handle = own_;
      return;
    }
    if (name_ == ResourceHandle::ANONYMOUS_NAME) {
      handle = ResourceHandle::MakeRefCountingHandle(new IndexResource(),
                                                     ctx->device()->name());
      return;
    }
    handle =
        tensorflow::MakeResourceHandle<IndexResource>(ctx, container_, name_);
    RefCountPtr<IndexResource> resource;
    OP_REQUIRES_OK(ctx, tensorflow::LookupOrCreateResource<IndexResource>(
                            ctx, handle, &resource, [](IndexResource** made) {
                              *made = new IndexResource();
                              return absl::OkStatus();
                            }));
  }

  bool IsExpensive() override { return false; }

 private:
  std::string container_;
  std::string name_;
  bool anonymous_ = false;
  ResourceHandle own_;
};

class IndexStatsOp : public OpKernel {
 public:
  using OpKernel::OpKernel;

  void Compute(OpKernelContext* ctx) override {
    IndexReader index;
    OP_REQUIRES_OK(ctx, index.Open(ctx, /*with_embeddings=*/false,
                                   /*with_columns=*/false));
    Tensor* rows;
    OP_REQUIRES_OK(ctx, ctx->allocate_output(0, TensorShape({}), &rows));
    rows->scalar<int64_t>()() = index.num_rows();
    Tensor* live_rows;
    OP_REQUIRES_OK(ctx, ctx->allocate_output(1, TensorShape({}), &live_rows));
    live_rows->scalar<int64_t>()() = index.state().live_rows;
  }
};

class InvalidateIndexOp : public OpKernel {
 public:
  using OpKernel::OpKernel;

  void Compute(OpKernelContext* ctx) override {
    RefCountPtr<IndexResource> index;
    OP_REQUIRES_OK(ctx, LookupIndex(ctx, &index));
    index->Invalidate();
  }
};

class AssignRowsOp : public OpKernel {
 public:
  using OpKernel::OpKernel;

  void Compute(OpKernelContext* ctx) override {
    RefCountPtr<IndexResource> index;
    OP_REQUIRES_OK(ctx, LookupIndex(ctx, &index));
    RefCountPtr<Var> variable;
    OP_REQUIRES_OK(ctx,
                   LookupVariable(ctx, ctx->input(1), "variable", &variable));
    const Tensor& start_input = ctx->input(2);
    OP_REQUIRES(ctx, start_input.dims() == 0,
                absl::InvalidArgumentError(
                    absl::StrCat("`start` must be one row number, got shape ",
                                 start_input.shape().DebugString())));
    const int64_t start = start_input.scalar<int64_t>()();
    const Tensor& values = ctx->input(3);

    ExclusiveVariableLock lock(variable.get());
    OP_REQUIRES_OK(ctx, Check(*variable, start, values));
    // The index holds the buffer of the ids; without this they would look
    // shared below.
    index->Invalidate();
    Tensor* const rows = variable->tensor();
    if (!rows->RefCountIsOne()) {
      // A reader of the whole variable still has this buffer and must not see
      // it change.
      Tensor copy;
      OP_REQUIRES_OK(ctx,
                     ctx->allocate_temp(rows->dtype(), rows->shape(), &copy));
      std::memcpy(copy.data(), rows->data(), rows->TotalBytes());
      *rows = copy;
    }
    if (values.NumElements() == 0) return;
    const size_t row_bytes = values.TotalBytes() / values.dim_size(0);
    std::memcpy(static_cast<char*>(rows->data()) + start * row_bytes,
                values.data(), values.TotalBytes());
  }

 private:
  static absl::Status Check(Var& variable, int64_t start,
                            const Tensor& values) {
    const Tensor& rows = *variable.tensor();
    if (!variable.is_initialized) {
      return absl::FailedPreconditionError(
          "`variable` must have a value; restore or assign it first");
    }
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
    const int64_t capacity = rows.dim_size(0);
    const int64_t count = values.dim_size(0);
    // Compared so that nothing can overflow.
    if (start < 0 || count > capacity || start > capacity - count) {
      return absl::InvalidArgumentError(absl::StrCat(
          "rows must lie in [0, ", capacity, "), the rows of `variable`; got ",
          count, " rows from row ", start));
    }
    return absl::OkStatus();
  }
};

REGISTER_KERNEL_BUILDER(
    Name("Lintf>IndexHandle").Device(tensorflow::DEVICE_CPU), IndexHandleOp);
REGISTER_KERNEL_BUILDER(Name("Lintf>IndexStats").Device(tensorflow::DEVICE_CPU),
                        IndexStatsOp);
REGISTER_KERNEL_BUILDER(
    Name("Lintf>InvalidateIndex").Device(tensorflow::DEVICE_CPU),
    InvalidateIndexOp);
REGISTER_KERNEL_BUILDER(Name("Lintf>AssignRows").Device(tensorflow::DEVICE_CPU),
                        AssignRowsOp);

}  // namespace
}  // namespace lintf
