// SPDX-License-Identifier: Apache-2.0
#include "custom_ops/core/item_encoding.h"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <random>
#include <vector>

#include "custom_ops/core/testing.h"

namespace lintf {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();

float FloatOf(uint32_t bits) {
  float x;
  std::memcpy(&x, &bits, sizeof(x));
  return x;
}

using Encode = uint16_t (*)(float);
using Decode = float (*)(uint16_t);

// Every number of the type comes back, signs of zero and infinities included.
void TestRoundTrip(Encode encode, Decode decode) {
  for (uint32_t bits = 0; bits < 65536; ++bits) {
    const float x = decode(static_cast<uint16_t>(bits));
    if (std::isnan(x)) {
      CHECK_THAT(std::isnan(decode(encode(x)))) << bits;
    } else {
      CHECK_THAT(encode(x) == bits) << bits;
    }
  }
}

// Between two neighbours the nearer one is taken, in the middle the even one.
// `last` is the largest finite number.
void TestNearestEven(Encode encode, Decode decode, uint16_t last) {
  for (uint32_t bits = 0; bits < last; ++bits) {
    const auto below = static_cast<uint16_t>(bits);
    const auto above = static_cast<uint16_t>(bits + 1);
    const double low = decode(below);
    const double high = decode(above);
    // Exact: both have few bits.
    const auto middle = static_cast<float>(low + (high - low) / 2);
    const uint16_t even = bits % 2 == 0 ? below : above;
    CHECK_THAT(encode(middle) == even) << bits;
    CHECK_THAT(encode(-middle) == (even | 0x8000)) << bits;
    CHECK_THAT(encode(std::nextafterf(middle, 0.0f)) == below) << bits;
    CHECK_THAT(encode(std::nextafterf(middle, kInfinity)) == above) << bits;
  }
}

void TestLimits() {
  CHECK_THAT(DecodeFloat16(0x3C00) == 1.0f);
  CHECK_THAT(DecodeFloat16(0x0001) == 0x1p-24f);
  CHECK_THAT(DecodeFloat16(0x7BFF) == 65504.0f);
  CHECK_THAT(EncodeFloat16(65519.996f) == 0x7BFF);
  CHECK_THAT(EncodeFloat16(65520.0f) == 0x7C00);
  CHECK_THAT(EncodeFloat16(-1e30f) == 0xFC00);
  CHECK_THAT(EncodeFloat16(0x1p-25f) == 0);
  CHECK_THAT(EncodeFloat16(-1e-30f) == 0x8000);
  CHECK_THAT(DecodeBfloat16(0x3F80) == 1.0f);
  CHECK_THAT(EncodeBfloat16(3.4e38f) == 0x7F80);
  CHECK_THAT(std::isnan(DecodeBfloat16(EncodeBfloat16(FloatOf(0x7F800001)))));
}

void TestInt8() {
  std::mt19937 random(5);
  std::normal_distribution<float> normal;
  for (int64_t dim : {1, 7, 128}) {
    std::vector<float> row(dim);
    std::vector<int8_t> encoded(dim);
    std::vector<float> decoded(dim);
    for (float& x : row) x = normal(random);
    const float scale = EncodeInt8(row.data(), dim, encoded.data());
    float largest = 0.0f;
    for (float x : row) largest = std::max(largest, std::fabs(x));
    CHECK_THAT(scale == largest / 127.0f);
    const ItemMatrix items(encoded.data(), ElementType::kInt8, &scale);
    DecodeRow(items, 0, dim, decoded.data());
    for (int64_t d = 0; d < dim; ++d) {
      CHECK_THAT(std::abs(encoded[d]) <= 127);
      CHECK_THAT(std::fabs(decoded[d] - row[d]) <= 0.5001f * scale);
    }
  }
  // Halves go to the even neighbour.
  const std::vector<float> row = {127.0f, 0.5f,  1.5f,  2.5f, -0.5f,
                                  -1.5f,  -2.5f, 0.49f, 0.51f};
  std::vector<int8_t> encoded(row.size());
  CHECK_THAT(EncodeInt8(row.data(), 9, encoded.data()) == 1.0f);
  CHECK_THAT((encoded == std::vector<int8_t>{127, 0, 2, 2, 0, -2, -2, 0, 1}));
  // Nothing to scale by.
  for (float small : {0.0f, -0.0f, 1e-40f}) {
    const std::vector<float> zeros(3, small);
    std::vector<int8_t> codes(3, 1);
    CHECK_THAT(EncodeInt8(zeros.data(), 3, codes.data()) == 0.0f);
    CHECK_THAT((codes == std::vector<int8_t>{0, 0, 0}));
  }
  const std::vector<float> huge = {3.4e38f, -3.4e38f};
  std::vector<int8_t> codes(2);
  CHECK_THAT(std::isfinite(EncodeInt8(huge.data(), 2, codes.data())));
  CHECK_THAT((codes == std::vector<int8_t>{127, -127}));
}

void TestInt8Query() {
  std::mt19937 random(6);
  std::normal_distribution<float> normal;
  for (int64_t dim : {1, 5, 300}) {
    std::vector<float> query(dim);
    for (float& x : query) x = normal(random);
    std::vector<int8_t> high(dim);
    std::vector<int8_t> low(dim);
    const Int8Query encoded =
        EncodeInt8Query(query.data(), dim, high.data(), low.data());
    double norm = 0.0;
    for (int64_t d = 0; d < dim; ++d) {
      const double value = double{encoded.scale} * (256 * high[d] + low[d]);
      CHECK_THAT(high[d] >= -127);
      CHECK_THAT(std::fabs(value - query[d]) <= 0.502 * encoded.scale);
      norm += value * value;
    }
    CHECK_THAT(std::fabs(encoded.norm - norm) <= 1e-6 * norm);
  }
  const float zero = 0.0f;
  int8_t high = 1;
  int8_t low = 1;
  const Int8Query encoded = EncodeInt8Query(&zero, 1, &high, &low);
  CHECK_THAT(encoded.scale == 0.0f && encoded.norm == 0.0f);
  CHECK_THAT(high == 0 && low == 0);
}

// Rows of each type, the second of two.
void TestRows() {
  const std::vector<float> rows = {9.0f, 9.0f, 9.0f, 127.0f, -3.0f, 0.5f};
  for (ElementType type : {ElementType::kFloat32, ElementType::kBfloat16,
                           ElementType::kFloat16, ElementType::kInt8}) {
    const int64_t bytes = 3 * ElementSize(type);
    std::vector<char> stored(2 * bytes);
    std::vector<float> scales(2, -1.0f);
    for (int64_t row = 0; row < 2; ++row) {
      EncodeRow(type, rows.data() + 3 * row, 3, stored.data() + row * bytes,
                &scales[row]);
    }
    std::vector<float> decoded(3);
    DecodeRow(ItemMatrix(stored.data(), type, scales.data()), 1, 3,
              decoded.data());
    const float last = type == ElementType::kInt8 ? 0.0f : 0.5f;
    CHECK_THAT((decoded == std::vector<float>{127.0f, -3.0f, last}));
    CHECK_THAT(scales[1] == (type == ElementType::kInt8 ? 1.0f : -1.0f));
  }
}

}  // namespace
}  // namespace lintf

int main() {
  lintf::TestRoundTrip(lintf::EncodeBfloat16, lintf::DecodeBfloat16);
  lintf::TestRoundTrip(lintf::EncodeFloat16, lintf::DecodeFloat16);
  lintf::TestNearestEven(lintf::EncodeBfloat16, lintf::DecodeBfloat16, 0x7F7F);
  lintf::TestNearestEven(lintf::EncodeFloat16, lintf::DecodeFloat16, 0x7BFF);
  lintf::TestLimits();
  lintf::TestInt8();
  lintf::TestInt8Query();
  lintf::TestRows();
  return lintf::testing::Result();
}
