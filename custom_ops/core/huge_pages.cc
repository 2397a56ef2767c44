// SPDX-License-Identifier: Apache-2.0
#include "custom_ops/core/huge_pages.h"

#ifdef __linux__
#include <sys/mman.h>
#endif

namespace lintf {
namespace {

constexpr uintptr_t kHugePage = uintptr_t{2} << 20;

}  // namespace

void PreferHugePages(const void* data, int64_t bytes) {
#ifdef __linux__
  // The large pages that lie inside.
  const uintptr_t address = reinterpret_cast<uintptr_t>(data);
  const uintptr_t begin = (address + kHugePage - 1) / kHugePage * kHugePage;
  const uintptr_t end =
      (address + static_cast<uintptr_t>(bytes)) / kHugePage * kHugePage;
  if (begin >= end) return;
  void* const first = reinterpret_cast<void*>(begin);
  if (madvise(first, end - begin, MADV_HUGEPAGE) != 0) return;
#ifndef MADV_COLLAPSE
#define MADV_COLLAPSE 25  // Linux 6.1; older ones move the pages by and by
#endif
  madvise(first, end - begin, MADV_COLLAPSE);
#else
  (void)data;
  (void)bytes;
#endif
}

}  // namespace lintf
