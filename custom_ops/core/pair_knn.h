// SPDX-License-Identifier: Apache-2.0
// Candidates by the components of a learned similarity: the best rows of each
// pair, and of the averaged query, in one pass.
#ifndef LINTF_CUSTOM_OPS_CORE_PAIR_KNN_H_
#define LINTF_CUSTOM_OPS_CORE_PAIR_KNN_H_

#include <cstdint>

#include "custom_ops/core/mask_source.h"
#include "custom_ops/core/masked_knn.h"
#include "custom_ops/core/parallel.h"
#include "custom_ops/core/similarity.h"

namespace lintf {

// Searches for each query's pairs + 1 proxies: those of PairQuery in order,
// then AveragedQuery's. `knn` has the queries of the similarity and `k` as what
// each proxy keeps; `output` has pairs + 1 results a query where MaskedKnn has
// one, and the bits of MaskedKnn for the proxies. A row is read once for all
// proxies of all queries with its mask, and only what a proxy has beside zeros
// is multiplied. Not for kInt8 rows, which MaskedKnn scores by integers.
void PairKnn(const Similarity& similarity, const KnnInput& knn,
             const MaskSource& masks, const int32_t* mask_of_query,
             const Parallel& parallel, const KnnOutput& output);

}  // namespace lintf

#endif  // LINTF_CUSTOM_OPS_CORE_PAIR_KNN_H_
