// SPDX-License-Identifier: Apache-2.0
// The emulator against what CUDA documents. All but the faults are checked on
// a GPU too, so that the two are known to agree.
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <set>
#include <string>
#include <thread>
#include <vector>

#include "custom_ops/core/gpu.h"
#include "custom_ops/core/gpu_testing.h"
#include "custom_ops/core/testing.h"

#ifdef LINTF_GPU_EMULATOR
#include <sys/wait.h>
#include <unistd.h>
#endif

namespace lintf::gpu {
namespace {

constexpr int kThreads = 96;

// ---- Warps.

struct WarpResults {
  int shuffled, exchanged, up, down, narrow;
  double wide;
  unsigned ballot, match, sum, least, most;
  int any, all;
};

__global__ void UseWarp(WarpResults* results) {
  const int i = static_cast<int>(threadIdx.x);
  const int lane = i % kWarpSize;
  WarpResults r;
  r.shuffled = __shfl_sync(kWarp, i, (lane + 5) % 32);
  r.exchanged = __shfl_xor_sync(kWarp, i, 3);
  r.up = __shfl_up_sync(kWarp, i, 2u);
  r.down = __shfl_down_sync(kWarp, i, 31u);
  r.narrow = __shfl_down_sync(kWarp, i, 3u, 8);
  r.wide = __shfl_sync(kWarp, 0.5 * i, 7);
  r.ballot = __ballot_sync(kWarp, lane % 3 == 0);
  r.match = __match_any_sync(kWarp, lane % 5);
  r.sum = __reduce_add_sync(kWarp, static_cast<unsigned>(i));
  r.least = __reduce_min_sync(kWarp, static_cast<unsigned>(i));
  r.most = __reduce_max_sync(kWarp, static_cast<unsigned>(i));
  r.any = __any_sync(kWarp, i == 40);
  r.all = __all_sync(kWarp, i < 64);
  results[i] = r;
}

void TestWarp() {
  TestContext context;
  DeviceArray<WarpResults> device(kThreads);
  Launch(&context, UseWarp, 1, kThreads, 0, device.data());
  CHECK_THAT(context.Finish());
  const std::vector<WarpResults> results = device.ToHost();
  for (int i = 0; i < kThreads; ++i) {
    const WarpResults& r = results[i];
    const int lane = i % 32;
    const int warp = i - lane;
    CHECK_THAT(r.shuffled == warp + (lane + 5) % 32) << i;
    CHECK_THAT(r.exchanged == warp + (lane ^ 3)) << i;
    CHECK_THAT(r.up == (lane < 2 ? i : i - 2)) << i;
    CHECK_THAT(r.down == (lane == 0 ? i + 31 : i)) << i;
    CHECK_THAT(r.narrow == (lane % 8 < 5 ? i + 3 : i)) << i;
    CHECK_THAT(r.wide == 0.5 * (warp + 7)) << i;
    CHECK_THAT(r.ballot == 0x49249249u) << i;
    unsigned match = 0;
    for (int other = lane % 5; other < 32; other += 5) match |= 1u << other;
    CHECK_THAT(r.match == match) << i;
    CHECK_THAT(r.sum == static_cast<unsigned>(32 * warp + 496)) << i;
    CHECK_THAT(r.least == static_cast<unsigned>(warp)) << i;
    CHECK_THAT(r.most == static_cast<unsigned>(warp + 31)) << i;
    CHECK_THAT((r.any != 0) == (warp == 32)) << i;
    CHECK_THAT((r.all != 0) == (warp < 64)) << i;
  }
}

// ---- Blocks.

struct BlockResults {
  int any, count, neighbour, dynamic;
};

// Some threads end before the last barrier.
__global__ void UseBlock(int rounds, BlockResults* results) {
  __shared__ int places[kThreads];
  int* const dynamic = reinterpret_cast<int*>(DynamicShared());
  const int i = static_cast<int>(threadIdx.x);
  BlockResults r;
  r.any = __syncthreads_or(i == 50);
  r.count = __syncthreads_count(i % 4 == 1);
  places[i] = i;
  for (int round = 0; round < rounds; ++round) {
    __syncthreads();
    const int next = places[(i + 1) % kThreads];
    __syncthreads();
    places[i] = next;
  }
  r.neighbour = places[i];
  dynamic[i] = i;
  r.dynamic = 0;
  if (i < 64) {
    __syncthreads();
    r.dynamic = dynamic[63 - i] + static_cast<int>(blockIdx.x);
  }
  results[blockIdx.x * kThreads + i] = r;
}

void TestBlock() {
  constexpr int kBlocks = 7;
  TestContext context;
  DeviceArray<BlockResults> device(kBlocks * kThreads);
  Launch(&context, UseBlock, kBlocks, kThreads, kThreads * 4, 11,
         device.data());
  CHECK_THAT(context.Finish());
  const std::vector<BlockResults> results = device.ToHost();
  for (int i = 0; i < kBlocks * kThreads; ++i) {
    const int thread = i % kThreads;
    CHECK_THAT(results[i].any != 0);
    CHECK_THAT(results[i].count == kThreads / 4);
    CHECK_THAT(results[i].neighbour == (thread + 11) % kThreads) << i;
    CHECK_THAT(results[i].dynamic ==
               (thread < 64 ? 63 - thread + i / kThreads : 0))
        << i;
  }
}

// Two kernels of one template have shared memory of their own.
template <typename T>
__global__ void Reverse(const T* from, T* to) {
  __shared__ T places[64];
  places[threadIdx.x] = from[threadIdx.x];
  __syncthreads();
  to[threadIdx.x] = places[63 - threadIdx.x];
}

template <typename T>
void TestReverse() {
  std::vector<T> values(64);
  for (int i = 0; i < 64; ++i) values[i] = static_cast<T>(i * i);
  const DeviceArray<T> from(values);
  DeviceArray<T> to(64);
  TestContext context;
  Launch(&context, Reverse<T>, 1, 64, 0, from.data(), to.data());
  CHECK_THAT(context.Finish());
  const std::vector<T> reversed = to.ToHost();
  for (int i = 0; i < 64; ++i) CHECK_THAT(reversed[i] == values[63 - i]);
}

// ---- Atomics; three dimensions of blocks.

struct Totals {
  int added, least;
  unsigned most, bits, common;
  unsigned long long wide;
  float real;
};

__global__ void Count(Totals* totals) {
  const unsigned block =
      blockIdx.x + gridDim.x * (blockIdx.y + gridDim.y * blockIdx.z);
  const unsigned i = block * blockDim.x + threadIdx.x;
  atomicAdd(&totals->added, 1);
  atomicMin(&totals->least, -static_cast<int>(i));
  atomicMax(&totals->most, i);
  atomicOr(&totals->bits, 1u << (i % 20));
  atomicAnd(&totals->common, ~(1u << (i % 20)));
  atomicAdd(&totals->wide, 1ull << 40);
  atomicAdd(&totals->real, 0.5f);
}

void TestAtomics() {
  Totals zero;
  std::memset(&zero, 0, sizeof(zero));
  zero.common = ~0u;
  DeviceArray<Totals> device(std::vector<Totals>{zero});
  TestContext context;
  Launch(&context, Count, dim3(3, 2, 2), 64, 0, device.data());
  CHECK_THAT(context.Finish());
  const Totals totals = device.ToHost()[0];
  CHECK_THAT(totals.added == 768);
  CHECK_THAT(totals.least == -767);
  CHECK_THAT(totals.most == 767);
  CHECK_THAT(totals.bits == 0xFFFFFu);
  CHECK_THAT(totals.common == 0xFFF00000u);
  CHECK_THAT(totals.wide == 768ull << 40);
  CHECK_THAT(totals.real == 384.0f);
}

// ---- Bits.

__global__ void UseBits(unsigned x, unsigned y, unsigned* results) {
  if (threadIdx.x != 0) return;
  results[0] = static_cast<unsigned>(__popc(x));
  results[1] = static_cast<unsigned>(__ffs(static_cast<int>(x)));
  results[2] = static_cast<unsigned>(__clz(static_cast<int>(x)));
  results[3] = __brev(x);
  results[4] = __byte_perm(x, y, 0x7340);
  results[5] = static_cast<unsigned>(
      __dp4a(static_cast<int>(x), static_cast<int>(y), 100));
  results[6] = __funnelshift_r(x, y, 12);
  results[7] = __float_as_uint(__fmaf_rn(__uint_as_float(0x3F800800u),
                                         __uint_as_float(0x3F800800u), -1.0f));
  results[8] = static_cast<unsigned>(__popcll(0xF0F0ull << 40 | x));
  results[9] = __dp4a(x, y, 7u);
}

void TestBits() {
  DeviceArray<unsigned> device(10);
  TestContext context;
  Launch(&context, UseBits, 1, 32, 0, 0x12F4A810u, 0x81237F02u, device.data());
  CHECK_THAT(context.Finish());
  const std::vector<unsigned> got = device.ToHost();
  // Worked out by hand, byte by byte.
  const int signed_sum = 100 + 0x12 * -127 + (0xF4 - 256) * 0x23 +
                         (0xA8 - 256) * 0x7F + 0x10 * 0x02;
  const unsigned sum = 7 + 0x12 * 0x81 + 0xF4 * 0x23 + 0xA8 * 0x7F + 0x10 * 2;
  const std::vector<unsigned> expected = {
      11,          5,           3,
      0x08152F48u, 0x81120210u, static_cast<unsigned>(signed_sum),
      0xF0212F4Au, 0x3A000400u, 19,
      sum};
  for (size_t i = 0; i < expected.size(); ++i) {
    CHECK_THAT(got[i] == expected[i])
        << i << ": " << std::hex << got[i] << " " << expected[i] << std::dec;
  }
}

// ---- Tiles on the tensor cores.

// sum [16, 8] += a [16, 16] b [16, 8], all row by row; b's pairs of rows are
// put together here.
template <bool half>
__global__ void Multiply(const uint16_t* a, const uint16_t* b, float* sum) {
  const int g = static_cast<int>(threadIdx.x) / 4;
  const int t = static_cast<int>(threadIdx.x) % 4;
  uint32_t left[4];
  for (int i = 0; i < 4; ++i) {
    const uint16_t* const from =
        a + (g + 8 * (i % 2)) * 16 + 2 * t + 8 * (i / 2);
    left[i] = from[0] | static_cast<uint32_t>(from[1]) << 16;
  }
  uint32_t right[2];
  for (int i = 0; i < 2; ++i) {
    const uint16_t* const from = b + (2 * t + 8 * i) * 8 + g;
    right[i] = from[0] | static_cast<uint32_t>(from[8]) << 16;
  }
  float total[4];
  for (int i = 0; i < 4; ++i) {
    total[i] = sum[(g + 8 * (i / 2)) * 8 + 2 * t + i % 2];
  }
  if (half) {
    MultiplyFloat16(total, left, right);
  } else {
    MultiplyBfloat16(total, left, right);
  }
  for (int i = 0; i < 4; ++i) {
    sum[(g + 8 * (i / 2)) * 8 + 2 * t + i % 2] = total[i];
  }
}

// A small whole number, which both types have exactly.
uint16_t Encode(int value, bool half) {
  if (value == 0) return 0;
  const float real = static_cast<float>(value);
  uint32_t bits;
  std::memcpy(&bits, &real, sizeof(bits));
  if (!half) return static_cast<uint16_t>(bits >> 16);
  const uint32_t exponent = (bits >> 23 & 255) - 127 + 15;
  return static_cast<uint16_t>(bits >> 16 & 0x8000) |
         static_cast<uint16_t>(exponent << 10) |
         static_cast<uint16_t>(bits >> 13 & 1023);
}

template <bool half>
void TestMultiply() {
  std::vector<int> a(256), b(128), sum(128);
  for (int i = 0; i < 256; ++i) a[i] = i * 37 % 61 - 30;
  for (int i = 0; i < 128; ++i) b[i] = i * 53 % 47 - 23;
  for (int i = 0; i < 128; ++i) sum[i] = i * 1000;
  std::vector<uint16_t> left, right;
  for (const int value : a) left.push_back(Encode(value, half));
  for (const int value : b) right.push_back(Encode(value, half));
  const DeviceArray<uint16_t> device_a(left);
  const DeviceArray<uint16_t> device_b(right);
  DeviceArray<float> device_sum(std::vector<float>(sum.begin(), sum.end()));
  TestContext context;
  Launch(&context, Multiply<half>, 1, 32, 0, device_a.data(), device_b.data(),
         device_sum.data());
  CHECK_THAT(context.Finish());
  const std::vector<float> got = device_sum.ToHost();
  for (int row = 0; row < 16; ++row) {
    for (int column = 0; column < 8; ++column) {
      int expected = sum[row * 8 + column];
      for (int k = 0; k < 16; ++k) {
        expected += a[row * 16 + k] * b[k * 8 + column];
      }
      CHECK_THAT(got[row * 8 + column] == static_cast<float>(expected))
          << row << " " << column << ": " << got[row * 8 + column] << ", not "
          << expected;
    }
  }
}

// ---- Asynchronous copies.

// Three groups of copies, two in flight; the last is of zeros.
__global__ void CopyInGroups(const uint4* from, uint4* to) {
  uint4* const places = reinterpret_cast<uint4*>(DynamicShared());
  const int i = static_cast<int>(threadIdx.x);
  for (int group = 0; group < 2; ++group) {
    CopyAsync(places + group * kThreads + i, from + group * kThreads + i, true);
    CommitCopies();
  }
  CopyAsync(places + 2 * kThreads + i, nullptr, false);
  CommitCopies();
  WaitCopies<2>();
  __syncthreads();
  to[i] = places[kThreads - 1 - i];
  WaitCopies<1>();
  __syncthreads();
  to[kThreads + i] = places[2 * kThreads - 1 - i];
  WaitCopies<0>();
  __syncthreads();
  to[2 * kThreads + i] = places[3 * kThreads - 1 - i];
}

void TestCopies() {
  std::vector<uint4> values(2 * kThreads);
  for (unsigned i = 0; i < values.size(); ++i) {
    values[i] = make_uint4(i, i + 1, 2 * i, 77);
  }
  const DeviceArray<uint4> from(values);
  DeviceArray<uint4> to(3 * kThreads);
  TestContext context;
  Launch(&context, CopyInGroups, 1, kThreads, 3 * kThreads * 16, from.data(),
         to.data());
  CHECK_THAT(context.Finish());
  const std::vector<uint4> got = to.ToHost();
  for (int group = 0; group < 3; ++group) {
    for (int i = 0; i < kThreads; ++i) {
      const uint4 one = got[group * kThreads + i];
      uint4 expected = make_uint4(0, 0, 0, 0);
      if (group < 2) expected = values[(group + 1) * kThreads - 1 - i];
      CHECK_THAT(one.x == expected.x && one.y == expected.y &&
                 one.z == expected.z && one.w == expected.w)
          << group << " " << i;
    }
  }
}

// ---- Launches.

__global__ void AddToEach(int64_t count, int value, int* numbers) {
  const int64_t stride = int64_t{blockDim.x} * gridDim.x;
  for (int64_t i = int64_t{blockIdx.x} * blockDim.x + threadIdx.x; i < count;
       i += stride) {
    numbers[i] += value;
  }
}

void TestSeveralHostThreads() {
  std::vector<std::thread> threads;
  std::vector<int> right(4, 0);
  for (int id = 0; id < 4; ++id) {
    threads.emplace_back([id, &right] {
      TestContext context;
      DeviceArray<int> numbers(std::vector<int>(1000, id));
      for (int i = 0; i < 10; ++i) {
        Launch(&context, AddToEach, 3, 128, 0, numbers.size(), 7,
               numbers.data());
      }
      if (!context.Finish()) return;
      for (const int number : numbers.ToHost()) right[id] += number == id + 70;
    });
  }
  for (std::thread& thread : threads) thread.join();
  for (const int count : right) CHECK_THAT(count == 1000) << count;
}

void TestBadLaunches() {
  DeviceArray<int> numbers(32);
  for (const int threads : {0, 2048}) {
    TestContext context;
    Launch(&context, AddToEach, 1, threads, 0, numbers.size(), 1,
           numbers.data());
    CHECK_THAT(context.error().find("cudaErrorInvalidConfiguration") !=
               std::string::npos)
        << context.error();
  }
}

void TestContextMemory() {
  TestContext context(1000);
  CHECK_THAT(context.Allocate<int>(100) != nullptr);
  CHECK_THAT(context.Allocate<int>(200) == nullptr);
  CHECK_THAT(!context.ok());
}

void TestUpload() {
  // By packets, and by a copy.
  for (const int count : {1, 895, 896, 897, 3000, 20000}) {
    std::vector<int> values(count);
    for (int i = 0; i < count; ++i) values[i] = i * 7;
    TestContext context;
    const int* const uploaded = context.Upload(values.data(), count);
    DeviceArray<int> copy(count);
    Require(cudaMemcpyAsync(copy.data(), uploaded, sizeof(int) * count,
                            cudaMemcpyDeviceToDevice, context.stream()),
            "cudaMemcpyAsync");
    CHECK_THAT(context.Finish());
    CHECK_THAT(copy.ToHost() == values) << count;
  }
}

#ifdef LINTF_GPU_EMULATOR

// ---- What only the emulator shows.

// A sum over the block whose barriers a number chooses.
template <int barriers>
__global__ void SumInTree(int* result) {
  __shared__ int places[kThreads];
  const int i = static_cast<int>(threadIdx.x);
  places[i] = i;
  if (barriers & 1) __syncthreads();
  for (int step = 64; step > 0; step /= 2) {
    if (i < step && i + step < kThreads) places[i] += places[i + step];
    if (barriers & 2) __syncthreads();
  }
  if (i == kThreads - 1) *result = places[0];
}

template <int barriers>
int WrongSeeds() {
  int wrong = 0;
  UnderEachSchedule(
      [&wrong] {
        TestContext context;
        DeviceArray<int> result(1);
        Launch(&context, SumInTree<barriers>, 1, kThreads, 0, result.data());
        CHECK_THAT(context.Finish());
        wrong += result.ToHost()[0] != kThreads * (kThreads - 1) / 2;
      },
      6);
  return wrong;
}

void TestMissingBarriersShow() {
  CHECK_THAT(WrongSeeds<3>() == 0);
  CHECK_THAT(WrongSeeds<0>() > 0);
  CHECK_THAT(WrongSeeds<1>() > 0);
  CHECK_THAT(WrongSeeds<2>() > 0);
}

// Who came first, in threads and in blocks.
__global__ void TakeNumbers(int* counter, int* numbers) {
  numbers[blockIdx.x * blockDim.x + threadIdx.x] = atomicAdd(counter, 1);
}

void TestSeedsChangeTheOrder() {
  std::set<std::vector<int>> orders;
  for (int twice = 0; twice < 2; ++twice) {
    UnderEachSchedule(
        [&orders] {
          TestContext context;
          DeviceArray<int> counter(std::vector<int>{0});
          DeviceArray<int> numbers(5 * 64);
          Launch(&context, TakeNumbers, 5, 64, 0, counter.data(),
                 numbers.data());
          CHECK_THAT(context.Finish());
          orders.insert(numbers.ToHost());
        },
        5);
  }
  CHECK_THAT(orders.size() == 5) << orders.size();
}

__global__ void ReadWithoutWaiting(const uint4* from, int wait, uint4* to) {
  uint4* const places = reinterpret_cast<uint4*>(DynamicShared());
  const int i = static_cast<int>(threadIdx.x);
  CopyAsync(places + i, from + i, true);
  CommitCopies();
  if (wait != 0) {
    WaitCopies<0>();
  } else {
    WaitCopies<1>();
  }
  to[i] = places[i];
}

void TestCopiesAreLate() {
  const DeviceArray<uint4> from(std::vector<uint4>(32, make_uint4(1, 2, 3, 4)));
  for (const int wait : {0, 1}) {
    DeviceArray<uint4> to(32);
    TestContext context;
    Launch(&context, ReadWithoutWaiting, 1, 32, 512, from.data(), wait,
           to.data());
    CHECK_THAT(context.Finish());
    for (const uint4& value : to.ToHost()) {
      CHECK_THAT(value.x == (wait ? 1u : 0xCDCDCDCDu)) << value.x;
    }
  }
}

__global__ void ReadUnwritten(unsigned* values) {
  __shared__ unsigned places[32];
  unsigned* const dynamic = reinterpret_cast<unsigned*>(DynamicShared());
  const unsigned i = blockIdx.x * 32 + threadIdx.x;
  values[2 * i] = places[threadIdx.x];
  values[2 * i + 1] = dynamic[threadIdx.x];
  places[threadIdx.x] = 0;
  dynamic[threadIdx.x] = 0;
}

void TestSharedMemoryIsNotZero() {
  DeviceArray<unsigned> values(3 * 64);
  TestContext context;
  Launch(&context, ReadUnwritten, 3, 32, 128, values.data());
  CHECK_THAT(context.Finish());
  const std::vector<unsigned> got = values.ToHost();
  for (size_t i = 0; i < got.size(); ++i) {
#if defined(__SANITIZE_ADDRESS__)
    if (i % 2 == 0) continue;
#endif
    CHECK_THAT(got[i] == 0xCDCDCDCDu) << i;
  }
}

// Faults end the program.
enum class Fault {
  kNone,
  kBarrierInABranch,
  kLaneLeft,
  kDifferentOperations,
  kDifferentBarriers,
  kPartOfAWarp,
  kMisalignedCopy,
  kMisalignedLoad,
  kNoSharedMemory,
};

__global__ void Make(Fault fault, const char* memory, int* sink) {
  const unsigned i = threadIdx.x;
  alignas(16) static char shared[64];
  switch (fault) {
    case Fault::kNone:
      __syncthreads();
      break;
    case Fault::kBarrierInABranch:
      if (i < 40) __syncthreads();
      if (i >= 40) __syncwarp();
      break;
    case Fault::kLaneLeft:
      if (i == 5) return;
      __syncwarp();
      break;
    case Fault::kDifferentOperations:
      if (i % 2) {
        *sink = __any_sync(kWarp, 1);
      } else {
        __syncwarp();
      }
      break;
    case Fault::kDifferentBarriers:
      if (i < 32) {
        __syncthreads();
      } else {
        *sink = __syncthreads_or(1);
      }
      break;
    case Fault::kPartOfAWarp:
      *sink = __any_sync(0xFFFFu, 1);
      break;
    case Fault::kMisalignedCopy:
      CopyAsync(shared, memory + 8, true);
      break;
    case Fault::kMisalignedLoad:
      *sink = static_cast<int>(LoadOnce(memory + 4).x);
      break;
    case Fault::kNoSharedMemory:
      *sink = *DynamicShared();
      break;
  }
}

// Whether the program went on.
bool Survives(Fault fault) {
  const pid_t child = fork();
  if (child == 0) {
    // What it says is not for the test's log.
    if (freopen("/dev/null", "w", stderr) == nullptr) _exit(3);
    TestContext context;
    DeviceArray<char> memory(64);
    DeviceArray<int> sink(1);
    Launch(&context, Make, 1, 64, 0, fault,
           static_cast<const char*>(memory.data()), sink.data());
    _exit(context.ok() ? 0 : 4);
  }
  int status = 0;
  CHECK_THAT(child > 0 && waitpid(child, &status, 0) == child);
  CHECK_THAT(WIFSIGNALED(status) || WEXITSTATUS(status) == 0) << status;
  return !WIFSIGNALED(status);
}

void TestFaults() {
  CHECK_THAT(Survives(Fault::kNone));
  CHECK_THAT(!Survives(Fault::kBarrierInABranch));
  CHECK_THAT(!Survives(Fault::kLaneLeft));
  CHECK_THAT(!Survives(Fault::kDifferentOperations));
  CHECK_THAT(!Survives(Fault::kDifferentBarriers));
  CHECK_THAT(!Survives(Fault::kPartOfAWarp));
  CHECK_THAT(!Survives(Fault::kMisalignedCopy));
  CHECK_THAT(!Survives(Fault::kMisalignedLoad));
  CHECK_THAT(!Survives(Fault::kNoSharedMemory));
}

#endif  // LINTF_GPU_EMULATOR

}  // namespace
}  // namespace lintf::gpu

int main() {
  using namespace lintf::gpu;
  UnderEachSchedule([] {
    TestWarp();
    TestBlock();
    TestReverse<uint8_t>();
    TestReverse<double>();
    TestAtomics();
    TestBits();
    TestMultiply<false>();
    TestMultiply<true>();
    TestCopies();
    TestUpload();
  });
  TestSeveralHostThreads();
  TestBadLaunches();
  TestContextMemory();
#ifdef LINTF_GPU_EMULATOR
  TestMissingBarriersShow();
  TestSeedsChangeTheOrder();
  TestCopiesAreLate();
  TestSharedMemoryIsNotZero();
  TestFaults();
#endif
  return lintf::testing::Result();
}
