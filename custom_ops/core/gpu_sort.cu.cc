// SPDX-License-Identifier: Apache-2.0
#include "custom_ops/core/gpu_sort.h"

#include <cstdint>

#include "custom_ops/core/gpu.h"

#ifdef LINTF_GPU_EMULATOR
#include <algorithm>
#include <functional>
#include <numeric>
#include <vector>
#else
// Not all of CUB: these two are most of a minute already.
#include <cub/device/device_radix_sort.cuh>
#include <cub/device/device_scan.cuh>
#endif

namespace lintf::gpu {
namespace {

#ifdef LINTF_GPU_EMULATOR

template <typename T>
void Sum(const T* values, int64_t count, Context* context, T* sums) {
  if (context->ok()) std::exclusive_scan(values, values + count, sums, T{0});
}

#else

// CUB's functions first say how much scratch memory they want.
template <typename Work>
void WithScratch(Context* context, const char* what, const Work& work) {
  if (!context->ok()) return;
  size_t bytes = 0;
  context->Check(work(nullptr, bytes), what);
  char* const scratch =
      context->Allocate<char>(static_cast<int64_t>(bytes > 0 ? bytes : 1));
  if (context->ok()) context->Check(work(scratch, bytes), what);
}

template <typename T>
void Sum(const T* values, int64_t count, Context* context, T* sums) {
  if (count == 0) return;
  WithScratch(context, "summing", [&](void* scratch, size_t& bytes) {
    return cub::DeviceScan::ExclusiveSum(scratch, bytes, values, sums, count,
                                         context->stream());
  });
}

#endif

}  // namespace

void ExclusiveSum(const uint32_t* values, int64_t count, Context* context,
                  uint32_t* sums) {
  Sum(values, count, context, sums);
}

void ExclusiveSum(const uint64_t* values, int64_t count, Context* context,
                  uint64_t* sums) {
  Sum(values, count, context, sums);
}

void SortDescending(const uint64_t* keys, int64_t count, Context* context,
                    uint64_t* sorted) {
  if (count == 0) return;
#ifdef LINTF_GPU_EMULATOR
  if (!context->ok()) return;
  std::copy_n(keys, count, sorted);
  std::sort(sorted, sorted + count, std::greater<>());
#else
  WithScratch(context, "sorting", [&](void* scratch, size_t& bytes) {
    return cub::DeviceRadixSort::SortKeysDescending(
        scratch, bytes, keys, sorted, count, 0, 64, context->stream());
  });
#endif
}

void StableSortDescending(const uint16_t* keys, const uint32_t* values,
                          int64_t count, int key_bits, Context* context,
                          uint16_t* sorted_keys, uint32_t* sorted_values) {
  if (count == 0) return;
#ifdef LINTF_GPU_EMULATOR
  if (!context->ok()) return;
  const uint32_t mask = (uint32_t{1} << key_bits) - 1;
  std::vector<int64_t> order(count);
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(), [&](int64_t a, int64_t b) {
    return (keys[a] & mask) > (keys[b] & mask);
  });
  for (int64_t i = 0; i < count; ++i) {
    sorted_keys[i] = keys[order[i]];
    sorted_values[i] = values[order[i]];
  }
#else
  WithScratch(context, "sorting", [&](void* scratch, size_t& bytes) {
    return cub::DeviceRadixSort::SortPairsDescending(
        scratch, bytes, keys, sorted_keys, values, sorted_values, count, 0,
        key_bits, context->stream());
  });
#endif
}

}  // namespace lintf::gpu
