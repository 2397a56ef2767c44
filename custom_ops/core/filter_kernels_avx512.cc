// SPDX-License-Identifier: Apache-2.0
// Leaves with AVX-512: a compare writes the mask bits directly.
#include "custom_ops/core/filter_kernels.h"

#if defined(__x86_64__)

// Compilers before GCC 13 warn about the "undefined" operands that their own
// header hands to builtins.
#if !defined(__clang__)
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wuninitialized"
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#endif
#include <immintrin.h>
#if !defined(__clang__)
#pragma GCC diagnostic pop
#endif

// For all that follows; the rest of the library runs on any x86-64.
#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx512f,avx512bw"))), \
                             apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx512f,avx512bw")
#endif

namespace lintf {
namespace {

// Vectors of 64 / kBytes values; a mask has a bit for each.
template <int kBytes>
struct Lanes;

template <>
struct Lanes<1> {
  static __m512i Set(uint64_t v) {
    return _mm512_set1_epi8(static_cast<char>(v));
  }
  static __m512i Sub(__m512i a, __m512i b) { return _mm512_sub_epi8(a, b); }
  static uint64_t LessEqual(__m512i a, __m512i b) {
    return _mm512_cmple_epu8_mask(a, b);
  }
  static uint64_t Equal(__m512i a, __m512i b) {
    return _mm512_cmpeq_epi8_mask(a, b);
  }
  static uint64_t TestAny(__m512i a, __m512i b) {
    return _mm512_test_epi8_mask(a, b);
  }
};

template <>
struct Lanes<2> {
  static __m512i Set(uint64_t v) {
    return _mm512_set1_epi16(static_cast<int16_t>(v));
  }
  static __m512i Sub(__m512i a, __m512i b) { return _mm512_sub_epi16(a, b); }
  static uint64_t LessEqual(__m512i a, __m512i b) {
    return _mm512_cmple_epu16_mask(a, b);
  }
  static uint64_t Equal(__m512i a, __m512i b) {
    return _mm512_cmpeq_epi16_mask(a, b);
  }
  static uint64_t TestAny(__m512i a, __m512i b) {
    return _mm512_test_epi16_mask(a, b);
  }
};

template <>
struct Lanes<4> {
  static __m512i Set(uint64_t v) {
    return _mm512_set1_epi32(static_cast<int32_t>(v));
  }
  static __m512i Sub(__m512i a, __m512i b) { return _mm512_sub_epi32(a, b); }
  static uint64_t LessEqual(__m512i a, __m512i b) {
    return _mm512_cmple_epu32_mask(a, b);
  }
  static uint64_t Equal(__m512i a, __m512i b) {
    return _mm512_cmpeq_epi32_mask(a, b);
  }
  static uint64_t TestAny(__m512i a, __m512i b) {
    return _mm512_test_epi32_mask(a, b);
  }
};

template <>
struct Lanes<8> {
  static __m512i Set(uint64_t v) {
    return _mm512_set1_epi64(static_cast<int64_t>(v));
  }
  static __m512i Sub(__m512i a, __m512i b) { return _mm512_sub_epi64(a, b); }
  static uint64_t LessEqual(__m512i a, __m512i b) {
    return _mm512_cmple_epu64_mask(a, b);
  }
  static uint64_t Equal(__m512i a, __m512i b) {
    return _mm512_cmpeq_epi64_mask(a, b);
  }
  static uint64_t TestAny(__m512i a, __m512i b) {
    return _mm512_test_epi64_mask(a, b);
  }
};

template <int kBytes>
struct RangeTest {
  explicit RangeTest(const FilterLeaf& leaf)
      : lo(Lanes<kBytes>::Set(leaf.lo)), span(Lanes<kBytes>::Set(leaf.span)) {}
  uint64_t operator()(__m512i values) const {
    return Lanes<kBytes>::LessEqual(Lanes<kBytes>::Sub(values, lo), span);
  }
  __m512i lo, span;
};

struct FloatRangeTest : RangeTest<4> {
  using RangeTest<4>::RangeTest;
  uint64_t operator()(__m512i values) const {
    // FloatKey
    const __m512i flip = _mm512_and_si512(_mm512_srai_epi32(values, 31),
                                          _mm512_set1_epi32(0x7FFFFFFF));
    return RangeTest::operator()(_mm512_xor_si512(values, flip));
  }
};

template <int kBytes>
struct SmallSetTest {
  explicit SmallSetTest(const FilterLeaf& leaf) : wanted(leaf.values) {}
  uint64_t operator()(__m512i values) const {
    uint64_t found = 0;
    for (const int64_t value : wanted) {
      found |= Lanes<kBytes>::Equal(
          values, Lanes<kBytes>::Set(static_cast<uint64_t>(value)));
    }
    return found;
  }
  const std::vector<int64_t>& wanted;
};

// Looks bytes up in a NibbleTable.
struct Table8Test {
  explicit Table8Test(const FilterLeaf& leaf) {
    low_half = Spread(leaf.nibbles.data());
    high_half = Spread(leaf.nibbles.data() + 16);
    alignas(16) const uint8_t kPowers[16] = {1, 2, 4, 8, 16, 32, 64, 128,
                                             1, 2, 4, 8, 16, 32, 64, 128};
    powers = Spread(kPowers);
  }
  uint64_t operator()(__m512i values) const {
    const __m512i nibble = _mm512_set1_epi8(15);
    const __m512i low = _mm512_and_si512(values, nibble);
    const __m512i high = _mm512_and_si512(_mm512_srli_epi16(values, 4), nibble);
    const __m512i column =
        _mm512_mask_shuffle_epi8(_mm512_shuffle_epi8(low_half, low),
                                 _mm512_movepi8_mask(values), high_half, low);
    return _mm512_test_epi8_mask(column, _mm512_shuffle_epi8(powers, high));
  }
  // 16 bytes, repeated.
  static __m512i Spread(const uint8_t* bytes) {
    return _mm512_broadcast_i32x4(
        _mm_loadu_si128(reinterpret_cast<const __m128i*>(bytes)));
  }
  __m512i low_half, high_half, powers;
};

template <int kBytes>
struct BitsAnyTest {
  explicit BitsAnyTest(const FilterLeaf& leaf)
      : bits(Lanes<kBytes>::Set(leaf.lo)) {}
  uint64_t operator()(__m512i values) const {
    return Lanes<kBytes>::TestAny(values, bits);
  }
  __m512i bits;
};

template <int kBytes>
struct BitsAllTest {
  explicit BitsAllTest(const FilterLeaf& leaf)
      : bits(Lanes<kBytes>::Set(leaf.lo)) {}
  uint64_t operator()(__m512i values) const {
    return Lanes<kBytes>::Equal(_mm512_and_si512(values, bits), bits);
  }
  __m512i bits;
};

// Looks 16 values at a time up in a table of 65536 bits.
void RunTable16(const FilterLeaf& leaf, const void* data, int64_t num_words,
                const uint64_t* need, uint64_t* out) {
  const char* bytes = static_cast<const char*>(data);
  const __m512i one = _mm512_set1_epi32(1);
  for (int64_t w = 0; w < num_words; ++w, bytes += 64 * 2) {
    uint64_t bits = 0;
    for (int i = 0; i < 4 && (need == nullptr || need[w] != 0); ++i) {
      const __m512i values = _mm512_cvtepu16_epi32(
          _mm256_loadu_si256(reinterpret_cast<const __m256i*>(bytes + 32 * i)));
      const __m512i words = _mm512_i32gather_epi32(_mm512_srli_epi32(values, 5),
                                                   leaf.values.data(), 4);
      const __m512i place = _mm512_sllv_epi32(
          one, _mm512_and_si512(values, _mm512_set1_epi32(31)));
      bits |= static_cast<uint64_t>(_mm512_test_epi32_mask(words, place))
              << (16 * i);
    }
    out[w] = bits;
  }
}

template <int kBytes, typename Test>
void Run(const FilterLeaf& leaf, const void* data, int64_t num_words,
         const uint64_t* need, uint64_t* out) {
  const Test test(leaf);
  const char* bytes = static_cast<const char*>(data);
  for (int64_t w = 0; w < num_words; ++w, bytes += 64 * kBytes) {
    uint64_t bits = 0;
    if (need == nullptr || need[w] != 0) {
      for (int i = 0; i < kBytes; ++i) {
        bits |= test(_mm512_loadu_si512(bytes + 64 * i)) << (64 / kBytes * i);
      }
    }
    out[w] = bits;
  }
}

template <int kBytes>
FilterKernel KernelOfWidth(FilterLeafKind kind) {
  switch (kind) {
    case FilterLeafKind::kRange:
      return Run<kBytes, RangeTest<kBytes>>;
    case FilterLeafKind::kFloatRange:
      return Run<4, FloatRangeTest>;
    case FilterLeafKind::kSmallSet:
      return Run<kBytes, SmallSetTest<kBytes>>;
    case FilterLeafKind::kTable8:
      return Run<1, Table8Test>;
    case FilterLeafKind::kBitsAny:
      return Run<kBytes, BitsAnyTest<kBytes>>;
    case FilterLeafKind::kBitsAll:
      return Run<kBytes, BitsAllTest<kBytes>>;
    case FilterLeafKind::kTable16:
      return RunTable16;
    case FilterLeafKind::kBigSet:
      return nullptr;
  }
  return nullptr;
}

}  // namespace

FilterKernel Avx512FilterKernel(const FilterLeaf& leaf) {
  switch (leaf.value_bytes) {
    case 1:
      return KernelOfWidth<1>(leaf.kind);
    case 2:
      return KernelOfWidth<2>(leaf.kind);
    case 4:
      return KernelOfWidth<4>(leaf.kind);
    default:
      return KernelOfWidth<8>(leaf.kind);
  }
}

}  // namespace lintf

#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif

#else

namespace lintf {
FilterKernel Avx512FilterKernel(const FilterLeaf&) { return nullptr; }
}  // namespace lintf

#endif  // defined(__x86_64__)
