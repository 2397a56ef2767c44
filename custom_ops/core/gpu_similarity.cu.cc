// SPDX-License-Identifier: Apache-2.0
#include "custom_ops/core/gpu_similarity.h"

#include <algorithm>
#include <cstdint>

#include "custom_ops/core/gpu.h"

namespace lintf::gpu {
namespace {

constexpr int kThreads = 256;

// Weights and sizes of a similarity, for kernels.
struct Weights {
  SimilarityLayout layout;
  const float* pair_weights;
  const float* joint_kernel;
  const float* joint_bias;
  const float* joint_output;
  const float* joint_offset;
  const float* gate_kernel;
  const float* gate_bias;
  const float* gate_output;
  const float* gate_offset;

  explicit Weights(const Similarity& similarity)
      : layout(similarity.shape),
        pair_weights(similarity.pair_weights),
        joint_kernel(similarity.joint_kernel),
        joint_bias(similarity.joint_bias),
        joint_output(similarity.joint_output),
        joint_offset(similarity.joint_offset),
        gate_kernel(similarity.gate_kernel),
        gate_bias(similarity.gate_bias),
        gate_output(similarity.gate_output),
        gate_offset(similarity.gate_offset) {}
};

// Number d of u_l where there is no joint MLP; f is that of the component.
__device__ __forceinline__ float PairNumber(const Weights& weights, int pair,
                                            int d, float f) {
  const SimilarityLayout& layout = weights.layout;
  if (layout.component == PairSimilarity::kWeighted) {
    f = __fmul_rn(weights.pair_weights[pair * layout.component_dim + d], f);
  }
  return __fdiv_rn(f, layout.temperature);
}

// Number `i` of a query that is laid out; `query` is the query itself.
__device__ float FoldedNumber(const Weights& weights, const float* query,
                              int i) {
  const SimilarityLayout& layout = weights.layout;
  if (i < layout.output_at()) {
    if (layout.gate == Gate::kNone || i >= layout.pairs) return 0.0f;
    return query[layout.query_components * layout.component_dim + i];
  }
  if (i < layout.vectors_at()) {
    if (layout.component != PairSimilarity::kHadamard) return 0.0f;
    if (i == layout.offset_at()) {
      return __fdiv_rn(weights.joint_offset[0], layout.temperature);
    }
    const bool is_output = i < layout.bias_at();
    const int h = i - (is_output ? layout.output_at() : layout.bias_at());
    if (h >= layout.hidden) return 0.0f;
    return is_output ? __fdiv_rn(weights.joint_output[h], layout.temperature)
                     : weights.joint_bias[h];
  }
  const int vector = (i - layout.vectors_at()) / layout.vector_stride();
  const int d = (i - layout.vectors_at()) % layout.vector_stride();
  if (d >= layout.component_dim) return 0.0f;
  if (layout.component == PairSimilarity::kHadamard) {
    const int p = vector / layout.hidden;
    const int h = vector % layout.hidden;
    return __fmul_rn(weights.joint_kernel[h * layout.component_dim + d],
                     query[p * layout.component_dim + d]);
  }
  // As FirstVector has them: by item component, then by query component.
  const int p = vector % layout.query_components;
  const int r = vector / layout.query_components;
  return PairNumber(weights, p * layout.item_components + r, d,
                    query[p * layout.component_dim + d]);
}

__global__ void __launch_bounds__(kThreads)
    FoldKernel(const Weights weights, const float* __restrict__ queries,
               int query_dim, int64_t num_queries, float* __restrict__ folded) {
  const int64_t floats = weights.layout.query_floats();
  const int64_t step = static_cast<int64_t>(gridDim.x) * kThreads;
  for (int64_t i = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
       i < num_queries * floats; i += step) {
    folded[i] = FoldedNumber(weights, queries + i / floats * query_dim,
                             static_cast<int>(i % floats));
  }
}

__global__ void __launch_bounds__(kThreads)
    GateKernel(const Weights weights, float* __restrict__ gate) {
  const SimilarityLayout& layout = weights.layout;
  const int hidden = layout.gate_hidden;
  const int padded = layout.padded_pairs;
  for (int i = static_cast<int>(blockIdx.x) * kThreads + threadIdx.x;
       i < layout.gate_floats(); i += static_cast<int>(gridDim.x) * kThreads) {
    float value = 0.0f;
    if (i < layout.gate_bias_at()) {
      const int pair = i / layout.kernel_stride();
      const int unit = i % layout.kernel_stride();
      if (pair < layout.pairs && unit < hidden) {
        value = weights.gate_kernel[pair * hidden + unit];
      }
    } else if (i < layout.gate_output_at()) {
      const int unit = i - layout.gate_bias_at();
      if (unit < hidden) value = weights.gate_bias[unit];
    } else if (i < layout.gate_offset_at()) {
      const int unit = (i - layout.gate_output_at()) / padded;
      const int pair = (i - layout.gate_output_at()) % padded;
      if (pair < layout.pairs) {
        value = weights.gate_output[unit * layout.pairs + pair];
      }
    } else {
      const int pair = i - layout.gate_offset_at();
      if (pair < layout.pairs) value = weights.gate_offset[pair];
    }
    gate[i] = value;
  }
}

// Number d of u_l, the joint MLP without its ReLU.
__device__ float LinearNumber(const Weights& weights, int pair, int d,
                              float f) {
  const SimilarityLayout& layout = weights.layout;
  if (layout.component != PairSimilarity::kHadamard) {
    return PairNumber(weights, pair, d, f);
  }
  float linear = 0.0f;
  for (int h = 0; h < layout.hidden; ++h) {
    linear =
        __fmaf_rn(__fdiv_rn(weights.joint_output[h], layout.temperature),
                  weights.joint_kernel[h * layout.component_dim + d], linear);
  }
  return __fmul_rn(linear, f);
}

// A thread a number of a proxy. `pair_proxies` says which: those of each pair,
// or the averaged ones.
__global__ void __launch_bounds__(kThreads)
    ProxyKernel(const Weights weights, const float* __restrict__ queries,
                int query_dim, int item_dim, int64_t num_queries,
                bool pair_proxies, float* __restrict__ proxies) {
  const SimilarityLayout& layout = weights.layout;
  const int dim = layout.component_dim;
  const int64_t of_query = pair_proxies ? layout.pairs : 1;
  const int64_t step = static_cast<int64_t>(gridDim.x) * kThreads;
  for (int64_t i = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
       i < num_queries * of_query * item_dim; i += step) {
    const int at = static_cast<int>(i % item_dim);
    const int64_t proxy = i / item_dim;
    const float* const query = queries + proxy / of_query * query_dim;
    float value = 0.0f;
    if (at < layout.item_components * dim) {
      const int r = at / dim;
      const int d = at % dim;
      if (pair_proxies) {
        const int pair = static_cast<int>(proxy % of_query);
        if (pair % layout.item_components == r) {
          const int p = pair / layout.item_components;
          value = LinearNumber(weights, pair, d, query[p * dim + d]);
        }
      } else {
        for (int p = 0; p < layout.query_components; ++p) {
          value = __fadd_rn(
              value, LinearNumber(weights, p * layout.item_components + r, d,
                                  query[p * dim + d]));
        }
        value = __fdiv_rn(value, static_cast<float>(layout.pairs));
      }
    }
    proxies[i] = value;
  }
}

unsigned BlocksFor(int64_t values, const Context& context) {
  return static_cast<unsigned>(
      std::clamp<int64_t>((values + kThreads - 1) / kThreads, 1,
                          int64_t{context.num_multiprocessors()} * 8));
}

void MakeProxies(const Similarity& similarity, const float* queries,
                 int64_t num_queries, bool pair_proxies, Context* context,
                 float* proxies) {
  if (num_queries == 0) return;
  const SimilarityShape& shape = similarity.shape;
  const int64_t values =
      num_queries * (pair_proxies ? shape.pairs() : 1) * shape.item_dim();
  Launch(context, ProxyKernel, BlocksFor(values, *context), kThreads, 0,
         Weights(similarity), queries, static_cast<int>(shape.query_dim()),
         static_cast<int>(shape.item_dim()), num_queries, pair_proxies,
         proxies);
}

}  // namespace

SimilarityLayout::SimilarityLayout(const SimilarityShape& shape)
    : query_components(static_cast<int>(shape.query_components)),
      item_components(static_cast<int>(shape.item_components)),
      component_dim(static_cast<int>(shape.component_dim)),
      hidden(static_cast<int>(shape.hidden)),
      pairs(static_cast<int>(shape.pairs())),
      gate_hidden(static_cast<int>(shape.gate_hidden)),
      component(shape.component),
      gate(shape.gate),
      temperature(shape.temperature) {
  if (gate == Gate::kNone) return;
  padded_pairs = 8;
  while (padded_pairs < pairs) padded_pairs *= 2;
}

const float* FoldQueries(const Similarity& similarity, const float* queries,
                         int64_t num_queries, Context* context) {
  const Weights weights(similarity);
  const int64_t values = num_queries * weights.layout.query_floats();
  float* const folded = context->Allocate<float>(values);
  Launch(context, FoldKernel, BlocksFor(values, *context), kThreads, 0, weights,
         queries, static_cast<int>(similarity.shape.query_dim()), num_queries,
         folded);
  return folded;
}

const float* LayOutGate(const Similarity& similarity, Context* context) {
  const Weights weights(similarity);
  const int64_t values = weights.layout.gate_floats();
  if (values == 0) return nullptr;
  float* const gate = context->Allocate<float>(values);
  Launch(context, GateKernel, BlocksFor(values, *context), kThreads, 0, weights,
         gate);
  return gate;
}

void AverageQueries(const Similarity& similarity, const float* queries,
                    int64_t num_queries, Context* context, float* averaged) {
  MakeProxies(similarity, queries, num_queries, false, context, averaged);
}

void MakePairQueries(const Similarity& similarity, const float* queries,
                     int64_t num_queries, Context* context,
                     float* pair_queries) {
  MakeProxies(similarity, queries, num_queries, true, context, pair_queries);
}

}  // namespace lintf::gpu
