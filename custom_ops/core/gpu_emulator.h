// SPDX-License-Identifier: Apache-2.0
// Runs kernels on the CPU, so that their sources are tested without a GPU: the
// names of CUDA that gpu.h allows, for a C++ compiler. In place of
// cuda_runtime.h; gpu.h includes it where LINTF_GPU_EMULATOR is defined.
//
// Each thread of a block is a fiber with a stack of its own; blocks run one
// after another, launches of several host threads too. A fiber runs until it
// waits at a barrier or at an operation of its warp. The seed of
// gpu_testing.h's SetSchedule, or of the environment variable
// LINTF_GPU_EMULATOR_SEED, sets the order of the blocks and of the fibers that
// may run: a result that changes with it shows a missing barrier.
//
// Made to find faults: device and shared memory begin as 0xCD bytes and have
// the size that was asked for, for AddressSanitizer to watch; an asynchronous
// copy leaves 0xCD bytes until it is waited for; threads that wait for ever,
// lanes at different operations, and misaligned 16-byte accesses end the
// program with a message. Sums of the matrix operations round to nearest after
// each product, where a GPU may keep or drop more bits.
#ifndef LINTF_CUSTOM_OPS_CORE_GPU_EMULATOR_H_
#define LINTF_CUSTOM_OPS_CORE_GPU_EMULATOR_H_

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <tuple>
#include <type_traits>
#include <utility>

#include "custom_ops/core/gpu_context.h"

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline
#define __grid_constant__
#define __launch_bounds__(...)
#define __align__(bytes) __attribute__((aligned(bytes)))
// Blocks run one after another: one place serves them all. The section's name
// lets the emulator fill it between blocks; AddressSanitizer does not watch
// variables with a section of their own.
#if defined(__SANITIZE_ADDRESS__)
#define __shared__ static
#else
#define __shared__ static __attribute__((section("lintf_gpu_shared")))
#endif

// ---- Types and built-in variables.

#define LINTF_VECTOR2(name, type, bytes) \
  struct __align__(bytes) name {         \
    type x, y;                           \
  };                                     \
  inline name make_##name(type x, type y) { return {x, y}; }
#define LINTF_VECTOR4(name, type)                           \
  struct __align__(16) name {                               \
    type x, y, z, w;                                        \
  };                                                        \
  inline name make_##name(type x, type y, type z, type w) { \
    return {x, y, z, w};                                    \
  }
LINTF_VECTOR2(int2, int, 8)
LINTF_VECTOR2(uint2, unsigned, 8)
LINTF_VECTOR2(float2, float, 8)
LINTF_VECTOR2(ulonglong2, unsigned long long, 16)
LINTF_VECTOR2(longlong2, long long, 16)
LINTF_VECTOR4(int4, int)
LINTF_VECTOR4(uint4, unsigned)
LINTF_VECTOR4(float4, float)
#undef LINTF_VECTOR2
#undef LINTF_VECTOR4

struct uint3 {
  unsigned x, y, z;
};

struct dim3 {
  // From one number too, as in CUDA.
  constexpr dim3(unsigned x = 1, unsigned y = 1, unsigned z = 1)
      : x(x), y(y), z(z) {}
  unsigned x, y, z;
};

// Of the fiber that runs.
extern uint3 threadIdx;
extern uint3 blockIdx;
extern dim3 blockDim;
extern dim3 gridDim;

// ---- The runtime.

enum cudaError_t {
  cudaSuccess = 0,
  cudaErrorInvalidValue = 1,
  cudaErrorMemoryAllocation = 2,
  cudaErrorInvalidConfiguration = 9,
};
enum cudaMemcpyKind {
  cudaMemcpyHostToHost,
  cudaMemcpyHostToDevice,
  cudaMemcpyDeviceToHost,
  cudaMemcpyDeviceToDevice,
  cudaMemcpyDefault,
};
enum cudaDeviceAttr {
  cudaDevAttrMultiProcessorCount = 16,
  cudaDevAttrL2CacheSize = 38,
  cudaDevAttrMaxSharedMemoryPerBlockOptin = 97,
};
enum cudaFuncAttribute { cudaFuncAttributeMaxDynamicSharedMemorySize = 8 };
using cudaStream_t = CUstream_st*;

cudaError_t cudaMalloc(void** memory, size_t bytes);
template <typename T>
cudaError_t cudaMalloc(T** memory, size_t bytes) {
  return cudaMalloc(reinterpret_cast<void**>(memory), bytes);
}
cudaError_t cudaFree(void* memory);
cudaError_t cudaMemcpy(void* to, const void* from, size_t bytes,
                       cudaMemcpyKind kind);
cudaError_t cudaMemcpyAsync(void* to, const void* from, size_t bytes,
                            cudaMemcpyKind kind, cudaStream_t stream = nullptr);
cudaError_t cudaMemset(void* memory, int value, size_t bytes);
cudaError_t cudaMemsetAsync(void* memory, int value, size_t bytes,
                            cudaStream_t stream = nullptr);
cudaError_t cudaGetLastError();
cudaError_t cudaDeviceSynchronize();
cudaError_t cudaStreamCreate(cudaStream_t* stream);
cudaError_t cudaStreamDestroy(cudaStream_t stream);
cudaError_t cudaStreamSynchronize(cudaStream_t stream);
cudaError_t cudaGetDevice(int* device);
cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr attribute,
                                   int device);
template <typename Kernel>
cudaError_t cudaFuncSetAttribute(Kernel, cudaFuncAttribute, int) {
  return cudaSuccess;
}
const char* cudaGetErrorString(cudaError_t error);
const char* cudaGetErrorName(cudaError_t error);

namespace lintf::gpu::emulator {

// The order of threads and blocks of the launches that follow. 0: as they are
// numbered; 1: a warp runs as far as it can before the next one, blocks from
// the last; others: at random.
void SetSeed(uint64_t seed);

inline constexpr int64_t kMaxSharedBytes = 227 << 10;

enum class WarpOperation : uint8_t {
  kSync,
  kShuffle,
  kShuffleXor,
  kShuffleUp,
  kShuffleDown,
  kBallot,
  kAny,
  kAll,
  kMatch,
  kReduceAdd,
  kReduceMin,
  kReduceMax,
  kMultiplyBfloat16,
  kMultiplyFloat16,
  kMultiplyTf32,
};
enum class BlockOperation : uint8_t { kSync, kOr, kAnd, kCount };

// What a lane shows to the others.
struct alignas(8) LaneValue {
  unsigned char bytes[48];
};

// Waits for all lanes of the warp to come to the same operation; returns the
// values of the 32 lanes, readable until this lane's next operation.
const LaneValue* Exchange(WarpOperation operation, unsigned mask,
                          const void* value, size_t size);

// Waits for all threads of the block that have not ended; returns for how many
// of them `holds` is true.
int WaitForBlock(BlockOperation operation, bool holds);

int Lane();
char* DynamicShared();
void CheckAligned(const void* address, const char* what);
void StartCopy(void* shared, const void* global, bool valid);
void CommitCopies();
void WaitCopies(int pending);

// Runs the kernel once for each thread of the grid. Returns a CUDA error.
cudaError_t RunGrid(dim3 grid, int threads, int64_t shared_bytes,
                    const void* kernel, void (*run)(const void*),
                    const void* arguments);

template <typename T>
T LaneAs(const LaneValue* lanes, int lane) {
  T value;
  std::memcpy(&value, lanes[lane].bytes, sizeof(T));
  return value;
}

// The value of lane source(lane), of a segment of `width` lanes, if that is
// one of the segment's; else the own.
template <typename T, typename Source>
T Shuffle(WarpOperation operation, unsigned mask, T value, int width,
          Source source) {
  static_assert(std::is_arithmetic_v<T> && (sizeof(T) == 4 || sizeof(T) == 8),
                "CUDA shuffles numbers of 4 and of 8 bytes");
  const LaneValue* const lanes = Exchange(operation, mask, &value, sizeof(T));
  const int lane = Lane();
  const int begin = lane / width * width;
  const int from = source(lane, begin);
  return LaneAs<T>(lanes, from >= begin && from < begin + width ? from : lane);
}

void MultiplyTile(WarpOperation operation, float (&sum)[4],
                  const uint32_t (&a)[4], const uint32_t (&b)[2]);

template <typename To, typename From>
To BitCast(From from) {
  static_assert(sizeof(To) == sizeof(From));
  To to;
  std::memcpy(&to, &from, sizeof(To));
  return to;
}

}  // namespace lintf::gpu::emulator

template <typename... Parameters>
cudaError_t cudaOccupancyMaxActiveBlocksPerMultiprocessor(
    int* blocks, void (*)(Parameters...), int, size_t shared_bytes) {
  // Few, so that blocks go over their work in strides.
  constexpr size_t kMost = lintf::gpu::emulator::kMaxSharedBytes;
  *blocks = shared_bytes > kMost ? 0 : 2 * shared_bytes > kMost ? 1 : 2;
  return cudaSuccess;
}

// ---- Barriers and warp operations.

inline void __syncthreads() {
  lintf::gpu::emulator::WaitForBlock(
      lintf::gpu::emulator::BlockOperation::kSync, false);
}
inline int __syncthreads_or(int holds) {
  return lintf::gpu::emulator::WaitForBlock(
             lintf::gpu::emulator::BlockOperation::kOr, holds != 0) != 0;
}
inline int __syncthreads_and(int holds) {
  return lintf::gpu::emulator::WaitForBlock(
             lintf::gpu::emulator::BlockOperation::kAnd, holds == 0) == 0;
}
inline int __syncthreads_count(int holds) {
  return lintf::gpu::emulator::WaitForBlock(
      lintf::gpu::emulator::BlockOperation::kCount, holds != 0);
}
inline void __syncwarp(unsigned mask = 0xFFFFFFFFu) {
  lintf::gpu::emulator::Exchange(lintf::gpu::emulator::WarpOperation::kSync,
                                 mask, nullptr, 0);
}

template <typename T>
T __shfl_sync(unsigned mask, T value, int source, int width = 32) {
  return lintf::gpu::emulator::Shuffle(
      lintf::gpu::emulator::WarpOperation::kShuffle, mask, value, width,
      [=](int, int begin) { return begin + (source & (width - 1)); });
}
template <typename T>
T __shfl_xor_sync(unsigned mask, T value, int lanes, int width = 32) {
  return lintf::gpu::emulator::Shuffle(
      lintf::gpu::emulator::WarpOperation::kShuffleXor, mask, value, width,
      [=](int lane, int) { return lane ^ lanes; });
}
template <typename T>
T __shfl_up_sync(unsigned mask, T value, unsigned delta, int width = 32) {
  return lintf::gpu::emulator::Shuffle(
      lintf::gpu::emulator::WarpOperation::kShuffleUp, mask, value, width,
      [=](int lane, int) { return lane - static_cast<int>(delta); });
}
template <typename T>
T __shfl_down_sync(unsigned mask, T value, unsigned delta, int width = 32) {
  return lintf::gpu::emulator::Shuffle(
      lintf::gpu::emulator::WarpOperation::kShuffleDown, mask, value, width,
      [=](int lane, int) { return lane + static_cast<int>(delta); });
}

namespace lintf::gpu::emulator {
inline unsigned Ballot(WarpOperation operation, unsigned mask, int holds) {
  const bool own = holds != 0;
  const LaneValue* const lanes = Exchange(operation, mask, &own, sizeof(own));
  unsigned bits = 0;
  for (int lane = 0; lane < 32; ++lane) {
    bits |= static_cast<unsigned>(LaneAs<bool>(lanes, lane)) << lane;
  }
  return bits;
}

template <typename T, typename Combine>
T Reduce(WarpOperation operation, unsigned mask, T value, Combine combine) {
  static_assert(sizeof(T) == 4, "CUDA reduces int and unsigned");
  const LaneValue* const lanes = Exchange(operation, mask, &value, sizeof(T));
  T total = LaneAs<T>(lanes, 0);
  for (int lane = 1; lane < 32; ++lane) {
    total = combine(total, LaneAs<T>(lanes, lane));
  }
  return total;
}
}  // namespace lintf::gpu::emulator

inline unsigned __ballot_sync(unsigned mask, int holds) {
  return lintf::gpu::emulator::Ballot(
      lintf::gpu::emulator::WarpOperation::kBallot, mask, holds);
}
inline int __any_sync(unsigned mask, int holds) {
  return lintf::gpu::emulator::Ballot(lintf::gpu::emulator::WarpOperation::kAny,
                                      mask, holds) != 0;
}
inline int __all_sync(unsigned mask, int holds) {
  return lintf::gpu::emulator::Ballot(lintf::gpu::emulator::WarpOperation::kAll,
                                      mask, holds) == 0xFFFFFFFFu;
}
template <typename T>
unsigned __match_any_sync(unsigned mask, T value) {
  static_assert(std::is_arithmetic_v<T> && (sizeof(T) == 4 || sizeof(T) == 8),
                "CUDA matches numbers of 4 and of 8 bytes");
  const lintf::gpu::emulator::LaneValue* const lanes =
      lintf::gpu::emulator::Exchange(
          lintf::gpu::emulator::WarpOperation::kMatch, mask, &value, sizeof(T));
  unsigned bits = 0;
  for (int lane = 0; lane < 32; ++lane) {
    const bool same = std::memcmp(lanes[lane].bytes, &value, sizeof(T)) == 0;
    bits |= static_cast<unsigned>(same) << lane;
  }
  return bits;
}
inline unsigned __reduce_add_sync(unsigned mask, unsigned value) {
  return lintf::gpu::emulator::Reduce(
      lintf::gpu::emulator::WarpOperation::kReduceAdd, mask, value,
      [](unsigned a, unsigned b) { return a + b; });
}
inline int __reduce_add_sync(unsigned mask, int value) {
  return static_cast<int>(
      __reduce_add_sync(mask, static_cast<unsigned>(value)));
}
inline unsigned __reduce_min_sync(unsigned mask, unsigned value) {
  return lintf::gpu::emulator::Reduce(
      lintf::gpu::emulator::WarpOperation::kReduceMin, mask, value,
      [](unsigned a, unsigned b) { return a < b ? a : b; });
}
inline int __reduce_min_sync(unsigned mask, int value) {
  return lintf::gpu::emulator::Reduce(
      lintf::gpu::emulator::WarpOperation::kReduceMin, mask, value,
      [](int a, int b) { return a < b ? a : b; });
}
inline unsigned __reduce_max_sync(unsigned mask, unsigned value) {
  return lintf::gpu::emulator::Reduce(
      lintf::gpu::emulator::WarpOperation::kReduceMax, mask, value,
      [](unsigned a, unsigned b) { return a > b ? a : b; });
}
inline int __reduce_max_sync(unsigned mask, int value) {
  return lintf::gpu::emulator::Reduce(
      lintf::gpu::emulator::WarpOperation::kReduceMax, mask, value,
      [](int a, int b) { return a > b ? a : b; });
}

// ---- Bits and arithmetic.

inline int __popc(unsigned x) { return __builtin_popcount(x); }
inline int __popcll(unsigned long long x) { return __builtin_popcountll(x); }
inline int __ffs(int x) { return __builtin_ffs(x); }
inline int __ffsll(long long x) { return __builtin_ffsll(x); }
inline int __clz(int x) {
  return x == 0 ? 32 : __builtin_clz(static_cast<unsigned>(x));
}
inline int __clzll(long long x) {
  return x == 0 ? 64 : __builtin_clzll(static_cast<unsigned long long>(x));
}
inline unsigned __brev(unsigned x) {
  unsigned reversed = 0;
  for (int bit = 0; bit < 32; ++bit) reversed |= (x >> bit & 1u) << (31 - bit);
  return reversed;
}
inline unsigned long long __brevll(unsigned long long x) {
  return static_cast<unsigned long long>(__brev(static_cast<unsigned>(x)))
             << 32 |
         __brev(static_cast<unsigned>(x >> 32));
}
inline unsigned __byte_perm(unsigned x, unsigned y, unsigned selector) {
  const unsigned long long both = static_cast<unsigned long long>(y) << 32 | x;
  unsigned chosen = 0;
  for (int i = 0; i < 4; ++i) {
    const unsigned which = selector >> (4 * i) & 15u;
    unsigned byte = static_cast<unsigned>(both >> (8 * (which & 7u))) & 255u;
    if (which & 8u) byte = byte & 128u ? 255u : 0u;
    chosen |= byte << (8 * i);
  }
  return chosen;
}
inline int __dp4a(int a, int b, int sum) {
  unsigned total = static_cast<unsigned>(sum);
  for (int i = 0; i < 32; i += 8) {
    const int product = static_cast<int8_t>(static_cast<unsigned>(a) >> i) *
                        static_cast<int8_t>(static_cast<unsigned>(b) >> i);
    total += static_cast<unsigned>(product);
  }
  return static_cast<int>(total);
}
inline unsigned __dp4a(unsigned a, unsigned b, unsigned sum) {
  for (int i = 0; i < 32; i += 8) sum += (a >> i & 255u) * (b >> i & 255u);
  return sum;
}
inline unsigned __funnelshift_r(unsigned low, unsigned high, unsigned shift) {
  const unsigned long long both =
      static_cast<unsigned long long>(high) << 32 | low;
  return static_cast<unsigned>(both >> (shift & 31u));
}
inline unsigned __funnelshift_l(unsigned low, unsigned high, unsigned shift) {
  const unsigned long long both =
      static_cast<unsigned long long>(high) << 32 | low;
  return static_cast<unsigned>(both << (shift & 31u) >> 32);
}
inline unsigned __umulhi(unsigned a, unsigned b) {
  return static_cast<unsigned>(static_cast<unsigned long long>(a) * b >> 32);
}

// Built with -ffp-contract=off: one rounding an operation.
inline float __fmaf_rn(float a, float b, float c) { return std::fma(a, b, c); }
inline float __fmul_rn(float a, float b) { return a * b; }
inline float __fadd_rn(float a, float b) { return a + b; }
inline float __fsub_rn(float a, float b) { return a - b; }
inline float __fdiv_rn(float a, float b) { return a / b; }
inline float __fsqrt_rn(float a) { return std::sqrt(a); }
inline double __fma_rn(double a, double b, double c) {
  return std::fma(a, b, c);
}
inline double __dmul_rn(double a, double b) { return a * b; }
inline double __dadd_rn(double a, double b) { return a + b; }
inline double __dsub_rn(double a, double b) { return a - b; }
// Saturates; NaN becomes 0.
inline int __float2int_rn(float x) {
  if (std::isnan(x)) return 0;
  if (x >= 2147483648.0f) return 2147483647;
  if (x < -2147483648.0f) return -2147483647 - 1;
  return static_cast<int>(std::nearbyint(x));
}
inline float __int2float_rn(int x) { return static_cast<float>(x); }
inline unsigned __float_as_uint(float x) {
  return lintf::gpu::emulator::BitCast<unsigned>(x);
}
inline int __float_as_int(float x) {
  return lintf::gpu::emulator::BitCast<int>(x);
}
inline float __uint_as_float(unsigned x) {
  return lintf::gpu::emulator::BitCast<float>(x);
}
inline float __int_as_float(int x) {
  return lintf::gpu::emulator::BitCast<float>(x);
}
inline long long __double_as_longlong(double x) {
  return lintf::gpu::emulator::BitCast<long long>(x);
}
inline double __longlong_as_double(long long x) {
  return lintf::gpu::emulator::BitCast<double>(x);
}
template <typename T>
T min(T a, T b) {
  return b < a ? b : a;
}
template <typename T>
T max(T a, T b) {
  return a < b ? b : a;
}

// ---- Memory.

template <typename T>
T __ldg(const T* from) {
  return *from;
}
inline void __threadfence() {}
inline void __threadfence_block() {}

// One fiber runs at a time, so plain accesses are atomic. The types are
// CUDA's: uint64_t is not among them there either.
#define LINTF_ATOMIC(name, type, result)        \
  inline type name(type* address, type value) { \
    const type old = *address;                  \
    *address = result;                          \
    return old;                                 \
  }
#define LINTF_INTEGER_ATOMICS(type)                                 \
  LINTF_ATOMIC(atomicAdd, type, old + value)                        \
  LINTF_ATOMIC(atomicMax, type, old < value ? value : old)          \
  LINTF_ATOMIC(atomicMin, type, value < old ? value : old)          \
  LINTF_ATOMIC(atomicOr, type, old | value)                         \
  LINTF_ATOMIC(atomicAnd, type, old& value)                         \
  LINTF_ATOMIC(atomicXor, type, old ^ value)                        \
  LINTF_ATOMIC(atomicExch, type, value)                             \
  inline type atomicCAS(type* address, type expected, type value) { \
    const type old = *address;                                      \
    if (old == expected) *address = value;                          \
    return old;                                                     \
  }
LINTF_INTEGER_ATOMICS(unsigned)
LINTF_INTEGER_ATOMICS(unsigned long long)
LINTF_INTEGER_ATOMICS(int)
LINTF_ATOMIC(atomicAdd, float, old + value)
LINTF_ATOMIC(atomicAdd, double, old + value)
LINTF_ATOMIC(atomicExch, float, value)
#undef LINTF_INTEGER_ATOMICS
#undef LINTF_ATOMIC

// ---- What gpu.h adds.

namespace lintf::gpu {

inline char* DynamicShared() { return emulator::DynamicShared(); }

template <typename... Parameters, typename... Arguments>
void Launch(Context* context, void (*kernel)(Parameters...), dim3 grid,
            int threads, int64_t shared_bytes, Arguments&&... arguments) {
  if (!context->ok()) return;
  static_assert((sizeof(Parameters) + ... + 0) <= 4096,
                "a kernel's arguments take at most 4 KiB");
  using Values = std::tuple<std::decay_t<Parameters>...>;
  struct Call {
    void (*kernel)(Parameters...);
    Values values;
  };
  const Call call{kernel, Values(std::forward<Arguments>(arguments)...)};
  const auto run = [](const void* data) {
    const Call& call = *static_cast<const Call*>(data);
    std::apply(call.kernel, call.values);
  };
  context->Check(
      emulator::RunGrid(grid, threads, shared_bytes,
                        reinterpret_cast<const void*>(kernel), run, &call),
      "queueing a kernel");
}

template <typename... Parameters>
int BlocksPerMultiprocessor(Context* context, void (*kernel)(Parameters...),
                            int threads, int64_t shared_bytes) {
  int blocks = 0;
  context->Check(cudaOccupancyMaxActiveBlocksPerMultiprocessor(
                     &blocks, kernel, threads, shared_bytes),
                 "asking how many blocks fit");
  return blocks > 0 ? blocks : 1;
}

inline uint4 LoadOnce(const void* from) {
  emulator::CheckAligned(from, "LoadOnce");
  return *static_cast<const uint4*>(from);
}

inline void CopyAsync(void* shared, const void* global, bool valid) {
  emulator::StartCopy(shared, global, valid);
}

inline void CommitCopies() { emulator::CommitCopies(); }

template <int pending>
void WaitCopies() {
  emulator::WaitCopies(pending);
}

inline void MultiplyBfloat16(float (&sum)[4], const uint32_t (&a)[4],
                             const uint32_t (&b)[2]) {
  emulator::MultiplyTile(emulator::WarpOperation::kMultiplyBfloat16, sum, a, b);
}

inline void MultiplyFloat16(float (&sum)[4], const uint32_t (&a)[4],
                            const uint32_t (&b)[2]) {
  emulator::MultiplyTile(emulator::WarpOperation::kMultiplyFloat16, sum, a, b);
}

inline void MultiplyTf32(float (&sum)[4], const uint32_t (&a)[4],
                         const uint32_t (&b)[2]) {
  emulator::MultiplyTile(emulator::WarpOperation::kMultiplyTf32, sum, a, b);
}

}  // namespace lintf::gpu

#endif  // LINTF_CUSTOM_OPS_CORE_GPU_EMULATOR_H_
