// SPDX-License-Identifier: Apache-2.0
// Kernels of custom_ops/ops/retrieve_ops.cc and retrieve_similar_ops.cc on a
// GPU.
#include "custom_ops/kernels/gpu_device.h"

#ifdef LINTF_HAS_GPU_KERNELS

#include <cstdint>
#include <mutex>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "custom_ops/core/gpu_filter.h"
#include "custom_ops/core/gpu_knn.h"
#include "custom_ops/core/gpu_masks.h"
#include "custom_ops/core/gpu_retrieval.h"
#include "custom_ops/core/gpu_rows.h"
#include "custom_ops/core/retrieval.h"
#include "custom_ops/core/row_tables.h"
#include "custom_ops/core/similarity.h"
#include "custom_ops/kernels/gpu_index_reader.h"
#include "custom_ops/kernels/kernel_checks.h"
#include "custom_ops/kernels/retrieve_ops.h"
#include "tensorflow/core/framework/op_kernel.h"
#include "tensorflow/core/framework/tensor.h"

namespace lintf {
namespace {

using tensorflow::OpKernelContext;
using tensorflow::Tensor;

// The same with its weights on the GPU.
Similarity UploadSimilarity(const Similarity& similarity, GpuWork* work) {
  const std::vector<SimilarityWeight> wanted =
      Similarity::Weights(similarity.shape);
  std::vector<const float*> on_device;
  // In their order; those that the shape has.
  for (const float* const weights :
       {similarity.pair_weights, similarity.joint_kernel, similarity.joint_bias,
        similarity.joint_output, similarity.joint_offset,
        similarity.gate_kernel, similarity.gate_bias, similarity.gate_output,
        similarity.gate_offset}) {
    if (weights == nullptr) continue;
    const int64_t size = wanted[on_device.size()].size();
    on_device.push_back(UploadInput(weights, size, work));
  }
  return Similarity::Of(similarity.shape, on_device);
}

class GpuRetrieveOp : public RetrieveOp<GpuIndexReader> {
 public:
  using RetrieveOp::RetrieveOp;

 private:
  absl::Status Search(OpKernelContext* ctx, const Tensor& queries,
                      const Tensor& programs, const GpuIndexReader& index,
                      const Outputs& outputs) const override {
    const RowTables& tables = index.tables();
    Batch batch;
    TF_RETURN_IF_ERROR(Prepare(ctx, queries, tables, &batch));
    GpuWork work(ctx);
    gpu::Context* const context = work.context();
    RetrievalInput& input = batch.input;
    const int64_t count = input.knn.num_queries;
    input.knn.queries =
        UploadInput(input.knn.queries, queries.NumElements(), &work);
    Similarity similarity;
    if (input.similarity != nullptr) {
      similarity = UploadSimilarity(*input.similarity, &work);
      input.similarity = &similarity;
    }
    input.knn.items = tables.items;
    if (input.code.samples != nullptr) {
      input.code.codes = tables.codes;
      input.code.words = tables.code_words;
      input.code.samples = context->Upload(
          batch.samples.data(), static_cast<int64_t>(batch.samples.size()));
    }
    KnnOutput output;
    output.scores = outputs.scores->flat<float>().data();
    output.rows = outputs.rows->flat<int64_t>().data();
    output.counts = outputs.counts->flat<int32_t>().data();
    if (outputs.num_scored != nullptr) {
      output.num_scored = outputs.num_scored->flat<int64_t>().data();
    }

    // From here on until all is queued no update is.
    const std::lock_guard<std::mutex> lock(index.state().write_mu());
    gpu::FilterMasks filters;
    int64_t bad_program = -1;
    const std::string error = filters.Init(
        programs.flat<int64_t>().data(), count, programs.dim_size(1),
        tables.columns, tables.ids, &index.state().row_of_id(), &bad_program);
    if (!error.empty()) return BadProgram(bad_program, error);
    input.knn.num_rows = index.state().num_rows();
    const gpu::Masks masks =
        filters.Evaluate(input.knn.num_rows, index.live_bits(), context);
    const RetrievalCounts counts =
        gpu::RetrieveRows(input, masks, filters.mask_of_program().data(),
                          gpu::KnnOptions(), context, output);
    const int64_t slots = count * input.knn.k;
    gpu::GatherIds(tables.ids, output.rows, slots, context,
                   outputs.ids->flat<int64_t>().data());
    for (size_t i = 0; i < outputs.values.size(); ++i) {
      gpu::GatherColumn(tables.columns[returned().columns[i]], output.rows,
                        slots, returned().missing[i].data(), context,
                        outputs.values[i]->data());
    }
    TF_RETURN_IF_ERROR(work.status());
    index.resource().CountSearches(counts);
    return absl::OkStatus();
  }
};

class GpuLookupOp : public LookupOp<GpuIndexReader> {
 public:
  using LookupOp::LookupOp;

 private:
  absl::Status Fill(OpKernelContext* ctx, const int64_t* id, int64_t batch,
                    const GpuIndexReader& index,
                    const Outputs& outputs) const override {
    const RowTables& tables = index.tables();
    std::vector<int64_t> rows(batch);
    GpuWork work(ctx);
    gpu::Context* const context = work.context();
    // From here on until all is queued no update is.
    const std::lock_guard<std::mutex> lock(index.state().write_mu());
    for (int64_t i = 0; i < batch; ++i) {
      rows[i] = index.state().row_of_id().RowOf(id[i]);
      outputs.rows->flat<int64_t>()(i) = rows[i];
      outputs.found->flat<bool>()(i) = rows[i] >= 0;
    }
    if (batch == 0) return absl::OkStatus();
    const int64_t* const on_device = context->Upload(rows.data(), batch);
    float* const embeddings = outputs.embeddings->flat<float>().data();
    if (tables.items.data != nullptr) {
      gpu::GatherItems(tables.items, outputs.dim, on_device, batch, context,
                       embeddings);
    } else {
      context->Fill(embeddings, 0,
                    static_cast<int64_t>(outputs.embeddings->TotalBytes()));
    }
    for (size_t i = 0; i < outputs.values.size(); ++i) {
      gpu::GatherColumn(tables.columns[i], on_device, batch,
                        returned().missing[i].data(), context,
                        outputs.values[i]->data());
    }
    return work.status();
  }
};

REGISTER_KERNEL_BUILDER(Name("Lintf>Retrieve")
                            .Device(kGpuDevice)
                            .HostMemory("queries")
                            .HostMemory("programs")
                            .HostMemory("index")
                            .HostMemory("ids")
                            .HostMemory("embeddings")
                            .HostMemory("num_rows")
                            .HostMemory("columns")
                            .HostMemory("scales")
                            .HostMemory("codes"),
                        GpuRetrieveOp);
REGISTER_KERNEL_BUILDER(Name("Lintf>RetrieveSimilar")
                            .Device(kGpuDevice)
                            .HostMemory("queries")
                            .HostMemory("programs")
                            .HostMemory("index")
                            .HostMemory("ids")
                            .HostMemory("embeddings")
                            .HostMemory("num_rows")
                            .HostMemory("columns")
                            .HostMemory("scales")
                            .HostMemory("codes")
                            .HostMemory("weights"),
                        GpuRetrieveOp);
REGISTER_KERNEL_BUILDER(Name("Lintf>Lookup")
                            .Device(kGpuDevice)
                            .HostMemory("id")
                            .HostMemory("index")
                            .HostMemory("ids")
                            .HostMemory("embeddings")
                            .HostMemory("num_rows")
                            .HostMemory("columns")
                            .HostMemory("scales")
                            .HostMemory("codes")
                            .HostMemory("found")
                            .HostMemory("row"),
                        GpuLookupOp);

}  // namespace
}  // namespace lintf

#endif  // LINTF_HAS_GPU_KERNELS
