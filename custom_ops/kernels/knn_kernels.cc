// SPDX-License-Identifier: Apache-2.0
// Kernels of custom_ops/ops/knn_ops.cc on the CPU.
#include <cstdint>
#include <vector>

#include "absl/status/status.h"
#include "custom_ops/core/bool_masks.h"
#include "custom_ops/core/masked_knn.h"
#include "custom_ops/core/quantized_knn.h"
#include "custom_ops/core/sign_oporp.h"
#include "custom_ops/kernels/knn_ops.h"
#include "custom_ops/kernels/tf_parallel.h"
#include "tensorflow/core/framework/op_kernel.h"

namespace lintf {
namespace {

using tensorflow::OpKernelContext;

template <KnnLayout kLayout>
class HostExactKnnOp : public KnnOp {
 public:
  using KnnOp::KnnOp;

 private:
  absl::Status Search(OpKernelContext* ctx, const KnnInput& input,
                      const BoolMask& mask,
                      const KnnOutput& output) const override {
    if (input.num_queries == 0) return absl::OkStatus();
    KnnInput tuned = input;
    tuned.tuning.layout = kLayout;
    const BoolMasks masks(mask.passes, mask.num_masks, input.num_rows);
    MaskedKnn(tuned, masks, mask.of_query.data(), TensorFlowParallel(ctx),
              output);
    return absl::OkStatus();
  }
};

class HostQuantizedKnnOp : public QuantizedKnnOp {
 public:
  using QuantizedKnnOp::QuantizedKnnOp;

 private:
  absl::Status SearchByCodes(OpKernelContext* ctx, const KnnInput& input,
                             const CodeSide& code, const BoolMask& mask,
                             const KnnOutput& output) const override {
    const int64_t words = code.words;
    const int64_t blocks =
        (input.num_rows + kCodeBlockRows - 1) / kCodeBlockRows;
    std::vector<uint64_t> laid_out(blocks * words * kCodeBlockRows);
    const uint64_t* from = code.codes;
    for (int64_t row = 0; row < input.num_rows; ++row) {
      for (int64_t w = 0; w < words; ++w) {
        laid_out[CodeWordIndex(row, w, words)] = *from++;
      }
    }
    CodeSide side = code;
    side.codes = laid_out.data();
    const BoolMasks masks(mask.passes, mask.num_masks, input.num_rows);
    QuantizedKnn(input, side, masks, mask.of_query.data(),
                 TensorFlowParallel(ctx), output);
    return absl::OkStatus();
  }
};

REGISTER_KERNEL_BUILDER(Name("Lintf>MaskedKnn").Device(tensorflow::DEVICE_CPU),
                        HostExactKnnOp<KnnLayout::kAuto>);
REGISTER_KERNEL_BUILDER(
    Name("Lintf>PrefilteredKnn").Device(tensorflow::DEVICE_CPU),
    HostExactKnnOp<KnnLayout::kOwn>);
REGISTER_KERNEL_BUILDER(
    Name("Lintf>QuantizedKnn").Device(tensorflow::DEVICE_CPU),
    HostQuantizedKnnOp);
REGISTER_KERNEL_BUILDER(Name("Lintf>SignOporp").Device(tensorflow::DEVICE_CPU),
                        SignOporpOp);

}  // namespace
}  // namespace lintf
