// SPDX-License-Identifier: Apache-2.0
// Search by codes in plain C++, for any machine.
#include <cstdint>

#include "custom_ops/core/code_knn_kernels.h"

namespace lintf {
namespace {

// Works on all eight bytes at once; the builtin calls a function where the
// machine is not known to count bits.
uint32_t CountBits(uint64_t x) {
  x -= x >> 1 & 0x5555555555555555u;
  x = (x & 0x3333333333333333u) + (x >> 2 & 0x3333333333333333u);
  x = (x + (x >> 4)) & 0x0F0F0F0F0F0F0F0Fu;
  return static_cast<uint32_t>(x * 0x0101010101010101u >> 56);
}

template <CodeScoring kScoring>
uint32_t Score(const CodeScan& scan, const uint64_t* code) {
  uint32_t score = 0;
  const uint8_t* table = scan.query->table.data();
  for (int64_t w = 0; w < scan.words; ++w) {
    const uint64_t word = code[w * kRowsPerWord];
    if (kScoring == CodeScoring::kSymmetric) {
      score += CountBits(~scan.query->code[w] ^ word);
      continue;
    }
    for (int n = 0; n < kNibblesOfWord; ++n, table += kNibbleValues) {
      score += table[word >> (4 * n) & 15];
    }
  }
  return score;
}

template <CodeScoring kScoring>
void ScanBlocks(const CodeScan& scan) {
  for (int64_t i = 0; i < scan.num_blocks; ++i) {
    const CodeBlock& block = scan.blocks[i];
    const uint64_t* codes = static_cast<const uint64_t*>(block.data);
    const uint32_t threshold = scan.hits->threshold();
    uint64_t* end = scan.hits->end();
    int64_t count = 0;
    for (uint64_t mask = block.mask; mask != 0; mask &= mask - 1) {
      const int row = __builtin_ctzll(mask);
      const uint32_t score = Score<kScoring>(scan, codes + row);
      if (score >= threshold) {
        end[count++] = MakeHit(score, block.first_row + row);
      }
    }
    if (scan.hits->Commit(count)) scan.hits->Shrink(scan.histogram);
  }
}

void Scan(const CodeScan& scan) {
  if (scan.scoring == CodeScoring::kSymmetric) {
    ScanBlocks<CodeScoring::kSymmetric>(scan);
  } else {
    ScanBlocks<CodeScoring::kAsymmetric>(scan);
  }
}

}  // namespace

const CodeKernels* PlainCodeKernels() {
  static constexpr CodeKernels kKernels = {nullptr, Scan, nullptr};
  return &kKernels;
}

}  // namespace lintf
