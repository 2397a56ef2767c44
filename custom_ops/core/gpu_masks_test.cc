// SPDX-License-Identifier: Apache-2.0
// Masks packed, united and listed on the GPU against loops over rows.
#include "custom_ops/core/gpu_masks.h"

#include <cstdint>
#include <memory>
#include <random>
#include <vector>

#include "custom_ops/core/gpu_testing.h"
#include "custom_ops/core/testing.h"

namespace lintf::gpu {
namespace {

using Random = std::mt19937_64;

constexpr uint64_t kUntouched = 0xABABABABABABABABu;
constexpr int64_t kSizes[] = {0,    1,     63,    64,     65,    511,
                              2048, 16384, 16385, 100003, 300000};

// Words whose rows pass at a rate that differs from mask to mask; bits past
// the rows are 0.
std::vector<uint64_t> RandomWords(int64_t num_masks, int64_t num_rows,
                                  int64_t stride, Random* random) {
  std::vector<uint64_t> words(num_masks * stride, kUntouched);
  for (int64_t mask = 0; mask < num_masks; ++mask) {
    for (int64_t w = 0; w < MaskWords(num_rows); ++w) {
      uint64_t word = (*random)();
      switch (mask % 5) {
        case 0:  // half
          break;
        case 1:  // few
          word = (*random)() % 50 == 0 ? word & (*random)() & (*random)() : 0;
          break;
        case 2:
          word = ~uint64_t{0};
          break;
        case 3:
          word = 0;
          break;
        default:  // all but a few
          word |= (*random)() | (*random)() | (*random)();
      }
      const int64_t left = num_rows - w * kRowsPerWord;
      if (left < kRowsPerWord) word &= (uint64_t{1} << left) - 1;
      words[mask * stride + w] = word;
    }
  }
  return words;
}

void TestPackMasks() {
  Random random(1);
  for (const int64_t num_rows : kSizes) {
    for (const int64_t num_masks : {1, 3}) {
      const int64_t stride = MaskWords(num_rows) + num_masks;
      const int64_t count = num_masks * num_rows;
      std::vector<bool> passes(count);
      for (int64_t i = 0; i < count; ++i) passes[i] = random() % 3 == 0;
      const DeviceArray<bool> bools(passes);
      DeviceArray<uint64_t> words(
          std::vector<uint64_t>(num_masks * stride, kUntouched));
      TestContext context;
      PackMasks(bools.data(), num_masks, num_rows, stride, &context,
                words.data());
      CHECK_THAT(context.Finish());
      const std::vector<uint64_t> got = words.ToHost();
      int64_t wrong = 0;
      for (int64_t mask = 0; mask < num_masks; ++mask) {
        for (int64_t w = 0; w < stride; ++w) {
          uint64_t expected = w < MaskWords(num_rows) ? 0 : kUntouched;
          for (int64_t row = w * kRowsPerWord;
               row < num_rows && row < (w + 1) * kRowsPerWord; ++row) {
            expected |= static_cast<uint64_t>(passes[mask * num_rows + row])
                        << (row % kRowsPerWord);
          }
          wrong += got[mask * stride + w] != expected ? 1 : 0;
        }
      }
      CHECK_THAT(wrong == 0) << wrong << " words, rows " << num_rows;
    }
  }
}

void TestUniteMasks() {
  Random random(2);
  const int64_t num_masks = 7;
  for (const int64_t num_rows : kSizes) {
    const int64_t num_words = MaskWords(num_rows);
    const int64_t stride = num_words + 2;
    const std::vector<uint64_t> host =
        RandomWords(num_masks, num_rows, stride, &random);
    const DeviceArray<uint64_t> words(host);
    Masks masks;
    masks.words = words.data();
    masks.stride = stride;
    masks.passes_all.assign(num_masks, false);
    // More than one launch takes, too.
    for (const int64_t num_chosen : {0, 1, 2, 5, 64, 65, 200}) {
      std::vector<int32_t> chosen(num_chosen);
      for (int32_t& mask : chosen) {
        mask = static_cast<int32_t>(random() % num_masks);
        if (num_chosen > 2 && mask == 2) mask = 1;  // or all would pass
      }
      DeviceArray<uint64_t> united(num_words);
      TestContext context;
      UniteMasks(masks, chosen.data(), num_chosen, num_rows, &context,
                 united.data());
      CHECK_THAT(context.Finish());
      const std::vector<uint64_t> got = united.ToHost();
      int64_t wrong = 0;
      for (int64_t w = 0; w < num_words; ++w) {
        uint64_t expected = 0;
        for (const int32_t mask : chosen) expected |= host[mask * stride + w];
        wrong += got[w] != expected ? 1 : 0;
      }
      CHECK_THAT(wrong == 0) << wrong << " words, rows " << num_rows;
    }
  }
}

void CheckLists(const std::vector<uint64_t>& host, int64_t num_lists,
                int64_t stride, int64_t num_rows, int64_t rows_stride) {
  constexpr uint32_t kUnwritten = 0xABABABAB;
  const DeviceArray<uint64_t> words(host);
  DeviceArray<uint32_t> rows(
      std::vector<uint32_t>(num_lists * rows_stride, kUnwritten));
  DeviceArray<uint32_t> counts(num_lists);
  TestContext context;
  ListRows(words.data(), num_lists, stride, num_rows, &context, rows.data(),
           rows_stride, counts.data());
  CHECK_THAT(context.Finish());
  const std::vector<uint32_t> got = rows.ToHost();
  const std::vector<uint32_t> got_counts = counts.ToHost();
  for (int64_t list = 0; list < num_lists; ++list) {
    int64_t count = 0;
    int64_t wrong = 0;
    for (int64_t row = 0; row < num_rows; ++row) {
      const uint64_t word = host[list * stride + row / kRowsPerWord];
      if ((word >> (row % kRowsPerWord) & 1) == 0) continue;
      if (count < rows_stride) {
        wrong += got[list * rows_stride + count] != row ? 1 : 0;
      }
      ++count;
    }
    for (int64_t i = count; i < rows_stride; ++i) {
      wrong += got[list * rows_stride + i] != kUnwritten ? 1 : 0;
    }
    CHECK_THAT(got_counts[list] == count) << got_counts[list] << " " << count;
    CHECK_THAT(wrong == 0) << wrong << " of list " << list << ", rows "
                           << num_rows;
  }
}

void TestListRows() {
  Random random(3);
  for (const int64_t num_rows : kSizes) {
    for (const int64_t num_lists : {0, 1, 5}) {
      const int64_t stride = MaskWords(num_rows) + num_lists;
      const std::vector<uint64_t> words =
          RandomWords(num_lists, num_rows, stride, &random);
      CheckLists(words, num_lists, stride, num_rows, num_rows + 3);
    }
  }
}

// More rows than the smallest tiles have room for, in a few words.
void TestListRowsOfLargeTable() {
  Random random(4);
  const int64_t num_rows = int64_t{80} * 1000 * 1000 + 17;
  const int64_t stride = MaskWords(num_rows);
  std::vector<uint64_t> words(stride);
  for (int i = 0; i < 5000; ++i) {
    words[random() % (stride - 1)] |= uint64_t{1} << (random() % 64);
  }
  words[stride - 1] = 1;
  CheckLists(words, 1, stride, num_rows, 6000);
}

}  // namespace
}  // namespace lintf::gpu

int main() {
  lintf::gpu::UnderEachSchedule([] {
    lintf::gpu::TestPackMasks();
    lintf::gpu::TestUniteMasks();
    lintf::gpu::TestListRows();
  });
  lintf::gpu::TestListRowsOfLargeTable();
  return lintf::testing::Result();
}
