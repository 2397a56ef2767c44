// SPDX-License-Identifier: Apache-2.0
// The plain C++ kernels, and the choice between instruction sets.
#include "custom_ops/core/filter_kernels.h"

#include <algorithm>
#include <cstring>

#include "custom_ops/core/filter_literals.h"

namespace lintf {
namespace {

// 64 bytes that are 0 or 1 -> 64 bits.
uint64_t PackBytes(const uint8_t* bytes) {
  uint64_t bits = 0;
  for (int i = 0; i < 8; ++i) {
    uint64_t eight;
    std::memcpy(&eight, bytes + 8 * i, sizeof(eight));
    // Moves bit 8 * j to bit 56 + j; no two products meet.
    bits |= ((eight * 0x0102040810204080u) >> 56) << (8 * i);
  }
  return bits;
}

template <typename T>
struct RangeTest {
  explicit RangeTest(const FilterLeaf& leaf)
      : lo(static_cast<T>(leaf.lo)), span(static_cast<T>(leaf.span)) {}
  bool operator()(T value) const { return static_cast<T>(value - lo) <= span; }
  T lo, span;
};

struct FloatRangeTest : RangeTest<uint32_t> {
  using RangeTest<uint32_t>::RangeTest;
  bool operator()(uint32_t value) const {
    return RangeTest::operator()(static_cast<uint32_t>(FloatKey(value)));
  }
};

template <typename T>
struct SmallSetTest {
  explicit SmallSetTest(const FilterLeaf& leaf) : values(leaf.values) {}
  bool operator()(T value) const {
    bool found = false;
    for (const int64_t wanted : values) found |= value == T(wanted);
    return found;
  }
  const std::vector<int64_t>& values;
};

// kTable8 and kTable16.
template <typename T>
struct TableTest {
  explicit TableTest(const FilterLeaf& leaf) : table(leaf.values.data()) {}
  bool operator()(T value) const {
    return (static_cast<uint64_t>(table[value / 64]) >> (value % 64)) & 1;
  }
  const int64_t* table;
};

template <typename T>
struct BigSetTest {
  explicit BigSetTest(const FilterLeaf& leaf) : leaf(leaf) {}
  bool operator()(T value) const {
    const uint64_t hash = SieveHash(value, leaf.sieve_shift);
    if (((leaf.sieve[hash / 64] >> (hash % 64)) & 1) == 0) return false;
    // uint32 values are themselves, int64 values are signed.
    return std::binary_search(leaf.values.begin(), leaf.values.end(),
                              static_cast<int64_t>(value));
  }
  const FilterLeaf& leaf;
};

template <typename T>
struct BitsAnyTest {
  explicit BitsAnyTest(const FilterLeaf& leaf)
      : bits(static_cast<T>(leaf.lo)) {}
  bool operator()(T value) const { return (value & bits) != 0; }
  T bits;
};

template <typename T>
struct BitsAllTest {
  explicit BitsAllTest(const FilterLeaf& leaf)
      : bits(static_cast<T>(leaf.lo)) {}
  bool operator()(T value) const { return (value & bits) == bits; }
  T bits;
};

template <typename T, typename Test>
void Run(const FilterLeaf& leaf, const void* data, int64_t num_words,
         const uint64_t* need, uint64_t* out) {
  const Test test(leaf);
  const char* bytes = static_cast<const char*>(data);
  for (int64_t w = 0; w < num_words; ++w, bytes += 64 * sizeof(T)) {
    if (need != nullptr && need[w] == 0) {
      out[w] = 0;
      continue;
    }
    T values[64];
    std::memcpy(values, bytes, sizeof(values));
    uint8_t matches[64];
    for (int i = 0; i < 64; ++i) matches[i] = test(values[i]) ? 1 : 0;
    out[w] = PackBytes(matches);
  }
}

// A sieve test each, but only for the rows that are needed.
template <typename T>
void RunBigSet(const FilterLeaf& leaf, const void* data, int64_t num_words,
               const uint64_t* need, uint64_t* out) {
  constexpr int kFew = 16;
  const BigSetTest<T> test(leaf);
  const char* bytes = static_cast<const char*>(data);
  for (int64_t w = 0; w < num_words; ++w, bytes += 64 * sizeof(T)) {
    uint64_t rows = need == nullptr ? ~uint64_t{0} : need[w];
    if (__builtin_popcountll(rows) > kFew) {
      Run<T, BigSetTest<T>>(leaf, bytes, 1, nullptr, out + w);
      continue;
    }
    out[w] = 0;
    for (; rows != 0; rows &= rows - 1) {
      const int i = __builtin_ctzll(rows);
      T value;
      std::memcpy(&value, bytes + i * sizeof(T), sizeof(value));
      out[w] |= static_cast<uint64_t>(test(value)) << i;
    }
  }
}

template <typename T>
FilterKernel KernelOfWidth(FilterLeafKind kind) {
  switch (kind) {
    case FilterLeafKind::kRange:
      return Run<T, RangeTest<T>>;
    case FilterLeafKind::kFloatRange:
      return Run<uint32_t, FloatRangeTest>;
    case FilterLeafKind::kSmallSet:
      return Run<T, SmallSetTest<T>>;
    case FilterLeafKind::kTable8:
      return Run<uint8_t, TableTest<uint8_t>>;
    case FilterLeafKind::kTable16:
      return Run<uint16_t, TableTest<uint16_t>>;
    case FilterLeafKind::kBigSet:
      return RunBigSet<T>;
    case FilterLeafKind::kBitsAny:
      return Run<T, BitsAnyTest<T>>;
    case FilterLeafKind::kBitsAll:
      return Run<T, BitsAllTest<T>>;
  }
  return nullptr;
}

}  // namespace

FilterKernel PlainFilterKernel(const FilterLeaf& leaf) {
  switch (leaf.value_bytes) {
    case 1:
      return KernelOfWidth<uint8_t>(leaf.kind);
    case 2:
      return KernelOfWidth<uint16_t>(leaf.kind);
    case 4:
      return KernelOfWidth<uint32_t>(leaf.kind);
    default:
      return KernelOfWidth<uint64_t>(leaf.kind);
  }
}

std::array<uint8_t, 32> NibbleTable(const std::vector<int64_t>& table) {
  std::array<uint8_t, 32> nibbles{};
  for (int value = 0; value < 256; ++value) {
    const uint64_t word = static_cast<uint64_t>(table[value / 64]);
    const int bit = (word >> (value % 64)) & 1;
    nibbles[(value >> 7) * 16 + (value & 15)] |=
        static_cast<uint8_t>(bit << ((value >> 4) & 7));
  }
  return nibbles;
}

FilterIsa BestFilterIsa() {
#if defined(__x86_64__)
  static const FilterIsa best = [] {
    if (__builtin_cpu_supports("avx512f") &&
        __builtin_cpu_supports("avx512bw")) {
      return FilterIsa::kAvx512;
    }
    return __builtin_cpu_supports("avx2") ? FilterIsa::kAvx2
                                          : FilterIsa::kPlain;
  }();
  return best;
#else
  return FilterIsa::kPlain;
#endif
}

FilterKernel ChooseFilterKernel(const FilterLeaf& leaf, FilterIsa isa) {
  FilterKernel kernel = nullptr;
  if (isa >= FilterIsa::kAvx512) kernel = Avx512FilterKernel(leaf);
  if (kernel == nullptr && isa >= FilterIsa::kAvx2) {
    kernel = Avx2FilterKernel(leaf);
  }
  return kernel != nullptr ? kernel : PlainFilterKernel(leaf);
}

}  // namespace lintf
