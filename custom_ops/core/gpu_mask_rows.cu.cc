// SPDX-License-Identifier: Apache-2.0
#include "custom_ops/core/gpu_mask_rows.h"

#include <algorithm>
#include <cstdint>
#include <vector>

#include "custom_ops/core/gpu.h"

namespace lintf::gpu {
namespace {

constexpr int kThreads = 256;
constexpr int32_t kPassesAll = -1;

__global__ void __launch_bounds__(kThreads)
    CopyMasksKernel(const uint64_t* __restrict__ words, int64_t stride,
                    const int32_t* __restrict__ mask_of_query,
                    int64_t num_queries, int64_t num_rows,
                    uint64_t* __restrict__ bits, unsigned long long* passing) {
  const int64_t num_words = (num_rows + 63) / 64;
  const int64_t step = static_cast<int64_t>(gridDim.x) * kThreads;
  for (int64_t query = blockIdx.y; query < num_queries; query += gridDim.y) {
    const int32_t mask = mask_of_query[query];
    unsigned count = 0;
    for (int64_t w = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
         w < num_words; w += step) {
      uint64_t word = ~uint64_t{0};
      if (mask != kPassesAll) {
        word = words[mask * stride + w];
      } else if (num_rows - w * 64 < 64) {
        word = (uint64_t{1} << (num_rows - w * 64)) - 1;
      }
      bits[query * num_words + w] = word;
      count += __popcll(word);
    }
    count = __reduce_add_sync(kWarp, count);
    if (threadIdx.x % kWarpSize == 0 && count != 0) {
      atomicAdd(&passing[query], static_cast<unsigned long long>(count));
    }
  }
}

}  // namespace

void CopyMasks(const Masks& masks, const int32_t* mask_of_query,
               int64_t num_queries, int64_t num_rows, Context* context,
               uint64_t* bits, int64_t* passing) {
  if (num_queries == 0) return;
  context->Fill(passing, 0,
                num_queries * static_cast<int64_t>(sizeof(*passing)));
  if (num_rows == 0) return;
  std::vector<int32_t> chosen(mask_of_query, mask_of_query + num_queries);
  for (int32_t& mask : chosen) {
    if (masks.passes_all[mask]) mask = kPassesAll;
  }
  const int32_t* const on_device =
      context->Upload(chosen.data(), static_cast<int64_t>(chosen.size()));
  const int64_t blocks = (MaskWords(num_rows) + kThreads - 1) / kThreads;
  const int64_t most = int64_t{context->num_multiprocessors()} * 8;
  dim3 grid(1, 1, 1);
  grid.x = static_cast<unsigned>(std::min(blocks, most));
  grid.y = static_cast<unsigned>(std::min<int64_t>(num_queries, 65535));
  Launch(context, CopyMasksKernel, grid, kThreads, 0, masks.words, masks.stride,
         on_device, num_queries, num_rows, bits,
         reinterpret_cast<unsigned long long*>(passing));
}

}  // namespace lintf::gpu
