// SPDX-License-Identifier: Apache-2.0
// Where GPU work is queued, where it gets memory, and what went wrong.
//
// Functions of namespace lintf::gpu have the names and the contracts of the
// CPU's, with pointers to device memory where nothing else is said. They queue
// work on one stream and return: none of them waits for the GPU, and what a
// later step depends on (how many rows pass, say) stays on the device.
#ifndef LINTF_CUSTOM_OPS_CORE_GPU_CONTEXT_H_
#define LINTF_CUSTOM_OPS_CORE_GPU_CONTEXT_H_

#include <cstdint>
#include <string>

struct CUstream_st;

namespace lintf::gpu {

// The same type as cudaStream_t.
using Stream = CUstream_st*;

// Where a call gets device memory from.
class Memory {
 public:
  virtual ~Memory() = default;

  // Device memory, aligned to 256 bytes, for work that is queued on the
  // stream until this object goes; null if there is not enough left.
  virtual void* Allocate(int64_t bytes) = 0;
};

// What one call works with; not shared between threads. The first error stays:
// after it nothing more is queued, and the outputs mean nothing.
class Context {
 public:
  // `memory` must outlive this object. Reads the properties of the current
  // device.
  Context(Stream stream, Memory* memory);
  Context(const Context&) = delete;
  Context& operator=(const Context&) = delete;

  Stream stream() const { return stream_; }
  int num_multiprocessors() const { return num_multiprocessors_; }
  // Bytes of shared memory that a block may have.
  int64_t max_shared_bytes() const { return max_shared_bytes_; }

  // How much scratch memory a search may take at once, about; larger batches
  // are cut into slices. The results do not depend on it.
  int64_t scratch_bytes() const { return scratch_bytes_; }
  void set_scratch_bytes(int64_t bytes) { scratch_bytes_ = bytes; }

  // Room for `count` values; null after an error.
  template <typename T>
  T* Allocate(int64_t count) {
    return static_cast<T*>(
        AllocateBytes(count * static_cast<int64_t>(sizeof(T))));
  }

  // A copy of host memory, which may change as soon as this returns; it must
  // not be page-locked, or it would be read later.
  template <typename T>
  const T* Upload(const T* values, int64_t count) {
    void* const copy = AllocateBytes(count * static_cast<int64_t>(sizeof(T)));
    CopyToDevice(values, count * static_cast<int64_t>(sizeof(T)), copy);
    return static_cast<const T*>(copy);
  }

  // The same into memory of the device that the caller has.
  void CopyToDevice(const void* values, int64_t bytes, void* device);

  // Sets bytes of device memory.
  void Fill(void* device, int value, int64_t bytes);

  // Keeps the first error. `code` is a cudaError_t, 0 for none; `what` was
  // being done.
  void Check(int code, const char* what);
  void Fail(const std::string& error);
  bool ok() const { return error_.empty(); }
  // Empty if there is none.
  const std::string& error() const { return error_; }

 private:
  void* AllocateBytes(int64_t bytes);

  const Stream stream_;
  Memory* const memory_;
  int num_multiprocessors_ = 1;
  int64_t max_shared_bytes_ = 48 << 10;
  int64_t scratch_bytes_ = int64_t{512} << 20;
  std::string error_;
};

}  // namespace lintf::gpu

#endif  // LINTF_CUSTOM_OPS_CORE_GPU_CONTEXT_H_
