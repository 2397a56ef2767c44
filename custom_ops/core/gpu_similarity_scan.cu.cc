// SPDX-License-Identifier: Apache-2.0
// One thread has a row, or two: it sums up the row's logits and its gate in
// registers, in similarity.h's order, so that scores have the CPU's bits.
//
// A tile of rows is scored in three steps. Components of the tile come into
// shared memory, kChunk numbers at a time, already as float32; each thread
// multiplies its rows with all vectors of the query that the component is
// compared with. The logits, which are numbered by a variable there, lie in
// shared memory, a column a row: no thread reads another's. For the gate a
// thread has all z of its rows in registers (so kernels are made for some
// numbers of pairs), and goes over the hidden units eight at a time, which need
// every logit once and change every z. Weights and vectors are read by all
// threads at the same place; they are in shared memory if they fit.
//
// Where rows are bounded, a first step has the logits alone. Rows whose bound
// reaches the floor wait in a queue, and are scored as a tile when there are
// enough of them; their logits are computed again, which is little next to
// the gate.
#include "custom_ops/core/gpu_similarity_scan.h"

#include <algorithm>
#include <cstdint>

#include "custom_ops/core/gpu.h"
#include "custom_ops/core/gpu_candidates.h"
#include "custom_ops/core/gpu_scan.h"
#include "custom_ops/core/gpu_similarity.h"
#include "custom_ops/core/gpu_similarity_tile.h"
#include "custom_ops/core/gpu_sums.h"

namespace lintf::gpu {
namespace {

using similarity_tile::kFour;
using similarity_tile::kPitch;
using similarity_tile::kThreads;
using similarity_tile::SimilarityTask;

constexpr int kWarps = kThreads / kWarpSize;

template <int padded_pairs>
constexpr int kRows = padded_pairs > 32 ? 1 : 2;
template <int padded_pairs>
constexpr int kTile = kRows<padded_pairs> * kThreads;

// In shared memory, of 4 bytes each.
constexpr int kOfferNumbers =
    (static_cast<int>(Offers::SharedBytes(1)) + 3) / 4;

// Shared memory of a block, in bytes from its start.
struct SharedLayout {
  int stage;   // [tile, kPitch] floats
  int logits;  // [padded pairs, tile]
  int sums;    // [hidden, tile]: of the joint MLP, if a component has chunks
  int rows;    // [tile]
  int places;  // [tile]
  int queue;   // [2 tile], if rows are bounded
  int offers;
  int gate;  // if they fit
  int query;
  int bytes;
};

// What does not fit is left out: the query first.
__host__ __device__ inline SharedLayout SharedLayoutOf(
    const SimilarityLayout& layout, int tile, bool is_bounded, bool gate_fits,
    bool query_fits) {
  SharedLayout shared;
  int next = 0;
  const auto take = [&](int numbers) {
    const int at = next;
    next += SimilarityLayout::Align(numbers) * kFour;
    return at;
  };
  shared.offers = take(kOfferNumbers);
  shared.stage = take(tile * kPitch);
  shared.logits = take(tile * layout.padded_pairs);
  const bool has_sums = layout.component == PairSimilarity::kHadamard &&
                        layout.component_dim > similarity_tile::kChunk;
  shared.sums = take(has_sums ? tile * layout.hidden : 0);
  shared.rows = take(tile);
  shared.places = take(tile);
  shared.queue = take(is_bounded ? 2 * tile : 0);
  shared.gate = take(gate_fits ? layout.gate_floats() : 0);
  shared.query = take(query_fits ? layout.query_floats() : 0);
  shared.bytes = next;
  return shared;
}

// Copies whole groups of four floats.
__device__ __forceinline__ void CopyFloats(const float* from, int count,
                                           float* to) {
  for (int i = threadIdx.x; i < count / kFour; i += kThreads) {
    reinterpret_cast<float4*>(to)[i] = reinterpret_cast<const float4*>(from)[i];
  }
}

// blockIdx.y is the query.
template <int padded>
__global__ void __launch_bounds__(kThreads, 2)
    ScanSimilarityKernel(const ScanTask task, const SimilarityTask similarity) {
  constexpr int kOwnRows = kRows<padded>;
  constexpr int kTileRows = kTile<padded>;
  const SimilarityLayout& layout = similarity.layout;
  char* const shared = DynamicShared();
  __shared__ FloorScratch scratch;
  __shared__ uint32_t partial[kWarps];
  const SharedLayout places_in =
      SharedLayoutOf(layout, kTileRows, similarity.is_bounded,
                     similarity.gate_fits, similarity.query_fits);
  float* const stage = reinterpret_cast<float*>(shared + places_in.stage);
  float* const logits = reinterpret_cast<float*>(shared + places_in.logits);
  float* const sums = reinterpret_cast<float*>(shared + places_in.sums);
  uint32_t* const rows = reinterpret_cast<uint32_t*>(shared + places_in.rows);
  uint32_t* const places =
      reinterpret_cast<uint32_t*>(shared + places_in.places);
  uint32_t* const queue = reinterpret_cast<uint32_t*>(shared + places_in.queue);
  Offers offers(task, 1, shared + places_in.offers);

  const int64_t group = blockIdx.y;
  const float* query =
      static_cast<const float*>(task.queries) + group * layout.query_floats();
  const float* gate = similarity.gate;
  if (similarity.query_fits) {
    float* const copy = reinterpret_cast<float*>(shared + places_in.query);
    CopyFloats(query, layout.query_floats(), copy);
    query = copy;
  }
  if (similarity.gate_fits && gate != nullptr) {
    float* const copy = reinterpret_cast<float*>(shared + places_in.gate);
    CopyFloats(gate, layout.gate_floats(), copy);
    gate = copy;
  }
  __syncthreads();

  const int64_t searched = task.first_query + group;
  const int32_t list = similarity.lists.list_of_query[searched];
  const uint32_t* const listed =
      list < 0 ? nullptr
               : similarity.lists.rows + list * similarity.lists.stride;
  int64_t num_places = task.rows.num_places;
  if (list >= 0 && similarity.lists.counts[list] < num_places) {
    num_places = similarity.lists.counts[list];
  }
  const int64_t num_tiles = (num_places + kTileRows - 1) / kTileRows;
  const uint64_t* const uncounted =
      similarity.uncounted == nullptr
          ? nullptr
          : similarity.uncounted + searched * similarity.uncounted_stride;

  TileWalk walk(task, num_tiles);
  int queued = 0;
  int64_t unchecked = 0;
  uint32_t scored = 0;
  // Every decision here is the same for all threads.
  while (walk.IsIn() || queued > 0) {
    const bool is_from_queue = queued >= kTileRows || !walk.IsIn();
    const bool is_scored = is_from_queue || !similarity.is_bounded;
    int count = kTileRows;
    const int64_t first = walk.tile() * kTileRows;
    if (is_from_queue) {
      if (queued < count) count = queued;
    } else if (num_places - first < count) {
      count = static_cast<int>(num_places - first);
    }
    // Nobody reads the tile before any more.
    __syncthreads();
    for (int slot = threadIdx.x; slot < count; slot += kThreads) {
      const uint32_t place = is_from_queue
                                 ? queue[queued - count + slot]
                                 : static_cast<uint32_t>(first + slot);
      places[slot] = place;
      rows[slot] = listed == nullptr ? place : listed[place];
    }
    if (is_from_queue) {
      queued -= count;
    } else {
      walk.Next();
    }
    similarity_tile::ComputeLogits<kOwnRows>(task, similarity, query, rows,
                                             count, stage, logits, sums);
    if (!is_scored) {
      const float floor = offers.floor_score(0);
      uint32_t found = 0;
#pragma unroll
      for (int r = 0; r < kOwnRows; ++r) {
        const int slot = threadIdx.x + r * kThreads;
        if (slot < count && !(similarity_tile::Bound<kOwnRows>(
                                  layout, logits + slot) < floor)) {
          found |= 1u << r;
        }
      }
      const BlockSums block_sums =
          SumBlock(static_cast<uint32_t>(__popc(found)), partial);
      int at = queued + static_cast<int>(block_sums.before);
#pragma unroll
      for (int r = 0; r < kOwnRows; ++r) {
        if ((found >> r & 1) != 0) {
          queue[at++] = places[threadIdx.x + r * kThreads];
        }
      }
      queued += static_cast<int>(block_sums.total);
      continue;
    }
    float scores[kOwnRows];
    similarity_tile::ComputeScores<padded, kOwnRows>(
        task, similarity, query, gate, rows, count, stage, logits, scores);
#pragma unroll
    for (int r = 0; r < kOwnRows; ++r) {
      const int slot = threadIdx.x + r * kThreads;
      if (slot >= count) continue;
      if (!(scores[r] < offers.floor_score(0))) {
        offers.Add(0, scores[r], places[slot]);
      }
      const int64_t row = task.rows.first_row + rows[slot];
      if (uncounted == nullptr ||
          (uncounted[row / 64] >> (row % 64) & 1) == 0) {
        ++scored;
      }
    }
    if (++unchecked == task.check_tiles) {
      unchecked = 0;
      offers.template MakeRoom<kThreads>(&scratch);
    }
  }
  offers.template MakeRoom<kThreads>(&scratch);
  offers.Store();
  scored = WarpSum(scored);
  if (similarity.num_scored != nullptr && scored != 0 &&
      threadIdx.x % kWarpSize == 0) {
    atomicAdd(&similarity.num_scored[searched],
              static_cast<unsigned long long>(scored));
  }
}

// Calls f(kernel, tile) with what the layout takes.
template <typename F>
void Dispatch(const SimilarityLayout& layout, const F& f) {
  switch (layout.padded_pairs) {
    case 1:
      return f(&ScanSimilarityKernel<1>, kTile<1>);
    case 8:
      return f(&ScanSimilarityKernel<8>, kTile<8>);
    case 16:
      return f(&ScanSimilarityKernel<16>, kTile<16>);
    case 32:
      return f(&ScanSimilarityKernel<32>, kTile<32>);
    default:
      return f(&ScanSimilarityKernel<64>, kTile<64>);
  }
}

// What of the numbers is in shared memory, and how much of that there is then.
struct Fit {
  bool gate;
  bool query;
  int64_t bytes;
};

Fit FitOf(const SimilarityLayout& layout, int tile, bool is_bounded,
          const Context& context) {
  // A kernel declares some by itself.
  const int64_t most = context.max_shared_bytes() -
                       static_cast<int64_t>(sizeof(FloorScratch)) - 1024;
  const Fit fits[] = {{true, true, 0}, {true, false, 0}, {false, false, 0}};
  for (Fit fit : fits) {
    // Sizes may be beyond an int: a query has up to 2^22 numbers.
    if (fit.query && layout.query_floats() > most / kFour) continue;
    fit.bytes =
        SharedLayoutOf(layout, tile, is_bounded, fit.gate, fit.query).bytes;
    if (fit.bytes <= most || !fit.gate) return fit;
  }
  return fits[2];
}

}  // namespace

SimilarityScan::SimilarityScan(const Similarity& similarity,
                               const QueryLists& lists, bool is_bounded,
                               Context* context)
    : similarity_(similarity),
      layout_(similarity.shape),
      lists_(lists),
      is_bounded_(is_bounded),
      gate_(LayOutGate(similarity, context)) {}

ScanShape SimilarityScan::Shape(const ItemMatrix& items, Metric metric,
                                int64_t num_queries, bool one_by_one,
                                int64_t dim, Context* context) const {
  static_cast<void>(items);
  static_cast<void>(metric);
  static_cast<void>(num_queries);
  static_cast<void>(one_by_one);
  static_cast<void>(dim);
  ScanShape shape;
  shape.group_queries = 1;
  Dispatch(layout_, [&](auto kernel, int tile) {
    shape.tile_rows = tile;
    shape.resident_blocks =
        int64_t{context->num_multiprocessors()} *
        BlocksPerMultiprocessor(
            context, kernel, kThreads,
            FitOf(layout_, tile, is_bounded_, *context).bytes);
  });
  return shape;
}

void SimilarityScan::PrepareQueries(const float* queries, ScanTask* task,
                                    Context* context) const {
  task->queries = FoldQueries(similarity_, queries, task->num_queries, context);
}

void SimilarityScan::Run(const ScanTask& task, int64_t blocks,
                         Context* context) const {
  const int64_t four_bytes = kFour * ElementSize(task.items.type);
  const dim3 grid(static_cast<unsigned>(blocks),
                  static_cast<unsigned>(task.num_queries));
  Dispatch(layout_, [&](auto kernel, int tile) {
    const Fit fit = FitOf(layout_, tile, is_bounded_, *context);
    SimilarityTask similarity{
        layout_,
        task.dim,
        lists_,
        is_bounded_,
        gate_,
        num_scored_,
        uncounted_,
        uncounted_stride_,
        task.dim % kFour == 0 &&
            reinterpret_cast<uintptr_t>(task.items.data) % four_bytes == 0,
        fit.gate,
        fit.query};
    Launch(context, kernel, grid, kThreads, fit.bytes, task, similarity);
  });
}

}  // namespace lintf::gpu
