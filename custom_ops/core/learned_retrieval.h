// SPDX-License-Identifier: Apache-2.0
// Searches by a learned similarity, by any of their algorithms.
#ifndef LINTF_CUSTOM_OPS_CORE_LEARNED_RETRIEVAL_H_
#define LINTF_CUSTOM_OPS_CORE_LEARNED_RETRIEVAL_H_

#include <cstdint>

#include "custom_ops/core/retrieval.h"

namespace lintf {

// RetrieveRows of an input that has a similarity.
RetrievalCounts RetrieveSimilarRows(const RetrievalInput& input,
                                    const MaskSource& masks,
                                    const int32_t* mask_of_query,
                                    const Parallel& parallel,
                                    const KnnOutput& output);

}  // namespace lintf

#endif  // LINTF_CUSTOM_OPS_CORE_LEARNED_RETRIEVAL_H_
