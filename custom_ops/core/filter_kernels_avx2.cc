// SPDX-License-Identifier: Apache-2.0
// Leaves with AVX2: a compare gives lanes of ones, which are then collected
// into bits.
#include "custom_ops/core/filter_kernels.h"

#if defined(__x86_64__)

#include <immintrin.h>

// For all that follows; the rest of the library runs on any x86-64.
#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx2"))), \
                             apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx2")
#endif

namespace lintf {
namespace {

// Vectors of 32 / kBytes values. Collect packs the results of the 2 * kBytes
// vectors that hold 64 values.
template <int kBytes>
struct Lanes;

template <>
struct Lanes<1> {
  static __m256i Set(uint64_t v) {
    return _mm256_set1_epi8(static_cast<char>(v));
  }
  static __m256i Sub(__m256i a, __m256i b) { return _mm256_sub_epi8(a, b); }
  static __m256i Equal(__m256i a, __m256i b) { return _mm256_cmpeq_epi8(a, b); }
  static __m256i LessEqual(__m256i a, __m256i b) {
    return Equal(_mm256_min_epu8(a, b), a);
  }
  static uint64_t Bits(__m256i ones) {
    return static_cast<uint32_t>(_mm256_movemask_epi8(ones));
  }
  static uint64_t Collect(const __m256i* ones) {
    return Bits(ones[0]) | (Bits(ones[1]) << 32);
  }
};

template <>
struct Lanes<2> {
  static __m256i Set(uint64_t v) {
    return _mm256_set1_epi16(static_cast<int16_t>(v));
  }
  static __m256i Sub(__m256i a, __m256i b) { return _mm256_sub_epi16(a, b); }
  static __m256i Equal(__m256i a, __m256i b) {
    return _mm256_cmpeq_epi16(a, b);
  }
  static __m256i LessEqual(__m256i a, __m256i b) {
    return Equal(_mm256_min_epu16(a, b), a);
  }
  // Packing works within halves of 128 bits; the permutation undoes that.
  static __m256i Pack(__m256i a, __m256i b) {
    return _mm256_permute4x64_epi64(_mm256_packs_epi16(a, b), 0xD8);
  }
  static uint64_t Collect(const __m256i* ones) {
    const __m256i bytes[2] = {Pack(ones[0], ones[1]), Pack(ones[2], ones[3])};
    return Lanes<1>::Collect(bytes);
  }
};

template <>
struct Lanes<4> {
  static __m256i Set(uint64_t v) {
    return _mm256_set1_epi32(static_cast<int32_t>(v));
  }
  static __m256i Sub(__m256i a, __m256i b) { return _mm256_sub_epi32(a, b); }
  static __m256i Equal(__m256i a, __m256i b) {
    return _mm256_cmpeq_epi32(a, b);
  }
  static __m256i LessEqual(__m256i a, __m256i b) {
    return Equal(_mm256_min_epu32(a, b), a);
  }
  static uint64_t Collect(const __m256i* ones) {
    uint64_t bits = 0;
    for (int i = 0; i < 8; ++i) {
      const int eight = _mm256_movemask_ps(_mm256_castsi256_ps(ones[i]));
      bits |= static_cast<uint64_t>(eight) << (8 * i);
    }
    return bits;
  }
};

template <>
struct Lanes<8> {
  static __m256i Set(uint64_t v) {
    return _mm256_set1_epi64x(static_cast<int64_t>(v));
  }
  static __m256i Sub(__m256i a, __m256i b) { return _mm256_sub_epi64(a, b); }
  static __m256i Equal(__m256i a, __m256i b) {
    return _mm256_cmpeq_epi64(a, b);
  }
  static __m256i LessEqual(__m256i a, __m256i b) {
    // There is only a signed compare: move the range.
    const __m256i top = Set(uint64_t{1} << 63);
    const __m256i greater =
        _mm256_cmpgt_epi64(_mm256_xor_si256(a, top), _mm256_xor_si256(b, top));
    return _mm256_xor_si256(greater, _mm256_set1_epi8(-1));
  }
  static uint64_t Collect(const __m256i* ones) {
    uint64_t bits = 0;
    for (int i = 0; i < 16; ++i) {
      const int four = _mm256_movemask_pd(_mm256_castsi256_pd(ones[i]));
      bits |= static_cast<uint64_t>(four) << (4 * i);
    }
    return bits;
  }
};

template <int kBytes>
struct RangeTest {
  explicit RangeTest(const FilterLeaf& leaf)
      : lo(Lanes<kBytes>::Set(leaf.lo)), span(Lanes<kBytes>::Set(leaf.span)) {}
  __m256i operator()(__m256i values) const {
    return Lanes<kBytes>::LessEqual(Lanes<kBytes>::Sub(values, lo), span);
  }
  __m256i lo, span;
};

struct FloatRangeTest : RangeTest<4> {
  using RangeTest<4>::RangeTest;
  __m256i operator()(__m256i values) const {
    // FloatKey
    const __m256i flip = _mm256_and_si256(_mm256_srai_epi32(values, 31),
                                          _mm256_set1_epi32(0x7FFFFFFF));
    return RangeTest::operator()(_mm256_xor_si256(values, flip));
  }
};

template <int kBytes>
struct SmallSetTest {
  explicit SmallSetTest(const FilterLeaf& leaf) : wanted(leaf.values) {}
  __m256i operator()(__m256i values) const {
    __m256i found = _mm256_setzero_si256();
    for (const int64_t value : wanted) {
      const __m256i same = Lanes<kBytes>::Equal(
          values, Lanes<kBytes>::Set(static_cast<uint64_t>(value)));
      found = _mm256_or_si256(found, same);
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
  __m256i operator()(__m256i values) const {
    const __m256i nibble = _mm256_set1_epi8(15);
    const __m256i low = _mm256_and_si256(values, nibble);
    const __m256i high = _mm256_and_si256(_mm256_srli_epi16(values, 4), nibble);
    // The blend looks at the top bit of each byte alone.
    const __m256i column =
        _mm256_blendv_epi8(_mm256_shuffle_epi8(low_half, low),
                           _mm256_shuffle_epi8(high_half, low), values);
    const __m256i power = _mm256_shuffle_epi8(powers, high);
    return _mm256_cmpeq_epi8(_mm256_and_si256(column, power), power);
  }
  // 16 bytes, repeated.
  static __m256i Spread(const uint8_t* bytes) {
    return _mm256_broadcastsi128_si256(
        _mm_loadu_si128(reinterpret_cast<const __m128i*>(bytes)));
  }
  __m256i low_half, high_half, powers;
};

template <int kBytes>
struct BitsAnyTest {
  explicit BitsAnyTest(const FilterLeaf& leaf)
      : bits(Lanes<kBytes>::Set(leaf.lo)) {}
  __m256i operator()(__m256i values) const {
    const __m256i none = Lanes<kBytes>::Equal(_mm256_and_si256(values, bits),
                                              _mm256_setzero_si256());
    return _mm256_xor_si256(none, _mm256_set1_epi8(-1));
  }
  __m256i bits;
};

template <int kBytes>
struct BitsAllTest {
  explicit BitsAllTest(const FilterLeaf& leaf)
      : bits(Lanes<kBytes>::Set(leaf.lo)) {}
  __m256i operator()(__m256i values) const {
    return Lanes<kBytes>::Equal(_mm256_and_si256(values, bits), bits);
  }
  __m256i bits;
};

// Looks 8 values at a time up in a table of 65536 bits.
void RunTable16(const FilterLeaf& leaf, const void* data, int64_t num_words,
                const uint64_t* need, uint64_t* out) {
  const char* bytes = static_cast<const char*>(data);
  const int* table = reinterpret_cast<const int*>(leaf.values.data());
  for (int64_t w = 0; w < num_words; ++w, bytes += 64 * 2) {
    uint64_t bits = 0;
    for (int i = 0; i < 8 && (need == nullptr || need[w] != 0); ++i) {
      const __m256i values = _mm256_cvtepu16_epi32(
          _mm_loadu_si128(reinterpret_cast<const __m128i*>(bytes + 16 * i)));
      const __m256i words =
          _mm256_i32gather_epi32(table, _mm256_srli_epi32(values, 5), 4);
      // Moves the value's bit to the top, where movemask looks.
      const __m256i shift = _mm256_andnot_si256(values, _mm256_set1_epi32(31));
      const int eight = _mm256_movemask_ps(
          _mm256_castsi256_ps(_mm256_sllv_epi32(words, shift)));
      bits |= static_cast<uint64_t>(eight) << (8 * i);
    }
    out[w] = bits;
  }
}

template <int kBytes, typename Test>
void Run(const FilterLeaf& leaf, const void* data, int64_t num_words,
         const uint64_t* need, uint64_t* out) {
  constexpr int kVectors = 2 * kBytes;
  const Test test(leaf);
  const char* bytes = static_cast<const char*>(data);
  for (int64_t w = 0; w < num_words; ++w, bytes += 64 * kBytes) {
    if (need != nullptr && need[w] == 0) {
      out[w] = 0;
      continue;
    }
    __m256i ones[kVectors];
    for (int i = 0; i < kVectors; ++i) {
      ones[i] = test(
          _mm256_loadu_si256(reinterpret_cast<const __m256i*>(bytes + 32 * i)));
    }
    out[w] = Lanes<kBytes>::Collect(ones);
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

FilterKernel Avx2FilterKernel(const FilterLeaf& leaf) {
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
FilterKernel Avx2FilterKernel(const FilterLeaf&) { return nullptr; }
}  // namespace lintf

#endif  // defined(__x86_64__)
