// SPDX-License-Identifier: Apache-2.0
// Kernels of custom_ops/ops/filter_ops.cc on the CPU.
#include <algorithm>
#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "custom_ops/core/filter_eval.h"
#include "custom_ops/core/mask_source.h"
#include "custom_ops/kernels/host_index_reader.h"
#include "custom_ops/kernels/kernel_checks.h"
#include "custom_ops/kernels/tf_parallel.h"
#include "tensorflow/core/framework/op_kernel.h"
#include "tensorflow/core/framework/tensor.h"

namespace lintf {
namespace {

using tensorflow::OpKernel;
using tensorflow::OpKernelContext;
using tensorflow::Tensor;

// Decodes the programs over the index; `index` must outlive `masks`.
absl::Status InitMasks(const Tensor& programs, const IndexReader& index,
                       FilterMasks* masks) {
  int64_t bad = -1;
  const std::string error = masks->Init(
      programs.flat<int64_t>().data(), programs.dim_size(0),
      programs.dim_size(1), &index.tables().columns, index.tables().ids,
      index.state().live_bits(), &index.state().row_of_id(), &bad);
  if (error.empty()) return absl::OkStatus();
  return BadProgram(bad, error);
}

class FilterMaskOp : public OpKernel {
 public:
  using OpKernel::OpKernel;

  void Compute(OpKernelContext* ctx) override {
    const Tensor& programs = ctx->input(0);
    OP_REQUIRES_OK(ctx, CheckPrograms(programs));
    const int64_t batch = programs.dim_size(0);
    HostIndexReader index;
    OP_REQUIRES_OK(ctx, index.Open(ctx, HostIndexReader::Parts::kColumns));
    FilterMasks masks;
    OP_REQUIRES_OK(ctx, InitMasks(programs, index, &masks));

    const int64_t num_rows = index.state().num_rows();
    const int64_t words = (num_rows + kRowsPerWord - 1) / kRowsPerWord;
    Tensor* bits_output;
    OP_REQUIRES_OK(ctx, AllocateOutput(ctx, 0, {batch, words}, &bits_output));
    Tensor* passing_output;
    OP_REQUIRES_OK(ctx, AllocateOutput(ctx, 1, {batch}, &passing_output));
    uint64_t* const bits = bits_output->flat<uint64_t>().data();
    int64_t* const passing = passing_output->flat<int64_t>().data();

    // Each distinct mask is made once, in the row of the first query that has
    // it, by blocks of rows side by side; the other queries copy it.
    const std::vector<int32_t>& mask_of = masks.mask_of_program();
    std::vector<int64_t> first_of_mask(masks.num_masks(), -1);
    for (int64_t i = batch - 1; i >= 0; --i) first_of_mask[mask_of[i]] = i;
    constexpr int64_t kBlockRows = int64_t{1} << 16;
    const int64_t blocks = (num_rows + kBlockRows - 1) / kBlockRows;
    const int64_t num_tasks = masks.num_masks() * blocks;
    std::vector<int64_t> counts(num_tasks, 0);
    TensorFlowParallel(ctx).run(num_tasks, [&](int64_t task) {
      const int64_t mask = task / blocks;
      const int64_t begin = task % blocks * kBlockRows;
      const int64_t end = std::min(num_rows, begin + kBlockRows);
      counts[task] =
          masks.Fill(mask, begin, end,
                     bits + first_of_mask[mask] * words + begin / kRowsPerWord);
    });
    for (int64_t i = 0; i < batch; ++i) {
      const int64_t mask = mask_of[i];
      passing[i] = 0;
      for (int64_t block = 0; block < blocks; ++block) {
        passing[i] += counts[mask * blocks + block];
      }
      const int64_t first = first_of_mask[mask];
      if (first == i) continue;
      std::copy_n(bits + first * words, words, bits + i * words);
    }
  }
};

REGISTER_KERNEL_BUILDER(Name("Lintf>FilterMask").Device(tensorflow::DEVICE_CPU),
                        FilterMaskOp);

}  // namespace
}  // namespace lintf
