// SPDX-License-Identifier: Apache-2.0
// Filtered exact K nearest neighbours on the GPU (LiNR's V1 and V2, section
// 3.1 of arXiv 2407.13218), fused: scores never reach global memory, but for
// those that may be among the k best.
//
// Numerics. float32 and int8 rows, and bfloat16 and float16 rows under kL2,
// are scored by the very operations of masked_knn.h: the results are the
// CPU's, bit for bit. Inner products of bfloat16 and float16 rows run on the
// tensor cores: the query is split into parts of the rows' type (three of
// bfloat16 hold all of a float32, two of float16 22 bits of it), the products
// are exact, and sums are float32's, in an order that depends on the
// dimension alone. (A tensor core may drop bits of a sum that float32 would
// round.) So a query's result does not depend on the batch, on the
// grid or on the run.
//
// Order. Higher score first; equal scores by lower row.
#ifndef LINTF_CUSTOM_OPS_CORE_GPU_KNN_H_
#define LINTF_CUSTOM_OPS_CORE_GPU_KNN_H_

#include <cstdint>

#include "custom_ops/core/gpu_context.h"
#include "custom_ops/core/gpu_masks.h"
#include "custom_ops/core/masked_knn.h"

namespace lintf::gpu {

// How exact inner products are.
enum class QueryPrecision : uint8_t {
  kFull,
  // As a plain matrix product on the tensor cores has it, which is less work:
  // the query rounded to the type of bfloat16 or float16 rows; float32 rows and
  // queries to 11 bits (tf32).
  kStorage,
};

// Whether rows are listed first, or all are read.
enum class ScanOrder : uint8_t {
  kAuto,   // listed, if no query of the batch passes all rows
  kAll,    // "masked": every row is read
  kListed  // "prefiltered": the rows that pass for any query of the batch
};

struct KnnOptions {
  QueryPrecision precision = QueryPrecision::kFull;
  ScanOrder order = ScanOrder::kAuto;
};

// As lintf::MaskedKnn. `input.queries`, the items and `output` are device
// memory, `mask_of_query` is host memory; of `input.tuning` the segment's rows
// count; `output.stats` is not used.
void MaskedKnn(const KnnInput& input, const Masks& masks,
               const int32_t* mask_of_query, const KnnOptions& options,
               Context* context, const KnnOutput& output);

// Rows of each query, in ascending order, on the device.
struct Shortlists {
  const int64_t* rows = nullptr;  // [num_queries, stride]
  int64_t stride = 0;
  const int64_t* counts = nullptr;  // [num_queries]
};

// The k best of each query's own rows.
void RescoreRows(const KnnInput& input, const Shortlists& lists,
                 const KnnOptions& options, Context* context,
                 const KnnOutput& output);

}  // namespace lintf::gpu

#endif  // LINTF_CUSTOM_OPS_CORE_GPU_KNN_H_
