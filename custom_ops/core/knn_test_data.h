// SPDX-License-Identifier: Apache-2.0
// What the tests of exact searches share, on the CPU and on the GPU.
#ifndef LINTF_CUSTOM_OPS_CORE_KNN_TEST_DATA_H_
#define LINTF_CUSTOM_OPS_CORE_KNN_TEST_DATA_H_

#include <cstdint>
#include <cstring>
#include <vector>

#include "custom_ops/core/item_encoding.h"
#include "custom_ops/core/item_matrix.h"

namespace lintf::testing {

// The results of a search, compared bit for bit.
struct KnnAnswer {
  std::vector<float> scores;
  std::vector<int64_t> rows;
  std::vector<int32_t> counts;

  bool operator==(const KnnAnswer& other) const {
    return counts == other.counts && rows == other.rows &&
           std::memcmp(scores.data(), other.scores.data(),
                       scores.size() * sizeof(float)) == 0;
  }
};

// The rows of a test's case as their type has them.
struct StoredRows {
  template <typename Case>
  explicit StoredRows(const Case& c)
      : data(c.rows * c.dim * ElementSize(c.type)), scales(c.rows) {
    for (int64_t row = 0; row < c.rows; ++row) {
      EncodeRow(c.type, c.items.data() + row * c.dim, c.dim,
                data.data() + row * c.dim * ElementSize(c.type), &scales[row]);
    }
    matrix = ItemMatrix(data.data(), c.type, scales.data());
  }

  std::vector<char> data;
  std::vector<float> scales;
  ItemMatrix matrix;
};

}  // namespace lintf::testing

#endif  // LINTF_CUSTOM_OPS_CORE_KNN_TEST_DATA_H_
