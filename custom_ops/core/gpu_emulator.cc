// SPDX-License-Identifier: Apache-2.0
#include "custom_ops/core/gpu_emulator.h"

#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <mutex>
#include <new>
#include <numeric>
#include <utility>
#include <vector>

#if !defined(__x86_64__)
#include <ucontext.h>
#endif
#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/common_interface_defs.h>
#endif

uint3 threadIdx;
uint3 blockIdx;
dim3 blockDim;
dim3 gridDim;

// Where the linker put the static shared memory of all kernels.
extern "C" {
extern char __start_lintf_gpu_shared[] __attribute__((weak));
extern char __stop_lintf_gpu_shared[] __attribute__((weak));
}

#if defined(__x86_64__)
// Keeps what a call keeps, changes the stack, and returns there.
extern "C" void LintfSwitchStack(void** from, void* to);
asm(R"(
.pushsection .text
.globl LintfSwitchStack
.hidden LintfSwitchStack
.type LintfSwitchStack, @function
LintfSwitchStack:
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp, (%rdi)
  movq %rsi, %rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  ret
.size LintfSwitchStack, .-LintfSwitchStack
.popsection
)");
#endif

namespace lintf::gpu::emulator {
namespace {

constexpr int kPoison = 0xCD;
constexpr int kMaxThreads = 1024;
constexpr int kMultiprocessors = 3;
// Mostly never touched, so never in memory.
constexpr size_t kStackBytes = 256 << 10;
constexpr uint64_t kGoldenRatio = 0x9E3779B97F4A7C15u;

enum class State : uint8_t { kRuns, kAtWarp, kAtBlock, kEnded };

struct Copy {
  char* to;
  const char* from;  // null: zeros
  int64_t group;
};

#if defined(__x86_64__)
using StackPointer = void*;
#else
using StackPointer = ucontext_t;
#endif

struct Fiber {
  StackPointer stack_pointer;
  char* stack = nullptr;
  size_t stack_bytes = kStackBytes;
#if defined(__SANITIZE_ADDRESS__)
  void* fake_stack = nullptr;
#endif
  State state = State::kEnded;
  WarpOperation warp_operation = WarpOperation::kSync;
  // Which of the two rows of values it writes next.
  int warp_turn = 0;
  int block_turn = 0;
  int64_t groups = 0;  // of copies that were committed
  std::vector<Copy> copies;
};

struct Warp {
  int arrived = 0;
  LaneValue values[2][32];
};

// All that belongs to the launch that runs.
struct Machine {
  std::mutex mutex;
  uint64_t seed = 0;
  uint64_t random = 0;

  const void* kernel = nullptr;
  void (*run)(const void*) = nullptr;
  const void* arguments = nullptr;

  int threads = 0;
  int not_ended = 0;
  int at_block = 0;
  int holding = 0;
  BlockOperation block_operation = BlockOperation::kSync;
  int held[2] = {0, 0};

  char* dynamic_shared = nullptr;

  Fiber* current = nullptr;
  Fiber* previous = nullptr;
  Fiber host;
  std::array<Fiber, kMaxThreads> fibers;
  std::array<Warp, kMaxThreads / 32> warps;
  // The fibers that may run: [first, first + count), modulo the size.
  std::array<int16_t, kMaxThreads> ready;
  int first = 0;
  int count = 0;

  Machine() {
    const char* const value = std::getenv("LINTF_GPU_EMULATOR_SEED");
    if (value != nullptr) seed = std::strtoull(value, nullptr, 10);
  }
};

Machine& TheMachine() {
  // Never destroyed: static objects may still launch kernels.
  static Machine* const machine = new Machine;
  return *machine;
}

// For the fibers, which run while a launch has it.
Machine* const machine = &TheMachine();

uint64_t Random() {
  uint64_t x = machine->random;
  x ^= x << 13;
  x ^= x >> 7;
  x ^= x << 17;
  machine->random = x;
  return x * kGoldenRatio >> 32;
}

int ThreadOf(const Fiber* fiber) {
  return static_cast<int>(fiber - machine->fibers.data());
}

[[noreturn]] void Die(const char* what) {
  int states[4] = {0, 0, 0, 0};
  for (int i = 0; i < machine->threads; ++i) {
    ++states[static_cast<int>(machine->fibers[i].state)];
  }
  std::fprintf(
      stderr,
      "GPU emulator: %s\n  kernel at %p, seed %llu, block (%u, %u, %u), "
      "thread %u; of %d threads %d can run, %d wait at an operation of their "
      "warp, %d at a barrier of the block, %d have ended\n",
      what, machine->kernel, static_cast<unsigned long long>(machine->seed),
      blockIdx.x, blockIdx.y, blockIdx.z, threadIdx.x, machine->threads,
      states[0], states[1], states[2], states[3]);
  for (int i = 0; i < machine->threads; ++i) {
    const Fiber& fiber = machine->fibers[i];
    if (fiber.state == State::kAtWarp) {
      std::fprintf(stderr, "  thread %d waits at warp operation %d\n", i,
                   static_cast<int>(fiber.warp_operation));
      break;
    }
  }
  std::fflush(stderr);
  std::abort();
}

// After each change of the stack.
void Arrive([[maybe_unused]] Fiber* fiber) {
#if defined(__SANITIZE_ADDRESS__)
  const void* bottom = nullptr;
  size_t size = 0;
  __sanitizer_finish_switch_fiber(fiber->fake_stack, &bottom, &size);
  if (machine->previous == &machine->host) {
    machine->host.stack = const_cast<char*>(static_cast<const char*>(bottom));
    machine->host.stack_bytes = size;
  }
#endif
}

void SwitchTo(Fiber* to) {
  Fiber* const from = machine->current;
  if (to == from) return;
  machine->previous = from;
  machine->current = to;
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_start_switch_fiber(&from->fake_stack, to->stack, to->stack_bytes);
#endif
#if defined(__x86_64__)
  LintfSwitchStack(&from->stack_pointer, to->stack_pointer);
#else
  swapcontext(&from->stack_pointer, &to->stack_pointer);
#endif
  Arrive(from);
  if (from != &machine->host) threadIdx.x = ThreadOf(from);
}

void MakeReady(int thread) {
  machine->fibers[thread].state = State::kRuns;
  const int place = (machine->first + machine->count) % kMaxThreads;
  machine->ready[place] = static_cast<int16_t>(thread);
  ++machine->count;
}

// Runs another fiber; returns when this one may go on.
void RunNext() {
  if (machine->count == 0) {
    if (machine->not_ended > 0) Die("threads wait for others for ever");
    SwitchTo(&machine->host);
    return;
  }
  auto& ready = machine->ready;
  int place = machine->first;
  if (machine->seed == 1) {
    place = (machine->first + machine->count - 1) % kMaxThreads;
  } else if (machine->seed > 1) {
    const int chosen = static_cast<int>(Random() % machine->count);
    std::swap(ready[place], ready[(machine->first + chosen) % kMaxThreads]);
  }
  const int thread = ready[place];
  if (machine->seed != 1) machine->first = (machine->first + 1) % kMaxThreads;
  --machine->count;
  SwitchTo(&machine->fibers[thread]);
}

void ReleaseBlock() {
  // Those that go on have the same turn: a barrier takes all.
  int turn = -1;
  for (int i = 0; i < machine->threads; ++i) {
    if (machine->fibers[i].state != State::kAtBlock) continue;
    turn = machine->fibers[i].block_turn;
    MakeReady(i);
  }
  machine->held[turn] = machine->holding;
  machine->at_block = 0;
  machine->holding = 0;
}

void EndThread() {
  Fiber* const fiber = machine->current;
  // Copies that nobody waited for never come.
  fiber->copies.clear();
  fiber->state = State::kEnded;
  --machine->not_ended;
  // Barriers wait for the threads that have not ended (CUDA programming guide,
  // compute capability 7.0 and later).
  if (machine->at_block > 0 && machine->at_block == machine->not_ended) {
    ReleaseBlock();
  }
  RunNext();
}

// What fibers do all their life: a thread of one block after another.
void FiberMain() {
  Arrive(machine->current);
  while (true) {
    threadIdx = {static_cast<unsigned>(ThreadOf(machine->current)), 0, 0};
    machine->run(machine->arguments);
    EndThread();
  }
}

void MakeFiber(Fiber* fiber) {
  // With a page at its end that may not be touched.
  const size_t page = static_cast<size_t>(sysconf(_SC_PAGESIZE));
  void* const memory = mmap(nullptr, kStackBytes + page, PROT_READ | PROT_WRITE,
                            MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (memory == MAP_FAILED || mprotect(memory, page, PROT_NONE) != 0) {
    std::perror("GPU emulator: no memory for a thread's stack");
    std::abort();
  }
  fiber->stack = static_cast<char*>(memory) + page;
#if defined(__x86_64__)
  void** top = reinterpret_cast<void**>(fiber->stack + kStackBytes);
  // As after a call: the stack is off by 8 from a multiple of 16.
  *--top = nullptr;
  *--top = reinterpret_cast<void*>(&FiberMain);
  for (int i = 0; i < 6; ++i) *--top = nullptr;
  fiber->stack_pointer = top;
#else
  getcontext(&fiber->stack_pointer);
  fiber->stack_pointer.uc_stack.ss_sp = fiber->stack;
  fiber->stack_pointer.uc_stack.ss_size = kStackBytes;
  fiber->stack_pointer.uc_link = nullptr;
  makecontext(&fiber->stack_pointer, &FiberMain, 0);
#endif
}

void RunBlock(int64_t shared_bytes) {
  if (machine->dynamic_shared != nullptr) {
    std::memset(machine->dynamic_shared, kPoison, shared_bytes);
  }
  if (__start_lintf_gpu_shared != nullptr) {
    std::memset(__start_lintf_gpu_shared, kPoison,
                __stop_lintf_gpu_shared - __start_lintf_gpu_shared);
  }
  machine->not_ended = machine->threads;
  machine->at_block = 0;
  machine->holding = 0;
  machine->first = 0;
  machine->count = 0;
  for (int i = 0; i < machine->threads / 32; ++i) machine->warps[i].arrived = 0;
  for (int i = 0; i < machine->threads; ++i) {
    Fiber* const fiber = &machine->fibers[i];
    if (fiber->stack == nullptr) MakeFiber(fiber);
    fiber->warp_turn = 0;
    fiber->block_turn = 0;
    fiber->groups = 0;
    MakeReady(i);
  }
  machine->current = &machine->host;
  RunNext();
}

float FromHalf(uint16_t bits) {
  const int exponent = bits >> 10 & 31;
  const int fraction = bits & 1023;
  float value;
  if (exponent == 31) {
    value = fraction == 0 ? HUGE_VALF : NAN;
  } else if (exponent == 0) {
    value = std::ldexp(static_cast<float>(fraction), -24);
  } else {
    value = std::ldexp(static_cast<float>(fraction + 1024), exponent - 25);
  }
  return bits >> 15 ? -value : value;
}

float FromBfloat16(uint16_t bits) {
  return BitCast<float>(static_cast<uint32_t>(bits) << 16);
}

}  // namespace

void SetSeed(uint64_t seed) {
  const std::lock_guard<std::mutex> lock(machine->mutex);
  machine->seed = seed;
}

int Lane() { return static_cast<int>(threadIdx.x % 32); }

char* DynamicShared() {
  if (machine->dynamic_shared == nullptr) {
    Die("dynamic shared memory is used, but none was asked for");
  }
  return machine->dynamic_shared;
}

const LaneValue* Exchange(WarpOperation operation, unsigned mask,
                          const void* value, size_t size) {
  if (mask != 0xFFFFFFFFu) Die("a warp operation leaves lanes out");
  Fiber* const fiber = machine->current;
  const int thread = ThreadOf(fiber);
  Warp* const warp = &machine->warps[thread / 32];
  // A lane is at most one operation ahead of another, so two rows do.
  LaneValue* const values = warp->values[fiber->warp_turn];
  fiber->warp_turn ^= 1;
  fiber->warp_operation = operation;
  if (size > 0) std::memcpy(values[thread % 32].bytes, value, size);
  fiber->state = State::kAtWarp;
  if (++warp->arrived == 32) {
    warp->arrived = 0;
    const int begin = thread / 32 * 32;
    for (int i = begin; i < begin + 32; ++i) {
      if (machine->fibers[i].warp_operation != operation) {
        Die("lanes of a warp are at different warp operations");
      }
    }
    for (int i = begin; i < begin + 32; ++i) MakeReady(i);
  }
  RunNext();
  return values;
}

int WaitForBlock(BlockOperation operation, bool holds) {
  if (machine->at_block == 0) {
    machine->block_operation = operation;
  } else if (machine->block_operation != operation) {
    Die("threads of a block are at different barriers");
  }
  Fiber* const fiber = machine->current;
  const int turn = fiber->block_turn;
  fiber->state = State::kAtBlock;
  ++machine->at_block;
  machine->holding += holds;
  if (machine->at_block == machine->not_ended) ReleaseBlock();
  RunNext();
  fiber->block_turn ^= 1;
  return machine->held[turn];
}

void CheckAligned(const void* address, const char* what) {
  if (reinterpret_cast<uintptr_t>(address) % 16 == 0) return;
  char message[120];
  std::snprintf(message, sizeof(message),
                "%s needs addresses that are multiples of 16, got %p", what,
                address);
  Die(message);
}

void StartCopy(void* shared, const void* global, bool valid) {
  CheckAligned(shared, "CopyAsync to shared memory");
  if (valid) CheckAligned(global, "CopyAsync from global memory");
  // Neither what was there nor what will be there may be relied on.
  std::memset(shared, kPoison, 16);
  Fiber* const fiber = machine->current;
  fiber->copies.push_back({static_cast<char*>(shared),
                           valid ? static_cast<const char*>(global) : nullptr,
                           fiber->groups});
}

void CommitCopies() { ++machine->current->groups; }

void WaitCopies(int pending) {
  Fiber* const fiber = machine->current;
  size_t done = 0;
  while (done < fiber->copies.size() &&
         fiber->copies[done].group < fiber->groups - pending) {
    const Copy& copy = fiber->copies[done++];
    if (copy.from == nullptr) {
      std::memset(copy.to, 0, 16);
    } else {
      std::memcpy(copy.to, copy.from, 16);
    }
  }
  fiber->copies.erase(fiber->copies.begin(), fiber->copies.begin() + done);
}

void MultiplyTile(WarpOperation operation, float (&sum)[4],
                  const uint32_t (&a)[4], const uint32_t (&b)[2]) {
  struct Parts {
    float a[4][2];
    float b[2][2];
  };
  // The two numbers of a register. One of float32 counts as two columns, the
  // second of zeros.
  const auto convert = [operation](uint32_t bits, float (&numbers)[2]) {
    if (operation == WarpOperation::kMultiplyTf32) {
      const uint32_t cut = bits & 0xFFFFE000u;
      std::memcpy(&numbers[0], &cut, sizeof(cut));
      numbers[1] = 0.0f;
      return;
    }
    const auto of_half = operation == WarpOperation::kMultiplyFloat16
                             ? &FromHalf
                             : &FromBfloat16;
    numbers[0] = of_half(static_cast<uint16_t>(bits));
    numbers[1] = of_half(static_cast<uint16_t>(bits >> 16));
  };
  Parts own;
  for (int i = 0; i < 4; ++i) convert(a[i], own.a[i]);
  for (int i = 0; i < 2; ++i) convert(b[i], own.b[i]);
  const LaneValue* const lanes =
      Exchange(operation, 0xFFFFFFFFu, &own, sizeof(own));
  const auto parts = [lanes](int lane) {
    return reinterpret_cast<const Parts*>(lanes[lane].bytes);
  };
  const int g = Lane() / 4;
  const int t = Lane() % 4;
  for (int i = 0; i < 4; ++i) {
    // Row g or g + 8, column 2 t or 2 t + 1, of the tile.
    const int column = 2 * t + i % 2;
    for (int k = 0; k < 16; ++k) {
      // Lane 4 g + k / 2 % 4 has column k of row g, lane 4 c + k / 2 % 4 row k
      // of column c; the upper 8 are in the later registers.
      const int pair = k / 2 % 4;
      const int upper = k / 8;
      const float left = parts(4 * g + pair)->a[2 * upper + i / 2][k % 2];
      const float right = parts(4 * column + pair)->b[upper][k % 2];
      // The product is exact.
      sum[i] += left * right;
    }
  }
}

cudaError_t RunGrid(dim3 grid, int threads, int64_t shared_bytes,
                    const void* kernel, void (*run)(const void*),
                    const void* arguments) {
  const uint64_t blocks = uint64_t{grid.x} * grid.y * grid.z;
  if (threads <= 0 || threads > kMaxThreads || threads % 32 != 0 ||
      shared_bytes < 0 || shared_bytes > kMaxSharedBytes || blocks == 0 ||
      grid.x > 0x7FFFFFFFu || grid.y > 65535 || grid.z > 65535) {
    return cudaErrorInvalidConfiguration;
  }
  const std::lock_guard<std::mutex> lock(machine->mutex);
  machine->random = (machine->seed + 1) * kGoldenRatio;
  machine->kernel = kernel;
  machine->run = run;
  machine->arguments = arguments;
  machine->threads = threads;
  if (shared_bytes > 0) {
    void* memory = nullptr;
    if (posix_memalign(&memory, 16, shared_bytes) != 0) {
      return cudaErrorMemoryAllocation;
    }
    machine->dynamic_shared = static_cast<char*>(memory);
  }
  gridDim = grid;
  blockDim = dim3(static_cast<unsigned>(threads));
  // Block i stands at place (first + i * step) mod blocks.
  uint64_t first = 0;
  uint64_t step = 1;
  if (machine->seed == 1) {
    first = blocks - 1;
    step = blocks - 1;
  } else if (machine->seed > 1) {
    first = Random() % blocks;
    step = Random() % blocks;
    while (std::gcd(step, blocks) != 1) step = (step + 1) % blocks;
  }
  uint64_t place = first;
  for (uint64_t i = 0; i < blocks; ++i) {
    blockIdx.x = static_cast<unsigned>(place % grid.x);
    blockIdx.y = static_cast<unsigned>(place / grid.x % grid.y);
    blockIdx.z = static_cast<unsigned>(place / grid.x / grid.y);
    RunBlock(shared_bytes);
    place = (place + step) % blocks;
  }
  std::free(machine->dynamic_shared);
  machine->dynamic_shared = nullptr;
  machine->threads = 0;
  return cudaSuccess;
}

}  // namespace lintf::gpu::emulator

// ---- The runtime: all is done when a call returns.

cudaError_t cudaMalloc(void** memory, size_t bytes) {
  *memory = nullptr;
  // As CUDA: no memory is no error.
  if (bytes == 0) return cudaSuccess;
  if (posix_memalign(memory, 256, bytes) != 0) {
    return cudaErrorMemoryAllocation;
  }
  std::memset(*memory, lintf::gpu::emulator::kPoison, bytes);
  return cudaSuccess;
}

cudaError_t cudaFree(void* memory) {
  std::free(memory);
  return cudaSuccess;
}

cudaError_t cudaMemcpy(void* to, const void* from, size_t bytes,
                       cudaMemcpyKind) {
  if (bytes > 0) std::memcpy(to, from, bytes);
  return cudaSuccess;
}

cudaError_t cudaMemcpyAsync(void* to, const void* from, size_t bytes,
                            cudaMemcpyKind kind, cudaStream_t) {
  return cudaMemcpy(to, from, bytes, kind);
}

cudaError_t cudaMemset(void* memory, int value, size_t bytes) {
  if (bytes > 0) std::memset(memory, value, bytes);
  return cudaSuccess;
}

cudaError_t cudaMemsetAsync(void* memory, int value, size_t bytes,
                            cudaStream_t) {
  return cudaMemset(memory, value, bytes);
}

cudaError_t cudaGetLastError() { return cudaSuccess; }

cudaError_t cudaDeviceSynchronize() { return cudaSuccess; }

cudaError_t cudaStreamCreate(cudaStream_t* stream) {
  *stream = nullptr;
  return cudaSuccess;
}

cudaError_t cudaStreamDestroy(cudaStream_t) { return cudaSuccess; }

cudaError_t cudaStreamSynchronize(cudaStream_t) { return cudaSuccess; }

cudaError_t cudaGetDevice(int* device) {
  *device = 0;
  return cudaSuccess;
}

cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr attribute, int) {
  switch (attribute) {
    case cudaDevAttrMultiProcessorCount:
      *value = lintf::gpu::emulator::kMultiprocessors;
      return cudaSuccess;
    case cudaDevAttrL2CacheSize:
      *value = 1 << 20;
      return cudaSuccess;
    case cudaDevAttrMaxSharedMemoryPerBlockOptin:
      *value = lintf::gpu::emulator::kMaxSharedBytes;
      return cudaSuccess;
  }
  return cudaErrorInvalidValue;
}

const char* cudaGetErrorString(cudaError_t error) {
  switch (error) {
    case cudaSuccess:
      return "no error";
    case cudaErrorInvalidValue:
      return "invalid argument";
    case cudaErrorMemoryAllocation:
      return "out of memory";
    case cudaErrorInvalidConfiguration:
      return "invalid configuration argument";
  }
  return "unknown error";
}

const char* cudaGetErrorName(cudaError_t error) {
  switch (error) {
    case cudaSuccess:
      return "cudaSuccess";
    case cudaErrorInvalidValue:
      return "cudaErrorInvalidValue";
    case cudaErrorMemoryAllocation:
      return "cudaErrorMemoryAllocation";
    case cudaErrorInvalidConfiguration:
      return "cudaErrorInvalidConfiguration";
  }
  return "unknown error";
}
