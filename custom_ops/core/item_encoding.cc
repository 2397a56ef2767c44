// SPDX-License-Identifier: Apache-2.0
#include "custom_ops/core/item_encoding.h"

#include <algorithm>
#include <cmath>
#include <limits>

namespace lintf {
namespace {

uint32_t BitsOf(float x) {
  uint32_t bits;
  std::memcpy(&bits, &x, sizeof(bits));
  return bits;
}

float FloatOf(uint32_t bits) {
  float x;
  std::memcpy(&x, &bits, sizeof(x));
  return x;
}

// Drops the low `bits` bits, rounding to nearest even.
uint32_t ShiftRounding(uint32_t value, int bits) {
  const uint32_t half = uint32_t{1} << (bits - 1);
  const uint32_t is_odd = (value >> bits) & 1;
  return (value + half - 1 + is_odd) >> bits;
}

// To the nearest integer, ties to even, whatever the rounding mode.
int RoundHalfEven(float x) {
  const float below = std::floor(x);
  const float rest = x - below;  // exact
  const int whole = static_cast<int>(below);
  if (rest != 0.5f) return rest > 0.5f ? whole + 1 : whole;
  return whole + (whole & 1);
}

}  // namespace

uint16_t EncodeBfloat16(float x) {
  const uint32_t bits = BitsOf(x);
  if ((bits & 0x7FFFFFFFu) > 0x7F800000u) {
    return static_cast<uint16_t>((bits >> 16) | 0x0040u);
  }
  return static_cast<uint16_t>(ShiftRounding(bits, 16));
}

uint16_t EncodeFloat16(float x) {
  const uint32_t bits = BitsOf(x);
  const uint32_t sign = (bits >> 16) & 0x8000u;
  const uint32_t magnitude = bits & 0x7FFFFFFFu;
  uint32_t half;
  if (magnitude > 0x7F800000u) {
    half = 0x7E00u;
  } else if (magnitude >= 0x477FF000u) {  // 65520
    half = 0x7C00u;
  } else if (magnitude >= 0x38800000u) {  // 2^-14, the least normal half
    half = ShiftRounding(magnitude - (112u << 23), 13);
  } else if (magnitude >= 0x33000000u) {  // 2^-25
    const int shift = 126 - static_cast<int>(magnitude >> 23);
    half = ShiftRounding((magnitude & 0x7FFFFFu) | 0x800000u, shift);
  } else {
    half = 0;
  }
  return static_cast<uint16_t>(sign | half);
}

float DecodeFloat16(uint16_t bits) {
  const uint32_t sign = static_cast<uint32_t>(bits & 0x8000u) << 16;
  const uint32_t exponent = (bits >> 10) & 0x1Fu;
  const uint32_t fraction = bits & 0x3FFu;
  if (exponent == 0x1Fu) {
    return FloatOf(sign | 0x7F800000u | (fraction << 13));
  }
  if (exponent != 0) {
    return FloatOf(sign | ((exponent + 112) << 23) | (fraction << 13));
  }
  const float magnitude = static_cast<float>(fraction) * 0x1p-24f;
  return FloatOf(sign | BitsOf(magnitude));
}

float EncodeInt8(const float* row, int64_t dim, int8_t* out) {
  float largest = 0.0f;
  for (int64_t d = 0; d < dim; ++d) {
    largest = std::max(largest, std::fabs(row[d]));
  }
  const float scale = largest / 127.0f;
  if (!(scale >= std::numeric_limits<float>::min())) {
    std::fill_n(out, dim, int8_t{0});
    return 0.0f;
  }
  for (int64_t d = 0; d < dim; ++d) {
    const int rounded = RoundHalfEven(row[d] / scale);
    out[d] = static_cast<int8_t>(std::clamp(rounded, -127, 127));
  }
  return scale;
}

Int8Query EncodeInt8Query(const float* query, int64_t dim, int8_t* high,
                          int8_t* low) {
  constexpr int kLargest = 127 * 256 + 127;
  float largest = 0.0f;
  for (int64_t d = 0; d < dim; ++d) {
    largest = std::max(largest, std::fabs(query[d]));
  }
  Int8Query encoded;
  encoded.scale = largest / static_cast<float>(kLargest);
  if (!(encoded.scale >= std::numeric_limits<float>::min())) {
    encoded.scale = 0.0f;
    std::fill_n(high, dim, int8_t{0});
    std::fill_n(low, dim, int8_t{0});
    return encoded;
  }
  int64_t squares = 0;
  for (int64_t d = 0; d < dim; ++d) {
    const int value = std::clamp(RoundHalfEven(query[d] / encoded.scale),
                                 -kLargest, kLargest);
    squares += int64_t{value} * value;
    const int rounded = (value + 128) >> 8;
    high[d] = static_cast<int8_t>(rounded);
    low[d] = static_cast<int8_t>(value - 256 * rounded);
  }
  const double scale = encoded.scale;
  encoded.norm =
      static_cast<float>(scale * scale * static_cast<double>(squares));
  return encoded;
}

void EncodeRow(ElementType type, const float* row, int64_t dim, void* out,
               float* scale) {
  switch (type) {
    case ElementType::kFloat32:
      std::copy_n(row, dim, static_cast<float*>(out));
      break;
    case ElementType::kBfloat16:
      std::transform(row, row + dim, static_cast<uint16_t*>(out),
                     EncodeBfloat16);
      break;
    case ElementType::kFloat16:
      std::transform(row, row + dim, static_cast<uint16_t*>(out),
                     EncodeFloat16);
      break;
    case ElementType::kInt8:
      *scale = EncodeInt8(row, dim, static_cast<int8_t*>(out));
      break;
  }
}

void DecodeRow(const ItemMatrix& items, int64_t row, int64_t dim, float* out) {
  switch (items.type) {
    case ElementType::kFloat32:
      std::copy_n(static_cast<const float*>(items.data) + row * dim, dim, out);
      break;
    case ElementType::kBfloat16: {
      const auto* in = static_cast<const uint16_t*>(items.data) + row * dim;
      std::transform(in, in + dim, out, DecodeBfloat16);
      break;
    }
    case ElementType::kFloat16: {
      const auto* in = static_cast<const uint16_t*>(items.data) + row * dim;
      std::transform(in, in + dim, out, DecodeFloat16);
      break;
    }
    case ElementType::kInt8: {
      const auto* in = static_cast<const int8_t*>(items.data) + row * dim;
      const float scale = items.scales[row];
      for (int64_t d = 0; d < dim; ++d) {
        out[d] = scale * static_cast<float>(in[d]);
      }
      break;
    }
  }
}

}  // namespace lintf
