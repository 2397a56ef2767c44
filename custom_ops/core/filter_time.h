// SPDX-License-Identifier: Apache-2.0
// ISO-8601 text -> seconds since 1970-01-01 UTC, for timestamp literals.
#ifndef LINTF_CUSTOM_OPS_CORE_FILTER_TIME_H_
#define LINTF_CUSTOM_OPS_CORE_FILTER_TIME_H_

#include <cstdint>
#include <string>
#include <string_view>

namespace lintf {

// Accepts YYYY-MM-DD (midnight) and YYYY-MM-DDTHH:MM[:SS][Z|+HH:MM|-HH:MM],
// with a space in place of the T if you like; without an offset it is UTC.
// Returns an empty string, or what is wrong.
std::string ParseIsoTime(std::string_view text, int64_t* seconds);

}  // namespace lintf

#endif  // LINTF_CUSTOM_OPS_CORE_FILTER_TIME_H_
