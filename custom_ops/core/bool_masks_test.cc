// SPDX-License-Identifier: Apache-2.0
#include "custom_ops/core/bool_masks.h"

#include <cstdint>
#include <memory>
#include <random>
#include <vector>

#include "custom_ops/core/testing.h"

namespace lintf {
namespace {

void FillsEveryRangeOfEverySize() {
  std::mt19937 random(7);
  constexpr int64_t kMasks = 3;
  for (int64_t num_rows : {0, 1, 63, 64, 65, 127, 128, 129, 200}) {
    const auto mask = std::make_unique<bool[]>(kMasks * num_rows + 1);
    for (int64_t i = 0; i < kMasks * num_rows; ++i) mask[i] = random() % 3 == 0;
    const BoolMasks masks(mask.get(), kMasks, num_rows);
    CHECK_THAT(masks.num_masks() == kMasks);
    for (int64_t m = 0; m < kMasks; ++m) {
      for (int64_t begin = 0; begin <= num_rows; begin += kRowsPerWord) {
        for (int64_t end = begin; end <= num_rows; ++end) {
          const int64_t words = (end - begin + kRowsPerWord - 1) / kRowsPerWord;
          // One word more, to see that it stays.
          constexpr uint64_t kUntouched = 0x0123456789abcdefULL;
          std::vector<uint64_t> bits(words + 1, kUntouched);
          const int64_t count = masks.Fill(m, begin, end, bits.data());
          int64_t expected = 0;
          for (int64_t i = 0; i < words * kRowsPerWord; ++i) {
            const bool passes =
                begin + i < end && mask[m * num_rows + begin + i];
            expected += passes;
            const bool bit = (bits[i / kRowsPerWord] >> (i % kRowsPerWord)) & 1;
            CHECK_THAT(bit == passes) << num_rows << " " << begin << " " << i;
          }
          CHECK_THAT(count == expected) << num_rows << " " << begin;
          CHECK_THAT(bits[words] == kUntouched) << num_rows << " " << end;
        }
      }
    }
  }
}

}  // namespace
}  // namespace lintf

int main() {
  lintf::FillsEveryRangeOfEverySize();
  return lintf::testing::Result();
}
