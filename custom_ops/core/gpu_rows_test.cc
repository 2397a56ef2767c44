// SPDX-License-Identifier: Apache-2.0
#include "custom_ops/core/gpu_rows.h"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <memory>
#include <numeric>
#include <random>
#include <vector>

#include "custom_ops/core/gpu_copies.h"
#include "custom_ops/core/gpu_mask_rows.h"
#include "custom_ops/core/gpu_testing.h"
#include "custom_ops/core/id_map.h"
#include "custom_ops/core/item_encoding.h"
#include "custom_ops/core/sign_oporp.h"
#include "custom_ops/core/testing.h"

namespace lintf::gpu {
namespace {

using Bytes = std::vector<uint8_t>;

// Numbers of any bit pattern that a float can have but NaN's.
Bytes RandomBytes(int64_t count, std::mt19937_64* random) {
  Bytes bytes(count);
  for (uint8_t& byte : bytes) byte = static_cast<uint8_t>((*random)());
  return bytes;
}

// The tables of an index twice: on the host and on the device.
class Tables {
 public:
  Tables(int64_t capacity, ElementType type, int64_t dim, int64_t code_words,
         const std::vector<Column>& columns, uint64_t seed)
      : capacity_(capacity), random_(seed) {
    host_.dim = dim;
    host_.code_words = code_words;
    host_.columns = columns;
    host_.items.type = type;
    const int64_t item_bytes = dim * ElementSize(type);
    const int64_t blocks = (capacity + kCodeBlockRows - 1) / kCodeBlockRows;
    Add(capacity * 8, &host_.ids, &device_.ids);
    device_.dim = dim;
    device_.code_words = code_words;
    device_.columns = columns;
    device_.items.type = type;
    if (dim > 0) {
      Add(capacity * item_bytes, &host_.items.data, &device_.items.data);
    }
    if (type == ElementType::kInt8) {
      Add(capacity * 4, &host_.items.scales, &device_.items.scales);
    }
    if (code_words > 0) {
      Add(blocks * code_words * kCodeBlockRows * 8, &host_.codes,
          &device_.codes);
    }
    for (size_t i = 0; i < columns.size(); ++i) {
      Add(capacity * host_.column_bytes(i), &host_.columns[i].data,
          &device_.columns[i].data);
    }
  }

  const RowTables& host() const { return host_; }
  const RowTables& device() const { return device_; }

  // Whether the device holds what the host does.
  bool Agree() const {
    for (size_t i = 0; i < arrays_.size(); ++i) {
      if (arrays_[i]->ToHost() != *memory_[i]) return false;
    }
    return true;
  }

 private:
  template <typename Pointer>
  void Add(int64_t bytes, Pointer* host, Pointer* device) {
    memory_.push_back(std::make_unique<Bytes>(RandomBytes(bytes, &random_)));
    arrays_.push_back(std::make_unique<DeviceArray<uint8_t>>(*memory_.back()));
    *host = reinterpret_cast<Pointer>(memory_.back()->data());
    *device = reinterpret_cast<Pointer>(arrays_.back()->data());
  }

  int64_t capacity_;
  std::mt19937_64 random_;
  RowTables host_;
  RowTables device_;
  std::vector<std::unique_ptr<Bytes>> memory_;
  std::vector<std::unique_ptr<DeviceArray<uint8_t>>> arrays_;
};

// Writes rows by StoreRows and by the CPU's StoreRow.
void TestStoreRows(int64_t capacity, int64_t count, ElementType type,
                   int64_t dim, int64_t code_words,
                   const std::vector<Column>& columns, bool with_items,
                   bool with_places) {
  Tables tables(capacity, type, dim, code_words, columns, 7);
  std::mt19937_64 random(count + dim);
  std::vector<int64_t> rows(capacity);
  std::iota(rows.begin(), rows.end(), 0);
  std::shuffle(rows.begin(), rows.end(), random);
  rows.resize(count);
  std::vector<int64_t> ids(count);
  std::vector<int64_t> places(count);
  for (int64_t i = 0; i < count; ++i) {
    ids[i] = random() % 4 == 0 ? kNoId : static_cast<int64_t>(random() >> 1);
    places[i] = with_places ? count - 1 - i : i;
  }
  const RowTables& host = tables.host();
  const Bytes items = RandomBytes(count * host.item_bytes(), &random);
  std::vector<float> scales(count);
  for (float& scale : scales) scale = static_cast<float>(random() % 1000);
  std::vector<uint64_t> codes(count * code_words);
  for (uint64_t& word : codes) word = random();
  std::vector<Bytes> values;
  for (size_t c = 0; c < columns.size(); ++c) {
    values.push_back(RandomBytes(count * host.column_bytes(c), &random));
  }

  RowContents contents;
  contents.count = count;
  contents.rows = rows.data();
  contents.ids = ids.data();
  if (with_places) contents.places = places.data();
  if (with_items) {
    contents.items = items.data();
    contents.scales = scales.data();
    contents.codes = codes.data();
  }
  for (const Bytes& bytes : values) contents.columns.push_back(bytes.data());

  const int64_t live_words = (capacity + 63) / 64;
  std::vector<uint64_t> live(live_words);
  for (uint64_t& word : live) word = random();
  DeviceArray<uint64_t> live_on_device(live);
  {
    TestContext context(StoreRowsBytes(tables.device(), count));
    StoreRows(tables.device(), contents, &context, live_on_device.data());
    CHECK_THAT(context.Finish()) << count << " rows of " << dim;
  }
  for (int64_t i = 0; i < count; ++i) {
    const uint64_t bit = uint64_t{1} << (rows[i] % 64);
    if (ids[i] == kNoId) {
      StoreRowId(host, rows[i], kNoId);
      live[rows[i] / 64] &= ~bit;
      continue;
    }
    live[rows[i] / 64] |= bit;
    RowContent content;
    content.id = ids[i];
    if (with_items) {
      content.item = items.data() + places[i] * host.item_bytes();
      content.scale = scales[places[i]];
      content.codes = codes.data() + places[i] * code_words;
    }
    for (size_t c = 0; c < values.size(); ++c) {
      content.columns.push_back(values[c].data() +
                                places[i] * host.column_bytes(c));
    }
    StoreRow(host, rows[i], content);
  }
  CHECK_THAT(tables.Agree())
      << count << " of " << capacity << " rows, type " << static_cast<int>(type)
      << ", dim " << dim << ", " << code_words << " words, " << columns.size()
      << " columns, items " << with_items;
  CHECK_THAT(live_on_device.ToHost() == live);
}

std::vector<Column> ColumnsOfAllTypes() {
  std::vector<Column> columns;
  for (int type = 0; type <= static_cast<int>(ColumnType::kFloat); ++type) {
    for (const int64_t width : {1, 3, 16, 131}) {
      columns.push_back({static_cast<ColumnType>(type), nullptr, width});
    }
  }
  return columns;
}

void TestStores() {
  const std::vector<Column> none;
  const std::vector<Column> all = ColumnsOfAllTypes();
  const std::vector<Column> one = {{ColumnType::kUint8, nullptr, 1}};
  for (int type = 0; type < kNumElementTypes; ++type) {
    for (const int64_t dim : {1, 3, 8, 100, 257}) {
      TestStoreRows(97, 40, static_cast<ElementType>(type), dim, dim % 3, one,
                    true, dim % 2 == 0);
    }
    TestStoreRows(130, 130, static_cast<ElementType>(type), 64, 2, all, true,
                  true);
  }
  TestStoreRows(1, 1, ElementType::kFloat32, 1, 0, none, true, false);
  TestStoreRows(100, 0, ElementType::kFloat32, 1, 0, none, true, false);
  // Codes alone, attributes alone, ids alone.
  TestStoreRows(200, 90, ElementType::kFloat32, 0, 8, one, true, true);
  TestStoreRows(200, 90, ElementType::kInt8, 5, 8, all, false, true);
  TestStoreRows(200, 90, ElementType::kInt8, 5, 8, none, false, false);
  // More than one part of an upload.
  TestStoreRows(900, 700, ElementType::kFloat32, 64, 8, one, true, true);
}

void TestNoMemory() {
  Tables tables(10, ElementType::kFloat32, 4, 0, {}, 1);
  const std::vector<int64_t> rows = {3};
  const std::vector<float> item(4);
  RowContents contents;
  contents.count = 1;
  contents.rows = rows.data();
  contents.ids = rows.data();
  contents.items = item.data();
  TestContext context(8);
  StoreRows(tables.device(), contents, &context, nullptr);
  CHECK_THAT(!context.ok());
  CHECK_THAT(tables.Agree());
}

template <typename T>
void TestColumn(ColumnType type, int64_t width, int64_t count) {
  std::mt19937_64 random(width);
  const int64_t num_rows = 77;
  std::vector<T> values(num_rows * width);
  for (T& value : values) value = static_cast<T>(random() % 250);
  std::vector<int64_t> rows(count);
  for (int64_t& row : rows) row = static_cast<int64_t>(random() % 78) - 1;
  const DeviceArray<T> on_device(values);
  const DeviceArray<int64_t> rows_on_device(rows);
  DeviceArray<T> gathered(count * width);
  TestContext context;
  const T missing = static_cast<T>(251);
  GatherColumn({type, on_device.data(), width}, rows_on_device.data(), count,
               &missing, &context, gathered.data());
  CHECK_THAT(context.Finish());
  std::vector<T> expected;
  for (const int64_t row : rows) {
    for (int64_t i = 0; i < width; ++i) {
      expected.push_back(row < 0 ? missing : values[row * width + i]);
    }
  }
  CHECK_THAT(gathered.ToHost() == expected) << "width " << width;
}

void TestGathers() {
  for (const int64_t count : {0, 1, 255, 1000}) {
    for (const int64_t width : {1, 5}) {
      TestColumn<int8_t>(ColumnType::kInt8, width, count);
      TestColumn<int16_t>(ColumnType::kInt16, width, count);
      TestColumn<int64_t>(ColumnType::kInt64, width, count);
      TestColumn<uint8_t>(ColumnType::kUint8, width, count);
      TestColumn<uint16_t>(ColumnType::kUint16, width, count);
      TestColumn<uint32_t>(ColumnType::kUint32, width, count);
      TestColumn<uint64_t>(ColumnType::kUint64, width, count);
      TestColumn<float>(ColumnType::kFloat, width, count);
    }
  }
  const std::vector<int64_t> ids = {7, -5, std::numeric_limits<int64_t>::max()};
  const std::vector<int64_t> rows = {2, -1, 0, 1, -1};
  const DeviceArray<int64_t> ids_on_device(ids);
  const DeviceArray<int64_t> rows_on_device(rows);
  DeviceArray<int64_t> gathered(5);
  TestContext context;
  GatherIds(ids_on_device.data(), rows_on_device.data(), 5, &context,
            gathered.data());
  CHECK_THAT(context.Finish());
  const std::vector<int64_t> expected = {ids[2], kNoId, 7, -5, kNoId};
  CHECK_THAT(gathered.ToHost() == expected);
}

void TestItems(ElementType type, int64_t dim) {
  std::mt19937_64 random(dim);
  const int64_t num_rows = 50;
  Bytes items = RandomBytes(num_rows * dim * ElementSize(type), &random);
  if (type == ElementType::kFloat16) {
    // Every finite number of the type is there in some run, subnormals too.
    auto* const halves = reinterpret_cast<uint16_t*>(items.data());
    for (int64_t i = 0; i < num_rows * dim; ++i) {
      if ((halves[i] & 0x7C00) == 0x7C00) halves[i] &= 0x83FF;
    }
  }
  std::vector<float> scales(num_rows);
  for (float& scale : scales) {
    scale = static_cast<float>(random() % 1000) / 7.0f;
  }
  std::vector<int64_t> rows(33);
  for (int64_t& row : rows) row = static_cast<int64_t>(random() % 51) - 1;
  const DeviceArray<uint8_t> items_on_device(items);
  const DeviceArray<float> scales_on_device(scales);
  const DeviceArray<int64_t> rows_on_device(rows);
  DeviceArray<float> gathered(33 * dim);
  TestContext context;
  GatherItems({items_on_device.data(), type, scales_on_device.data()}, dim,
              rows_on_device.data(), 33, &context, gathered.data());
  CHECK_THAT(context.Finish());
  std::vector<float> expected(33 * dim, 0.0f);
  for (int64_t i = 0; i < 33; ++i) {
    if (rows[i] < 0) continue;
    DecodeRow({items.data(), type, scales.data()}, rows[i], dim,
              expected.data() + i * dim);
  }
  const std::vector<float> got = gathered.ToHost();
  for (int64_t i = 0; i < 33 * dim; ++i) {
    const bool same = std::isnan(expected[i])
                          ? std::isnan(got[i])
                          : std::memcmp(&got[i], &expected[i], 4) == 0;
    CHECK_THAT(same) << "type " << static_cast<int>(type) << " value " << i;
  }
}

void TestCodes(int64_t start, int64_t count, int64_t words) {
  std::mt19937_64 random(count);
  std::vector<uint64_t> codes(count * words);
  for (uint64_t& word : codes) word = random();
  const int64_t blocks = (start + count) / kCodeBlockRows + 1;
  std::vector<uint64_t> expected(blocks * words * kCodeBlockRows, 5);
  const DeviceArray<uint64_t> on_device(codes);
  DeviceArray<uint64_t> laid_out(expected);
  TestContext context;
  StoreCodes(on_device.data(), start, count, words, &context, laid_out.data());
  CHECK_THAT(context.Finish());
  for (int64_t i = 0; i < count; ++i) {
    for (int64_t w = 0; w < words; ++w) {
      expected[CodeWordIndex(start + i, w, words)] = codes[i * words + w];
    }
  }
  CHECK_THAT(laid_out.ToHost() == expected) << count << " codes at " << start;
}

void TestMasks(int64_t num_rows) {
  std::mt19937_64 random(num_rows);
  const int64_t words = MaskWords(num_rows);
  const int64_t stride = words + 3;
  std::vector<uint64_t> bits(2 * stride);
  for (int64_t row = 0; row < num_rows; ++row) {
    for (int64_t mask = 0; mask < 2; ++mask) {
      bits[mask * stride + row / 64] |= (random() & 1) << (row % 64);
    }
  }
  const DeviceArray<uint64_t> on_device(bits);
  Masks masks;
  masks.words = on_device.data();
  masks.stride = stride;
  masks.passes_all = {false, false, true};
  const std::vector<int32_t> mask_of_query = {1, 2, 0, 1};
  DeviceArray<uint64_t> copied(4 * words);
  DeviceArray<int64_t> passing(4);
  TestContext context;
  CopyMasks(masks, mask_of_query.data(), 4, num_rows, &context, copied.data(),
            passing.data());
  CHECK_THAT(context.Finish());
  const std::vector<uint64_t> got = copied.ToHost();
  const std::vector<int64_t> counts = passing.ToHost();
  for (int64_t query = 0; query < 4; ++query) {
    const int32_t mask = mask_of_query[query];
    int64_t count = 0;
    for (int64_t row = 0; row < words * 64; ++row) {
      const bool passes =
          row < num_rows &&
          (mask == 2 ||
           (bits[mask * stride + row / 64] >> (row % 64) & 1) != 0);
      const bool is_set =
          (got[query * words + row / 64] >> (row % 64) & 1) != 0;
      CHECK_THAT(passes == is_set) << "query " << query << " row " << row;
      count += passes;
    }
    CHECK_THAT(counts[query] == count) << "query " << query;
  }
}

void TestCopies() {
  const std::vector<int32_t> values = {1, 2, 3, 4, 5};
  const DeviceArray<int32_t> from(values);
  DeviceArray<int32_t> to(5);
  TestContext context;
  CopyOnDevice(from.data(), 5 * sizeof(int32_t), &context, to.data());
  std::vector<int32_t> got(5);
  CopyToHost(to.data(), 5 * sizeof(int32_t), &context, got.data());
  CHECK_THAT(context.Finish());
  CHECK_THAT(got == values);
  CopyToHost(nullptr, 0, &context, nullptr);
  CopyOnDevice(nullptr, 0, &context, nullptr);
  CHECK_THAT(context.Finish());
}

}  // namespace
}  // namespace lintf::gpu

int main() {
  namespace gpu = lintf::gpu;
  gpu::UnderEachSchedule(gpu::TestStores, 2);
  gpu::TestNoMemory();
  gpu::TestGathers();
  for (int type = 0; type < lintf::kNumElementTypes; ++type) {
    for (const int64_t dim : {1, 7, 128}) {
      gpu::TestItems(static_cast<lintf::ElementType>(type), dim);
    }
  }
  gpu::TestCodes(0, 1, 1);
  gpu::TestCodes(37, 150, 3);
  gpu::TestCodes(64, 64, 8);
  for (const int64_t rows : {0, 1, 63, 64, 65, 1000, 70000}) {
    gpu::TestMasks(rows);
  }
  gpu::TestCopies();
  return lintf::testing::Result();
}
