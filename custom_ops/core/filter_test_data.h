// SPDX-License-Identifier: Apache-2.0
// Random items for the tests of filters: their values as a person would write
// them, beside the columns that store them.
#ifndef LINTF_CUSTOM_OPS_CORE_FILTER_TEST_DATA_H_
#define LINTF_CUSTOM_OPS_CORE_FILTER_TEST_DATA_H_

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "custom_ops/core/column.h"
#include "custom_ops/core/filter_program.h"
#include "custom_ops/core/filter_schema.h"

namespace lintf::testing {

using Rng = std::mt19937_64;

inline int64_t Below(Rng& rng, int64_t limit) {
  return static_cast<int64_t>(rng() % static_cast<uint64_t>(limit));
}

template <typename T>
const T& Pick(Rng& rng, const std::vector<T>& values) {
  return values[Below(rng, static_cast<int64_t>(values.size()))];
}

// FNV-1a: any function will do, as long as all sides use it.
inline uint64_t TestFingerprint(std::string_view text) {
  uint64_t hash = 14695981039346656037u;
  for (const char c : text) {
    hash = (hash ^ static_cast<uint8_t>(c)) * 1099511628211u;
  }
  return hash;
}

// What an item has in one attribute.
struct TestValue {
  bool missing = true;
  int64_t number = 0;
  float real = 0;
  std::vector<std::string> strings;
};

inline const std::vector<std::string>& Words() {
  static const std::vector<std::string> words = {"Comedy",
                                                 "Drama",
                                                 "a",
                                                 "b",
                                                 "it's",
                                                 "say \"hi\"",
                                                 "back\\sl.",
                                                 "tab\tnew\n",
                                                 "\xC3\xA9t\xC3\xA9",
                                                 "emoji \xF0\x9F\x98\x80",
                                                 "and",
                                                 "true",
                                                 "1990",
                                                 " "};
  return words;
}

// Words() that no vocabulary holds.
inline const std::vector<std::string>& OtherWords() {
  static const std::vector<std::string> words = {"unknown", "\xE2\x82\xAC",
                                                 "x]"};
  return words;
}

struct TestItems {
  FilterSchema schema;
  int64_t num_rows = 0;
  std::vector<std::vector<TestValue>> values;  // [attribute][row]
  std::vector<int64_t> ids;                    // as stored
  std::vector<std::string> string_ids;
  std::vector<std::vector<char>> storage;
  std::vector<Column> columns;
};

inline AttributeDef TestAttribute(std::string name, AttributeKind kind,
                                  AttributeEncoding encoding, ColumnType type,
                                  int64_t width = 1) {
  AttributeDef attribute;
  attribute.name = std::move(name);
  attribute.kind = kind;
  attribute.encoding = encoding;
  attribute.type = type;
  attribute.width = width;
  const bool has_words = encoding == AttributeEncoding::kVocabulary ||
                         encoding == AttributeEncoding::kBits;
  const int64_t room = encoding == AttributeEncoding::kBits
                           ? 8 * ColumnTypeSize(type) - 1
                           : int64_t{14};
  for (int64_t i = 0; has_words && i < static_cast<int64_t>(Words().size());
       ++i) {
    if (i < room) attribute.vocabulary[Words()[i]] = i;
  }
  return attribute;
}

// One attribute of every kind, encoding and type.
inline FilterSchema TestSchema(bool string_ids) {
  using K = AttributeKind;
  using E = AttributeEncoding;
  using C = ColumnType;
  FilterSchema schema;
  schema.string_ids = string_ids;
  schema.fingerprint = TestFingerprint;
  schema.attributes = {
      TestAttribute("cat8", K::kCategory, E::kVocabulary, C::kUint8),
      TestAttribute("cat16", K::kCategory, E::kVocabulary, C::kUint16),
      TestAttribute("cat32", K::kCategory, E::kVocabulary, C::kUint32),
      TestAttribute("cat_hash", K::kCategory, E::kHash, C::kInt64),
      TestAttribute("tags_bits8", K::kTags, E::kBits, C::kUint8),
      TestAttribute("tags_bits16", K::kTags, E::kBits, C::kUint16),
      TestAttribute("tags_bits32", K::kTags, E::kBits, C::kUint32),
      TestAttribute("tags_bits64", K::kTags, E::kBits, C::kUint64),
      TestAttribute("tags8", K::kTags, E::kVocabulary, C::kUint8, 3),
      TestAttribute("tags16", K::kTags, E::kVocabulary, C::kUint16, 1),
      TestAttribute("tags32", K::kTags, E::kVocabulary, C::kUint32, 5),
      TestAttribute("tags_hash", K::kTags, E::kHash, C::kInt64, 4),
      TestAttribute("int8", K::kInt, E::kNumber, C::kInt8),
      TestAttribute("int16", K::kInt, E::kNumber, C::kInt16),
      TestAttribute("int64", K::kInt, E::kNumber, C::kInt64),
      TestAttribute("uint32", K::kInt, E::kNumber, C::kUint32),
      TestAttribute("price", K::kFloat, E::kNumber, C::kFloat),
      TestAttribute("added", K::kTimestamp, E::kNumber, C::kInt64),
      TestAttribute("seen", K::kTimestamp, E::kNumber, C::kUint32),
      TestAttribute("free", K::kBool, E::kNumber, C::kInt8),
  };
  return schema;
}

// The lowest and highest values that are not "missing".
inline std::pair<int64_t, int64_t> NumberRange(ColumnType type) {
  switch (type) {
    case ColumnType::kInt8:
      return {-127, 127};
    case ColumnType::kInt16:
      return {-32767, 32767};
    case ColumnType::kUint32:
      return {0, 4294967294};
    default:
      return {std::numeric_limits<int64_t>::min() + 1,
              std::numeric_limits<int64_t>::max()};
  }
}

// Small numbers mostly, so that equality happens, and the extremes.
inline int64_t RandomNumber(Rng& rng, ColumnType type) {
  const auto [lo, hi] = NumberRange(type);
  switch (Below(rng, 8)) {
    case 0:
      return lo + Below(rng, 3);
    case 1:
      return hi - Below(rng, 3);
    default:
      return Below(rng, 12) - (lo < 0 ? 4 : 0);
  }
}

inline float RandomFloat(Rng& rng) {
  static const std::vector<float> kOdd = {
      0.0f,
      -0.0f,
      std::numeric_limits<float>::infinity(),
      -std::numeric_limits<float>::infinity(),
      std::numeric_limits<float>::max(),
      std::numeric_limits<float>::lowest(),
      std::numeric_limits<float>::denorm_min(),
      -std::numeric_limits<float>::denorm_min(),
      std::numeric_limits<float>::min(),
      0.1f,
      16777216.0f};
  if (Below(rng, 3) == 0) return Pick(rng, kOdd);
  return static_cast<float>(Below(rng, 17) - 8) / 4;
}

inline std::string RandomWord(Rng& rng) {
  return Below(rng, 6) == 0 ? Pick(rng, OtherWords()) : Pick(rng, Words());
}

inline TestValue RandomValue(Rng& rng, const AttributeDef& attribute) {
  TestValue value;
  if (Below(rng, 5) == 0) return value;
  value.missing = false;
  switch (attribute.kind) {
    case AttributeKind::kCategory:
      value.strings = {RandomWord(rng)};
      break;
    case AttributeKind::kTags: {
      const int64_t room =
          attribute.encoding == AttributeEncoding::kBits ? 6 : attribute.width;
      const int64_t count = 1 + Below(rng, room);
      for (int64_t i = 0; i < count; ++i) {
        value.strings.push_back(RandomWord(rng));
      }
      break;
    }
    case AttributeKind::kFloat:
      value.real = RandomFloat(rng);
      break;
    case AttributeKind::kBool:
      value.number = Below(rng, 2);
      break;
    case AttributeKind::kTimestamp:
      value.number = Below(rng, 4) == 0 ? RandomNumber(rng, attribute.type)
                                        : 1700000000 + 43200 * Below(rng, 6);
      break;
    case AttributeKind::kInt:
      value.number = RandomNumber(rng, attribute.type);
      break;
  }
  return value;
}

// Stores `value` as value number `index` of a column.
inline void Store(std::vector<char>* storage, ColumnType type, int64_t index,
                  int64_t value) {
  const int64_t size = ColumnTypeSize(type);
  // Little-endian, as everything that lintf runs on.
  std::memcpy(storage->data() + index * size, &value, size);
}

inline void StoreRow(const AttributeDef& attribute, FingerprintFn fingerprint,
                     const TestValue& value, int64_t row,
                     std::vector<char>* storage) {
  const ColumnType type = attribute.type;
  if (type == ColumnType::kFloat) {
    const float real =
        value.missing ? std::numeric_limits<float>::quiet_NaN() : value.real;
    std::memcpy(storage->data() + row * 4, &real, 4);
    return;
  }
  if (attribute.encoding == AttributeEncoding::kNumber) {
    const auto [lo, hi] = NumberRange(type);
    const int64_t missing = type == ColumnType::kUint32 ? hi + 1 : lo - 1;
    Store(storage, type, row, value.missing ? missing : value.number);
    return;
  }
  uint64_t bits = 0;
  int64_t slot = 0;
  for (const std::string& text : value.strings) {
    const auto found = attribute.vocabulary.find(text);
    const bool is_known = found != attribute.vocabulary.end();
    switch (attribute.encoding) {
      case AttributeEncoding::kBits:
        bits |= uint64_t{1} << (is_known ? found->second + 1 : 0);
        break;
      case AttributeEncoding::kVocabulary:
        Store(storage, type, row * attribute.width + slot++,
              is_known ? found->second + 2 : 1);
        break;
      default:
        Store(storage, type, row * attribute.width + slot++,
              StoredFingerprint(fingerprint, text));
        break;
    }
  }
  if (attribute.encoding == AttributeEncoding::kBits) {
    Store(storage, type, row, static_cast<int64_t>(bits));
  }
}

inline TestItems MakeTestItems(Rng& rng, int64_t num_rows, bool string_ids) {
  TestItems items;
  items.schema = TestSchema(string_ids);
  items.num_rows = num_rows;
  for (const AttributeDef& attribute : items.schema.attributes) {
    std::vector<TestValue> values;
    // Exactly as large as the rows: a read past the end shows under ASan.
    std::vector<char> storage(num_rows * attribute.width *
                              ColumnTypeSize(attribute.type));
    for (int64_t row = 0; row < num_rows; ++row) {
      values.push_back(RandomValue(rng, attribute));
      StoreRow(attribute, items.schema.fingerprint, values.back(), row,
               &storage);
    }
    items.values.push_back(std::move(values));
    items.storage.push_back(std::move(storage));
  }
  for (size_t i = 0; i < items.schema.attributes.size(); ++i) {
    const AttributeDef& attribute = items.schema.attributes[i];
    items.columns.push_back(
        {attribute.type, items.storage[i].data(), attribute.width});
  }
  for (int64_t row = 0; row < num_rows; ++row) {
    items.string_ids.push_back("item " + std::to_string(row));
    // Distinct, not in order, some negative, the lowest and highest int64.
    int64_t id = (row * 7919) % (num_rows + 1) * 3 - 40;
    if (id == -1) id = std::numeric_limits<int64_t>::max();
    if (row == 1) id = std::numeric_limits<int64_t>::min();
    items.ids.push_back(
        string_ids ? StoredFingerprint(TestFingerprint, items.string_ids[row])
                   : id);
  }
  return items;
}

}  // namespace lintf::testing

#endif  // LINTF_CUSTOM_OPS_CORE_FILTER_TEST_DATA_H_
