// SPDX-License-Identifier: Apache-2.0
#include "custom_ops/core/huge_pages.h"

#include <cstdint>
#include <vector>

#include "custom_ops/core/testing.h"

namespace lintf {
namespace {

// Whatever the system does, the content stays.
void KeepsTheContent() {
  std::vector<uint32_t> table(5 << 20);
  for (size_t i = 0; i < table.size(); ++i) {
    table[i] = static_cast<uint32_t>(i * 2654435761u);
  }
  const int64_t bytes = static_cast<int64_t>(table.size() * sizeof(uint32_t));
  for (int64_t part : {int64_t{0}, int64_t{1}, int64_t{2} << 20, bytes}) {
    PreferHugePages(table.data(), part);
    if (part >= 4) PreferHugePages(table.data() + 1, part - 4);
    for (size_t i = 0; i < table.size(); ++i) {
      if (table[i] != static_cast<uint32_t>(i * 2654435761u)) {
        CHECK_THAT(false) << "element " << i << " after " << part;
        return;
      }
    }
  }
  PreferHugePages(nullptr, 0);
}

}  // namespace
}  // namespace lintf

int main() {
  lintf::KeepsTheContent();
  return lintf::testing::Result();
}
