// SPDX-License-Identifier: Apache-2.0
// Large pages for large tables.
#ifndef LINTF_CUSTOM_OPS_CORE_HUGE_PAGES_H_
#define LINTF_CUSTOM_OPS_CORE_HUGE_PAGES_H_

#include <cstdint>

namespace lintf {

// Asks the system to keep `bytes` bytes from `data` on in large pages, and to
// move what is there into such pages now, one at a time and in place: scans of
// a table in pages of 4 KB wait for address translations. Content and address
// stay; other threads may be reading and writing. A hint: where the system
// cannot, nothing happens.
void PreferHugePages(const void* data, int64_t bytes);

}  // namespace lintf

#endif  // LINTF_CUSTOM_OPS_CORE_HUGE_PAGES_H_
