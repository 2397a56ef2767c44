// SPDX-License-Identifier: Apache-2.0
// What a search costs by each algorithm, and which one to take.
//
// Two choices are made. Whether a query is answered by codes depends on that
// query alone (its pass count, k and the index), because codes are
// approximate: a query must not change its result with the batch it happens to
// be in. Between masked and pre-filtered, which give the same bits, the exact
// search picks for each tile of rows (masked_knn.h), where the batch counts.
//
// With a learned similarity the choice is each query's own too: two_stage is
// approximate, and where it is cheaper than both exact and bounded, it is
// taken.
//
// The paper's rule (pre-filter at low pass rates, section 5.3 of arXiv
// 2407.13218) is what the constants work out to.
#ifndef LINTF_CUSTOM_OPS_CORE_PLANNER_H_
#define LINTF_CUSTOM_OPS_CORE_PLANNER_H_

#include <algorithm>
#include <cstdint>
#include <string>
#include <vector>

#include "custom_ops/core/masked_knn.h"
#include "custom_ops/core/quantized_knn.h"
#include "custom_ops/core/similarity.h"

namespace lintf {

// By an inner product or a distance: kMasked to kQuantized. By a learned
// similarity:
//   kExact     scores all rows that pass.
//   kBounded   the same results, bit for bit; rows whose greatest logit cannot
//              reach the k-th best score have their gate left out. Needs a
//              convex gate; without a gate it is kExact.
//   kTwoStage  scores the candidates alone. Of a query that at most `budget`
//              rows pass, all are candidates.
// kAuto takes what is cheapest, by each query's own number of passing rows.
enum class Algorithm : uint8_t {
  kAuto,
  kMasked,
  kPrefiltered,
  kQuantized,
  kExact,
  kBounded,
  kTwoStage,
};

// Where kTwoStage has its candidates from (the proxies of similarity.h). Rows
// that do not pass never are candidates.
//   kAveraged    the `budget` best by the averaged query, as MaskedKnn has it.
//   kComponents  the max(1, (budget - k) / pairs) best of each pair's query,
//                and the k best of the averaged one, each row once.
//   kCodes       the `budget` best by code (CodeKnn); code.samples are those
//                of the first components_dim numbers of the averaged query.
enum class Candidates : uint8_t { kAveraged, kComponents, kCodes };

// Nanoseconds on one thread.
struct PlannerCosts {
  KnnCosts knn;      // for each row and dimension
  float code_word;   // scanning one word of one row's code for one query
  float gather_row;  // fetching one row of a shortlist from memory

  static constexpr int kSize = 5;
  // The order of the `costs` attribute of the ops.
  std::vector<float> ToList() const;
  // Reads such a list. Empty gives the costs that are compiled in for the
  // storage type and for this machine's instruction set. Returns an error
  // message, empty if it is fine.
  static std::string FromList(const std::vector<float>& list, ElementType type,
                              PlannerCosts* costs);
};

// The same for scoring by a learned similarity; what selects its candidates
// costs what PlannerCosts says.
struct SimilarityCosts {
  float load;        // a number of a row, into the lanes
  float fma;         // one of the fused multiply-adds of a score
  float activation;  // one exponential, of a gate's unit or a pair
  // kBounded: the share of rows that need their full score, 0 to 1.
  float bounded_share;

  static constexpr int kSize = 4;
  // The order of the `similarity_costs` attribute of the ops.
  std::vector<float> ToList() const;
  // As PlannerCosts::FromList.
  static std::string FromList(const std::vector<float>& list,
                              SimilarityCosts* costs);
};

// What is compiled in for the kernels that this CPU runs.
SimilarityCosts DefaultSimilarityCosts();

// What the choice for a query depends on.
struct QueryShape {
  int64_t num_rows = 0;
  int64_t passing = 0;  // rows that pass its filter
  int64_t dim = 0;
  int64_t code_words = 0;  // 0: no codes
  int64_t shortlist = 0;   // raised to k
};

// Whether codes and rescoring are cheaper than scoring all that pass.
bool PreferCodes(const PlannerCosts& costs, const QueryShape& shape);

// The same with a learned similarity.
struct SimilarQueryShape {
  QueryShape query;  // `dim` is item_dim; `shortlist` is not used
  SimilarityShape similarity;
  Candidates candidates = Candidates::kAveraged;
  int64_t budget = 0;  // raised to k
  int64_t k = 0;
};

// kExact, kBounded (of a convex gate alone) or kTwoStage.
Algorithm ChooseSimilar(const PlannerCosts& costs,
                        const SimilarityCosts& similarity_costs,
                        const SimilarQueryShape& shape);

// kComponents: how many rows each pair selects.
inline int64_t RowsOfPair(const SimilarityShape& shape, int64_t budget,
                          int64_t k) {
  return std::max<int64_t>(1, (budget - k) / shape.pairs());
}

// Measures the costs on the first rows of an index. `queries` holds
// `num_queries` queries of it, at least 32; `code` may have no codes. Takes
// about a second.
PlannerCosts MeasurePlannerCosts(const KnnInput& input, const CodeSide& code);

// The same with a learned similarity; `input` as RetrievalInput has it.
SimilarityCosts MeasureSimilarityCosts(const Similarity& similarity,
                                       const KnnInput& input);

}  // namespace lintf

#endif  // LINTF_CUSTOM_OPS_CORE_PLANNER_H_
