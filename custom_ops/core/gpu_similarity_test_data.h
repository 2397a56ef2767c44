// SPDX-License-Identifier: Apache-2.0
// Cases of similarity_test_data.h in device memory, for tests.
#ifndef LINTF_CUSTOM_OPS_CORE_GPU_SIMILARITY_TEST_DATA_H_
#define LINTF_CUSTOM_OPS_CORE_GPU_SIMILARITY_TEST_DATA_H_

#include <cstdint>
#include <vector>

#include "custom_ops/core/gpu_masks.h"
#include "custom_ops/core/gpu_testing.h"
#include "custom_ops/core/knn_test_data.h"
#include "custom_ops/core/retrieval.h"
#include "custom_ops/core/search_test_data.h"
#include "custom_ops/core/similarity.h"
#include "custom_ops/core/similarity_test_data.h"

namespace lintf::testing {

// A similarity whose weights are in device memory.
class DeviceSimilarity {
 public:
  explicit DeviceSimilarity(const SimilarityCase& c) {
    std::vector<const float*> pointers;
    for (const std::vector<float>& w : c.weights) {
      weights_.emplace_back(w);
      pointers.push_back(weights_.back().data());
    }
    similarity_ = Similarity::Of(c.shape, pointers);
  }
  const Similarity& similarity() const { return similarity_; }

 private:
  std::vector<gpu::DeviceArray<float>> weights_;
  Similarity similarity_;
};

// Masks of bools in device memory; an empty one passes every row.
class DeviceMasks {
 public:
  DeviceMasks(const std::vector<std::vector<bool>>& masks, int64_t rows)
      : words_(WordsOf(masks, rows)) {
    masks_.words = words_.data();
    masks_.stride = Stride(rows);
    for (const auto& mask : masks) masks_.passes_all.push_back(mask.empty());
  }
  const gpu::Masks& masks() const { return masks_; }

 private:
  // More than is needed: nobody may rely on what is behind a mask.
  static int64_t Stride(int64_t rows) { return gpu::MaskWords(rows) + 1; }
  static std::vector<uint64_t> WordsOf(
      const std::vector<std::vector<bool>>& masks, int64_t rows) {
    const VectorMasks source(masks);
    std::vector<uint64_t> words(masks.size() * Stride(rows), ~uint64_t{0});
    for (size_t m = 0; m < masks.size(); ++m) {
      if (masks[m].empty() || rows == 0) continue;
      source.Fill(static_cast<int64_t>(m), 0, rows,
                  words.data() + m * Stride(rows));
    }
    return words;
  }

  gpu::DeviceArray<uint64_t> words_;
  gpu::Masks masks_;
};

// A search's answer, and how many rows it scored.
struct LearnedAnswer {
  explicit LearnedAnswer(int64_t num_queries, int64_t k) {
    answer.scores.resize(num_queries * k);
    answer.rows.resize(num_queries * k);
    answer.counts.resize(num_queries);
    num_scored.resize(num_queries);
  }
  KnnOutput Output() {
    KnnOutput output;
    output.scores = answer.scores.data();
    output.rows = answer.rows.data();
    output.counts = answer.counts.data();
    output.num_scored = num_scored.data();
    return output;
  }

  KnnAnswer answer;
  std::vector<int64_t> num_scored;
};

// The search of a case: the options of `input`, host memory.
inline RetrievalInput LearnedInput(const SimilarityCase& c,
                                   const StoredRows& rows, int64_t k) {
  RetrievalInput input;
  input.knn.queries = c.queries.data();
  input.knn.num_queries = c.num_queries;
  input.knn.items = rows.matrix;
  input.knn.num_rows = c.rows;
  input.knn.dim = c.dim;
  input.knn.k = k;
  input.similarity = &c.similarity;
  input.algorithm = Algorithm::kExact;
  CHECK_THAT(PlannerCosts::FromList({}, c.type, &input.costs).empty());
  CHECK_THAT(SimilarityCosts::FromList({}, &input.similarity_costs).empty());
  return input;
}

}  // namespace lintf::testing

#endif  // LINTF_CUSTOM_OPS_CORE_GPU_SIMILARITY_TEST_DATA_H_
