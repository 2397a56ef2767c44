// SPDX-License-Identifier: Apache-2.0
// Kernels of custom_ops/ops/index_ops.cc on the CPU.
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <random>
#include <vector>

#include "absl/status/status.h"
#include "custom_ops/core/masked_knn.h"
#include "custom_ops/core/planner.h"
#include "custom_ops/core/quantized_knn.h"
#include "custom_ops/core/row_tables.h"
#include "custom_ops/core/sign_oporp.h"
#include "custom_ops/kernels/host_index_reader.h"
#include "custom_ops/kernels/host_index_resource.h"
#include "custom_ops/kernels/index_ops.h"
#include "tensorflow/core/framework/op_kernel.h"
#include "tensorflow/core/framework/tensor.h"

namespace lintf {
namespace {

using tensorflow::OpKernelContext;
using tensorflow::Tensor;

struct HostAccess {
  static absl::Status Copy(OpKernelContext* /*ctx*/, const void* from,
                           size_t bytes, void* to) {
    std::memcpy(to, from, bytes);
    return absl::OkStatus();
  }

  static absl::Status StoreCodes(OpKernelContext* /*ctx*/, const Tensor& values,
                                 int64_t start, Tensor* rows) {
    const int64_t words = values.dim_size(1);
    const int64_t* from = values.flat<int64_t>().data();
    int64_t* const codes = rows->flat<int64_t>().data();
    for (int64_t i = 0; i < values.dim_size(0); ++i) {
      for (int64_t w = 0; w < words; ++w) {
        codes[CodeWordIndex(start + i, w, words)] = *from++;
      }
    }
    return absl::OkStatus();
  }
};

constexpr int64_t kQueries = 32;

// Queries to measure with, [kQueries, dim]. What they are does not change what
// they cost.
std::vector<float> RandomQueries(int64_t dim) {
  std::vector<float> queries(kQueries * dim);
  std::minstd_rand random(1);
  std::uniform_real_distribution<float> values(-1.0f, 1.0f);
  for (float& value : queries) value = values(random);
  return queries;
}

class HostPlannerCostsOp : public PlannerCostsOp<HostIndexReader> {
 public:
  using PlannerCostsOp::PlannerCostsOp;

 private:
  PlannerCosts Measure(const HostIndexReader& index,
                       int64_t dim) const override {
    const RowTables& tables = index.tables();
    KnnInput input;
    input.items = tables.items;
    input.num_rows = index.state().num_rows();
    input.dim = dim;
    const std::vector<float> queries = RandomQueries(dim);
    input.queries = queries.data();
    input.num_queries = kQueries;
    CodeSide code;
    std::vector<float> samples;
    if (code_attrs().has_codes()) {
      samples = code_attrs().Project(queries.data(), kQueries, dim);
      code.samples = samples.data();
      code.codes = tables.codes;
      code.words = tables.code_words;
      code.scoring = code_attrs().scoring();
    }
    return MeasurePlannerCosts(input, code);
  }
};

class HostSimilarityCostsOp : public SimilarityCostsOp<HostIndexReader> {
 public:
  using SimilarityCostsOp::SimilarityCostsOp;

 private:
  SimilarityCosts Measure(const HostIndexReader& index,
                          const Similarity& similarity) const override {
    const RowTables& tables = index.tables();
    const std::vector<float> queries =
        RandomQueries(similarity.shape.query_dim());
    KnnInput input;
    input.items = tables.items;
    input.num_rows = index.state().num_rows();
    input.dim = tables.dim;
    input.queries = queries.data();
    input.num_queries = kQueries;
    return MeasureSimilarityCosts(similarity, input);
  }
};

REGISTER_KERNEL_BUILDER(
    Name("Lintf>IndexHandle").Device(tensorflow::DEVICE_CPU),
    IndexHandleOp<HostIndexResource>);
REGISTER_KERNEL_BUILDER(Name("Lintf>IndexStats").Device(tensorflow::DEVICE_CPU),
                        IndexStatsOp<HostIndexReader>);
REGISTER_KERNEL_BUILDER(
    Name("Lintf>SearchCounts").Device(tensorflow::DEVICE_CPU), SearchCountsOp);
REGISTER_KERNEL_BUILDER(
    Name("Lintf>InvalidateIndex").Device(tensorflow::DEVICE_CPU),
    InvalidateIndexOp);
REGISTER_KERNEL_BUILDER(Name("Lintf>AssignRows").Device(tensorflow::DEVICE_CPU),
                        AssignRowsOp<HostAccess>);
REGISTER_KERNEL_BUILDER(
    Name("Lintf>AssignCodes").Device(tensorflow::DEVICE_CPU),
    AssignCodesOp<HostAccess>);
REGISTER_KERNEL_BUILDER(
    Name("Lintf>PlannerCosts").Device(tensorflow::DEVICE_CPU),
    HostPlannerCostsOp);
REGISTER_KERNEL_BUILDER(
    Name("Lintf>SimilarityCosts").Device(tensorflow::DEVICE_CPU),
    HostSimilarityCostsOp);

}  // namespace
}  // namespace lintf
