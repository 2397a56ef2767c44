// SPDX-License-Identifier: Apache-2.0
// Rows of an ItemMatrix from and to float32. Every number is rounded to
// nearest, ties to even. How far the scores of such rows are from float32 is
// stated in masked_knn.h.
#ifndef LINTF_CUSTOM_OPS_CORE_ITEM_ENCODING_H_
#define LINTF_CUSTOM_OPS_CORE_ITEM_ENCODING_H_

#include <cstdint>
#include <cstring>

#include "custom_ops/core/item_matrix.h"

namespace lintf {

// The larger half of the float's bits. Infinities stay, NaN stays a NaN.
uint16_t EncodeBfloat16(float x);

inline float DecodeBfloat16(uint16_t bits) {
  const uint32_t wide = static_cast<uint32_t>(bits) << 16;
  float x;
  std::memcpy(&x, &wide, sizeof(x));
  return x;
}

// IEEE half precision, subnormals included: magnitudes from 65520 on become
// infinite, those up to 2^-25 zero. NaN stays a NaN.
uint16_t EncodeFloat16(float x);
float DecodeFloat16(uint16_t bits);

// Writes row / scale to `out` and returns scale = max |row| / 127, so that
// each element is off by at most half of scale. A row of zeros, or one whose
// scale would be no normal float, becomes zeros with scale 0. Elements must be
// finite.
float EncodeInt8(const float* row, int64_t dim, int8_t* out);

// A query of an int8 search: q[d] = scale * (256 * high[d] + low[d]), with
// scale = max |q| / 32639, rounded to nearest even. That is 256 times finer
// than the rows, so that almost all of the error is theirs.
struct Int8Query {
  float scale = 0.0f;
  float norm = 0.0f;  // sum of (256 * high + low)^2, times scale^2
};

// `high` is in [-127, 127], `low` in [-128, 127].
Int8Query EncodeInt8Query(const float* query, int64_t dim, int8_t* high,
                          int8_t* low);

// Writes a row as `type` has it to `out`, [dim], and, for kInt8, its scale.
void EncodeRow(ElementType type, const float* row, int64_t dim, void* out,
               float* scale);

// Writes row `row` of `items`, which has `dim` columns, to `out`.
void DecodeRow(const ItemMatrix& items, int64_t row, int64_t dim, float* out);

}  // namespace lintf

#endif  // LINTF_CUSTOM_OPS_CORE_ITEM_ENCODING_H_
