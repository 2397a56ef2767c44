// SPDX-License-Identifier: Apache-2.0
// Search by codes for AVX2: 64 rows in two vectors of bytes.
#include <cstdint>

#include "custom_ops/core/code_knn_kernels.h"

#if defined(__x86_64__) && defined(__GNUC__)

#include <immintrin.h>

#define LINTF_SIMD_ENTRY __attribute__((target("avx2,popcnt,bmi")))
#define LINTF_SIMD LINTF_SIMD_ENTRY __attribute__((always_inline)) inline

namespace lintf {
namespace {

LINTF_SIMD __m256i Load(const void* p) {
  return _mm256_loadu_si256(static_cast<const __m256i*>(p));
}

// Transposes bytes: register j has the words of rows 8j + 4 * half to
// 8j + 4 * half + 3. Without crossing the 128-bit parts of registers, row
// 8 * (p % 8) + p / 8 ends up in byte p, counted over both halves.
LINTF_SIMD void SplitHalf(const uint64_t* codes, int half, int64_t ahead_bytes,
                          uint8_t* planes) {
  __m256i a[8];
  __m256i b[8];
#pragma GCC unroll 8
  for (int j = 0; j < 8; ++j) {
    const uint64_t* four = codes + 8 * j + 4 * half;
    // The hardware fetches ahead too, but not across pages.
    _mm_prefetch(reinterpret_cast<const char*>(four) + ahead_bytes,
                 _MM_HINT_T0);
    a[j] = Load(four);
  }
  // Of even rows in b[0..3], of odd rows in b[4..7]: bytes of two rows.
#pragma GCC unroll 4
  for (int j = 0; j < 4; ++j) {
    b[j] = _mm256_unpacklo_epi8(a[2 * j], a[2 * j + 1]);
    b[4 + j] = _mm256_unpackhi_epi8(a[2 * j], a[2 * j + 1]);
  }
  // Of four rows: bytes 0 to 3 in a[4h] and a[4h + 2], 4 to 7 in the others.
#pragma GCC unroll 4
  for (int j = 0; j < 4; ++j) {
    a[2 * j] = _mm256_unpacklo_epi16(b[2 * j], b[2 * j + 1]);
    a[2 * j + 1] = _mm256_unpackhi_epi16(b[2 * j], b[2 * j + 1]);
  }
  // Of eight rows: bytes 2i and 2i + 1 in b[4h + i].
#pragma GCC unroll 2
  for (int h = 0; h < 2; ++h) {
#pragma GCC unroll 2
    for (int i = 0; i < 2; ++i) {
      const __m256i low = a[4 * h + i];
      const __m256i high = a[4 * h + 2 + i];
      b[4 * h + 2 * i] = _mm256_unpacklo_epi32(low, high);
      b[4 * h + 2 * i + 1] = _mm256_unpackhi_epi32(low, high);
    }
  }
  const __m256i nibble = _mm256_set1_epi8(15);
#pragma GCC unroll 4
  for (int i = 0; i < 4; ++i) {
    const __m256i bytes[2] = {_mm256_unpacklo_epi64(b[i], b[4 + i]),
                              _mm256_unpackhi_epi64(b[i], b[4 + i])};
#pragma GCC unroll 2
    for (int k = 0; k < 2; ++k) {
      uint8_t* plane = planes + (4 * i + 2 * k) * kRowsPerWord + 32 * half;
      _mm256_store_si256(reinterpret_cast<__m256i*>(plane),
                         _mm256_and_si256(bytes[k], nibble));
      _mm256_store_si256(
          reinterpret_cast<__m256i*>(plane + kRowsPerWord),
          _mm256_and_si256(_mm256_srli_epi16(bytes[k], 4), nibble));
    }
  }
}

LINTF_SIMD_ENTRY void Split(const uint64_t* codes, int64_t words,
                            int64_t ahead_bytes, uint8_t* planes) {
  for (int64_t w = 0; w < words; ++w) {
    SplitHalf(codes + w * kRowsPerWord, 0, ahead_bytes,
              planes + w * kPlaneBytesOfWord);
    SplitHalf(codes + w * kRowsPerWord, 1, ahead_bytes,
              planes + w * kPlaneBytesOfWord);
  }
}

// Bits 8i + j and 8j + i change places.
uint64_t TransposeBits(uint64_t x) {
  uint64_t swap = (x ^ (x >> 7)) & 0x00AA00AA00AA00AAu;
  x ^= swap ^ (swap << 7);
  swap = (x ^ (x >> 14)) & 0x0000CCCC0000CCCCu;
  x ^= swap ^ (swap << 14);
  swap = (x ^ (x >> 28)) & 0x00000000F0F0F0F0u;
  return x ^ swap ^ (swap << 28);
}

// Scores of 64 rows: [half], of the even and of the odd bytes of the planes.
struct BlockScores {
  __m256i even[2];
  __m256i odd[2];
};

// Byte p of the planes is set where its row reaches the threshold.
LINTF_SIMD __m256i Reaches(const BlockScores& scores, int half,
                           __m256i threshold) {
  const __m256i even = _mm256_cmpeq_epi16(
      _mm256_max_epu16(scores.even[half], threshold), scores.even[half]);
  const __m256i odd = _mm256_cmpeq_epi16(
      _mm256_max_epu16(scores.odd[half], threshold), scores.odd[half]);
  return _mm256_blendv_epi8(even, odd, _mm256_set1_epi16(-256));
}

LINTF_SIMD_ENTRY __attribute__((noinline)) void AppendBlock(
    const CodeScan& scan, const CodeBlock& block, const BlockScores& scores,
    uint64_t reaches) {
  uint64_t hits = TransposeBits(reaches) & block.mask;
  alignas(32) uint16_t of_parity[2][32];
  for (int half = 0; half < 2; ++half) {
    _mm256_store_si256(reinterpret_cast<__m256i*>(of_parity[0] + 16 * half),
                       scores.even[half]);
    _mm256_store_si256(reinterpret_cast<__m256i*>(of_parity[1] + 16 * half),
                       scores.odd[half]);
  }
  uint64_t* end = scan.hits->end();
  int64_t count = 0;
  for (; hits != 0; hits &= hits - 1) {
    const int row = __builtin_ctzll(hits);
    const int byte = 8 * (row % 8) + row / 8;
    end[count++] =
        MakeHit(of_parity[byte % 2][byte / 2], block.first_row + row);
  }
  if (scan.hits->Commit(count)) scan.hits->Shrink(scan.histogram);
}

// Look-ups are summed in bytes for kRun nibbles, then in 16 bits.
template <int kRun>
LINTF_SIMD void ScanBlock(const CodeScan& scan, const CodeBlock& block) {
  const int64_t nibbles = scan.words * kNibblesOfWord;
  const uint8_t* table = scan.query->table.data();
  const uint8_t* planes = static_cast<const uint8_t*>(block.data);
  // Sums of pairs of bytes as they are, 2^8 * odd + even, and of odd bytes.
  __m256i both[2] = {_mm256_setzero_si256(), _mm256_setzero_si256()};
  __m256i odd[2] = {_mm256_setzero_si256(), _mm256_setzero_si256()};
  for (int64_t n = 0; n < nibbles; n += kRun) {
    __m256i sums[2];
#pragma GCC unroll 16
    for (int k = 0; k < kRun; ++k) {
      const __m256i values = _mm256_broadcastsi128_si256(_mm_loadu_si128(
          reinterpret_cast<const __m128i*>(table + (n + k) * 16)));
#pragma GCC unroll 2
      for (int half = 0; half < 2; ++half) {
        const __m256i found = _mm256_shuffle_epi8(
            values, Load(planes + (n + k) * kRowsPerWord + 32 * half));
        sums[half] = k == 0 ? found : _mm256_add_epi8(sums[half], found);
      }
    }
#pragma GCC unroll 2
    for (int half = 0; half < 2; ++half) {
      both[half] = _mm256_add_epi16(both[half], sums[half]);
      odd[half] = _mm256_add_epi16(odd[half], _mm256_srli_epi16(sums[half], 8));
    }
  }
  BlockScores scores;
  const __m256i threshold =
      _mm256_set1_epi16(static_cast<int16_t>(scan.hits->threshold()));
  uint64_t reaches = 0;
#pragma GCC unroll 2
  for (int half = 0; half < 2; ++half) {
    scores.even[half] =
        _mm256_sub_epi16(both[half], _mm256_slli_epi16(odd[half], 8));
    scores.odd[half] = odd[half];
    reaches |= static_cast<uint64_t>(static_cast<uint32_t>(
                   _mm256_movemask_epi8(Reaches(scores, half, threshold))))
               << (32 * half);
  }
  if (__builtin_expect(reaches != 0, 0)) {
    AppendBlock(scan, block, scores, reaches);
  }
}

LINTF_SIMD_ENTRY void Scan(const CodeScan& scan) {
  const bool symmetric = scan.scoring == CodeScoring::kSymmetric;
  for (int64_t i = 0; i < scan.num_blocks; ++i) {
    if (symmetric) {
      ScanBlock<16>(scan, scan.blocks[i]);
    } else {
      ScanBlock<4>(scan, scan.blocks[i]);
    }
  }
}

}  // namespace

const CodeKernels* Avx2CodeKernels() {
  static const bool supported = __builtin_cpu_supports("avx2");
  static constexpr CodeKernels kKernels = {Split, Scan, nullptr};
  return supported ? &kKernels : nullptr;
}

}  // namespace lintf

#else

namespace lintf {

const CodeKernels* Avx2CodeKernels() { return nullptr; }

}  // namespace lintf

#endif
