// SPDX-License-Identifier: Apache-2.0
#include "custom_ops/core/gpu_context.h"

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <string>

#include "custom_ops/core/gpu.h"

namespace lintf::gpu {
namespace {

// As many bytes as travel with a kernel's arguments, whose limit is 4 KiB.
struct Packet {
  static constexpr int64_t kWords = 896;
  uint32_t words[kWords];
};

// A few packets are quicker than a copy, and leave the host's memory alone.
constexpr int64_t kMaxPackets = 4;

__global__ void StorePacket(Packet packet, int64_t bytes, char* to) {
  const char* const from = reinterpret_cast<const char*>(packet.words);
  for (int64_t i = threadIdx.x; i < bytes; i += blockDim.x) to[i] = from[i];
}

}  // namespace

Context::Context(Stream stream, Memory* memory)
    : stream_(stream), memory_(memory) {
  int device = 0;
  Check(cudaGetDevice(&device), "asking for the current device");
  int value = 0;
  Check(cudaDeviceGetAttribute(&value, cudaDevAttrMultiProcessorCount, device),
        "asking for the number of multiprocessors");
  num_multiprocessors_ = std::max(value, 1);
  value = 0;
  Check(cudaDeviceGetAttribute(&value, cudaDevAttrMaxSharedMemoryPerBlockOptin,
                               device),
        "asking for the size of shared memory");
  max_shared_bytes_ = std::max<int64_t>(value, max_shared_bytes_);
}

void* Context::AllocateBytes(int64_t bytes) {
  if (!ok()) return nullptr;
  void* const memory = memory_->Allocate(std::max<int64_t>(bytes, 1));
  if (memory == nullptr) {
    Fail("there must be " + std::to_string(bytes) +
         " bytes of free GPU memory for a search's scratch; there are not. "
         "Search fewer queries at once, ask for fewer results, or leave the "
         "server more memory");
  }
  return memory;
}

void Context::CopyToDevice(const void* values, int64_t bytes, void* device) {
  if (!ok() || bytes == 0) return;
  constexpr int64_t kPacketBytes = sizeof(Packet);
  if (bytes > kMaxPackets * kPacketBytes) {
    // Memory that the driver can't read by itself is copied before this
    // returns.
    Check(
        cudaMemcpyAsync(device, values, bytes, cudaMemcpyHostToDevice, stream_),
        "copying to the GPU");
    return;
  }
  for (int64_t begin = 0; begin < bytes; begin += kPacketBytes) {
    Packet packet;
    const int64_t part = std::min(kPacketBytes, bytes - begin);
    std::memcpy(packet.words, static_cast<const char*>(values) + begin, part);
    Launch(this, StorePacket, 1, 256, 0, packet, part,
           static_cast<char*>(device) + begin);
  }
}

void Context::Fill(void* device, int value, int64_t bytes) {
  if (!ok() || bytes == 0) return;
  Check(cudaMemsetAsync(device, value, bytes, stream_), "filling GPU memory");
}

void Context::Check(int code, const char* what) {
  if (code == 0 || !ok()) return;
  const cudaError_t error = static_cast<cudaError_t>(code);
  Fail(std::string("the GPU failed while ") + what + ": " +
       cudaGetErrorString(error) + " (" + cudaGetErrorName(error) + ")");
}

void Context::Fail(const std::string& error) {
  if (ok()) error_ = error;
}

}  // namespace lintf::gpu
