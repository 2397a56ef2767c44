// SPDX-License-Identifier: Apache-2.0
#include "custom_ops/core/knn_kernels.h"

#include <atomic>

namespace lintf {
namespace {

std::atomic<const KnnKernels*> forced_kernels{nullptr};

}  // namespace

const KnnKernels* KnnKernelsOf(KnnPath path) {
  switch (path) {
    case KnnPath::kAvx512Vnni:
      return Avx512VnniKnnKernels();
    case KnnPath::kAvx512:
      return Avx512KnnKernels();
    case KnnPath::kAvx2:
      return Avx2KnnKernels();
    case KnnPath::kPlain:
      break;
  }
  return PlainKnnKernels();
}

const KnnKernels& ActiveKnnKernels() {
  const KnnKernels* forced = forced_kernels.load(std::memory_order_relaxed);
  if (forced != nullptr) return *forced;
  static const KnnKernels* const best = [] {
    for (KnnPath path :
         {KnnPath::kAvx512Vnni, KnnPath::kAvx512, KnnPath::kAvx2}) {
      const KnnKernels* kernels = KnnKernelsOf(path);
      if (kernels != nullptr) return kernels;
    }
    return PlainKnnKernels();
  }();
  return *best;
}

void SetKnnPathForTesting(KnnPath path) {
  forced_kernels.store(KnnKernelsOf(path), std::memory_order_relaxed);
}

void ResetKnnPathForTesting() {
  forced_kernels.store(nullptr, std::memory_order_relaxed);
}

}  // namespace lintf
