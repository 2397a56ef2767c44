// SPDX-License-Identifier: Apache-2.0
#include "custom_ops/core/similarity.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <utility>

#include "custom_ops/core/float_environment.h"

namespace lintf {
namespace {

// Checks that `value` is in [least, most].
std::string CheckRange(const char* name, int64_t value, int64_t least,
                       int64_t most) {
  if (value >= least && value <= most) return "";
  return std::string("similarity: `") + name + "` must be from " +
         std::to_string(least) + " to " + std::to_string(most) + ", got " +
         std::to_string(value);
}

template <typename T>
bool Parse(const std::string& name,
           const std::vector<std::pair<const char*, T>>& names, T* value) {
  for (const auto& [known, meaning] : names) {
    if (name != known) continue;
    *value = meaning;
    return true;
  }
  return false;
}

// u_l[d] of all dimensions, of pair l = p R + r. `linear` is k, for kHadamard.
void PairVector(const Similarity& similarity, const float* query, int64_t pair,
                const std::vector<float>& linear, float* out) {
  const SimilarityShape& shape = similarity.shape;
  const int64_t dim = shape.component_dim;
  const float* const f = query + pair / shape.item_components * dim;
  for (int64_t d = 0; d < dim; ++d) {
    switch (shape.component) {
      case PairSimilarity::kInnerProduct:
        out[d] = f[d] / shape.temperature;
        break;
      case PairSimilarity::kWeighted: {
        const float weighted = similarity.pair_weights[pair * dim + d] * f[d];
        out[d] = weighted / shape.temperature;
        break;
      }
      case PairSimilarity::kHadamard:
        out[d] = linear[d] * f[d];
        break;
    }
  }
}

// v'_h.
std::vector<float> FoldOutput(const Similarity& similarity) {
  const SimilarityShape& shape = similarity.shape;
  std::vector<float> output(shape.hidden);
  for (int64_t h = 0; h < shape.hidden; ++h) {
    output[h] = similarity.joint_output[h] / shape.temperature;
  }
  return output;
}

// The joint MLP without its ReLU, k[d].
std::vector<float> Linear(const Similarity& similarity) {
  const SimilarityShape& shape = similarity.shape;
  if (shape.component != PairSimilarity::kHadamard) return {};
  const std::vector<float> output = FoldOutput(similarity);
  std::vector<float> linear(shape.component_dim, 0.0f);
  for (int64_t d = 0; d < shape.component_dim; ++d) {
    for (int64_t h = 0; h < shape.hidden; ++h) {
      linear[d] = std::fma(output[h],
                           similarity.joint_kernel[h * shape.component_dim + d],
                           linear[d]);
    }
  }
  return linear;
}

// What a convex gate's z becomes before its softmax.
float Softened(Gate gate, float z) {
  return gate == Gate::kSiluSoftmax ? SimilaritySilu(z) : z;
}

// z, [pairs].
std::vector<float> GateOf(const Similarity& similarity,
                          const FoldedQuery& query, const float* item_gate,
                          const float* logits) {
  const SimilarityShape& shape = similarity.shape;
  const int64_t pairs = shape.pairs();
  std::vector<float> z(pairs);
  if (shape.gate_hidden == 0) {
    for (int64_t l = 0; l < pairs; ++l) z[l] = query.gate[l] * item_gate[l];
    return z;
  }
  for (int64_t l = 0; l < pairs; ++l) {
    z[l] = std::fma(query.gate[l], item_gate[l], similarity.gate_offset[l]);
  }
  for (int64_t j = 0; j < shape.gate_hidden; ++j) {
    float y = similarity.gate_bias[j];
    for (int64_t l = 0; l < pairs; ++l) {
      y = std::fma(similarity.gate_kernel[l * shape.gate_hidden + j], logits[l],
                   y);
    }
    y = SimilaritySilu(y);
    for (int64_t l = 0; l < pairs; ++l) {
      z[l] = std::fma(similarity.gate_output[j * pairs + l], y, z[l]);
    }
  }
  return z;
}

float Combine(const SimilarityShape& shape, std::vector<float> z,
              const float* logits) {
  const int64_t pairs = shape.pairs();
  float sum = 0.0f;
  if (!shape.is_convex()) {
    for (int64_t l = 0; l < pairs; ++l) {
      const float weight = shape.gate == Gate::kRelu ? SimilarityRelu(z[l])
                                                     : SimilaritySigmoid(z[l]);
      sum = std::fma(weight, logits[l], sum);
    }
    return sum;
  }
  for (float& x : z) x = Softened(shape.gate, x);
  float most = z[0];
  for (const float x : z) most = x > most ? x : most;
  float total = 0.0f;
  for (int64_t l = 0; l < pairs; ++l) {
    const float e = SimilarityExp(z[l] - most);
    sum = std::fma(e, logits[l], sum);
    total += e;
  }
  return sum / total;
}

}  // namespace

std::string SimilarityShape::Error() const {
  const std::string ranges[] = {
      CheckRange("query_components", query_components, 1, kMaxPairs),
      CheckRange("item_components", item_components, 1, kMaxPairs),
      CheckRange("component_dim", component_dim, 1, kMaxComponentDim),
      CheckRange("hidden", hidden, 0, kMaxHidden),
      CheckRange("gate_hidden", gate_hidden, 0, kMaxGateHidden),
  };
  for (const std::string& error : ranges) {
    if (!error.empty()) return error;
  }
  if (pairs() > kMaxPairs) {
    return "similarity: `query_components` * `item_components` must be at "
           "most " +
           std::to_string(kMaxPairs) + ", got " + std::to_string(pairs());
  }
  if (!(temperature > 0) || !std::isfinite(temperature)) {
    return "similarity: `temperature` must be a positive number, got " +
           std::to_string(temperature);
  }
  if ((component == PairSimilarity::kHadamard) != (hidden > 0)) {
    return "similarity: `hidden` must be positive with the component "
           "similarity \"hadamard\" and 0 with others, got " +
           std::to_string(hidden);
  }
  if (gate == Gate::kNone && (pairs() > 1 || gate_hidden > 0)) {
    return "similarity: without a gate (\"none\") there must be one pair of "
           "components and no pair gate, got " +
           std::to_string(pairs()) + " pairs and `gate_hidden` " +
           std::to_string(gate_hidden) + "; choose a gate";
  }
  return "";
}

bool ParsePairSimilarity(const std::string& name, PairSimilarity* component) {
  return Parse<PairSimilarity>(
      name,
      {{"inner_product", PairSimilarity::kInnerProduct},
       {"weighted", PairSimilarity::kWeighted},
       {"hadamard", PairSimilarity::kHadamard}},
      component);
}

bool ParseGate(const std::string& name, Gate* gate) {
  return Parse<Gate>(name,
                     {{"none", Gate::kNone},
                      {"softmax", Gate::kSoftmax},
                      {"silu_softmax", Gate::kSiluSoftmax},
                      {"relu", Gate::kRelu},
                      {"sigmoid", Gate::kSigmoid}},
                     gate);
}

std::vector<SimilarityWeight> Similarity::Weights(
    const SimilarityShape& shape) {
  std::vector<SimilarityWeight> weights;
  const int64_t pairs = shape.pairs();
  const int64_t hidden = shape.hidden;
  const int64_t gate_hidden = shape.gate_hidden;
  if (shape.component == PairSimilarity::kWeighted) {
    weights.push_back({"pair_weights", {pairs, shape.component_dim}});
  }
  if (shape.component == PairSimilarity::kHadamard) {
    weights.push_back({"joint_kernel", {hidden, shape.component_dim}});
    weights.push_back({"joint_bias", {hidden}});
    weights.push_back({"joint_output", {hidden}});
    weights.push_back({"joint_offset", {1}});
  }
  if (gate_hidden > 0) {
    weights.push_back({"gate_kernel", {pairs, gate_hidden}});
    weights.push_back({"gate_bias", {gate_hidden}});
    weights.push_back({"gate_output", {gate_hidden, pairs}});
    weights.push_back({"gate_offset", {pairs}});
  }
  return weights;
}

Similarity Similarity::Of(const SimilarityShape& shape,
                          const std::vector<const float*>& weights) {
  Similarity similarity;
  similarity.shape = shape;
  auto next = weights.begin();
  if (shape.component == PairSimilarity::kWeighted) {
    similarity.pair_weights = *next++;
  }
  if (shape.component == PairSimilarity::kHadamard) {
    similarity.joint_kernel = *next++;
    similarity.joint_bias = *next++;
    similarity.joint_output = *next++;
    similarity.joint_offset = *next++;
  }
  if (shape.gate_hidden > 0) {
    similarity.gate_kernel = *next++;
    similarity.gate_bias = *next++;
    similarity.gate_output = *next++;
    similarity.gate_offset = *next++;
  }
  return similarity;
}

FoldedQuery FoldQuery(const Similarity& similarity, const float* query) {
  const ScopedFloatEnvironment environment;
  const SimilarityShape& shape = similarity.shape;
  const int64_t p_count = shape.query_components;
  const int64_t r_count = shape.item_components;
  const int64_t dim = shape.component_dim;
  FoldedQuery folded;
  if (shape.component == PairSimilarity::kHadamard) {
    folded.output = FoldOutput(similarity);
    folded.offset = similarity.joint_offset[0] / shape.temperature;
    folded.vectors.resize(p_count * dim * shape.hidden);
    float* out = folded.vectors.data();
    for (int64_t p = 0; p < p_count; ++p) {
      for (int64_t d = 0; d < dim; ++d) {
        for (int64_t h = 0; h < shape.hidden; ++h) {
          *out++ = similarity.joint_kernel[h * dim + d] * query[p * dim + d];
        }
      }
    }
  } else {
    folded.vectors.resize(shape.pairs() * dim);
    std::vector<float> vector(dim);
    for (int64_t l = 0; l < shape.pairs(); ++l) {
      PairVector(similarity, query, l, {}, vector.data());
      const int64_t p = l / r_count;
      const int64_t r = l % r_count;
      for (int64_t d = 0; d < dim; ++d) {
        folded.vectors[(r * dim + d) * p_count + p] = vector[d];
      }
    }
  }
  const float* const gate = query + p_count * dim;
  folded.gate.assign(gate, gate + shape.gate_dim());
  return folded;
}

void AveragedQuery(const Similarity& similarity, const float* query,
                   float* out) {
  const ScopedFloatEnvironment environment;
  const SimilarityShape& shape = similarity.shape;
  const int64_t dim = shape.component_dim;
  const std::vector<float> linear = Linear(similarity);
  std::fill_n(out, shape.item_dim(), 0.0f);
  std::vector<float> vector(dim);
  for (int64_t l = 0; l < shape.pairs(); ++l) {
    PairVector(similarity, query, l, linear, vector.data());
    float* const block = out + l % shape.item_components * dim;
    for (int64_t d = 0; d < dim; ++d) block[d] += vector[d];
  }
  const float pairs = static_cast<float>(shape.pairs());
  for (int64_t d = 0; d < shape.components_dim(); ++d) out[d] /= pairs;
}

void PairQuery(const Similarity& similarity, const float* query, int64_t pair,
               float* out) {
  const ScopedFloatEnvironment environment;
  const SimilarityShape& shape = similarity.shape;
  std::fill_n(out, shape.item_dim(), 0.0f);
  PairVector(similarity, query, pair, Linear(similarity),
             out + pair % shape.item_components * shape.component_dim);
}

void PairLogits(const Similarity& similarity, const FoldedQuery& query,
                const float* row, float* logits) {
  const ScopedFloatEnvironment environment;
  const SimilarityShape& shape = similarity.shape;
  const int64_t p_count = shape.query_components;
  const int64_t r_count = shape.item_components;
  const int64_t dim = shape.component_dim;
  for (int64_t l = 0; l < shape.pairs(); ++l) {
    const int64_t p = l / r_count;
    const int64_t r = l % r_count;
    const float* const g = row + r * dim;
    if (shape.component != PairSimilarity::kHadamard) {
      float s = 0.0f;
      for (int64_t d = 0; d < dim; ++d) {
        s = std::fma(query.vectors[(r * dim + d) * p_count + p], g[d], s);
      }
      logits[l] = s;
      continue;
    }
    float s = query.offset;
    for (int64_t h = 0; h < shape.hidden; ++h) {
      float t = similarity.joint_bias[h];
      for (int64_t d = 0; d < dim; ++d) {
        t = std::fma(query.vectors[(p * dim + d) * shape.hidden + h], g[d], t);
      }
      s = std::fma(query.output[h], SimilarityRelu(t), s);
    }
    logits[l] = s;
  }
}

float SimilarityScore(const Similarity& similarity, const FoldedQuery& query,
                      const float* row) {
  const ScopedFloatEnvironment environment;
  const SimilarityShape& shape = similarity.shape;
  std::vector<float> logits(shape.pairs());
  PairLogits(similarity, query, row, logits.data());
  float score = logits[0];
  if (shape.gate != Gate::kNone) {
    score = Combine(
        shape,
        GateOf(similarity, query, row + shape.components_dim(), logits.data()),
        logits.data());
  }
  if (std::isnan(score)) return -std::numeric_limits<float>::infinity();
  return score == 0.0f ? 0.0f : score;  // -0 becomes +0
}

}  // namespace lintf
