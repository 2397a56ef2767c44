// SPDX-License-Identifier: Apache-2.0
#ifndef LINTF_CUSTOM_OPS_CORE_ALIGNED_ARRAY_H_
#define LINTF_CUSTOM_OPS_CORE_ALIGNED_ARRAY_H_

#include <cstdint>
#include <vector>

namespace lintf {

// Numbers of 32 bits that start on a cache line, so that no vector straddles
// two.
template <typename T>
class AlignedArray {
 public:
  void AssignZeros(int64_t size) {
    lines_.assign((size + kLineSize - 1) / kLineSize, Line{});
  }
  T* data() { return lines_.data()->values; }
  const T* data() const { return lines_.data()->values; }

 private:
  static_assert(sizeof(T) == 4);
  static constexpr int64_t kLineSize = 16;
  struct alignas(64) Line {
    T values[kLineSize];
  };
  std::vector<Line> lines_;
};

}  // namespace lintf

#endif  // LINTF_CUSTOM_OPS_CORE_ALIGNED_ARRAY_H_
