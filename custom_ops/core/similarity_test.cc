// SPDX-License-Identifier: Apache-2.0
// Scores of learned similarities against the same equations in double
// precision.
#include "custom_ops/core/similarity.h"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <random>
#include <string>
#include <vector>

#include "custom_ops/core/similarity_test_data.h"
#include "custom_ops/core/testing.h"

namespace lintf {
namespace {

using testing::ShapeOf;
using testing::SimilarityCase;

constexpr float kInfinity = std::numeric_limits<float>::infinity();

constexpr PairSimilarity kPairSimilarities[] = {PairSimilarity::kInnerProduct,
                                                PairSimilarity::kWeighted,
                                                PairSimilarity::kHadamard};
constexpr Gate kGates[] = {Gate::kSoftmax, Gate::kSiluSoftmax, Gate::kRelu,
                           Gate::kSigmoid};

double Sigmoid(double x) { return 1.0 / (1.0 + std::exp(-x)); }

// The logits as lintf/similarity/reference.py computes them.
std::vector<double> DoubleLogits(const SimilarityCase& c, const float* query,
                                 const float* row) {
  const SimilarityShape& shape = c.shape;
  const int64_t dim = shape.component_dim;
  std::vector<double> logits;
  for (int64_t p = 0; p < shape.query_components; ++p) {
    for (int64_t r = 0; r < shape.item_components; ++r) {
      const float* const f = query + p * dim;
      const float* const g = row + r * dim;
      double sum = 0.0;
      if (shape.component == PairSimilarity::kHadamard) {
        sum = c.similarity.joint_offset[0];
        for (int64_t h = 0; h < shape.hidden; ++h) {
          double t = c.similarity.joint_bias[h];
          for (int64_t d = 0; d < dim; ++d) {
            t += static_cast<double>(c.similarity.joint_kernel[h * dim + d]) *
                 f[d] * g[d];
          }
          sum += c.similarity.joint_output[h] * std::max(t, 0.0);
        }
      } else {
        const int64_t l = p * shape.item_components + r;
        for (int64_t d = 0; d < dim; ++d) {
          const double w = shape.component == PairSimilarity::kWeighted
                               ? c.similarity.pair_weights[l * dim + d]
                               : 1.0;
          sum += w * f[d] * g[d];
        }
      }
      logits.push_back(sum / shape.temperature);
    }
  }
  return logits;
}

double DoubleScore(const SimilarityCase& c, const float* query,
                   const float* row) {
  const SimilarityShape& shape = c.shape;
  const std::vector<double> logits = DoubleLogits(c, query, row);
  if (shape.gate == Gate::kNone) return logits[0];
  const int64_t pairs = shape.pairs();
  const float* const a = query + shape.query_components * shape.component_dim;
  const float* const b = row + shape.components_dim();
  std::vector<double> z(pairs);
  for (int64_t l = 0; l < pairs; ++l) {
    z[l] = static_cast<double>(a[l]) * b[l];
    if (shape.gate_hidden > 0) z[l] += c.similarity.gate_offset[l];
  }
  for (int64_t j = 0; j < shape.gate_hidden; ++j) {
    double y = c.similarity.gate_bias[j];
    for (int64_t l = 0; l < pairs; ++l) {
      y += logits[l] * c.similarity.gate_kernel[l * shape.gate_hidden + j];
    }
    y *= Sigmoid(y);
    for (int64_t l = 0; l < pairs; ++l) {
      z[l] += y * c.similarity.gate_output[j * pairs + l];
    }
  }
  double score = 0.0;
  double total = 1.0;
  if (shape.is_convex()) {
    if (shape.gate == Gate::kSiluSoftmax) {
      for (double& x : z) x *= Sigmoid(x);
    }
    const double most = *std::max_element(z.begin(), z.end());
    total = 0.0;
    for (double& x : z) {
      x = std::exp(x - most);
      total += x;
    }
  } else {
    for (double& x : z) {
      x = shape.gate == Gate::kRelu ? std::max(x, 0.0) : Sigmoid(x);
    }
  }
  for (int64_t l = 0; l < pairs; ++l) score += z[l] * logits[l];
  return score / total;
}

// Compares all pairs of a query and a row.
void CheckCase(const SimilarityCase& c) {
  for (int64_t q = 0; q < c.num_queries; ++q) {
    const float* const query = c.queries.data() + q * c.shape.query_dim();
    const FoldedQuery folded = FoldQuery(c.similarity, query);
    for (int64_t i = 0; i < c.rows; ++i) {
      const float* const row = c.items.data() + i * c.dim;
      const std::vector<double> logits = DoubleLogits(c, query, row);
      double largest = 0.0;
      for (const double logit : logits) {
        largest = std::max(largest, std::abs(logit));
      }
      std::vector<float> found(c.shape.pairs());
      PairLogits(c.similarity, folded, row, found.data());
      for (int64_t l = 0; l < c.shape.pairs(); ++l) {
        CHECK_THAT(std::abs(found[l] - logits[l]) <= 4e-6 * (1.0 + largest))
            << found[l] << " for " << logits[l];
      }
      const float score = SimilarityScore(c.similarity, folded, row);
      // Weights of relu and sigmoid do not add up to 1.
      const double scale =
          (1.0 + largest) *
          (c.shape.is_convex() ? 1.0 : static_cast<double>(c.shape.pairs()));
      CHECK_THAT(std::abs(score - DoubleScore(c, query, row)) <= 2e-5 * scale)
          << score << " for " << DoubleScore(c, query, row);
      if (!c.shape.is_convex()) continue;
      float magnitudes = 0.0f;
      for (const float logit : found) magnitudes += std::fabs(logit);
      const float bound =
          LogitBound(*std::max_element(found.begin(), found.end()), magnitudes);
      CHECK_THAT(score <= bound) << score << " above " << bound;
    }
  }
}

void ScoresAreThoseOfTheEquations() {
  uint32_t seed = 1;
  for (const PairSimilarity component : kPairSimilarities) {
    for (const Gate gate : kGates) {
      for (const int64_t gate_hidden : {0, 7}) {
        CheckCase(SimilarityCase(ShapeOf(component, gate, 3, 2, 9, gate_hidden),
                                 3, 20, seed++));
      }
    }
    CheckCase(SimilarityCase(ShapeOf(component, Gate::kNone, 1, 1, 33, 0), 3,
                             20, seed++));
  }
  CheckCase(SimilarityCase(
      ShapeOf(PairSimilarity::kInnerProduct, Gate::kSiluSoftmax, 8, 4, 32, 128),
      2, 20, seed++));
  CheckCase(SimilarityCase(
      ShapeOf(PairSimilarity::kInnerProduct, Gate::kSoftmax, 8, 8, 4, 256), 2,
      20, seed++));
}

void ExpIsAccurate() {
  double worst = 0.0;
  for (int i = 0; i <= 870000; ++i) {
    const float x = -0.0001f * static_cast<float>(i);
    const double exact = std::exp(static_cast<double>(x));
    worst = std::max(worst, std::abs(SimilarityExp(x) - exact) / exact);
  }
  CHECK_THAT(worst < 1.2e-7) << worst;
  CHECK_THAT(SimilarityExp(0.0f) == 1.0f);
  CHECK_THAT(SimilarityExp(-0.0f) == 1.0f);
  CHECK_THAT(SimilarityExp(-87.0f) > 1e-38f);
  CHECK_THAT(SimilarityExp(-87.00001f) == 0.0f);
  CHECK_THAT(SimilarityExp(-1e30f) == 0.0f);
  CHECK_THAT(SimilarityExp(-kInfinity) == 0.0f);
  CHECK_THAT(std::isnan(SimilarityExp(std::nanf(""))));
  // A NaN of any bits.
  for (const uint32_t bits : {0x7FFFFFFFu, 0xFFFFFFFFu, 0x7F8000FFu}) {
    float x;
    std::memcpy(&x, &bits, sizeof(x));
    CHECK_THAT(std::isnan(SimilarityExp(x)));
    CHECK_THAT(std::isnan(SimilaritySilu(x)));
    CHECK_THAT(std::isnan(SimilarityRelu(x)));
  }
}

void ActivationsHoldAtTheEnds() {
  CHECK_THAT(SimilaritySigmoid(0.0f) == 0.5f);
  CHECK_THAT(SimilaritySigmoid(1e30f) == 1.0f);
  CHECK_THAT(SimilaritySigmoid(-1e30f) == 0.0f);
  CHECK_THAT(SimilaritySilu(1e30f) == 1e30f);
  CHECK_THAT(SimilaritySilu(-1e30f) == 0.0f);
  CHECK_THAT(SimilarityRelu(-2.0f) == 0.0f && SimilarityRelu(2.0f) == 2.0f);
  for (float x = -30.0f; x < 30.0f; x += 0.37f) {
    const double exact = Sigmoid(static_cast<double>(x));
    CHECK_THAT(std::abs(SimilaritySigmoid(x) - exact) <= 4e-7 * exact) << x;
  }
}

// Ties, weights that cancel, and sums at the edge of float32.
void NoScoreExceedsItsBound() {
  std::mt19937 random(3);
  std::normal_distribution<float> normal;
  SimilarityCase c(
      ShapeOf(PairSimilarity::kInnerProduct, Gate::kSoftmax, 8, 8, 1, 0), 1, 1,
      7);
  c.shape.temperature = 1.0f;
  c.Point();
  for (int i = 0; i < 3000; ++i) {
    const float scale =
        std::pow(10.0f, static_cast<float>(random() % 60) - 25.0f);
    for (int p = 0; p < 8; ++p)
      c.queries[p] = scale * (i % 2 ? normal(random) : 1.0f);
    // Where all logits are equal, rounding alone decides.
    const float value = 1.0f + 0.1f * normal(random);
    for (int r = 0; r < 8; ++r) {
      c.items[r] = value + (i % 3 == 0 ? 1e-6f * normal(random) : 0.0f);
    }
    for (int l = 0; l < 64; ++l) c.items[8 + l] = 1e-3f * normal(random);
    const FoldedQuery folded = FoldQuery(c.similarity, c.queries.data());
    std::vector<float> logits(64);
    PairLogits(c.similarity, folded, c.items.data(), logits.data());
    float magnitudes = 0.0f;
    for (const float logit : logits) magnitudes += std::fabs(logit);
    const float bound =
        LogitBound(*std::max_element(logits.begin(), logits.end()), magnitudes);
    CHECK_THAT(!(SimilarityScore(c.similarity, folded, c.items.data()) > bound))
        << scale;
  }
  CHECK_THAT(LogitBound(1.0f, std::nanf("")) == kInfinity);
  CHECK_THAT(LogitBound(1.0f, kInfinity) == kInfinity);
}

void OverflowIsNoScore() {
  SimilarityCase c(
      ShapeOf(PairSimilarity::kInnerProduct, Gate::kSoftmax, 2, 1, 2, 0), 1, 1,
      7);
  c.queries = {1e30f, -1e30f, -1e30f, 1e30f, 1.0f, 1.0f};
  c.items = {1e30f, 1e30f, 1.0f, 1.0f};
  const FoldedQuery folded = FoldQuery(c.similarity, c.queries.data());
  // inf - inf in both logits.
  CHECK_THAT(SimilarityScore(c.similarity, folded, c.items.data()) ==
             -kInfinity);
  c.items = {0.0f, 0.0f, 1.0f, 1.0f};
  const float zero = SimilarityScore(c.similarity, folded, c.items.data());
  CHECK_THAT(zero == 0.0f && !std::signbit(zero));
}

// The proxies' inner products with a row.
void ProxiesAreMeansAndLogits() {
  for (const PairSimilarity component : kPairSimilarities) {
    SimilarityCase c(ShapeOf(component, Gate::kSoftmax, 3, 2, 9, 4), 1, 5, 21);
    if (component == PairSimilarity::kHadamard) {
      // A joint MLP whose ReLU does nothing is the linear map.
      std::fill(c.weights[1].begin(), c.weights[1].end(), 50.0f);
      c.weights[3][0] = 0.0f;
      for (const float v : c.weights[2]) c.weights[3][0] -= 50.0f * v;
    }
    for (int64_t i = 0; i < c.rows; ++i) {
      const float* const row = c.items.data() + i * c.dim;
      const auto product = [&](const std::vector<float>& proxy) {
        double sum = 0.0;
        for (int64_t d = 0; d < c.dim; ++d) {
          sum += static_cast<double>(proxy[d]) * row[d];
        }
        return sum;
      };
      const std::vector<double> logits = DoubleLogits(c, c.queries.data(), row);
      std::vector<float> proxy(c.dim, 7.0f);
      double mean = 0.0;
      for (int64_t l = 0; l < c.shape.pairs(); ++l) {
        PairQuery(c.similarity, c.queries.data(), l, proxy.data());
        CHECK_THAT(std::abs(product(proxy) - logits[l]) < 1e-3) << l;
        mean += logits[l] / static_cast<double>(c.shape.pairs());
      }
      std::fill(proxy.begin(), proxy.end(), 7.0f);
      AveragedQuery(c.similarity, c.queries.data(), proxy.data());
      CHECK_THAT(std::abs(product(proxy) - mean) < 1e-3);
    }
  }
}

void ShapesAreChecked() {
  const SimilarityShape good =
      ShapeOf(PairSimilarity::kInnerProduct, Gate::kSiluSoftmax, 8, 4, 32, 128);
  CHECK_THAT(good.Error().empty());
  CHECK_THAT(good.query_dim() == 8 * 32 + 32 && good.item_dim() == 160);
  const auto names = [](SimilarityShape shape, const std::string& text) {
    return shape.Error().find(text) != std::string::npos;
  };
  SimilarityShape bad = good;
  bad.query_components = 17;
  CHECK_THAT(names(bad, "must be at most 64, got 68"));
  bad = good;
  bad.component_dim = 1025;
  CHECK_THAT(names(bad, "`component_dim` must be from 1 to 1024, got 1025"));
  bad = good;
  bad.temperature = 0.0f;
  CHECK_THAT(names(bad, "`temperature` must be a positive number"));
  bad = good;
  bad.hidden = 4;
  CHECK_THAT(names(bad, "`hidden` must be positive with"));
  bad = good;
  bad.gate = Gate::kNone;
  CHECK_THAT(names(bad, "choose a gate"));
  bad = good;
  bad.gate_hidden = 257;
  CHECK_THAT(names(bad, "`gate_hidden` must be from 0 to 256, got 257"));

  Gate gate = Gate::kNone;
  CHECK_THAT(ParseGate("silu_softmax", &gate) && gate == Gate::kSiluSoftmax);
  CHECK_THAT(!ParseGate("tanh", &gate));
  PairSimilarity component = PairSimilarity::kWeighted;
  CHECK_THAT(ParsePairSimilarity("inner_product", &component) &&
             component == PairSimilarity::kInnerProduct);
  CHECK_THAT(!ParsePairSimilarity("dot", &component));
}

}  // namespace
}  // namespace lintf

int main() {
  lintf::ScoresAreThoseOfTheEquations();
  lintf::ExpIsAccurate();
  lintf::ActivationsHoldAtTheEnds();
  lintf::NoScoreExceedsItsBound();
  lintf::OverflowIsNoScore();
  lintf::ProxiesAreMeansAndLogits();
  lintf::ShapesAreChecked();
  return lintf::testing::Result();
}
