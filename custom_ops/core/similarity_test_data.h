// SPDX-License-Identifier: Apache-2.0
// Similarities, queries and rows of any shape for tests, on the CPU and on the
// GPU.
#ifndef LINTF_CUSTOM_OPS_CORE_SIMILARITY_TEST_DATA_H_
#define LINTF_CUSTOM_OPS_CORE_SIMILARITY_TEST_DATA_H_

#include <cmath>
#include <cstdint>
#include <random>
#include <vector>

#include "custom_ops/core/item_matrix.h"
#include "custom_ops/core/knn_test_data.h"
#include "custom_ops/core/similarity.h"

namespace lintf::testing {

inline SimilarityShape ShapeOf(PairSimilarity component, Gate gate,
                               int64_t query_components,
                               int64_t item_components, int64_t component_dim,
                               int64_t gate_hidden) {
  SimilarityShape shape;
  shape.component = component;
  shape.gate = gate;
  shape.query_components = query_components;
  shape.item_components = item_components;
  shape.component_dim = component_dim;
  shape.hidden = component == PairSimilarity::kHadamard ? 5 : 0;
  shape.gate_hidden = gate_hidden;
  shape.temperature = 0.07f;
  return shape;
}

// Components of length 1, gates and weights about as large as those of a
// trained model.
struct SimilarityCase {
  SimilarityCase(const SimilarityShape& shape, int64_t num_queries,
                 int64_t num_rows, uint32_t seed,
                 ElementType type = ElementType::kFloat32)
      : shape(shape),
        num_queries(num_queries),
        rows(num_rows),
        dim(shape.item_dim()),
        type(type) {
    std::mt19937 random(seed);
    std::normal_distribution<float> normal;
    const auto vectors = [&](int64_t count, int64_t components) {
      std::vector<float> all;
      for (int64_t i = 0; i < count; ++i) {
        for (int64_t c = 0; c < components; ++c) {
          double squares = 0.0;
          const size_t first = all.size();
          for (int64_t d = 0; d < shape.component_dim; ++d) {
            all.push_back(normal(random));
            squares += static_cast<double>(all.back()) * all.back();
          }
          for (size_t d = first; d < all.size(); ++d) {
            all[d] = static_cast<float>(all[d] / std::sqrt(squares));
          }
        }
        for (int64_t l = 0; l < shape.gate_dim(); ++l) {
          all.push_back(normal(random));
        }
      }
      return all;
    };
    queries = vectors(num_queries, shape.query_components);
    items = vectors(num_rows, shape.item_components);
    for (const SimilarityWeight& weight : Similarity::Weights(shape)) {
      weights.emplace_back(weight.size());
      for (float& w : weights.back()) w = 0.3f * normal(random);
    }
    Point();
  }

  // After `weights` were changed.
  void Point() {
    std::vector<const float*> pointers;
    for (const std::vector<float>& w : weights) pointers.push_back(w.data());
    similarity = Similarity::Of(shape, pointers);
  }

  SimilarityShape shape;
  int64_t num_queries;
  int64_t rows;
  int64_t dim;  // of a row
  ElementType type;
  std::vector<float> queries;
  std::vector<float> items;
  std::vector<std::vector<float>> weights;
  Similarity similarity;
};

}  // namespace lintf::testing

#endif  // LINTF_CUSTOM_OPS_CORE_SIMILARITY_TEST_DATA_H_
