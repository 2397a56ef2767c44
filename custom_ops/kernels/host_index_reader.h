// SPDX-License-Identifier: Apache-2.0
// The variables of an index in the host's memory. How searches get along with
// updates is in core/live_search.h.
#ifndef LINTF_CUSTOM_OPS_KERNELS_HOST_INDEX_READER_H_
#define LINTF_CUSTOM_OPS_KERNELS_HOST_INDEX_READER_H_

#include <cstdint>

#include "absl/status/status.h"
#include "custom_ops/kernels/host_index_resource.h"
#include "custom_ops/kernels/index_variables.h"
#include "tensorflow/core/framework/op_kernel.h"
#include "tensorflow/core/framework/resource_var.h"
#include "tensorflow/core/framework/tensor.h"

namespace lintf {

class HostIndexReader : public IndexReader {
 public:
  const int64_t* log_offsets() const override;

  // With kWrite, under the state's write_mu.
  // Sets the variable to the state's number of rows.
  void StoreNumRows() const;
  void StoreLogOffset(int64_t partition, int64_t offset) const;

 private:
  HostIndexResource& host_resource() const {
    return static_cast<HostIndexResource&>(resource());
  }
  void PrepareTables() const;

  absl::Status CheckNumRows() override;
  absl::Status FindState(tensorflow::OpKernelContext* ctx,
                         Parts parts) override;
  bool Holds(const tensorflow::Var* variable) const override;
  bool Owns(const tensorflow::Var* variable) const override;
  void LetGo() override;
  absl::Status CopyValues(tensorflow::OpKernelContext* ctx,
                          const tensorflow::Tensor& from,
                          tensorflow::Tensor* to) override;
};

}  // namespace lintf

#endif  // LINTF_CUSTOM_OPS_KERNELS_HOST_INDEX_READER_H_
