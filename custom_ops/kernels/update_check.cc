// SPDX-License-Identifier: Apache-2.0
// Kernel of custom_ops/ops/update_check_ops.cc, wherever the index is.
#include "custom_ops/core/update_check.h"

#include <algorithm>
#include <cstdint>
#include <numeric>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "custom_ops/core/id_map.h"
#include "custom_ops/core/item_matrix.h"
#include "custom_ops/core/log_positions.h"
#include "custom_ops/core/row_writer.h"
#include "custom_ops/kernels/kernel_checks.h"
#include "tensorflow/core/framework/op_kernel.h"
#include "tensorflow/core/framework/tensor.h"

namespace lintf {
namespace {

using tensorflow::OpInputList;
using tensorflow::OpKernel;
using tensorflow::OpKernelConstruction;
using tensorflow::OpKernelContext;
using tensorflow::Tensor;

class CheckUpdateOp : public OpKernel {
 public:
  explicit CheckUpdateOp(OpKernelConstruction* ctx) : OpKernel(ctx) {
    OP_REQUIRES_OK(ctx, ctx->GetAttr("capacity", &capacity_));
    OP_REQUIRES_OK(ctx, ctx->GetAttr("shard_capacity", &shard_capacity_));
    OP_REQUIRES_OK(ctx, ctx->GetAttr("normalize", &normalize_));
    std::string storage;
    OP_REQUIRES_OK(ctx, ctx->GetAttr("storage", &storage));
    if (storage == "float32") type_ = ElementType::kFloat32;
    if (storage == "bfloat16") type_ = ElementType::kBfloat16;
    if (storage == "float16") type_ = ElementType::kFloat16;
    if (storage == "int8") type_ = ElementType::kInt8;
  }

  void Compute(OpKernelContext* ctx) override {
    OP_REQUIRES_OK(ctx, CheckShapes(ctx));
    RowUpdates updates;
    updates.count = ctx->input(0).dim_size(0);
    updates.ids = ctx->input(0).flat<int64_t>().data();
    updates.remove = ctx->input(1).flat<bool>().data();
    OpInputList embeddings;
    OP_REQUIRES_OK(ctx, ctx->input_list("embedding", &embeddings));
    updates.attributes_only = embeddings.size() == 0;
    LogPositions positions;
    positions.count = updates.count;
    positions.partition = ctx->input(4).flat<int64_t>().data();
    positions.previous_offset = ctx->input(5).flat<int64_t>().data();
    positions.offset = ctx->input(6).flat<int64_t>().data();

    OP_REQUIRES_OK(ctx, CheckRows(updates, positions));
    if (embeddings.size() == 1) {
      OP_REQUIRES_OK(ctx, CheckItems(updates, embeddings[0]));
    }
    OP_REQUIRES_OK(ctx, CheckLog(positions, ctx->input(8)));
    OP_REQUIRES_OK(
        ctx, CheckRoom(updates, ctx->input(2), ctx->input(3), ctx->input(7)));
    ctx->set_output(0, ctx->input(0));
  }

 private:
  // The shapes that later steps rely on.
  static absl::Status CheckShapes(OpKernelContext* ctx) {
    for (int i = 0; i < 9; ++i) {
      const Tensor& input = ctx->input(i);
      const bool is_batch = i < 7;
      if (input.dims() == 1 &&
          (!is_batch || input.dim_size(0) == ctx->input(0).dim_size(0))) {
        continue;
      }
      return absl::InvalidArgumentError(
          absl::StrCat("input ", i, " must be a vector",
                       is_batch ? " with an entry for each `id`" : "",
                       ", got shape ", input.shape().DebugString()));
    }
    const int64_t shards = ctx->input(7).dim_size(0);
    const auto shard = ctx->input(2).flat<int64_t>();
    for (int64_t i = 0; i < shard.size(); ++i) {
      if (shard(i) >= 0 && shard(i) < shards) continue;
      return absl::InvalidArgumentError(absl::StrCat(
          "row ", i, ": `shard` must be in [0, ", shards, "), got ", shard(i)));
    }
    return absl::OkStatus();
  }

  static absl::Status CheckRows(const RowUpdates& updates,
                                const LogPositions& positions) {
    for (int64_t i = 0; i < updates.count; ++i) {
      if (positions.offset[i] < kNoOffset) {
        return absl::InvalidArgumentError(absl::StrCat(
            "row ", i, ": `log_offset` must be -1 or an offset, got ",
            positions.offset[i]));
      }
      if (updates.ids[i] == kNoId && positions.offset[i] == kNoOffset) {
        return absl::InvalidArgumentError(absl::StrCat(
            "row ", i, ": `id` must not be ", kNoId,
            ", which means no item, unless the row comes from the log and "
            "only moves its offset on"));
      }
    }
    return absl::OkStatus();
  }

  absl::Status CheckItems(const RowUpdates& updates,
                          const Tensor& vectors) const {
    if (vectors.dims() != 2 || vectors.dim_size(0) != updates.count) {
      return absl::InvalidArgumentError(absl::StrCat(
          "`embedding` must have shape [", updates.count,
          ", dim], one row for each id, got ", vectors.shape().DebugString()));
    }
    const int64_t dim = vectors.dim_size(1);
    const float* const values = vectors.flat<float>().data();
    for (int64_t i = 0; i < updates.count; ++i) {
      if (updates.remove[i] || updates.ids[i] == kNoId) continue;
      const std::string error =
          ItemError(values + i * dim, dim, normalize_, type_);
      if (!error.empty()) {
        return absl::InvalidArgumentError(absl::StrCat("row ", i, ": ", error));
      }
    }
    return absl::OkStatus();
  }

  static absl::Status CheckLog(const LogPositions& positions,
                               const Tensor& stored) {
    LogAdvance log;
    switch (log.Check(positions, stored.flat<int64_t>().data(),
                      stored.dim_size(0))) {
      case LogAdvance::Result::kFine:
        break;
      case LogAdvance::Result::kInvalid:
        return absl::InvalidArgumentError(log.message());
      case LogAdvance::Result::kNotNext:
        return absl::FailedPreconditionError(log.message());
    }
    return absl::OkStatus();
  }

  absl::Status CheckRoom(const RowUpdates& updates, const Tensor& shard,
                         const Tensor& found, const Tensor& live_rows) const {
    const int64_t num_shards = live_rows.dim_size(0);
    const int64_t* const live = live_rows.flat<int64_t>().data();
    const std::vector<int64_t> growth =
        ItemGrowth(updates, shard.flat<int64_t>().data(),
                   found.flat<bool>().data(), num_shards);
    const int64_t needed =
        std::accumulate(growth.begin(), growth.end(), int64_t{0});
    const int64_t items = std::accumulate(live, live + num_shards, int64_t{0});
    if (needed > 0 && items + needed > capacity_) {
      return Full("the index", items, needed, capacity_);
    }
    for (int64_t s = 0; s < num_shards; ++s) {
      if (growth[s] > 0 && live[s] + growth[s] > shard_capacity_) {
        return Full(absl::StrCat("shard ", s, " of the index"), live[s],
                    growth[s], shard_capacity_);
      }
    }
    return absl::OkStatus();
  }

  static absl::Status Full(const std::string& what, int64_t items,
                           int64_t needed, int64_t capacity) {
    return absl::ResourceExhaustedError(absl::StrCat(
        what, " is full: the batch needs ", items + needed - capacity,
        " more rows than the capacity of ", capacity, " leaves (", items,
        " items); nothing was changed. Delete items, or serve a snapshot of "
        "more capacity."));
  }

  int64_t capacity_ = 0;
  int64_t shard_capacity_ = 0;
  bool normalize_ = false;
  std::optional<ElementType> type_;
};

// On the CPU wherever the shards are: it reads the request, not the index.
REGISTER_KERNEL_BUILDER(
    Name("Lintf>CheckUpdate").Device(tensorflow::DEVICE_CPU), CheckUpdateOp);

}  // namespace
}  // namespace lintf
