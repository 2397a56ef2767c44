// SPDX-License-Identifier: Apache-2.0
#include "custom_ops/core/gpu_rows.h"

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <vector>

#include "custom_ops/core/gpu.h"
#include "custom_ops/core/gpu_elements.h"
#include "custom_ops/core/id_map.h"
#include "custom_ops/core/sign_oporp.h"

namespace lintf::gpu {
namespace {

constexpr int kThreads = 256;
constexpr int kWarps = kThreads / kWarpSize;
constexpr int64_t kAlignment = 16;
// Larger copies from memory that is not page-locked wait for what is queued.
constexpr int64_t kUploadBytes = 64 << 10;

// One table of the rows, or one word of their codes.
struct Field {
  char* table;
  int64_t staged;       // where its first row lies in the staging buffer
  int64_t staged_step;  // bytes from one staged row to the next
  int64_t bytes;        // of a row
  int64_t unit;         // bytes that each access may take
};

// What the kernel finds at the beginning of the staging buffer.
struct Staging {
  int64_t count;
  int64_t num_fields;
  int64_t fields;  // offsets in the buffer
  int64_t rows;
  int64_t ids;
  int64_t codes;  // 0: none
  int64_t code_words;
};

// The host's copy of it: everything in one piece, so that one upload does.
class StagingBuffer {
 public:
  explicit StagingBuffer(int64_t bytes) : words_((bytes + 7) / 8) {}

  // Makes room for `bytes` bytes; returns where.
  int64_t Append(int64_t bytes) {
    const int64_t at = size_;
    size_ += (bytes + kAlignment - 1) / kAlignment * kAlignment;
    return at;
  }
  char* At(int64_t offset) {
    return reinterpret_cast<char*>(words_.data()) + offset;
  }
  int64_t size() const { return size_; }

 private:
  std::vector<uint64_t> words_;
  int64_t size_ = 0;
};

// The widest access that all rows of a table allow.
int64_t UnitOf(const void* table, int64_t bytes) {
  const uint64_t places = reinterpret_cast<uintptr_t>(table) | bytes;
  for (int64_t unit = kAlignment; unit > 1; unit /= 2) {
    if (places % unit == 0) return unit;
  }
  return 1;
}

// Tables are variables that their readers see as constant.
template <typename T>
T* Writable(const void* table) {
  return static_cast<T*>(const_cast<void*>(table));
}

template <typename Unit>
__device__ __forceinline__ void CopyUnits(char* to, const char* from,
                                          int64_t bytes, int first, int step) {
  const int64_t count = bytes / static_cast<int64_t>(sizeof(Unit));
  for (int64_t i = first; i < count; i += step) {
    reinterpret_cast<Unit*>(to)[i] = reinterpret_cast<const Unit*>(from)[i];
  }
}

// Thread `first` of `step` copies its part of one row of a field.
__device__ __forceinline__ void CopyRow(const Field& field, int64_t row,
                                        const char* from, int first, int step) {
  char* const to = field.table + row * field.bytes;
  if (field.unit == 16) {
    CopyUnits<uint4>(to, from, field.bytes, first, step);
  } else if (field.unit == 8) {
    CopyUnits<uint64_t>(to, from, field.bytes, first, step);
  } else if (field.unit == 4) {
    CopyUnits<uint32_t>(to, from, field.bytes, first, step);
  } else if (field.unit == 2) {
    CopyUnits<uint16_t>(to, from, field.bytes, first, step);
  } else {
    CopyUnits<uint8_t>(to, from, field.bytes, first, step);
  }
}

// A warp writes one row at a time: long fields with all of its lanes, short
// ones a lane each.
__global__ void __launch_bounds__(kThreads, 4)
    StoreRowsKernel(const char* __restrict__ staging, int64_t* ids,
                    uint64_t* codes, unsigned long long* live) {
  constexpr int64_t kLong = 128;
  const Staging layout = *reinterpret_cast<const Staging*>(staging);
  const Field* const fields =
      reinterpret_cast<const Field*>(staging + layout.fields);
  const int64_t* const rows =
      reinterpret_cast<const int64_t*>(staging + layout.rows);
  const int64_t* const new_ids =
      reinterpret_cast<const int64_t*>(staging + layout.ids);
  const int lane = threadIdx.x % kWarpSize;
  const int64_t step = static_cast<int64_t>(gridDim.x) * kWarps;
  for (int64_t i =
           static_cast<int64_t>(blockIdx.x) * kWarps + threadIdx.x / kWarpSize;
       i < layout.count; i += step) {
    const int64_t row = rows[i];
    const int64_t id = new_ids[i];
    if (lane == 0) {
      ids[row] = id;
      if (live != nullptr) {
        const unsigned long long bit = 1ull << (row % 64);
        if (id == kNoId) {
          atomicAnd(&live[row / 64], ~bit);
        } else {
          atomicOr(&live[row / 64], bit);
        }
      }
    }
    if (id == kNoId) continue;
    for (int64_t f = 0; f < layout.num_fields; ++f) {
      const Field& field = fields[f];
      if (field.bytes < kLong) continue;
      CopyRow(field, row, staging + field.staged + i * field.staged_step, lane,
              kWarpSize);
    }
    for (int64_t f = lane; f < layout.num_fields; f += kWarpSize) {
      const Field& field = fields[f];
      if (field.bytes >= kLong) continue;
      CopyRow(field, row, staging + field.staged + i * field.staged_step, 0, 1);
    }
    if (layout.codes == 0) continue;
    const uint64_t* const words =
        reinterpret_cast<const uint64_t*>(staging + layout.codes) +
        i * layout.code_words;
    uint64_t* const code =
        codes + row / kCodeBlockRows * layout.code_words * kCodeBlockRows +
        row % kCodeBlockRows;
    for (int64_t w = lane; w < layout.code_words; w += kWarpSize) {
      code[w * kCodeBlockRows] = words[w];
    }
  }
}

// As many blocks as fit on the device twice over, or as there is work for.
int BlocksFor(const Context& context, int64_t threads_of_work) {
  const int64_t needed = (threads_of_work + kThreads - 1) / kThreads;
  const int64_t most = int64_t{context.num_multiprocessors()} * 16;
  return static_cast<int>(std::max<int64_t>(std::min(needed, most), 1));
}

__device__ __forceinline__ int64_t FirstItem() {
  return static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
}

__device__ __forceinline__ int64_t ItemStep() {
  return static_cast<int64_t>(gridDim.x) * kThreads;
}

template <typename T>
__global__ void __launch_bounds__(kThreads)
    GatherKernel(const T* __restrict__ values, int64_t width,
                 const int64_t* __restrict__ rows, int64_t total, T missing,
                 T* __restrict__ gathered) {
  for (int64_t i = FirstItem(); i < total; i += ItemStep()) {
    const int64_t slot = width == 1 ? i : i / width;
    const int64_t row = rows[slot];
    gathered[i] = row < 0 ? missing : values[row * width + (i - slot * width)];
  }
}

template <typename T>
void Gather(const void* values, int64_t width, const int64_t* rows,
            int64_t count, const void* missing, Context* context,
            void* gathered) {
  if (count == 0) return;
  T value;
  std::memcpy(&value, missing, sizeof(value));
  const int64_t total = count * width;
  Launch(context, GatherKernel<T>, BlocksFor(*context, total), kThreads, 0,
         static_cast<const T*>(values), width, rows, total, value,
         static_cast<T*>(gathered));
}

template <ElementType kType>
__device__ __forceinline__ float LoadElement(const void* items, int64_t at) {
  if constexpr (kType == ElementType::kFloat32) {
    return static_cast<const float*>(items)[at];
  } else if constexpr (kType == ElementType::kBfloat16) {
    return FromBfloat16(static_cast<const uint16_t*>(items)[at]);
  } else if constexpr (kType == ElementType::kFloat16) {
    return FromFloat16(static_cast<const uint16_t*>(items)[at]);
  } else {
    return static_cast<float>(static_cast<const int8_t*>(items)[at]);
  }
}

template <ElementType kType>
__global__ void __launch_bounds__(kThreads)
    GatherItemsKernel(const void* __restrict__ items,
                      const float* __restrict__ scales, int64_t dim,
                      const int64_t* __restrict__ rows, int64_t total,
                      float* __restrict__ gathered) {
  for (int64_t i = FirstItem(); i < total; i += ItemStep()) {
    const int64_t slot = i / dim;
    const int64_t row = rows[slot];
    float value = 0.0f;
    if (row >= 0) {
      value = LoadElement<kType>(items, row * dim + (i - slot * dim));
      if constexpr (kType == ElementType::kInt8) {
        value = __fmul_rn(scales[row], value);
      }
    }
    gathered[i] = value;
  }
}

__global__ void __launch_bounds__(kThreads)
    StoreCodesKernel(const uint64_t* __restrict__ codes, int64_t start,
                     int64_t total, int64_t words,
                     uint64_t* __restrict__ laid_out) {
  for (int64_t i = FirstItem(); i < total; i += ItemStep()) {
    const int64_t row = start + i / words;
    const int64_t word = i % words;
    laid_out[(row / kCodeBlockRows * words + word) * kCodeBlockRows +
             row % kCodeBlockRows] = codes[i];
  }
}

}  // namespace

int64_t StoreRowsBytes(const RowTables& tables, int64_t count) {
  const int64_t fields = 3 + static_cast<int64_t>(tables.columns.size());
  return static_cast<int64_t>(sizeof(Staging)) +
         fields * static_cast<int64_t>(sizeof(Field)) +
         count * (tables.row_bytes() + static_cast<int64_t>(sizeof(int64_t))) +
         (fields + 5) * kAlignment;
}

void StoreRows(const RowTables& tables, const RowContents& contents,
               Context* context, uint64_t* live) {
  const int64_t count = contents.count;
  if (count == 0) return;
  StagingBuffer staging(StoreRowsBytes(tables, count));
  std::vector<Field> fields;
  Staging layout = {};
  layout.count = count;
  staging.Append(sizeof(layout));
  // Copies the values of each row behind each other.
  const auto stage = [&](const void* values, int64_t bytes) {
    const int64_t at = staging.Append(count * bytes);
    for (int64_t i = 0; i < count; ++i) {
      if (contents.ids[i] == kNoId) continue;
      const int64_t place = contents.places == nullptr ? i : contents.places[i];
      std::memcpy(staging.At(at + i * bytes),
                  static_cast<const char*>(values) + place * bytes, bytes);
    }
    return at;
  };
  const auto add = [&](const void* table, const void* values, int64_t bytes) {
    Field field;
    field.table = Writable<char>(table);
    field.staged = stage(values, bytes);
    field.staged_step = bytes;
    field.bytes = bytes;
    field.unit = UnitOf(table, bytes);
    fields.push_back(field);
  };
  const int64_t index_bytes = count * static_cast<int64_t>(sizeof(int64_t));
  layout.rows = staging.Append(index_bytes);
  std::memcpy(staging.At(layout.rows), contents.rows, index_bytes);
  layout.ids = staging.Append(index_bytes);
  std::memcpy(staging.At(layout.ids), contents.ids, index_bytes);
  if (contents.items != nullptr && tables.items.data != nullptr) {
    add(tables.items.data, contents.items, tables.item_bytes());
    if (tables.items.scales != nullptr) {
      add(tables.items.scales, contents.scales, sizeof(float));
    }
  }
  if (contents.codes != nullptr && tables.codes != nullptr) {
    layout.code_words = tables.code_words;
    layout.codes =
        stage(contents.codes,
              layout.code_words * static_cast<int64_t>(sizeof(uint64_t)));
  }
  for (size_t c = 0; c < contents.columns.size(); ++c) {
    add(tables.columns[c].data, contents.columns[c], tables.column_bytes(c));
  }
  layout.num_fields = static_cast<int64_t>(fields.size());
  const int64_t field_bytes =
      layout.num_fields * static_cast<int64_t>(sizeof(Field));
  layout.fields = staging.Append(field_bytes);
  if (field_bytes > 0) {
    std::memcpy(staging.At(layout.fields), fields.data(), field_bytes);
  }
  std::memcpy(staging.At(0), &layout, sizeof(layout));

  char* const on_device = context->Allocate<char>(staging.size());
  if (!context->ok()) return;
  for (int64_t begin = 0; begin < staging.size(); begin += kUploadBytes) {
    context->CopyToDevice(staging.At(begin),
                          std::min(kUploadBytes, staging.size() - begin),
                          on_device + begin);
  }
  Launch(context, StoreRowsKernel, BlocksFor(*context, count * kWarpSize),
         kThreads, 0, static_cast<const char*>(on_device),
         Writable<int64_t>(tables.ids), Writable<uint64_t>(tables.codes),
         reinterpret_cast<unsigned long long*>(live));
}

void StoreCodes(const uint64_t* codes, int64_t start, int64_t count,
                int64_t words, Context* context, uint64_t* laid_out) {
  const int64_t total = count * words;
  if (total == 0) return;
  Launch(context, StoreCodesKernel, BlocksFor(*context, total), kThreads, 0,
         codes, start, total, words, laid_out);
}

void GatherIds(const int64_t* ids, const int64_t* rows, int64_t count,
               Context* context, int64_t* gathered) {
  Gather<int64_t>(ids, 1, rows, count, &kNoId, context, gathered);
}

void GatherColumn(const Column& column, const int64_t* rows, int64_t count,
                  const void* missing, Context* context, void* gathered) {
  switch (ColumnTypeSize(column.type)) {
    case 1:
      Gather<uint8_t>(column.data, column.width, rows, count, missing, context,
                      gathered);
      break;
    case 2:
      Gather<uint16_t>(column.data, column.width, rows, count, missing, context,
                       gathered);
      break;
    case 4:
      Gather<uint32_t>(column.data, column.width, rows, count, missing, context,
                       gathered);
      break;
    default:
      Gather<uint64_t>(column.data, column.width, rows, count, missing, context,
                       gathered);
  }
}

void GatherItems(const ItemMatrix& items, int64_t dim, const int64_t* rows,
                 int64_t count, Context* context, float* gathered) {
  const int64_t total = count * dim;
  if (total == 0) return;
  const auto gather = [&](auto kernel) {
    Launch(context, kernel, BlocksFor(*context, total), kThreads, 0, items.data,
           items.scales, dim, rows, total, gathered);
  };
  switch (items.type) {
    case ElementType::kFloat32:
      gather(GatherItemsKernel<ElementType::kFloat32>);
      break;
    case ElementType::kBfloat16:
      gather(GatherItemsKernel<ElementType::kBfloat16>);
      break;
    case ElementType::kFloat16:
      gather(GatherItemsKernel<ElementType::kFloat16>);
      break;
    case ElementType::kInt8:
      gather(GatherItemsKernel<ElementType::kInt8>);
      break;
  }
}

}  // namespace lintf::gpu
