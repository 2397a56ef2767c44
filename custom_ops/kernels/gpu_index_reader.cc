// SPDX-License-Identifier: Apache-2.0
#include "custom_ops/kernels/gpu_index_reader.h"

#ifdef LINTF_HAS_GPU_KERNELS

#include <cstdint>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "custom_ops/core/gpu_copies.h"
#include "custom_ops/core/gpu_masks.h"
#include "custom_ops/kernels/gpu_device.h"
#include "tensorflow/core/framework/op_kernel.h"
#include "tensorflow/core/framework/resource_var.h"
#include "tensorflow/core/framework/tensor.h"

namespace lintf {

using tensorflow::OpKernelContext;
using tensorflow::Tensor;
using tensorflow::Var;

GpuIndexReader::~GpuIndexReader() {
  // Before the locks: a writer that gets them must find the buffers its own.
  rows_.reset();
  log_.reset();
}

absl::Status GpuIndexReader::FindState(OpKernelContext* ctx, Parts parts) {
  if (capacity() > gpu::kMaxSegmentRows) {
    return absl::InvalidArgumentError(absl::StrCat(
        "an index on a GPU must have a capacity of at most ",
        gpu::kMaxSegmentRows, ", got ", capacity(), "; cut it into shards"));
  }
  const auto check = [this](int64_t num_rows) {
    return CheckNumRowsValue(num_rows);
  };
  TF_RETURN_IF_ERROR(gpu_resource().GetRows(ctx, ids_tensor(),
                                            num_rows_tensor(), check, &rows_));
  state_ = rows_->state;
  if (parts != Parts::kLog && parts != Parts::kWrite) return absl::OkStatus();
  return gpu_resource().GetLog(ctx, log_offsets_tensor(), &log_);
}

bool GpuIndexReader::Holds(const Var* variable) const {
  return variable == ids_variable() || variable == num_rows_variable() ||
         variable == log_offsets_variable();
}

bool GpuIndexReader::Owns(const Var* variable) const {
  if (rows_ == nullptr || log_ == nullptr) return false;
  return variable == ids_variable()        ? rows_->owns_ids
         : variable == num_rows_variable() ? rows_->owns_num_rows
                                           : log_->owns_variable;
}

void GpuIndexReader::LetGo() {
  gpu_resource().Invalidate();
  state_.reset();
  rows_.reset();
  log_.reset();
}

absl::Status GpuIndexReader::CopyValues(OpKernelContext* ctx,
                                        const Tensor& from, Tensor* to) {
  GpuWork work(ctx);
  gpu::CopyOnDevice(from.data(), static_cast<int64_t>(from.TotalBytes()),
                    work.context(), to->data());
  return work.status();
}

void GpuIndexReader::StoreNumRows(int64_t before, gpu::Context* context) const {
  const int64_t num_rows = state().num_rows();
  if (num_rows == before) return;
  context->CopyToDevice(&num_rows, sizeof(num_rows), num_rows_tensor().data());
}

void GpuIndexReader::StoreLogOffsets(
    const std::vector<std::pair<int64_t, int64_t>>& offsets,
    gpu::Context* context) const {
  if (offsets.empty()) return;
  for (const auto& [partition, offset] : offsets) {
    log_->offsets[partition] = offset;
  }
  // Those between the first and the last of them too, in one copy.
  const int64_t first = offsets.front().first;
  const int64_t count = offsets.back().first - first + 1;
  context->CopyToDevice(log_->offsets.data() + first,
                        count * static_cast<int64_t>(sizeof(int64_t)),
                        log_offsets_tensor().flat<int64_t>().data() + first);
}

}  // namespace lintf

#endif  // LINTF_HAS_GPU_KERNELS
