// SPDX-License-Identifier: Apache-2.0
// What a search costs by each algorithm, and which one to take.
//
// Two choices are made. Whether a query is answered by codes depends on that
// query alone (its pass count, k and the index), because codes are
// approximate: a query must not change its result with the batch it happens to
// be in. Between masked and pre-filtered, which give the same bits, the exact
// search picks for each tile of rows (masked_knn.h), where the batch counts.
//
// The paper's rule (pre-filter at low pass rates, section 5.3 of arXiv
// 2407.13218) is what the constants work out to.
#ifndef LINTF_CUSTOM_OPS_CORE_PLANNER_H_
#define LINTF_CUSTOM_OPS_CORE_PLANNER_H_

#include <cstdint>
#include <string>
#include <vector>

#include "custom_ops/core/masked_knn.h"
#include "custom_ops/core/quantized_knn.h"

namespace lintf {

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

// Measures the costs on the first rows of an index. `queries` holds
// `num_queries` queries of it, at least 32; `code` may have no codes. Takes
// about a second.
PlannerCosts MeasurePlannerCosts(const KnnInput& input, const CodeSide& code);

}  // namespace lintf

#endif  // LINTF_CUSTOM_OPS_CORE_PLANNER_H_
