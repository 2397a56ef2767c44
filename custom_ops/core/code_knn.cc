// SPDX-License-Identifier: Apache-2.0
#include "custom_ops/core/code_knn.h"

namespace lintf {

void CodeKnn(const CodeKnnInput& input, const MaskSource& masks,
             const int32_t* mask_of_query, CodeOrder order,
             const Parallel& /*parallel*/, const CodeKnnOutput& output) {
  CodeKnnReference(input, masks, mask_of_query, order, output);
}

}  // namespace lintf
