// SPDX-License-Identifier: Apache-2.0
// Learned similarities on the GPU: what is made of queries and weights before
// rows are scored (similarity.h). For .cu.cc files alone.
//
// All pointers of a Similarity are device memory here.
#ifndef LINTF_CUSTOM_OPS_CORE_GPU_SIMILARITY_H_
#define LINTF_CUSTOM_OPS_CORE_GPU_SIMILARITY_H_

#include <cstdint>

#include "custom_ops/core/gpu.h"
#include "custom_ops/core/gpu_context.h"
#include "custom_ops/core/similarity.h"

namespace lintf::gpu {

// See similarity.h; the same operations.
__device__ __forceinline__ float Exp(float x) {
  using namespace exp_constants;
  if (x < kLeast) return 0.0f;
  const float t = __fmaf_rn(x, kLog2E, kRound);
  const float n = __fsub_rn(t, kRound);
  float r = __fmaf_rn(n, -kLn2High, x);
  r = __fmaf_rn(n, -kLn2Low, r);
  float p = kC6;
  p = __fmaf_rn(p, r, kC5);
  p = __fmaf_rn(p, r, kC4);
  p = __fmaf_rn(p, r, kC3);
  p = __fmaf_rn(p, r, kC2);
  p = __fmaf_rn(p, r, kC1);
  p = __fmaf_rn(p, r, kC0);
  const uint32_t power = (__float_as_uint(t) << 23) + 0x3F800000u;
  return __fmul_rn(p, __uint_as_float(power));
}

__device__ __forceinline__ float Relu(float x) { return 0.0f > x ? 0.0f : x; }

__device__ __forceinline__ float Sigmoid(float x) {
  const float e = Exp(-fabsf(x));
  return __fdiv_rn(0.0f > x ? e : 1.0f, __fadd_rn(1.0f, e));
}

__device__ __forceinline__ float Silu(float x) {
  return __fmul_rn(x, Sigmoid(x));
}

// A shape as kernels take it, and where they find the numbers of a query and
// of the gate: each in an array that is laid out as it is read, parts and rows
// of weights beginning at multiples of 4 numbers.
struct SimilarityLayout {
  int query_components = 0;
  int item_components = 0;
  int component_dim = 0;
  int hidden = 0;
  int pairs = 0;
  int gate_hidden = 0;
  // Registers of a kernel for the pairs, at least as many; 1 without a gate.
  int padded_pairs = 1;
  PairSimilarity component = PairSimilarity::kInnerProduct;
  Gate gate = Gate::kNone;
  float temperature = 1.0f;

  explicit SimilarityLayout(const SimilarityShape& shape);

  static __host__ __device__ constexpr int Align(int n) {
    return (n + 3) / 4 * 4;
  }

  // Components of rows that come one after another are compared with as many
  // vectors each: `group_vectors`, those of group g from `FirstVector(g)` on.
  // Group g is that of item component `ComponentOf(g)`.
  __host__ __device__ int num_groups() const {
    return component == PairSimilarity::kHadamard ? pairs : item_components;
  }
  __host__ __device__ int group_vectors() const {
    return component == PairSimilarity::kHadamard ? hidden : query_components;
  }
  __host__ __device__ int ComponentOf(int group) const {
    return component == PairSimilarity::kHadamard ? group / query_components
                                                  : group;
  }
  __host__ __device__ int FirstVector(int group) const {
    if (component == PairSimilarity::kInnerProduct) return 0;
    if (component == PairSimilarity::kWeighted) return group * query_components;
    return group % query_components * hidden;
  }
  __host__ __device__ int num_vectors() const {
    if (component == PairSimilarity::kInnerProduct) return query_components;
    if (component == PairSimilarity::kWeighted) return pairs;
    return query_components * hidden;
  }

  // A query: A, the joint MLP's v', b and c', then the vectors.
  __host__ __device__ int vector_stride() const { return Align(component_dim); }
  __host__ __device__ int output_at() const { return Align(padded_pairs); }
  __host__ __device__ int bias_at() const {
    return output_at() + Align(hidden);
  }
  __host__ __device__ int offset_at() const {
    return bias_at() + Align(hidden);
  }
  __host__ __device__ int vectors_at() const { return offset_at() + 4; }
  __host__ __device__ int query_floats() const {
    return vectors_at() + num_vectors() * vector_stride();
  }

  // The pair gate, if there is one: gate_kernel [padded_pairs, kernel_stride],
  // gate_bias, gate_output [gate_hidden, padded_pairs], gate_offset. Zeros
  // where there is no pair and no unit. Units are computed kUnits at a time.
  static constexpr int kUnits = 8;
  __host__ __device__ int kernel_stride() const {
    return (gate_hidden + kUnits - 1) / kUnits * kUnits;
  }
  __host__ __device__ int gate_bias_at() const {
    return padded_pairs * kernel_stride();
  }
  __host__ __device__ int gate_output_at() const {
    return gate_bias_at() + kernel_stride();
  }
  __host__ __device__ int gate_offset_at() const {
    return gate_output_at() + gate_hidden * padded_pairs;
  }
  __host__ __device__ int gate_floats() const {
    return gate_hidden == 0 ? 0 : gate_offset_at() + padded_pairs;
  }
};

// The queries, [num_queries, query_dim], as the layout has them:
// [num_queries, query_floats].
const float* FoldQueries(const Similarity& similarity, const float* queries,
                         int64_t num_queries, Context* context);

// The gate, [gate_floats]; null without a pair gate.
const float* LayOutGate(const Similarity& similarity, Context* context);

// What candidates are selected by: similarity.h's AveragedQuery of each query,
// [num_queries, item_dim], and PairQuery of each of its pairs,
// [num_queries, pairs, item_dim].
void AverageQueries(const Similarity& similarity, const float* queries,
                    int64_t num_queries, Context* context, float* averaged);
void MakePairQueries(const Similarity& similarity, const float* queries,
                     int64_t num_queries, Context* context,
                     float* pair_queries);

}  // namespace lintf::gpu

#endif  // LINTF_CUSTOM_OPS_CORE_GPU_SIMILARITY_H_
