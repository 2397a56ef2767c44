// SPDX-License-Identifier: Apache-2.0
// What the C++ tests of GPU code share. A test is compiled by nvcc for a GPU,
// or by a C++ compiler with LINTF_GPU_EMULATOR defined, and does not know
// which of the two it is.
#ifndef LINTF_CUSTOM_OPS_CORE_GPU_TESTING_H_
#define LINTF_CUSTOM_OPS_CORE_GPU_TESTING_H_

#include <cstdint>
#include <cstdlib>
#include <iostream>
#include <memory>
#include <utility>
#include <vector>

#include "custom_ops/core/gpu.h"
#include "custom_ops/core/gpu_context.h"

namespace lintf::gpu {

// The order in which the emulator runs threads and blocks from now on, a
// number from 0 on; nothing on a GPU.
inline void SetSchedule(uint64_t seed) {
#ifdef LINTF_GPU_EMULATOR
  emulator::SetSeed(seed);
#else
  static_cast<void>(seed);
#endif
}

// Whether LINTF_GPU_REDUCED is in the environment: the test runs under a tool
// that makes it many times slower, and leaves its largest sizes out.
inline bool IsReduced() { return std::getenv("LINTF_GPU_REDUCED") != nullptr; }

// Runs `test` under several orders of threads; on a GPU, several times.
template <typename Test>
void UnderEachSchedule(const Test& test, int count = 4) {
  if (IsReduced()) count = 1;
  for (int seed = 0; seed < count; ++seed) {
    SetSchedule(seed);
    test();
  }
  SetSchedule(0);
}

// Ends the test where nothing can go on.
inline void Require(cudaError_t error, const char* what) {
  if (error == cudaSuccess) return;
  std::cerr << what << " failed: " << cudaGetErrorString(error) << "\n";
  std::exit(2);
}

// An array in device memory, with room for exactly `count` values. Copies
// between it and the host wait for the GPU.
template <typename T>
class DeviceArray {
 public:
  // Filled with 0xCD bytes, so that nobody takes it to be zero. With
  // LINTF_GPU_NO_POISON in the environment it is left as it is, for tools that
  // find reads of what was never written.
  explicit DeviceArray(int64_t count) : count_(count) {
    void* memory = nullptr;
    Require(cudaMalloc(&memory, bytes()), "cudaMalloc");
    data_ = static_cast<T*>(memory);
    static const bool poison = std::getenv("LINTF_GPU_NO_POISON") == nullptr;
    if (poison && bytes() > 0) {
      Require(cudaMemset(data_, 0xCD, bytes()), "cudaMemset");
    }
  }
  explicit DeviceArray(const std::vector<T>& values)
      : DeviceArray(static_cast<int64_t>(values.size())) {
    Set(values);
  }
  DeviceArray(DeviceArray&& other) noexcept
      : data_(std::exchange(other.data_, nullptr)),
        count_(std::exchange(other.count_, 0)) {}
  DeviceArray& operator=(DeviceArray&& other) noexcept {
    std::swap(data_, other.data_);
    std::swap(count_, other.count_);
    return *this;
  }
  ~DeviceArray() { cudaFree(data_); }

  T* data() { return data_; }
  const T* data() const { return data_; }
  int64_t size() const { return count_; }

  // As many values as there is room for, or fewer.
  void Set(const std::vector<T>& values) {
    // Not values.data(): there is none of bools.
    const std::unique_ptr<T[]> copy(new T[values.size() + 1]);
    for (size_t i = 0; i < values.size(); ++i) copy[i] = values[i];
    Require(cudaMemcpy(data_, copy.get(), values.size() * sizeof(T),
                       cudaMemcpyHostToDevice),
            "cudaMemcpy to the GPU");
  }

  // Not inlined: g++ 12 then warns of a vector that it takes apart wrongly.
#ifdef __GNUC__
  __attribute__((noinline))
#endif
  std::vector<T> ToHost() const {
    const std::unique_ptr<T[]> copy(new T[count_ + 1]);
    Require(cudaDeviceSynchronize(), "work on the GPU");
    Require(cudaMemcpy(copy.get(), data_, bytes(), cudaMemcpyDeviceToHost),
            "cudaMemcpy from the GPU");
    return std::vector<T>(copy.get(), copy.get() + count_);
  }

 private:
  size_t bytes() const { return static_cast<size_t>(count_) * sizeof(T); }

  T* data_ = nullptr;
  int64_t count_;
};

// Gives each allocation memory of its own, and takes all back when it goes.
class TestMemory : public Memory {
 public:
  explicit TestMemory(int64_t limit) : left_(limit) {}

  void* Allocate(int64_t bytes) override {
    if (bytes > left_) return nullptr;
    left_ -= bytes;
    arrays_.emplace_back(bytes);
    return arrays_.back().data();
  }

 private:
  int64_t left_;
  std::vector<DeviceArray<char>> arrays_;
};

// A stream that goes with its object.
class TestStream {
 public:
  TestStream() { Require(cudaStreamCreate(&stream_), "cudaStreamCreate"); }
  TestStream(const TestStream&) = delete;
  TestStream& operator=(const TestStream&) = delete;
  ~TestStream() {
    cudaStreamSynchronize(stream_);
    cudaStreamDestroy(stream_);
  }
  Stream stream() const { return stream_; }

 private:
  cudaStream_t stream_ = nullptr;
};

// A context with a stream and memory of its own: at most `limit` bytes.
class TestContext : private TestMemory, private TestStream, public Context {
 public:
  explicit TestContext(int64_t limit = int64_t{8} << 30)
      : TestMemory(limit),
        TestStream(),
        Context(TestStream::stream(), static_cast<TestMemory*>(this)) {}
  using Context::Allocate;
  using Context::stream;

  // Waits for the GPU; whether all went well, of which it tells if not.
  bool Finish() {
    Check(cudaStreamSynchronize(Context::stream()), "running kernels");
    if (!ok()) std::cerr << "GPU test: " << error() << "\n";
    return ok();
  }
};

}  // namespace lintf::gpu

#endif  // LINTF_CUSTOM_OPS_CORE_GPU_TESTING_H_
