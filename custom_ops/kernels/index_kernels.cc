// SPDX-License-Identifier: Apache-2.0
// Kernels of custom_ops/ops/index_ops.cc.
#include <algorithm>
#include <cstdint>
#include <cstring>
#include <mutex>
#include <random>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "custom_ops/core/planner.h"
#include "custom_ops/core/retrieval.h"
#include "custom_ops/core/row_tables.h"
#include "custom_ops/core/sign_oporp.h"
#include "custom_ops/kernels/code_attrs.h"
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
    OP_REQUIRES_OK(ctx, index.Open(ctx, IndexReader::Parts::kRows));
    Tensor* rows;
    OP_REQUIRES_OK(ctx, ctx->allocate_output(0, TensorShape({}), &rows));
    Tensor* live_rows;
    OP_REQUIRES_OK(ctx, ctx->allocate_output(1, TensorShape({}), &live_rows));
    // The two belong together.
    std::lock_guard<std::mutex> no_update(index.state().write_mu());
    rows->scalar<int64_t>()() = index.state().num_rows();
    live_rows->scalar<int64_t>()() = index.state().live_rows();
  }
};

class SearchCountsOp : public OpKernel {
 public:
  using OpKernel::OpKernel;

  void Compute(OpKernelContext* ctx) override {
    RefCountPtr<IndexResource> index;
    OP_REQUIRES_OK(ctx, LookupIndex(ctx, &index));
    Tensor* searches;
    OP_REQUIRES_OK(ctx, ctx->allocate_output(0, TensorShape({3}), &searches));
    const RetrievalCounts counts = index->searches();
    searches->vec<int64_t>()(0) = counts.masked;
    searches->vec<int64_t>()(1) = counts.prefiltered;
    searches->vec<int64_t>()(2) = counts.quantized;
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

// Rows [start, start + count) must lie in [0, capacity).
absl::Status CheckRange(int64_t start, int64_t count, int64_t capacity) {
  // Compared so that nothing can overflow.
  if (start < 0 || count > capacity || start > capacity - count) {
    return absl::InvalidArgumentError(absl::StrCat(
        "rows must lie in [0, ", capacity, "), the rows of `variable`; got ",
        count, " rows from row ", start));
  }
  return absl::OkStatus();
}

// What ops that write rows of a variable in place have in common.
class InPlaceWriteOp : public OpKernel {
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
    OP_REQUIRES(
        ctx, variable->is_initialized,
        absl::FailedPreconditionError(
            "`variable` must have a value; restore or assign it first"));
    OP_REQUIRES_OK(ctx, Check(*variable->tensor(), start, values));
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
    if (values.NumElements() > 0) Write(start, values, rows);
  }

 private:
  // Whether the `values` fit, as rows from `start` on.
  virtual absl::Status Check(const Tensor& rows, int64_t start,
                             const Tensor& values) const = 0;
  virtual void Write(int64_t start, const Tensor& values,
                     Tensor* rows) const = 0;
};

class AssignRowsOp : public InPlaceWriteOp {
 public:
  using InPlaceWriteOp::InPlaceWriteOp;

 private:
  absl::Status Check(const Tensor& rows, int64_t start,
                     const Tensor& values) const override {
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

  void Write(int64_t start, const Tensor& values, Tensor* rows) const override {
    const size_t row_bytes = values.TotalBytes() / values.dim_size(0);
    std::memcpy(static_cast<char*>(rows->data()) + start * row_bytes,
                values.data(), values.TotalBytes());
  }
};

class AssignCodesOp : public InPlaceWriteOp {
 public:
  using InPlaceWriteOp::InPlaceWriteOp;

 private:
  absl::Status Check(const Tensor& rows, int64_t start,
                     const Tensor& values) const override {
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

  void Write(int64_t start, const Tensor& values, Tensor* rows) const override {
    const int64_t words = values.dim_size(1);
    const int64_t* from = values.flat<int64_t>().data();
    int64_t* const codes = rows->flat<int64_t>().data();
    for (int64_t i = 0; i < values.dim_size(0); ++i) {
      for (int64_t w = 0; w < words; ++w) {
        codes[CodeWordIndex(start + i, w, words)] = *from++;
      }
    }
  }
};

class PlannerCostsOp : public OpKernel {
 public:
  explicit PlannerCostsOp(OpKernelConstruction* ctx) : OpKernel(ctx) {
    OP_REQUIRES_OK(ctx, code_attrs_.Init(ctx));
  }

  void Compute(OpKernelContext* ctx) override {
    IndexReader index;
    OP_REQUIRES_OK(ctx, index.Open(ctx, IndexReader::Parts::kItems));
    KnnInput input;
    const RowTables& tables = index.tables();
    input.items = tables.items;
    input.num_rows = index.state().num_rows();
    input.dim = code_attrs_.has_codes() ? code_attrs_.dim() : tables.dim;
    // What the queries are does not change what they cost.
    std::vector<float> queries(kQueries * input.dim);
    std::minstd_rand random(1);
    std::uniform_real_distribution<float> values(-1.0f, 1.0f);
    for (float& value : queries) value = values(random);
    input.queries = queries.data();
    input.num_queries = kQueries;
    CodeSide code;
    std::vector<float> samples;
    if (code_attrs_.has_codes()) {
      OP_REQUIRES_OK(ctx, code_attrs_.Check(tables.code_words, input.dim));
      samples = code_attrs_.Project(queries.data(), kQueries);
      code.samples = samples.data();
      code.codes = tables.codes;
      code.words = tables.code_words;
      code.scoring = code_attrs_.scoring();
    }
    const std::vector<float> costs = MeasurePlannerCosts(input, code).ToList();
    Tensor* output;
    OP_REQUIRES_OK(
        ctx,
        ctx->allocate_output(
            0, TensorShape({static_cast<int64_t>(costs.size())}), &output));
    std::copy(costs.begin(), costs.end(), output->flat<float>().data());
  }

 private:
  static constexpr int64_t kQueries = 32;
  CodeAttrs code_attrs_;
};

REGISTER_KERNEL_BUILDER(
    Name("Lintf>IndexHandle").Device(tensorflow::DEVICE_CPU), IndexHandleOp);
REGISTER_KERNEL_BUILDER(Name("Lintf>IndexStats").Device(tensorflow::DEVICE_CPU),
                        IndexStatsOp);
REGISTER_KERNEL_BUILDER(
    Name("Lintf>SearchCounts").Device(tensorflow::DEVICE_CPU), SearchCountsOp);
REGISTER_KERNEL_BUILDER(
    Name("Lintf>InvalidateIndex").Device(tensorflow::DEVICE_CPU),
    InvalidateIndexOp);
REGISTER_KERNEL_BUILDER(Name("Lintf>AssignRows").Device(tensorflow::DEVICE_CPU),
                        AssignRowsOp);
REGISTER_KERNEL_BUILDER(
    Name("Lintf>AssignCodes").Device(tensorflow::DEVICE_CPU), AssignCodesOp);
REGISTER_KERNEL_BUILDER(
    Name("Lintf>PlannerCosts").Device(tensorflow::DEVICE_CPU), PlannerCostsOp);

}  // namespace
}  // namespace lintf
