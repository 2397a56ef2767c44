// SPDX-License-Identifier: Apache-2.0
#include "custom_ops/kernels/host_index_reader.h"

#include <atomic>
#include <cstdint>
#include <cstring>
#include <vector>

#include "absl/status/status.h"
#include "custom_ops/core/racy_copy.h"
#include "custom_ops/kernels/host_index_resource.h"
#include "tensorflow/core/framework/op_kernel.h"
#include "tensorflow/core/framework/resource_var.h"
#include "tensorflow/core/framework/tensor.h"

namespace lintf {

using tensorflow::OpKernelContext;
using tensorflow::Tensor;
using tensorflow::Var;

absl::Status HostIndexReader::CheckNumRows() {
  // Updates may write it meanwhile.
  int64_t rows;
  LoadRacy(&rows, num_rows_tensor().data(), sizeof(rows));
  return CheckNumRowsValue(rows);
}

absl::Status HostIndexReader::FindState(OpKernelContext* /*ctx*/,
                                        Parts /*parts*/) {
  PrepareTables();
  return host_resource().GetState(ids_tensor(), num_rows_tensor(), &state_);
}

bool HostIndexReader::Holds(const Var* variable) const {
  return variable == ids_variable();
}

bool HostIndexReader::Owns(const Var* /*variable*/) const {
  return host_resource().OwnsIds();
}

void HostIndexReader::LetGo() {
  host_resource().Invalidate();
  state_.reset();
}

absl::Status HostIndexReader::CopyValues(OpKernelContext* /*ctx*/,
                                         const Tensor& from, Tensor* to) {
  std::memcpy(to->data(), from.data(), from.TotalBytes());
  return absl::OkStatus();
}

void HostIndexReader::StoreNumRows() const {
  const int64_t num_rows = state_->num_rows();
  void* const stored = num_rows_tensor().data();
  int64_t before;
  LoadRacy(&before, stored, sizeof(before));
  if (before == num_rows) return;
  // Whoever sees it sees the state's.
  std::atomic_thread_fence(std::memory_order_release);
  StoreRacy(stored, &num_rows, sizeof(num_rows));
  host_resource().SetNumRows(*state_, num_rows);
}

void HostIndexReader::StoreLogOffset(int64_t partition, int64_t offset) const {
  int64_t* const offsets = log_offsets_tensor().flat<int64_t>().data();
  StoreRacy(offsets + partition, &offset, sizeof(offset));
}

const int64_t* HostIndexReader::log_offsets() const {
  return log_offsets_tensor().flat<int64_t>().data();
}

void HostIndexReader::PrepareTables() const {
  std::vector<HostIndexResource::Table> tables;
  for (Var* variable : ScannedVariables()) {
    const Tensor& values = *variable->tensor();
    tables.push_back(
        {values.data(), static_cast<int64_t>(values.TotalBytes())});
  }
  host_resource().PrepareTables(tables);
}

}  // namespace lintf
