// SPDX-License-Identifier: Apache-2.0
// Search by codes for AVX-512 (F, BW, DQ, VL): 64 rows in a vector of bytes.
#include <cstdint>

#include "custom_ops/core/code_knn_kernels.h"

#if defined(__x86_64__) && defined(__GNUC__)

#include <immintrin.h>

#ifndef __clang__
// g++ 12 warns about the "undefined" operands inside its own intrinsics.
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#pragma GCC diagnostic ignored "-Wuninitialized"
#endif

#define LINTF_SIMD_ENTRY \
  __attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,popcnt,bmi")))
#define LINTF_SIMD LINTF_SIMD_ENTRY __attribute__((always_inline)) inline

namespace lintf {
namespace {

// The hardware fetches ahead too, but not across pages.
LINTF_SIMD void FetchAhead(const uint64_t* codes, int64_t ahead_bytes) {
  _mm_prefetch(reinterpret_cast<const char*>(codes) + ahead_bytes, _MM_HINT_T0);
}

// Transposes bytes: register j has words of rows 8j to 8j + 7, plane n of the
// result nibble n. Without crossing the 128-bit parts of registers, row
// 8 * (p % 8) + p / 8 ends up in byte p.
LINTF_SIMD void SplitWord(const uint64_t* codes, int64_t ahead_bytes,
                          uint8_t* planes) {
  __m512i a[8];
  __m512i b[8];
#pragma GCC unroll 8
  for (int j = 0; j < 8; ++j) {
    FetchAhead(codes + 8 * j, ahead_bytes);
    a[j] = _mm512_loadu_si512(codes + 8 * j);
  }
  // Of even rows in b[0..3], of odd rows in b[4..7]: bytes of two rows.
#pragma GCC unroll 4
  for (int j = 0; j < 4; ++j) {
    b[j] = _mm512_unpacklo_epi8(a[2 * j], a[2 * j + 1]);
    b[4 + j] = _mm512_unpackhi_epi8(a[2 * j], a[2 * j + 1]);
  }
  // Of four rows: bytes 0 to 3 in a[4h] and a[4h + 2], 4 to 7 in the others.
#pragma GCC unroll 2
  for (int h = 0; h < 2; ++h) {
#pragma GCC unroll 2
    for (int j = 0; j < 2; ++j) {
      const __m512i low = b[4 * h + 2 * j];
      const __m512i high = b[4 * h + 2 * j + 1];
      a[4 * h + 2 * j] = _mm512_unpacklo_epi16(low, high);
      a[4 * h + 2 * j + 1] = _mm512_unpackhi_epi16(low, high);
    }
  }
  // Of eight rows: bytes 2i and 2i + 1 in b[4h + i].
#pragma GCC unroll 2
  for (int h = 0; h < 2; ++h) {
#pragma GCC unroll 2
    for (int i = 0; i < 2; ++i) {
      const __m512i low = a[4 * h + i];
      const __m512i high = a[4 * h + 2 + i];
      b[4 * h + 2 * i] = _mm512_unpacklo_epi32(low, high);
      b[4 * h + 2 * i + 1] = _mm512_unpackhi_epi32(low, high);
    }
  }
  const __m512i nibble = _mm512_set1_epi8(15);
#pragma GCC unroll 4
  for (int i = 0; i < 4; ++i) {
    const __m512i bytes[2] = {_mm512_unpacklo_epi64(b[i], b[4 + i]),
                              _mm512_unpackhi_epi64(b[i], b[4 + i])};
#pragma GCC unroll 2
    for (int k = 0; k < 2; ++k) {
      uint8_t* plane = planes + (4 * i + 2 * k) * kRowsPerWord;
      _mm512_store_si512(plane, _mm512_and_si512(bytes[k], nibble));
      _mm512_store_si512(
          plane + kRowsPerWord,
          _mm512_and_si512(_mm512_srli_epi16(bytes[k], 4), nibble));
    }
  }
}

LINTF_SIMD_ENTRY void Split(const uint64_t* codes, int64_t words,
                            int64_t ahead_bytes, uint8_t* planes) {
  for (int64_t w = 0; w < words; ++w) {
    SplitWord(codes + w * kRowsPerWord, ahead_bytes,
              planes + w * kPlaneBytesOfWord);
  }
}

// Appends the rows of `hits` (8 rows from `first_row` on), given their scores
// in 64-bit lanes.
LINTF_SIMD int64_t AppendEight(__mmask8 hits, __m512i scores, int64_t first_row,
                               uint64_t* end) {
  const __m512i rows = _mm512_add_epi64(
      _mm512_set1_epi64(first_row), _mm512_setr_epi64(0, 1, 2, 3, 4, 5, 6, 7));
  const __m512i found =
      _mm512_or_si512(_mm512_slli_epi64(scores, kHitRowBits), rows);
  // Stored whole: a compressing store is slow.
  _mm512_storeu_si512(end, _mm512_maskz_compress_epi64(hits, found));
  return __builtin_popcount(hits);
}

// Scores of 64 rows: those in even bytes of the planes, and those in odd ones.
struct BlockScores {
  __m512i even;
  __m512i odd;
};

// Rows that reach the threshold, in the order of the planes; 0 if none do.
LINTF_SIMD uint64_t Reaches(const BlockScores& scores, __m512i threshold) {
  return _mm512_cmpge_epu16_mask(scores.even, threshold) |
         static_cast<uint64_t>(_mm512_cmpge_epu16_mask(scores.odd, threshold))
             << 32;
}

LINTF_SIMD_ENTRY __attribute__((noinline)) void AppendBlock(
    const CodeScan& scan, const CodeBlock& block, const BlockScores& scores) {
  // Byte p of the planes is row 8 * (p % 8) + p / 8: element i of the even
  // bytes is row 16 * (i % 4) + i / 4, of the odd ones 8 more. Brought into
  // order, the even ones are octets of rows 0, 2, 4, 6.
  alignas(64) static constexpr uint16_t kOrder[32] = {
      0, 4, 8,  12, 16, 20, 24, 28, 1, 5, 9,  13, 17, 21, 25, 29,
      2, 6, 10, 14, 18, 22, 26, 30, 3, 7, 11, 15, 19, 23, 27, 31};
  const __m512i order = _mm512_load_si512(kOrder);
  const __m512i threshold =
      _mm512_set1_epi16(static_cast<int16_t>(scan.hits->threshold()));
  const __m512i even = _mm512_permutexvar_epi16(order, scores.even);
  const __m512i odd = _mm512_permutexvar_epi16(order, scores.odd);
  const __m128i octets = _mm_unpacklo_epi8(
      _mm_cvtsi32_si128(
          static_cast<int>(_mm512_cmpge_epu16_mask(even, threshold))),
      _mm_cvtsi32_si128(
          static_cast<int>(_mm512_cmpge_epu16_mask(odd, threshold))));
  uint64_t hits = static_cast<uint64_t>(_mm_cvtsi128_si64(octets)) & block.mask;
  if (hits == 0) return;
  alignas(64) uint16_t in_order[2][32];
  _mm512_store_si512(in_order[0], even);
  _mm512_store_si512(in_order[1], odd);
  uint64_t* end = scan.hits->end();
  int64_t count = 0;
  while (hits != 0) {
    const int octet = __builtin_ctzll(hits) / 8;
    const __mmask8 some = static_cast<__mmask8>(hits >> (8 * octet));
    hits &= ~(uint64_t{0xFF} << (8 * octet));
    const __m128i eight = _mm_load_si128(
        reinterpret_cast<const __m128i*>(in_order[octet % 2] + octet / 2 * 8));
    count += AppendEight(some, _mm512_cvtepu16_epi64(eight),
                         block.first_row + 8 * octet, end + count);
  }
  if (scan.hits->Commit(count)) scan.hits->Shrink(scan.histogram);
}

// Look-ups are summed in bytes for kRun nibbles, then in 16 bits. Scores
// kBlocks blocks at once, so that they share the loads of the tables and hide
// each other's latencies.
template <int kRun, int kBlocks>
LINTF_SIMD void ScanGroup(const CodeScan& scan, const CodeBlock* blocks) {
  const int64_t nibbles = scan.words * kNibblesOfWord;
  const uint8_t* table = scan.query->table.data();
  const uint8_t* planes[kBlocks];
  // Sums of bytes pairs as they are, 2^8 * odd + even, and of odd bytes alone.
  __m512i both[kBlocks];
  __m512i odd[kBlocks];
#pragma GCC unroll 4
  for (int i = 0; i < kBlocks; ++i) {
    planes[i] = static_cast<const uint8_t*>(blocks[i].data);
    both[i] = _mm512_setzero_si512();
    odd[i] = _mm512_setzero_si512();
  }
  for (int64_t n = 0; n < nibbles; n += kRun) {
    __m512i sums[kBlocks];
#pragma GCC unroll 16
    for (int k = 0; k < kRun; ++k) {
      const __m512i values = _mm512_broadcast_i32x4(_mm_loadu_si128(
          reinterpret_cast<const __m128i*>(table + (n + k) * 16)));
#pragma GCC unroll 4
      for (int i = 0; i < kBlocks; ++i) {
        const __m512i found = _mm512_shuffle_epi8(
            values, _mm512_load_si512(planes[i] + (n + k) * kRowsPerWord));
        sums[i] = k == 0 ? found : _mm512_add_epi8(sums[i], found);
      }
    }
#pragma GCC unroll 4
    for (int i = 0; i < kBlocks; ++i) {
      both[i] = _mm512_add_epi16(both[i], sums[i]);
      odd[i] = _mm512_add_epi16(odd[i], _mm512_srli_epi16(sums[i], 8));
    }
  }
#pragma GCC unroll 4
  for (int i = 0; i < kBlocks; ++i) {
    const BlockScores scores = {
        _mm512_sub_epi16(both[i], _mm512_slli_epi16(odd[i], 8)), odd[i]};
    const __m512i threshold =
        _mm512_set1_epi16(static_cast<int16_t>(scan.hits->threshold()));
    if (__builtin_expect(Reaches(scores, threshold) != 0, 0)) {
      AppendBlock(scan, blocks[i], scores);
    }
  }
}

template <int kRun>
LINTF_SIMD_ENTRY void ScanBlocks(const CodeScan& scan) {
  constexpr int kBlocks = 4;
  int64_t i = 0;
  for (; i + kBlocks <= scan.num_blocks; i += kBlocks) {
    ScanGroup<kRun, kBlocks>(scan, scan.blocks + i);
  }
  for (; i < scan.num_blocks; ++i) {
    ScanGroup<kRun, 1>(scan, scan.blocks + i);
  }
}

LINTF_SIMD_ENTRY void Scan(const CodeScan& scan) {
  if (scan.scoring == CodeScoring::kSymmetric) {
    ScanBlocks<16>(scan);
  } else {
    ScanBlocks<4>(scan);
  }
}

LINTF_SIMD_ENTRY __attribute__((noinline)) void AppendCounts(
    const CodeScan& scan, const CodeBlock& block, uint64_t hits,
    const __m512i* counts) {
  uint64_t* end = scan.hits->end();
  int64_t count = 0;
  while (hits != 0) {
    const int octet = __builtin_ctzll(hits) / 8;
    count +=
        AppendEight(static_cast<__mmask8>(hits >> (8 * octet)), counts[octet],
                    block.first_row + 8 * octet, end + count);
    hits &= ~(uint64_t{0xFF} << (8 * octet));
  }
  if (scan.hits->Commit(count)) scan.hits->Shrink(scan.histogram);
}

// Adds to `sums` the matched bits of each byte of a word of 64 rows.
LINTF_SIMD void CountWord(uint64_t query, const uint64_t* codes,
                          int64_t ahead_bytes, __m512i* sums) {
  const __m512i bits_of_nibble = _mm512_broadcast_i32x4(
      _mm_setr_epi8(0, 1, 1, 2, 1, 2, 2, 3, 1, 2, 2, 3, 2, 3, 3, 4));
  const __m512i nibble = _mm512_set1_epi8(15);
  const __m512i complement = _mm512_set1_epi64(static_cast<int64_t>(~query));
#pragma GCC unroll 8
  for (int octet = 0; octet < 8; ++octet) {
    FetchAhead(codes + 8 * octet, ahead_bytes);
    const __m512i matched =
        _mm512_xor_si512(complement, _mm512_loadu_si512(codes + 8 * octet));
    const __m512i low =
        _mm512_shuffle_epi8(bits_of_nibble, _mm512_and_si512(matched, nibble));
    const __m512i high = _mm512_shuffle_epi8(
        bits_of_nibble,
        _mm512_and_si512(_mm512_srli_epi16(matched, 4), nibble));
    sums[octet] = _mm512_add_epi8(sums[octet], _mm512_add_epi8(low, high));
  }
}

LINTF_SIMD_ENTRY void ScanCodes(const CodeScan& scan) {
  // A byte counts at most 8 bits of a word: 31 words fit.
  constexpr int64_t kRun = 31;
  const uint64_t* query = scan.query->code.data();
  for (int64_t b = 0; b < scan.num_blocks; ++b) {
    const CodeBlock& block = scan.blocks[b];
    const uint64_t* codes = static_cast<const uint64_t*>(block.data);
    __m512i counts[8];
#pragma GCC unroll 8
    for (int octet = 0; octet < 8; ++octet) {
      counts[octet] = _mm512_setzero_si512();
    }
    for (int64_t begin = 0; begin < scan.words; begin += kRun) {
      const int64_t end = begin + kRun < scan.words ? begin + kRun : scan.words;
      __m512i sums[8];
#pragma GCC unroll 8
      for (int octet = 0; octet < 8; ++octet) {
        sums[octet] = _mm512_setzero_si512();
      }
      for (int64_t w = begin; w < end; ++w) {
        CountWord(query[w], codes + w * kRowsPerWord, scan.ahead_bytes, sums);
      }
#pragma GCC unroll 8
      for (int octet = 0; octet < 8; ++octet) {
        counts[octet] = _mm512_add_epi64(
            counts[octet],
            _mm512_sad_epu8(sums[octet], _mm512_setzero_si512()));
      }
    }
    const __m512i threshold =
        _mm512_set1_epi64(static_cast<int64_t>(scan.hits->threshold()));
    uint64_t hits = 0;
#pragma GCC unroll 8
    for (int octet = 0; octet < 8; ++octet) {
      hits |= static_cast<uint64_t>(
                  _mm512_cmpge_epu64_mask(counts[octet], threshold))
              << (8 * octet);
    }
    hits &= block.mask;
    if (__builtin_expect(hits != 0, 0)) {
      __m512i stored[8];
#pragma GCC unroll 8
      for (int octet = 0; octet < 8; ++octet) stored[octet] = counts[octet];
      AppendCounts(scan, block, hits, stored);
    }
  }
}

}  // namespace

const CodeKernels* Avx512CodeKernels() {
  static const bool supported =
      __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
      __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
  static constexpr CodeKernels kKernels = {Split, Scan, ScanCodes};
  return supported ? &kKernels : nullptr;
}

}  // namespace lintf

#else

namespace lintf {

const CodeKernels* Avx512CodeKernels() { return nullptr; }

}  // namespace lintf

#endif
