// SPDX-License-Identifier: Apache-2.0
// What the filter compiler knows about the attributes of an index.
#ifndef LINTF_CUSTOM_OPS_CORE_FILTER_SCHEMA_H_
#define LINTF_CUSTOM_OPS_CORE_FILTER_SCHEMA_H_

#include <cstdint>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "custom_ops/core/column.h"

namespace lintf {

// The declared kinds of `IndexSchema`.
enum class AttributeKind : uint8_t {
  kCategory,   // one string a row
  kTags,       // any number of strings a row
  kInt,        // one int64 a row
  kFloat,      // one float32 a row
  kTimestamp,  // one int64 a row: seconds since 1970-01-01 UTC
  kBool,       // one bool a row
};

// How values of the attribute are stored in its column.
//
// kNumber: int, timestamp and bool in a signed column, whose lowest value
//   means missing (bool: 0, 1), or in uint32, whose highest value means
//   missing; float in a float column, NaN means missing.
// kVocabulary: uint8/uint16/uint32 codes. 0 = missing (and padding of tags),
//   1 = a value outside the vocabulary, 2 + i = vocabulary[i]. Tags hold
//   `width` codes a row.
// kHash: int64 fingerprints of the strings, 0 = missing (and padding).
// kBits: tags only. uint8 to uint64, one bit a value: bit 0 = some value
//   outside the vocabulary, bit 1 + i = vocabulary[i]; 0 = missing.
enum class AttributeEncoding : uint8_t { kNumber, kVocabulary, kHash, kBits };

// First code (kVocabulary) and first bit (kBits) of the vocabulary.
inline constexpr int64_t kFirstVocabularyCode = 2;
inline constexpr int64_t kOtherCode = 1;
inline constexpr int kFirstVocabularyBit = 1;

struct AttributeDef {
  std::string name;
  AttributeKind kind = AttributeKind::kInt;
  AttributeEncoding encoding = AttributeEncoding::kNumber;
  ColumnType type = ColumnType::kInt64;
  int64_t width = 1;
  // Value -> position in the vocabulary.
  std::unordered_map<std::string, int64_t> vocabulary;
};

// A 64-bit fingerprint of a string. The core does not fix the function: the
// TensorFlow kernels pass FarmHash Fingerprint64, which stock TensorFlow
// offers as `tf.fingerprint`, so that every side agrees.
using FingerprintFn = uint64_t (*)(std::string_view);

// A fingerprint as lintf stores it: 0 (missing) and -1 (no id) are reserved.
inline int64_t StoredFingerprint(FingerprintFn fingerprint,
                                 std::string_view text) {
  const int64_t value = static_cast<int64_t>(fingerprint(text));
  if (value == 0) return 1;
  if (value == -1) return -2;
  return value;
}

// The attributes in column order. The item id is filterable too, under the
// name "id" (kIdColumn in programs): an int64, or the fingerprint of a string.
struct FilterSchema {
  std::vector<AttributeDef> attributes;
  bool string_ids = false;
  FingerprintFn fingerprint = nullptr;
};

}  // namespace lintf

#endif  // LINTF_CUSTOM_OPS_CORE_FILTER_SCHEMA_H_
