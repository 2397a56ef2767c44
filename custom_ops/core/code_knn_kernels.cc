// SPDX-License-Identifier: Apache-2.0
#include "custom_ops/core/code_knn_kernels.h"

#include <atomic>

namespace lintf {
namespace {

std::atomic<const CodeKernels*> forced_kernels{nullptr};

}  // namespace

const CodeKernels* CodeKernelsOf(CodePath path) {
  switch (path) {
    case CodePath::kAvx512:
      return Avx512CodeKernels();
    case CodePath::kAvx2:
      return Avx2CodeKernels();
    case CodePath::kPlain:
      break;
  }
  return PlainCodeKernels();
}

const CodeKernels& ActiveCodeKernels() {
  const CodeKernels* forced = forced_kernels.load(std::memory_order_relaxed);
  if (forced != nullptr) return *forced;
  static const CodeKernels* const best = [] {
    for (CodePath path : {CodePath::kAvx512, CodePath::kAvx2}) {
      const CodeKernels* kernels = CodeKernelsOf(path);
      if (kernels != nullptr) return kernels;
    }
    return PlainCodeKernels();
  }();
  return *best;
}

void SetCodePathForTesting(CodePath path) {
  forced_kernels.store(CodeKernelsOf(path), std::memory_order_relaxed);
}

void ResetCodePathForTesting() {
  forced_kernels.store(nullptr, std::memory_order_relaxed);
}

}  // namespace lintf
