// SPDX-License-Identifier: Apache-2.0
// Vectorised leaves of a filter: values of a column in, bits out.
#ifndef LINTF_CUSTOM_OPS_CORE_FILTER_KERNELS_H_
#define LINTF_CUSTOM_OPS_CORE_FILTER_KERNELS_H_

#include <array>
#include <cstdint>
#include <vector>

namespace lintf {

// Signed and unsigned columns share kernels: a value is the unsigned integer
// with its bits, and lo <= value <= hi is (value - lo) <= hi - lo in unsigned
// arithmetic of the value's width, whatever the sign.
enum class FilterLeafKind : uint8_t {
  kRange,       // lo, span
  kFloatRange,  // the same on FloatKey(value)
  kSmallSet,    // values: compared one by one
  kTable8,      // values: 4 words, a bit for each uint8
  kTable16,     // values: 1024 words, a bit for each uint16
  kBigSet,      // values: ascending (as signed); sieve, sieve_shift
  kBitsAny,     // lo: the bits
  kBitsAll,     // lo: the bits
};

struct FilterLeaf {
  FilterLeafKind kind = FilterLeafKind::kRange;
  int64_t value_bytes = 8;  // 1, 2, 4 or 8
  uint64_t lo = 0;
  uint64_t span = 0;
  std::vector<int64_t> values;
  // kTable8, the same bits in the order of byte shuffles (NibbleTable).
  std::array<uint8_t, 32> nibbles{};
  // kBigSet: a bit for each hash of a value, so that almost all other values
  // are turned away before the binary search.
  std::vector<uint64_t> sieve;
  int sieve_shift = 0;
};

// Where a value falls in the sieve.
inline uint64_t SieveHash(uint64_t value, int shift) {
  return (value * 0x9E3779B97F4A7C15u) >> shift;
}

// A table of 256 bits for lookups by shuffles: bit h of byte l says whether
// the value 16 * h + l is in, and bit h of byte 16 + l the same for the value
// 128 + 16 * h + l.
std::array<uint8_t, 32> NibbleTable(const std::vector<int64_t>& table);

// Which instructions a kernel uses; each needs those before it.
enum class FilterIsa : uint8_t { kPlain, kAvx2, kAvx512 };
FilterIsa BestFilterIsa();

// Tests 64 * num_words consecutive values: bit i of out[w] is value
// 64 * w + i. Words w for which `need` (if not null) is 0 may be skipped;
// their out[w] is 0 then. `data` may be unaligned.
using FilterKernel = void (*)(const FilterLeaf& leaf, const void* data,
                              int64_t num_words, const uint64_t* need,
                              uint64_t* out);

// The kernel of a leaf, never null. `isa` must be at most BestFilterIsa().
FilterKernel ChooseFilterKernel(const FilterLeaf& leaf, FilterIsa isa);

// Parts of ChooseFilterKernel, one a source file; null if this instruction set
// has no kernel of its own for the leaf.
FilterKernel PlainFilterKernel(const FilterLeaf& leaf);
FilterKernel Avx2FilterKernel(const FilterLeaf& leaf);
FilterKernel Avx512FilterKernel(const FilterLeaf& leaf);

}  // namespace lintf

#endif  // LINTF_CUSTOM_OPS_CORE_FILTER_KERNELS_H_
