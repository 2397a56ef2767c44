// SPDX-License-Identifier: Apache-2.0
// Checks and allocations that several kernels share.
#ifndef LINTF_CUSTOM_OPS_KERNELS_KERNEL_CHECKS_H_
#define LINTF_CUSTOM_OPS_KERNELS_KERNEL_CHECKS_H_

#include <cstdint>
#include <string>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "absl/types/span.h"
#include "custom_ops/core/vectors.h"
#include "tensorflow/core/framework/op_kernel.h"
#include "tensorflow/core/framework/tensor.h"
#include "tensorflow/core/framework/tensor_shape.h"

namespace lintf {

// Allocates an output; an impossible size is an error, not a crash.
inline absl::Status AllocateOutput(tensorflow::OpKernelContext* ctx, int output,
                                   absl::Span<const int64_t> dims,
                                   tensorflow::Tensor** tensor) {
  tensorflow::TensorShape shape;
  TF_RETURN_IF_ERROR(tensorflow::TensorShape::BuildTensorShape(dims, &shape));
  return ctx->allocate_output(output, shape, tensor);
}

// Queries must be [batch, dim] and finite.
inline absl::Status CheckQueries(const tensorflow::Tensor& queries) {
  if (queries.dims() != 2 || queries.dim_size(1) < 1) {
    return absl::InvalidArgumentError(
        absl::StrCat("`queries` must have shape [batch, dim], got ",
                     queries.shape().DebugString()));
  }
  const float* const values = queries.flat<float>().data();
  const int64_t bad = FindNonFinite(values, queries.NumElements());
  if (bad < 0) return absl::OkStatus();
  const int64_t dim = queries.dim_size(1);
  return absl::InvalidArgumentError(absl::StrCat(
      "query ", bad / dim, " holds ", values[bad], " at dimension ", bad % dim,
      "; all values of a query must be finite"));
}

// Programs must be [batch, words] with at least one word.
inline absl::Status CheckPrograms(const tensorflow::Tensor& programs) {
  if (programs.dims() == 2 && programs.dim_size(1) >= 1) {
    return absl::OkStatus();
  }
  return absl::InvalidArgumentError(absl::StrCat(
      "`programs` must have shape [batch, words], words at least 1, got ",
      programs.shape().DebugString()));
}

// What is wrong with program `program`.
inline absl::Status BadProgram(int64_t program, const std::string& error) {
  return absl::InvalidArgumentError(
      absl::StrCat("program ", program, ": ", error,
                   ". Make programs with Lintf>CompileFilter and the schema "
                   "of this index."));
}

}  // namespace lintf

#endif  // LINTF_CUSTOM_OPS_KERNELS_KERNEL_CHECKS_H_
