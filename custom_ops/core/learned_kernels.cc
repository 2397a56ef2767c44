// SPDX-License-Identifier: Apache-2.0
#include "custom_ops/core/learned_kernels.h"

#include "custom_ops/core/knn_kernels.h"

namespace lintf {

const LearnedKernels& ActiveLearnedKernels() {
  const KnnKernels* const active = &ActiveKnnKernels();
  if (active == Avx512VnniKnnKernels() || active == Avx512KnnKernels()) {
    return *Avx512LearnedKernels();
  }
  if (active == Avx2KnnKernels()) return *Avx2LearnedKernels();
  return *PlainLearnedKernels();
}

}  // namespace lintf
