// SPDX-License-Identifier: Apache-2.0
#include "custom_ops/core/gpu_retrieval.h"

#include <algorithm>
#include <cstdint>

#include "custom_ops/core/gpu.h"
#include "custom_ops/core/gpu_code_knn.h"
#include "custom_ops/core/gpu_learned_knn.h"

namespace lintf::gpu {
namespace {

constexpr int kThreads = 256;

__global__ void NarrowCounts(const int64_t* wide, int64_t count,
                             int32_t* narrow) {
  const int64_t stride = static_cast<int64_t>(gridDim.x) * blockDim.x;
  for (int64_t i = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
       i < count; i += stride) {
    narrow[i] = static_cast<int32_t>(wide[i]);
  }
}

void SearchCodes(const RetrievalInput& input, const Masks& masks,
                 const int32_t* mask_of_query, const KnnOptions& options,
                 Context* context, const KnnOutput& output) {
  const KnnInput& knn = input.knn;
  const bool is_rescored = knn.items.data != nullptr;
  CodeKnnInput codes;
  codes.samples = input.code.samples;
  codes.num_queries = knn.num_queries;
  codes.codes = input.code.codes;
  codes.num_rows = knn.num_rows;
  codes.words = input.code.words;
  codes.scoring = input.code.scoring;
  codes.keep = is_rescored ? std::max(input.code.shortlist, knn.k) : knn.k;
  codes.keep = std::max<int64_t>(
      std::min(codes.keep, is_rescored ? knn.num_rows : codes.keep), 1);
  CodeKnnOutput kept;
  kept.counts = context->Allocate<int64_t>(knn.num_queries);
  if (!is_rescored) {
    kept.scores = output.scores;
    kept.rows = output.rows;
    CodeKnn(codes, masks, mask_of_query, CodeOrder::kBestFirst, context, kept);
    const int64_t blocks = (knn.num_queries + kThreads - 1) / kThreads;
    Launch(context, NarrowCounts,
           static_cast<unsigned>(std::clamp<int64_t>(blocks, 1, 4096)),
           kThreads, 0, kept.counts, knn.num_queries, output.counts);
    return;
  }
  kept.rows = context->Allocate<int64_t>(knn.num_queries * codes.keep);
  CodeKnn(codes, masks, mask_of_query, CodeOrder::kAscendingRow, context, kept);
  const Shortlists lists{kept.rows, codes.keep, kept.counts};
  RescoreRows(knn, lists, options, context, output);
}

}  // namespace

RetrievalCounts RetrieveRows(const RetrievalInput& input, const Masks& masks,
                             const int32_t* mask_of_query,
                             const KnnOptions& options, Context* context,
                             const KnnOutput& output) {
  RetrievalCounts counts;
  const int64_t num_queries = input.knn.num_queries;
  if (num_queries == 0) return counts;
  if (input.similarity != nullptr) {
    return RetrieveLearned(input, masks, mask_of_query, options, context,
                           output);
  }
  if (input.algorithm == Algorithm::kQuantized ||
      input.knn.items.data == nullptr) {
    counts.quantized = num_queries;
    SearchCodes(input, masks, mask_of_query, options, context, output);
    return counts;
  }
  KnnOptions exact = options;
  switch (input.algorithm) {
    case Algorithm::kMasked:
      exact.order = ScanOrder::kAll;
      break;
    case Algorithm::kPrefiltered:
      exact.order = ScanOrder::kListed;
      break;
    default:
      exact.order = ScanOrder::kAuto;
  }
  // As MaskedKnn decides: rows are listed unless a query passes them all.
  for (int64_t b = 0; b < num_queries; ++b) {
    if (masks.passes_all[mask_of_query[b]]) exact.order = ScanOrder::kAll;
  }
  // What was asked for counts, as on the CPU.
  const bool is_masked = input.algorithm != Algorithm::kPrefiltered &&
                         exact.order == ScanOrder::kAll;
  (is_masked ? counts.masked : counts.prefiltered) = num_queries;
  MaskedKnn(input.knn, masks, mask_of_query, exact, context, output);
  return counts;
}

}  // namespace lintf::gpu
