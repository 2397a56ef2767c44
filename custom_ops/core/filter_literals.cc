// SPDX-License-Identifier: Apache-2.0
#include "custom_ops/core/filter_literals.h"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <cstring>
#include <limits>
#include <system_error>

#include "custom_ops/core/filter_lexer.h"

namespace lintf {
namespace {

// std::from_chars takes no plus sign.
std::string_view WithoutPlus(std::string_view text) {
  if (!text.empty() && text.front() == '+') text.remove_prefix(1);
  return text;
}

// Whether a number that from_chars calls out of range is too small rather
// than too large: the decimal exponent of its first significant digit tells.
bool IsTiny(std::string_view text) {
  int64_t exponent = 0;
  const size_t e = text.find_first_of("eE");
  if (e != std::string_view::npos) {
    const std::string_view digits = WithoutPlus(text.substr(e + 1));
    const auto result =
        std::from_chars(digits.data(), digits.data() + digits.size(), exponent);
    if (result.ec != std::errc()) return digits.front() == '-';
    text = text.substr(0, e);
  }
  const size_t point = std::min(text.find('.'), text.size());
  const size_t first = text.find_first_of("123456789");
  if (first == std::string_view::npos) return true;  // zero
  exponent += first < point
                  ? static_cast<int64_t>(point - first) - 1
                  : static_cast<int64_t>(point) - static_cast<int64_t>(first);
  return exponent < 0;
}

}  // namespace

IntRange ColumnRange(ColumnType type) {
  switch (type) {
    case ColumnType::kInt8:
      return {-128, 127};
    case ColumnType::kInt16:
      return {-32768, 32767};
    case ColumnType::kInt64:
      return {std::numeric_limits<int64_t>::min(),
              std::numeric_limits<int64_t>::max()};
    case ColumnType::kUint8:
      return {0, 255};
    case ColumnType::kUint16:
      return {0, 65535};
    case ColumnType::kUint32:
      return {0, 4294967295};
    case ColumnType::kUint64:
      return {0, std::numeric_limits<int64_t>::max()};
    case ColumnType::kFloat:
      break;
  }
  return {0, 0};
}

bool IsSignedColumn(ColumnType type) {
  return type == ColumnType::kInt8 || type == ColumnType::kInt16 ||
         type == ColumnType::kInt64;
}

std::string ParseIntLiteral(std::string_view text, int64_t* value) {
  const std::string_view digits = WithoutPlus(text);
  const auto result =
      std::from_chars(digits.data(), digits.data() + digits.size(), *value);
  if (result.ec == std::errc()) return "";
  return QuoteForError(text) + " does not fit int64";
}

std::string ParseFloatLiteral(std::string_view text, uint32_t* bits) {
  const std::string_view digits = WithoutPlus(text);
  double value = 0;
  const auto result =
      std::from_chars(digits.data(), digits.data() + digits.size(), value);
  const bool is_negative = digits.front() == '-';
  if (result.ec != std::errc()) {
    if (!IsTiny(digits)) {
      return QuoteForError(text) + " does not fit float32";
    }
    *bits = is_negative ? kMinusZeroBits : 0;
    return "";
  }
  const double magnitude = std::fabs(value);
  if (magnitude < 0x1p-126) {
    // A denormal float32. Scaled, it is a small integer, which no
    // floating-point mode can flush.
    *bits = static_cast<uint32_t>(std::nearbyint(magnitude * 0x1p149));
  } else {
    // Halfway to the float after the largest one and up rounds to infinity.
    if (magnitude >= 0x1.ffffffp127) {
      return QuoteForError(text) + " does not fit float32";
    }
    const float rounded = static_cast<float>(magnitude);
    std::memcpy(bits, &rounded, sizeof(*bits));
  }
  if (is_negative) *bits |= kMinusZeroBits;
  return "";
}

}  // namespace lintf
