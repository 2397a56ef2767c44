// SPDX-License-Identifier: Apache-2.0
// Kernels of custom_ops/ops/retrieve_ops.cc and retrieve_similar_ops.cc on the
// CPU.
#include <algorithm>
#include <cstdint>
#include <cstring>
#include <string>

#include "absl/status/status.h"
#include "custom_ops/core/item_encoding.h"
#include "custom_ops/core/live_search.h"
#include "custom_ops/core/retrieval.h"
#include "custom_ops/core/row_tables.h"
#include "custom_ops/kernels/host_index_reader.h"
#include "custom_ops/kernels/kernel_checks.h"
#include "custom_ops/kernels/retrieve_ops.h"
#include "custom_ops/kernels/tf_parallel.h"
#include "tensorflow/core/framework/op_kernel.h"
#include "tensorflow/core/framework/tensor.h"

namespace lintf {
namespace {

using tensorflow::OpKernelContext;
using tensorflow::Tensor;

class HostRetrieveOp : public RetrieveOp<HostIndexReader> {
 public:
  using RetrieveOp::RetrieveOp;

 private:
  absl::Status Search(OpKernelContext* ctx, const Tensor& queries,
                      const Tensor& programs, const HostIndexReader& index,
                      const Outputs& outputs) const override {
    Batch batch;
    TF_RETURN_IF_ERROR(Prepare(ctx, queries, index.tables(), &batch));
    LiveQuery query;
    query.retrieval = batch.input;
    query.programs = programs.flat<int64_t>().data();
    query.words_per_program = programs.dim_size(1);
    query.returned_columns = returned().columns;
    LiveOutput output;
    output.scores = outputs.scores->flat<float>().data();
    output.rows = outputs.rows->flat<int64_t>().data();
    output.counts = outputs.counts->flat<int32_t>().data();
    output.ids = outputs.ids->flat<int64_t>().data();
    if (outputs.num_scored != nullptr) {
      output.num_scored = outputs.num_scored->flat<int64_t>().data();
    }
    for (Tensor* values : outputs.values) {
      output.columns.push_back(values->data());
    }
    RetrievalCounts counts;
    int64_t bad_program = -1;
    const std::string error =
        SearchLive(index.tables(), index.state(), query,
                   TensorFlowParallel(ctx), output, &counts, &bad_program);
    if (!error.empty()) return BadProgram(bad_program, error);
    index.resource().CountSearches(counts);
    for (size_t i = 0; i < outputs.values.size(); ++i) {
      returned().FillMissing(i, *outputs.rows, outputs.values[i]);
    }
    return absl::OkStatus();
  }
};

class HostLookupOp : public LookupOp<HostIndexReader> {
 public:
  using LookupOp::LookupOp;

 private:
  absl::Status Fill(OpKernelContext* /*ctx*/, const int64_t* id, int64_t batch,
                    const HostIndexReader& index,
                    const Outputs& outputs) const override {
    const RowTables& tables = index.tables();
    const bool has_items = tables.items.data != nullptr;
    const int64_t dim = outputs.dim;
    int64_t* const row = outputs.rows->flat<int64_t>().data();
    float* embedding = outputs.embeddings->flat<float>().data();
    RowCopies copy(tables, 1);
    for (int64_t i = 0; i < batch; ++i, embedding += dim) {
      row[i] = LookupLive(tables, index.state(), id[i], 0, &copy);
      outputs.found->flat<bool>()(i) = row[i] >= 0;
      if (row[i] >= 0 && has_items) {
        DecodeRow(copy.tables().items, 0, dim, embedding);
      } else {
        std::fill_n(embedding, dim, 0.0f);
      }
      for (size_t v = 0; row[i] >= 0 && v < outputs.values.size(); ++v) {
        const int64_t bytes = tables.column_bytes(v);
        std::memcpy(static_cast<char*>(outputs.values[v]->data()) + i * bytes,
                    copy.tables().columns[v].data, bytes);
      }
    }
    for (size_t i = 0; i < outputs.values.size(); ++i) {
      returned().FillMissing(i, *outputs.rows, outputs.values[i]);
    }
    return absl::OkStatus();
  }
};

REGISTER_KERNEL_BUILDER(Name("Lintf>Retrieve").Device(tensorflow::DEVICE_CPU),
                        HostRetrieveOp);
REGISTER_KERNEL_BUILDER(
    Name("Lintf>RetrieveSimilar").Device(tensorflow::DEVICE_CPU),
    HostRetrieveOp);
REGISTER_KERNEL_BUILDER(Name("Lintf>Lookup").Device(tensorflow::DEVICE_CPU),
                        HostLookupOp);

}  // namespace
}  // namespace lintf
