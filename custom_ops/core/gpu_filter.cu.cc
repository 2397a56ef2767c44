// SPDX-License-Identifier: Apache-2.0
// A warp evaluates a tile of 512 rows at a time. A lane has 4 x 4 of them: the
// rows 128 * j + 4 * lane + i of the tile, so that values of 4 bytes are read
// as whole vectors, lane by lane behind one another; row (j, i) is bit
// 4 * j + i of its masks.
#include "custom_ops/core/gpu_filter.h"

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <string>
#include <utility>
#include <vector>

#include "custom_ops/core/filter_batch.h"
#include "custom_ops/core/gpu.h"
#include "custom_ops/core/gpu_filter_code.h"

namespace lintf::gpu {
namespace {

constexpr int kThreads = 256;
// Of these, blocks that a multiprocessor holds: the values of a column take
// half of the registers.
constexpr int kBlocks = 3;
constexpr int kRows = kFilterThreadRows;
constexpr int kGroups = 4;     // j
constexpr int kGroupRows = 4;  // i
constexpr int64_t kGroupStride = int64_t{kWarpSize} * kGroupRows;
constexpr int64_t kTileRows = int64_t{kWarpSize} * kRows;
constexpr uint32_t kAllRows = (1u << kRows) - 1;

__device__ __forceinline__ constexpr uint64_t Join(uint32_t low,
                                                   uint32_t high) {
  return static_cast<uint64_t>(high) << 32 | low;
}

// The values of a column for a thread's rows; those of less than 64 bits are
// in `low` alone, extended to 32 bits.
struct Values {
  uint32_t low[kRows];
  uint32_t high[kRows];
};

// A value by its place, as a test sees it.
struct Narrow {
  const Values& values;
  __device__ __forceinline__ uint32_t operator()(int place) const {
    return values.low[place];
  }
};
struct Wide {
  const Values& values;
  __device__ __forceinline__ uint64_t operator()(int place) const {
    return Join(values.low[place], values.high[place]);
  }
};

// Row (j, i) of the tile.
__device__ __forceinline__ int64_t RowOf(int64_t tile_row, int place) {
  return tile_row + place / kGroupRows * kGroupStride +
         threadIdx.x % kWarpSize * kGroupRows + place % kGroupRows;
}

__device__ __forceinline__ uint32_t Extend8(uint32_t byte, bool is_signed) {
  return is_signed ? static_cast<uint32_t>(static_cast<int8_t>(byte & 0xFF))
                   : byte & 0xFF;
}

__device__ __forceinline__ uint32_t Extend16(uint32_t half, bool is_signed) {
  return is_signed ? static_cast<uint32_t>(static_cast<int16_t>(half & 0xFFFF))
                   : half & 0xFFFF;
}

// A whole tile of a column of width 1.
__device__ __forceinline__ void LoadVectors(ColumnType type, const char* data,
                                            int64_t tile_row, Values* values) {
  switch (type) {
    case ColumnType::kInt8:
    case ColumnType::kUint8:
#pragma unroll
      for (int j = 0; j < kGroups; ++j) {
        const uint32_t four = __ldg(reinterpret_cast<const uint32_t*>(
            data + RowOf(tile_row, j * kGroupRows)));
#pragma unroll
        for (int i = 0; i < kGroupRows; ++i) {
          values->low[j * kGroupRows + i] =
              Extend8(four >> (8 * i), type == ColumnType::kInt8);
        }
      }
      break;
    case ColumnType::kInt16:
    case ColumnType::kUint16:
#pragma unroll
      for (int j = 0; j < kGroups; ++j) {
        const uint2 four = __ldg(reinterpret_cast<const uint2*>(
            data + 2 * RowOf(tile_row, j * kGroupRows)));
        const bool is_signed = type == ColumnType::kInt16;
        uint32_t* const to = values->low + j * kGroupRows;
        to[0] = Extend16(four.x, is_signed);
        to[1] = Extend16(four.x >> 16, is_signed);
        to[2] = Extend16(four.y, is_signed);
        to[3] = Extend16(four.y >> 16, is_signed);
      }
      break;
    case ColumnType::kUint32:
    case ColumnType::kFloat:
#pragma unroll
      for (int j = 0; j < kGroups; ++j) {
        const uint4 four = LoadOnce(data + 4 * RowOf(tile_row, j * kGroupRows));
        uint32_t* const to = values->low + j * kGroupRows;
        to[0] = four.x;
        to[1] = four.y;
        to[2] = four.z;
        to[3] = four.w;
      }
      break;
    case ColumnType::kInt64:
    case ColumnType::kUint64:
#pragma unroll
      for (int j = 0; j < kGroups; ++j) {
        const char* const from = data + 8 * RowOf(tile_row, j * kGroupRows);
        // A sector is read by both, so it stays in the first cache.
        const uint4 one = __ldg(reinterpret_cast<const uint4*>(from));
        const uint4 two = __ldg(reinterpret_cast<const uint4*>(from) + 1);
        const int at = j * kGroupRows;
        values->low[at] = one.x;
        values->high[at] = one.y;
        values->low[at + 1] = one.z;
        values->high[at + 1] = one.w;
        values->low[at + 2] = two.x;
        values->high[at + 2] = two.y;
        values->low[at + 3] = two.z;
        values->high[at + 3] = two.w;
      }
      break;
  }
}

// Any column, value by value; rows that are not there are zeros.
__device__ __forceinline__ void LoadValues(ColumnType type, const char* data,
                                           int64_t width, int64_t tile_row,
                                           int64_t num_rows, Values* values) {
#pragma unroll
  for (int place = 0; place < kRows; ++place) {
    const int64_t row = RowOf(tile_row, place);
    const bool is_there = row < num_rows;
    const int64_t at = is_there ? row * width : 0;
    uint32_t low = 0;
    uint32_t high = 0;
    if (is_there) {
      switch (type) {
        case ColumnType::kInt8:
        case ColumnType::kUint8:
          low = Extend8(reinterpret_cast<const uint8_t*>(data)[at],
                        type == ColumnType::kInt8);
          break;
        case ColumnType::kInt16:
        case ColumnType::kUint16:
          low = Extend16(reinterpret_cast<const uint16_t*>(data)[at],
                         type == ColumnType::kInt16);
          break;
        case ColumnType::kUint32:
        case ColumnType::kFloat:
          low = reinterpret_cast<const uint32_t*>(data)[at];
          break;
        case ColumnType::kInt64:
        case ColumnType::kUint64: {
          const uint2 value = reinterpret_cast<const uint2*>(data)[at];
          low = value.x;
          high = value.y;
          break;
        }
      }
    }
    values->low[place] = low;
    values->high[place] = high;
  }
}

template <typename Test>
__device__ __forceinline__ uint32_t BitsOf(const Test& test) {
  uint32_t bits = 0;
#pragma unroll
  for (int place = 0; place < kRows; ++place) {
    if (test(place)) bits |= 1u << place;
  }
  return bits;
}

// Adds `bit` where the comparison holds: one comparison and one addition under
// its predicate, where the compiler would choose between numbers and add them.
#ifdef LINTF_GPU_EMULATOR
template <typename T>
void AddIfEqual(T a, T b, uint32_t bit, uint32_t* bits) {
  if (a == b) *bits += bit;
}
template <typename T>
void AddIfAtMost(T a, T b, uint32_t bit, uint32_t* bits) {
  if (a <= b) *bits += bit;
}
#else
__device__ __forceinline__ void AddIfEqual(uint32_t a, uint32_t b, uint32_t bit,
                                           uint32_t* bits) {
  asm("{.reg .pred holds; setp.eq.u32 holds, %1, %2; "
      "@holds add.u32 %0, %0, %3;}"
      : "+r"(*bits)
      : "r"(a), "r"(b), "r"(bit));
}
__device__ __forceinline__ void AddIfEqual(uint64_t a, uint64_t b, uint32_t bit,
                                           uint32_t* bits) {
  asm("{.reg .pred holds; setp.eq.u64 holds, %1, %2; "
      "@holds add.u32 %0, %0, %3;}"
      : "+r"(*bits)
      : "l"(a), "l"(b), "r"(bit));
}
__device__ __forceinline__ void AddIfAtMost(uint32_t a, uint32_t b,
                                            uint32_t bit, uint32_t* bits) {
  asm("{.reg .pred holds; setp.le.u32 holds, %1, %2; "
      "@holds add.u32 %0, %0, %3;}"
      : "+r"(*bits)
      : "r"(a), "r"(b), "r"(bit));
}
__device__ __forceinline__ void AddIfAtMost(uint64_t a, uint64_t b,
                                            uint32_t bit, uint32_t* bits) {
  asm("{.reg .pred holds; setp.le.u64 holds, %1, %2; "
      "@holds add.u32 %0, %0, %3;}"
      : "+r"(*bits)
      : "l"(a), "l"(b), "r"(bit));
}
#endif

// Where value(place) == wanted, and where it is at most `limit`. Four sums, so
// that additions do not wait for each other.
template <typename T, typename Value>
__device__ __forceinline__ uint32_t EqualBits(const Value& value, T wanted) {
  uint32_t bits[4] = {};
#pragma unroll
  for (int place = 0; place < kRows; ++place) {
    AddIfEqual(value(place), wanted, 1u << place, &bits[place % 4]);
  }
  return (bits[0] | bits[1]) | (bits[2] | bits[3]);
}
template <typename T, typename Value>
__device__ __forceinline__ uint32_t AtMostBits(const Value& value, T limit) {
  uint32_t bits[4] = {};
#pragma unroll
  for (int place = 0; place < kRows; ++place) {
    AddIfAtMost(value(place), limit, 1u << place, &bits[place % 4]);
  }
  return (bits[0] | bits[1]) | (bits[2] | bits[3]);
}

// How many of `values`, which ascend, are less.
template <typename T>
__device__ __forceinline__ uint32_t
CountLess(const uint64_t* __restrict__ values, uint32_t count, T value) {
  uint32_t begin = 0;
  while (count > 0) {
    const uint32_t half = count / 2;
    const bool is_less = static_cast<T>(values[begin + half]) < value;
    begin += is_less ? half + 1 : 0;
    count = is_less ? count - half - 1 : half;
  }
  return begin;
}

__device__ __forceinline__ bool BitAt(const uint64_t* __restrict__ bits,
                                      uint32_t at) {
  return (bits[at / 64] >> (at % 64) & 1) != 0;
}

// A leaf on the loaded values, but for the equalities.
__device__ __forceinline__ uint32_t
LeafBits(FilterStepOp op, uint64_t a, uint64_t b,
         const uint64_t* __restrict__ payload, const Values& values) {
  const uint32_t low = static_cast<uint32_t>(a);
  const uint32_t span = static_cast<uint32_t>(b);
  const Narrow narrow{values};
  const Wide wide{values};
  switch (op) {
    case FilterStepOp::kRange:
      return AtMostBits([&](int i) { return values.low[i] - low; }, span);
    case FilterStepOp::kFloatRange:
      // By whole numbers: units that flush denormals to zero can't compare.
      return AtMostBits(
          [&](int i) {
            const int32_t value = static_cast<int32_t>(values.low[i]);
            const int32_t key = value ^ ((value >> 31) & 0x7FFFFFFF);
            return static_cast<uint32_t>(key) - low;
          },
          span);
    case FilterStepOp::kBitsAny:
      return BitsOf([&](int i) { return (values.low[i] & low) != 0; });
    case FilterStepOp::kBitsAll:
      return BitsOf([&](int i) { return (values.low[i] & low) == low; });
    case FilterStepOp::kValues: {
      uint32_t bits = 0;
      for (uint32_t v = 0; v < low; ++v) {
        bits |= EqualBits(narrow, static_cast<uint32_t>(payload[v]));
      }
      return bits;
    }
    case FilterStepOp::kSearch:
      return BitsOf([&](int i) {
        const uint32_t at = CountLess<uint32_t>(payload, low, values.low[i]);
        return at < low && static_cast<uint32_t>(payload[at]) == values.low[i];
      });
    case FilterStepOp::kBitmap:
      return BitsOf([&](int i) {
        const uint32_t at = values.low[i] - low;
        return at <= span && BitAt(payload, at);
      });
    case FilterStepOp::kRange64:
      return AtMostBits([&](int i) { return wide(i) - a; }, b);
    case FilterStepOp::kBitsAny64:
      return BitsOf([&](int i) { return (wide(i) & a) != 0; });
    case FilterStepOp::kBitsAll64:
      return BitsOf([&](int i) { return (wide(i) & a) == a; });
    case FilterStepOp::kValues64: {
      uint32_t bits = 0;
      for (uint32_t v = 0; v < low; ++v) {
        bits |= EqualBits(wide, payload[v]);
      }
      return bits;
    }
    case FilterStepOp::kSearch64:
      return BitsOf([&](int i) {
        const uint32_t at =
            CountLess<int64_t>(payload, low, static_cast<int64_t>(wide(i)));
        return at < low && payload[at] == wide(i);
      });
    case FilterStepOp::kBitmap64:
      return BitsOf([&](int i) {
        const uint64_t at = wide(i) - a;
        return at <= b && BitAt(payload, static_cast<uint32_t>(at));
      });
    default:
      return 0;
  }
}

// The rows of the list that are this thread's.
__device__ __forceinline__ uint32_t RowBits(const uint64_t* __restrict__ rows,
                                            uint32_t count, int64_t tile_row) {
  const uint64_t end = static_cast<uint64_t>(tile_row + kTileRows);
  uint32_t bits = 0;
  uint32_t at =
      CountLess<uint64_t>(rows, count, static_cast<uint64_t>(tile_row));
  for (; at < count && rows[at] < end; ++at) {
    const int in_tile =
        static_cast<int>(static_cast<int64_t>(rows[at]) - tile_row);
    const int in_group = in_tile % static_cast<int>(kGroupStride);
    if (in_group / kGroupRows != static_cast<int>(threadIdx.x % kWarpSize)) {
      continue;
    }
    bits |= 1u << (in_tile / static_cast<int>(kGroupStride) * kGroupRows +
                   in_group % kGroupRows);
  }
  return bits;
}

// What all of the slots pass that the bytes name, `count` of them.
__device__ __forceinline__ uint32_t SlotBits(const uint16_t* slots, uint64_t a,
                                             uint64_t b, uint32_t count) {
  uint32_t bits = kAllRows;
  uint32_t names = static_cast<uint32_t>(a);
  for (uint32_t i = 0; i < count; ++i) {
    uint32_t slot = slots[(names & (kNegatedSlot - 1)) * kThreads];
    if ((names & kNegatedSlot) != 0) slot = ~slot;
    bits &= slot;
    names >>= 8;
    if (i % 4 == 3) {
      a = a >> 32 | b << 32;
      b >>= 32;
      names = static_cast<uint32_t>(a);
    }
  }
  return bits;
}

// Collects the bits of the warp into words: of 32 rows, in the lanes that
// IsWriter names, word WordOfLane of the tile.
__device__ __forceinline__ bool IsWriter() { return (threadIdx.x & 4) == 0; }
__device__ __forceinline__ int WordOfLane() {
  const int lane = threadIdx.x % kWarpSize;
  const int group = (lane & 1) * 2 + (lane >> 1 & 1);
  return group * static_cast<int>(kGroupStride / 32) + lane / 8;
}
__device__ __forceinline__ uint32_t WordOfWarp(uint32_t bits) {
  // 4 nibbles a lane. Neighbours first trade pairs of groups ...
  const bool odd = (threadIdx.x & 1) != 0;
  uint32_t given = odd ? bits & 0xFF : bits >> 8;
  uint32_t kept = odd ? bits >> 8 : bits & 0xFF;
  uint32_t got = __shfl_xor_sync(kWarp, given, 1);
  uint32_t lower = odd ? got : kept;
  uint32_t upper = odd ? kept : got;
  const uint32_t first = (lower & 0xF) | (upper & 0xF) << 4;
  const uint32_t second = lower >> 4 | (upper & 0xF0);
  // ... then groups, so that each lane has one of them ...
  const bool in_upper = (threadIdx.x & 2) != 0;
  given = in_upper ? first : second;
  kept = in_upper ? second : first;
  got = __shfl_xor_sync(kWarp, given, 2);
  lower = in_upper ? got : kept;
  upper = in_upper ? kept : got;
  const uint32_t half = lower | upper << 8;
  // ... and the upper lanes of eight give theirs to the lower ones.
  return half | __shfl_xor_sync(kWarp, half, 4) << 16;
}

// The stack of masks, whose top is apart.
class ShallowStack {
 public:
  __device__ __forceinline__ void Push(uint32_t bits) {
    rest_ = rest_ << kRows | top_;
    top_ = bits;
  }
  __device__ __forceinline__ uint32_t Pop() {
    const uint32_t bits = top_;
    top_ = static_cast<uint32_t>(rest_) & kAllRows;
    rest_ >>= kRows;
    return bits;
  }
  __device__ __forceinline__ uint32_t& top() { return top_; }

 private:
  uint32_t top_ = 0;
  uint64_t rest_ = 0;
};

// In local memory: few filters are as deep.
class DeepStack {
 public:
  __device__ __forceinline__ void Push(uint32_t bits) {
    rest_[size_++] = static_cast<uint16_t>(top_);
    top_ = bits;
  }
  __device__ __forceinline__ uint32_t Pop() {
    const uint32_t bits = top_;
    top_ = rest_[--size_];
    return bits;
  }
  __device__ __forceinline__ uint32_t& top() { return top_; }

 private:
  uint32_t top_ = 0;
  int size_ = 0;
  uint16_t rest_[kDeepFilterStack];
};

template <typename Stack>
__device__ __forceinline__ void Merge(FilterMerge merge, uint32_t bits,
                                      uint16_t* slot, Stack* stack) {
  // Of several masks, most steps store.
  if (merge == FilterMerge::kStore) {
    *slot = static_cast<uint16_t>(bits);
    return;
  }
  switch (merge) {
    case FilterMerge::kPush:
      stack->Push(bits);
      break;
    case FilterMerge::kAnd:
      stack->top() &= bits;
      break;
    case FilterMerge::kOr:
      stack->top() |= bits;
      break;
    case FilterMerge::kStore:
    case FilterMerge::kOutput:
      break;
    case FilterMerge::kStoreOr:
      *slot = static_cast<uint16_t>(*slot | bits);
      break;
  }
}

// `words` is [masks, stride], stride a multiple of kTileRows / 64.
template <typename Stack>
__global__ __launch_bounds__(kThreads, kBlocks) void FilterKernel(
    const uint4* __restrict__ steps, const uint64_t* __restrict__ payload,
    int64_t num_rows, const uint32_t* __restrict__ live, int64_t stride,
    uint64_t* __restrict__ words) {
  // No thread looks at the slots of another.
  uint16_t* const slots =
      reinterpret_cast<uint16_t*>(DynamicShared()) + threadIdx.x;
  const int64_t num_tiles = (num_rows + kTileRows - 1) / kTileRows;
  const int64_t warps = static_cast<int64_t>(gridDim.x) * kThreads / kWarpSize;
  for (int64_t tile =
           (static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x) /
           kWarpSize;
       tile < num_tiles; tile += warps) {
    const int64_t tile_row = tile * kTileRows;
    const bool is_whole = tile_row + kTileRows <= num_rows;
    // Which rows of this lane's word may pass.
    const int64_t word = tile * (kTileRows / 32) + WordOfLane();
    const int64_t left = num_rows - word * 32;
    uint32_t may_pass = left >= 32 ? ~0u : (left > 0 ? (1u << left) - 1 : 0);
    if (live != nullptr && left > 0) may_pass &= live[word];

    uint32_t* const mask_words = reinterpret_cast<uint32_t*>(words) + word;
    const int64_t mask_stride = 2 * stride;

    Values values;
#pragma unroll
    for (int i = 0; i < kRows; ++i) values.low[i] = values.high[i] = 0;
    Stack stack;
    for (uint32_t next = 0;;) {
      const uint4 head = __ldg(steps + 2 * next);
      const uint4 tail = __ldg(steps + 2 * next + 1);
      ++next;
      const FilterStepOp op = static_cast<FilterStepOp>(head.x & 0xFF);
      if (op == FilterStepOp::kEnd) break;
      const FilterMerge merge = static_cast<FilterMerge>(head.x >> 8 & 0xFF);
      const uint32_t type = head.x >> 24;
      const uint32_t number = head.y;
      const uint64_t a = Join(head.z, head.w);
      const uint64_t b = Join(tail.x, tail.y);
      const uint64_t c = Join(tail.z, tail.w);
      uint32_t bits = 0;
      // What filters test most comes before the tree of a switch.
      if (op == FilterStepOp::kEqual || op == FilterStepOp::kEqual64) {
        bits = op == FilterStepOp::kEqual
                   ? EqualBits(Narrow{values}, static_cast<uint32_t>(a))
                   : EqualBits(Wide{values}, a);
      } else {
        switch (op) {
          case FilterStepOp::kLoad: {
            const char* const data = reinterpret_cast<const char*>(a);
            const ColumnType column_type = static_cast<ColumnType>(type);
            if (is_whole && (head.x >> 16 & 1) == 0) {
              LoadVectors(column_type, data, tile_row, &values);
            } else {
              LoadValues(column_type, data, number, tile_row, num_rows,
                         &values);
            }
            continue;
          }
          case FilterStepOp::kOutput: {
            const uint32_t found = WordOfWarp(stack.Pop()) & may_pass;
            if (IsWriter()) mask_words[number * mask_stride] = found;
            continue;
          }
          case FilterStepOp::kSkip: {
            const uint32_t decided = type != 0 ? kAllRows : 0;
            if (__all_sync(kWarp, stack.top() == decided)) next = number;
            continue;
          }
          case FilterStepOp::kPop:
            bits = stack.Pop();
            break;
          case FilterStepOp::kConstant:
            bits = kAllRows;
            break;
          case FilterStepOp::kRows:
            bits = RowBits(payload + c, static_cast<uint32_t>(a), tile_row);
            break;
          case FilterStepOp::kSlots:
            bits = SlotBits(slots, a, b, type);
            break;
          default:
            bits = LeafBits(op, a, b, payload + c, values);
            break;
        }
      }
      if ((head.x >> 16 & 1) != 0) bits ^= kAllRows;
      if (merge == FilterMerge::kOutput) {
        bits = WordOfWarp(bits) & may_pass;
        if (IsWriter()) mask_words[number * mask_stride] = bits;
        continue;
      }
      Merge(merge, bits, slots + number * kThreads, &stack);
    }
  }
}

template <typename Stack>
void LaunchFilters(const FilterCode& code, int64_t num_rows,
                   const uint64_t* live, int64_t stride, Context* context,
                   uint64_t* words) {
  // Steps and payload travel together.
  constexpr int64_t kStepWords = sizeof(FilterStep) / sizeof(uint64_t);
  const int64_t num_steps = static_cast<int64_t>(code.steps.size());
  std::vector<uint64_t> image(num_steps * kStepWords);
  std::memcpy(image.data(), code.steps.data(), num_steps * sizeof(FilterStep));
  image.insert(image.end(), code.payload.begin(), code.payload.end());
  const uint64_t* const uploaded =
      context->Upload(image.data(), static_cast<int64_t>(image.size()));
  if (!context->ok()) return;

  const int64_t shared_bytes = std::max<int64_t>(code.slots, 1) * kThreads *
                               static_cast<int64_t>(sizeof(uint16_t));
  constexpr int64_t kBlockRows = kThreads * int64_t{kRows};
  const int64_t blocks = std::min<int64_t>(
      (num_rows + kBlockRows - 1) / kBlockRows,
      int64_t{context->num_multiprocessors()} *
          BlocksPerMultiprocessor(context, FilterKernel<Stack>, kThreads,
                                  shared_bytes));
  Launch(context, FilterKernel<Stack>, static_cast<unsigned>(blocks), kThreads,
         shared_bytes, reinterpret_cast<const uint4*>(uploaded),
         uploaded + num_steps * kStepWords, num_rows,
         reinterpret_cast<const uint32_t*>(live), stride, words);
}

}  // namespace

struct FilterMasks::Impl {
  std::vector<int32_t> mask_of_program;
  std::vector<bool> passes_all;
  FilterCode code;
};

FilterMasks::FilterMasks() : impl_(new Impl) {}
FilterMasks::~FilterMasks() = default;

std::string FilterMasks::Init(const int64_t* programs, int64_t num_programs,
                              int64_t words_per_program,
                              const std::vector<Column>& columns,
                              const int64_t* ids, const IdResolver* resolver,
                              int64_t* bad_program) {
  FilterCodeBuilder builder(columns, ids, resolver);
  std::string error = AddFilterMasks(
      programs, num_programs, words_per_program, columns,
      [&](const std::vector<FilterInstruction>& instructions) {
        return builder.Add(instructions);
      },
      &impl_->mask_of_program, bad_program);
  if (!error.empty()) return error;
  impl_->passes_all = builder.passes_all();
  impl_->code = builder.Build();
  return "";
}

const std::vector<int32_t>& FilterMasks::mask_of_program() const {
  return impl_->mask_of_program;
}

int64_t FilterMasks::num_masks() const {
  return static_cast<int64_t>(impl_->passes_all.size());
}

Masks FilterMasks::Evaluate(int64_t num_rows, const uint64_t* live,
                            Context* context) const {
  constexpr int64_t kTileWords = kTileRows / kRowsPerWord;
  Masks masks;
  masks.stride =
      (MaskWords(num_rows) + kTileWords - 1) / kTileWords * kTileWords;
  masks.passes_all = impl_->passes_all;
  if (live != nullptr) masks.passes_all.assign(num_masks(), false);
  uint64_t* const words =
      context->Allocate<uint64_t>(num_masks() * masks.stride);
  masks.words = words;
  if (num_rows == 0 ||
      std::all_of(masks.passes_all.begin(), masks.passes_all.end(),
                  [](bool passes) { return passes; })) {
    return masks;
  }
  if (impl_->code.stack > kShallowFilterStack) {
    LaunchFilters<DeepStack>(impl_->code, num_rows, live, masks.stride, context,
                             words);
  } else {
    LaunchFilters<ShallowStack>(impl_->code, num_rows, live, masks.stride,
                                context, words);
  }
  return masks;
}

}  // namespace lintf::gpu
