// SPDX-License-Identifier: Apache-2.0
#include "custom_ops/kernels/gpu_index_resource.h"

#ifdef LINTF_HAS_GPU_KERNELS

#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "custom_ops/core/gpu_copies.h"
#include "custom_ops/core/id_map.h"
#include "custom_ops/core/index_state.h"
#include "custom_ops/core/mask_source.h"
#include "custom_ops/kernels/gpu_device.h"
#include "tensorflow/core/framework/op_kernel.h"
#include "tensorflow/core/framework/tensor.h"
#include "tensorflow/core/framework/tensor_shape.h"

namespace lintf {

using tensorflow::OpKernelContext;
using tensorflow::Tensor;

namespace {

// Fetches the first `count` values of an int64 variable.
absl::Status Fetch(OpKernelContext* ctx, const Tensor& variable, int64_t count,
                   std::vector<int64_t>* values) {
  values->resize(count);
  GpuWork work(ctx);
  gpu::CopyToHost(variable.data(),
                  count * static_cast<int64_t>(sizeof(int64_t)), work.context(),
                  values->data());
  return work.status();
}

// Puts a bit for each of `capacity` rows on the GPU, set for rows with an id.
absl::Status MakeLiveBits(OpKernelContext* ctx, const std::vector<int64_t>& ids,
                          int64_t capacity, Tensor* live) {
  const int64_t words = (capacity + kRowsPerWord - 1) / kRowsPerWord;
  std::vector<uint64_t> bits(words);
  for (size_t row = 0; row < ids.size(); ++row) {
    if (ids[row] == kNoId) continue;
    bits[row / kRowsPerWord] |= uint64_t{1} << (row % kRowsPerWord);
  }
  TF_RETURN_IF_ERROR(ctx->allocate_temp(
      tensorflow::DT_UINT64, tensorflow::TensorShape({words}), live));
  GpuWork work(ctx);
  work.context()->CopyToDevice(bits.data(),
                               words * static_cast<int64_t>(sizeof(uint64_t)),
                               live->data());
  return work.status();
}

}  // namespace

absl::Status GpuIndexResource::GetRows(
    OpKernelContext* ctx, const Tensor& ids, const Tensor& num_rows,
    const std::function<absl::Status(int64_t num_rows)>& check,
    std::shared_ptr<const GpuRows>* rows) {
  const auto find = [&] {
    const std::lock_guard<std::mutex> lock(mu_);
    if (rows_ == nullptr || rows_->ids.data() != ids.data() ||
        rows_->num_rows.data() != num_rows.data()) {
      return false;
    }
    *rows = rows_;
    return true;
  };
  if (find()) return (*rows)->status;
  const std::lock_guard<std::mutex> build_lock(build_mu_);
  // Another thread may have made it while this one waited.
  if (find()) return (*rows)->status;
  auto made = std::make_shared<GpuRows>();
  made->owns_ids = ids.RefCountIsOne();
  made->owns_num_rows = num_rows.RefCountIsOne();
  made->ids = ids;
  made->num_rows = num_rows;
  std::vector<int64_t> values;
  TF_RETURN_IF_ERROR(Fetch(ctx, num_rows, 1, &values));
  const int64_t count = values[0];
  TF_RETURN_IF_ERROR(check(count));
  TF_RETURN_IF_ERROR(Fetch(ctx, ids, count, &values));
  const int64_t capacity = ids.NumElements();
  auto state = std::make_shared<IndexState>(values.data(), count, capacity);
  made->status = CheckIds(state->summary(), count);
  if (made->status.ok()) {
    TF_RETURN_IF_ERROR(MakeLiveBits(ctx, values, capacity, &made->live));
    made->state = std::move(state);
  }
  *rows = made;
  const std::lock_guard<std::mutex> lock(mu_);
  rows_ = std::move(made);
  return (*rows)->status;
}

absl::Status GpuIndexResource::GetLog(OpKernelContext* ctx,
                                      const Tensor& log_offsets,
                                      std::shared_ptr<GpuLog>* log) {
  const auto find = [&] {
    const std::lock_guard<std::mutex> lock(mu_);
    if (log_ == nullptr || log_->variable.data() != log_offsets.data()) {
      return false;
    }
    *log = log_;
    return true;
  };
  if (find()) return absl::OkStatus();
  const std::lock_guard<std::mutex> build_lock(build_mu_);
  if (find()) return absl::OkStatus();
  auto made = std::make_shared<GpuLog>();
  // Without elements there is no buffer.
  made->owns_variable =
      log_offsets.NumElements() == 0 || log_offsets.RefCountIsOne();
  made->variable = log_offsets;
  TF_RETURN_IF_ERROR(
      Fetch(ctx, log_offsets, log_offsets.NumElements(), &made->offsets));
  *log = made;
  const std::lock_guard<std::mutex> lock(mu_);
  log_ = std::move(made);
  return absl::OkStatus();
}

void GpuIndexResource::Invalidate() {
  const std::lock_guard<std::mutex> lock(mu_);
  rows_.reset();
  log_.reset();
}

std::string GpuIndexResource::DebugString() const {
  const std::lock_guard<std::mutex> lock(mu_);
  if (rows_ == nullptr || rows_->state == nullptr) {
    return "lintf index on a GPU, not in use yet";
  }
  return absl::StrCat("lintf index of ", rows_->state->num_rows(),
                      " rows on a GPU");
}

int64_t GpuIndexResource::MemoryUsed() const {
  const std::lock_guard<std::mutex> lock(mu_);
  if (rows_ == nullptr || rows_->state == nullptr) return 0;
  return rows_->state->MemoryUsed() +
         static_cast<int64_t>(rows_->live.TotalBytes());
}

}  // namespace lintf

#endif  // LINTF_HAS_GPU_KERNELS
