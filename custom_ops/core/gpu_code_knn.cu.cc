// SPDX-License-Identifier: Apache-2.0
// Scores, selects by counting, and compacts:
//   1. all scores, a byte or two each, and how many rows have each score;
//   2. from those counts the score of the last row that is kept, and how many
//      of its equals are kept;
//   3. how many rows of each tile are kept, the sums of that over the tiles
//      before, and the rows themselves, in their order.
// kBestFirst then sorts what is left, by score alone and stably.
//
// Memory beside the outputs, for each query that is searched at once: a byte a
// row (two if codes have more than 192 bits, or for asymmetric scores), and to
// sort n rows 12 bytes for each of them and what the sort itself takes (about
// 6 more). So the best 50 million of a billion codes of 64 bits, which take
// 8 GB, in ascending order take 1 GB beside the outputs, and 1.9 GB best first.
#include "custom_ops/core/gpu_code_knn.h"

#include <algorithm>
#include <cstdint>
#include <string>

#include "custom_ops/core/gpu.h"
#include "custom_ops/core/gpu_code_knn_queries.h"
#include "custom_ops/core/gpu_code_knn_scores.h"
#include "custom_ops/core/gpu_sort.h"
#include "custom_ops/core/gpu_sums.h"

namespace lintf::gpu {
namespace {

constexpr int kThreads = 256;
constexpr int kWarps = kThreads / kWarpSize;
constexpr int kScanThreads = 1024;
// A tile is what one warp compacts.
constexpr int64_t kMinTileRows = 4096;
constexpr int64_t kMaxTiles = int64_t{1} << 16;
// Up to here the results of a query are sorted by one block in shared memory.
constexpr int64_t kSmallSort = 4096;
constexpr int kSmallSortBits = 13;  // of a place; not all of them set

constexpr int64_t CeilDiv(int64_t a, int64_t b) { return (a + b - 1) / b; }
constexpr int64_t RoundUp(int64_t a, int64_t b) { return CeilDiv(a, b) * b; }

// Rows that score more are kept, and the first `ties` of those that score this.
struct Cut {
  uint32_t score;
  uint32_t ties;
};

// Rows of a tile, or of the tiles before it, that score more than the cut, and
// the same.
struct TileCounts {
  uint32_t greater;
  uint32_t equal;
};

// A block a query: greatest scores first, each thread has a stretch of them.
__global__ __launch_bounds__(kThreads) void CutKernel(
    const uint32_t* __restrict__ histogram, int num_scores, int64_t keep,
    Cut* __restrict__ cuts, int64_t* __restrict__ counts) {
  __shared__ uint32_t partial[kWarps];
  const int64_t query = blockIdx.x;
  const uint32_t* const of_score = histogram + query * num_scores;
  const int stretch = (num_scores + kThreads - 1) / kThreads;
  const int end = num_scores - static_cast<int>(threadIdx.x) * stretch;
  const int begin = end > stretch ? end - stretch : 0;
  uint32_t own = 0;
  for (int score = begin; score < end; ++score) own += of_score[score];
  const BlockSums sums = SumBlock(own, partial);
  if (sums.total <= keep) {
    if (threadIdx.x == 0) {
      cuts[query] = {0, of_score[0]};
      counts[query] = sums.total;
    }
    return;
  }
  if (sums.before >= keep || int64_t{sums.before} + own < keep) return;
  // The last that is kept has one of this thread's scores.
  uint32_t before = sums.before;
  int score = end - 1;
  while (int64_t{before} + of_score[score] < keep) before += of_score[score--];
  cuts[query] = {static_cast<uint32_t>(score),
                 static_cast<uint32_t>(keep - before)};
  counts[query] = keep;
}

// Scores that one load of 16 bytes holds.
template <typename Score>
inline constexpr int kLoadScores = 16 / static_cast<int>(sizeof(Score));

// Which of a lane's scores are above the cut, and which are the same.
struct Found {
  uint32_t greater;
  uint32_t equal;
};

template <typename Score>
__device__ __forceinline__ Found Compare(const uint4& loaded, uint32_t cut) {
  constexpr int kBits = 8 * static_cast<int>(sizeof(Score));
  const uint32_t words[4] = {loaded.x, loaded.y, loaded.z, loaded.w};
  const uint32_t above = cut + 1;
  const uint32_t span = kNoScore<Score> - above;
  Found found = {0, 0};
#pragma unroll
  for (int i = 0; i < kLoadScores<Score>; ++i) {
    const uint32_t score =
        words[i * kBits / 32] >> (i * kBits % 32) & kNoScore<Score>;
    if (score - above < span) found.greater |= 1u << i;
    if (score == cut) found.equal |= 1u << i;
  }
  return found;
}

// One of a lane's scores.
template <typename Score>
__device__ __forceinline__ uint32_t ScoreAt(const uint4& loaded, int place) {
  const int bit = place * 8 * static_cast<int>(sizeof(Score));
  // Chosen, not indexed: that would put the words in memory.
  const uint32_t low = (bit & 32) != 0 ? loaded.y : loaded.x;
  const uint32_t high = (bit & 32) != 0 ? loaded.w : loaded.z;
  return ((bit & 64) != 0 ? high : low) >> (bit & 31) & kNoScore<Score>;
}

// The tiles of all queries, one for each warp of the grid at a time.
struct TileLoop {
  int64_t tiles;  // of a query
  int64_t tile_rows;
  int64_t row_stride;
  int64_t num_queries;
};

__device__ __forceinline__ int64_t FirstTile() {
  return (static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x) /
         kWarpSize;
}
__device__ __forceinline__ int64_t TileStep() {
  return static_cast<int64_t>(gridDim.x) * kWarps;
}
__device__ __forceinline__ int64_t TileEnd(const TileLoop& loop, int64_t tile) {
  const int64_t end = (tile + 1) * loop.tile_rows;
  return end < loop.row_stride ? end : loop.row_stride;
}

template <typename Score>
__global__ __launch_bounds__(kThreads) void CountKernel(
    const Score* __restrict__ scores, const TileLoop loop,
    const Cut* __restrict__ cuts, TileCounts* __restrict__ tile_counts) {
  constexpr int kStep = kWarpSize * kLoadScores<Score>;
  const int lane = threadIdx.x % kWarpSize;
  for (int64_t item = FirstTile(); item < loop.num_queries * loop.tiles;
       item += TileStep()) {
    const int64_t query = item / loop.tiles;
    const int64_t tile = item % loop.tiles;
    const Score* const from = scores + query * loop.row_stride;
    const uint32_t cut = cuts[query].score;
    const int64_t end = TileEnd(loop, tile);
    uint32_t greater = 0;
    uint32_t equal = 0;
#pragma unroll 4
    for (int64_t row = tile * loop.tile_rows; row < end; row += kStep) {
      const Found found =
          Compare<Score>(LoadOnce(from + row + lane * kLoadScores<Score>), cut);
      greater += __popc(found.greater);
      equal += __popc(found.equal);
    }
    greater = WarpSum(greater);
    equal = WarpSum(equal);
    if (lane == 0) tile_counts[item] = {greater, equal};
  }
}

// A block a query: the counts of each tile become the sums of those before it.
__global__ __launch_bounds__(kScanThreads) void ScanKernel(
    int64_t tiles, TileCounts* __restrict__ tile_counts) {
  __shared__ uint32_t partial[2][kScanThreads / kWarpSize];
  TileCounts* const counts = tile_counts + blockIdx.x * tiles;
  const int64_t stretch = (tiles + kScanThreads - 1) / kScanThreads;
  const int64_t begin = threadIdx.x * stretch;
  const int64_t limit = begin + stretch;
  const int64_t end = limit < tiles ? limit : tiles;
  TileCounts own = {0, 0};
#pragma unroll 8
  for (int64_t tile = begin; tile < end; ++tile) {
    const TileCounts of_tile = counts[tile];
    own.greater += of_tile.greater;
    own.equal += of_tile.equal;
  }
  TileCounts before = {SumBlock(own.greater, partial[0]).before,
                       SumBlock(own.equal, partial[1]).before};
#pragma unroll 8
  for (int64_t tile = begin; tile < end; ++tile) {
    const TileCounts of_tile = counts[tile];
    counts[tile] = before;
    before.greater += of_tile.greater;
    before.equal += of_tile.equal;
  }
}

// A score as it is reported: finite, beyond what a float holds the greatest.
__device__ __forceinline__ float Reported(const double* __restrict__ scale,
                                          uint32_t score) {
  constexpr double kMost = 3.4028234663852886e38;  // the greatest float
  double value =
      __dadd_rn(scale[0], __dmul_rn(scale[1], static_cast<double>(score)));
  value = value < -kMost ? -kMost : value;
  value = value > kMost ? kMost : value;
  return static_cast<float>(value);
}

__device__ __forceinline__ float NoReportedScore() {
  return __uint_as_float(0xFF800000u);  // -inf
}

// Where the kept rows of all queries go, in ascending order.
struct Output {
  int64_t stride;  // of a query
  // The outputs; `scores` may be null.
  float* scores;
  int64_t* rows;
  const double* scales;
  // Else what is to be sorted.
  uint16_t* keys;
  uint32_t* values;
};

template <typename Score, bool kFinal>
__global__ __launch_bounds__(kThreads) void CompactKernel(
    const Score* __restrict__ scores, const TileLoop loop,
    const Cut* __restrict__ cuts, const TileCounts* __restrict__ tile_counts,
    const Output output) {
  constexpr int kStep = kWarpSize * kLoadScores<Score>;
  const int lane = threadIdx.x % kWarpSize;
  for (int64_t item = FirstTile(); item < loop.num_queries * loop.tiles;
       item += TileStep()) {
    const int64_t query = item / loop.tiles;
    const int64_t tile = item % loop.tiles;
    const Score* const from =
        scores + query * loop.row_stride + lane * kLoadScores<Score>;
    const Cut cut = cuts[query];
    TileCounts before = tile_counts[item];
    const int64_t begin = tile * loop.tile_rows;
    const int64_t end = TileEnd(loop, tile);
    uint4 next = LoadOnce(from + begin);
    for (int64_t row = begin; row < end; row += kStep) {
      const uint4 loaded = next;
      if (row + kStep < end) next = LoadOnce(from + row + kStep);
      const Found found = Compare<Score>(loaded, cut.score);
      uint32_t kept = found.greater | found.equal;
      if (!__any_sync(kWarp, kept != 0)) continue;
      // Both counts in one number: none is above 512.
      const uint32_t own = static_cast<uint32_t>(__popc(found.greater)) |
                           static_cast<uint32_t>(__popc(found.equal)) << 16;
      const uint32_t up_to = InclusiveWarpSum(own);
      const uint32_t total = __shfl_sync(kWarp, up_to, kWarpSize - 1);
      uint32_t greater = before.greater + (up_to & 0xFFFF) - (own & 0xFFFF);
      uint32_t equal = before.equal + (up_to >> 16) - (own >> 16);
      before.greater += total & 0xFFFF;
      before.equal += total >> 16;
      for (; kept != 0; kept &= kept - 1) {
        const int place = __ffs(static_cast<int>(kept)) - 1;
        const bool is_tie = (found.equal >> place & 1) != 0;
        const uint32_t kept_ties = equal < cut.ties ? equal : cut.ties;
        const int64_t to = static_cast<int64_t>(greater) + kept_ties;
        if (is_tie) {
          ++equal;
          if (equal > cut.ties) continue;
        } else {
          ++greater;
        }
        const int64_t at = query * output.stride + to;
        const int64_t found_row = row + lane * kLoadScores<Score> + place;
        const uint32_t score = ScoreAt<Score>(loaded, place);
        if (kFinal) {
          output.rows[at] = found_row;
          if (output.scores != nullptr) {
            output.scores[at] = Reported(output.scales + 2 * query, score);
          }
        } else {
          output.keys[at] = static_cast<uint16_t>(score);
          output.values[at] = static_cast<uint32_t>(found_row);
        }
      }
    }
  }
}

// What comes behind the rows that were found: in the outputs nothing, in what
// is to be sorted the lowest key.
template <bool kFinal>
__global__ __launch_bounds__(kThreads) void PadKernel(
    const int64_t* __restrict__ counts, int64_t num_queries,
    const Output output) {
  for (int64_t query = 0; query < num_queries; ++query) {
    for (int64_t i = counts[query] +
                     static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
         i < output.stride; i += static_cast<int64_t>(gridDim.x) * kThreads) {
      const int64_t at = query * output.stride + i;
      if (kFinal) {
        output.rows[at] = -1;
        if (output.scores != nullptr) output.scores[at] = NoReportedScore();
      } else {
        output.keys[at] = 0;
        output.values[at] = 0;
      }
    }
  }
}

// Writes the outputs of one query, `keep` of them, from `num_sorted` sorted
// keys.
__global__ __launch_bounds__(kThreads) void FinishKernel(
    const uint16_t* __restrict__ keys, const uint32_t* __restrict__ values,
    int64_t num_sorted, const int64_t* __restrict__ count,
    const double* __restrict__ scale, int64_t keep, float* __restrict__ scores,
    int64_t* __restrict__ rows) {
  const int64_t found = *count < num_sorted ? *count : num_sorted;
  for (int64_t i = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
       i < keep; i += static_cast<int64_t>(gridDim.x) * kThreads) {
    const bool is_real = i < found;
    rows[i] = is_real ? static_cast<int64_t>(values[i]) : -1;
    if (scores != nullptr) {
      scores[i] = is_real ? Reported(scale, keys[i]) : NoReportedScore();
    }
  }
}

// A block a query: sorts its `num_kept` <= kSmallSort keys and writes its
// outputs, `keep` of them. `size` is num_kept rounded up to a power of two.
__global__ __launch_bounds__(kThreads) void SmallSortKernel(
    const uint16_t* __restrict__ keys, const uint32_t* __restrict__ values,
    int num_kept, int size, const int64_t* __restrict__ counts,
    const double* __restrict__ scales, int64_t keep, float* __restrict__ scores,
    int64_t* __restrict__ rows) {
  constexpr uint32_t kPlaces = (1u << kSmallSortBits) - 1;
  uint32_t* const sorted = reinterpret_cast<uint32_t*>(DynamicShared());
  const int64_t query = blockIdx.x;
  const int count = static_cast<int>(counts[query]);
  const uint16_t* const own_keys = keys + query * num_kept;
  const uint32_t* const own_values = values + query * num_kept;
  // Greater is better: by score, then by lower place. All differ, and what is
  // not there is 0.
  for (int i = threadIdx.x; i < size; i += kThreads) {
    sorted[i] = i < count
                    ? static_cast<uint32_t>(own_keys[i]) << kSmallSortBits |
                          (kPlaces - static_cast<uint32_t>(i))
                    : 0;
  }
  __syncthreads();
  for (int width = 2; width <= size; width *= 2) {
    for (int step = width / 2; step > 0; step /= 2) {
      for (int pair = threadIdx.x; pair < size / 2; pair += kThreads) {
        const int low = pair / step * step * 2 + pair % step;
        const int high = low + step;
        const bool descends = (low & width) == 0;
        const uint32_t a = sorted[low];
        const uint32_t b = sorted[high];
        if ((a < b) == descends) {
          sorted[low] = b;
          sorted[high] = a;
        }
      }
      __syncthreads();
    }
  }
  for (int64_t i = threadIdx.x; i < keep; i += kThreads) {
    const bool is_real = i < count;
    const uint32_t key = is_real ? sorted[i] : 0;
    const int64_t at = query * keep + i;
    rows[at] = is_real
                   ? static_cast<int64_t>(own_values[kPlaces - (key & kPlaces)])
                   : -1;
    if (scores != nullptr) {
      scores[at] = is_real ? Reported(scales + 2 * query, key >> kSmallSortBits)
                           : NoReportedScore();
    }
  }
}

int BitsOf(int64_t number) {
  int bits = 0;
  for (; number > 0; number /= 2) ++bits;
  return bits;
}

// One search; memory is taken once, for all slices of the queries.
class Search {
 public:
  Search(const CodeKnnInput& input, const Masks& masks,
         const int32_t* mask_of_query, CodeOrder order, Context* context,
         const CodeKnnOutput& output)
      : input_(input),
        masks_(masks),
        mask_of_query_(mask_of_query),
        output_(output),
        context_(context),
        is_final_(order == CodeOrder::kAscendingRow),
        is_bytes_(ScoresAreBytes(input.words, input.scoring)),
        row_stride_(RoundUp(input.num_rows, kScoreRows)),
        tile_rows_(
            std::max(kMinTileRows,
                     RoundUp(CeilDiv(row_stride_, kMaxTiles), kScoreRows))),
        tiles_(CeilDiv(row_stride_, tile_rows_)),
        num_scores_(static_cast<int>(MaxCodeScore(input.words, input.scoring)) +
                    1),
        num_kept_(std::min(input.keep, input.num_rows)) {}

  void Run() {
    const int64_t score_bytes = is_bytes_ ? 1 : 2;
    const int64_t query_bytes = row_stride_ * score_bytes + num_scores_ * 4 +
                                tiles_ * int64_t{sizeof(TileCounts)} +
                                (is_final_ ? 0 : num_kept_ * 6);
    const int64_t slice =
        std::clamp<int64_t>(context_->scratch_bytes() / query_bytes, 1,
                            std::min(kMaxCodeQueries, input_.num_queries));
    queries_ = MakeCodeQueries(input_.samples, input_.num_queries, input_.words,
                               input_.scoring, context_);
    scores_ = context_->Allocate<char>(slice * row_stride_ * score_bytes);
    histogram_ = context_->Allocate<uint32_t>(slice * num_scores_);
    tile_counts_ = context_->Allocate<TileCounts>(slice * tiles_);
    cuts_ = context_->Allocate<Cut>(slice);
    if (!is_final_) {
      keys_ = context_->Allocate<uint16_t>(slice * num_kept_);
      values_ = context_->Allocate<uint32_t>(slice * num_kept_);
      if (num_kept_ > kSmallSort) {
        sorted_keys_ = context_->Allocate<uint16_t>(num_kept_);
        sorted_values_ = context_->Allocate<uint32_t>(num_kept_);
      }
    }
    for (int64_t first = 0; first < input_.num_queries && context_->ok();
         first += slice) {
      RunSlice(first, std::min(slice, input_.num_queries - first));
    }
  }

 private:
  void RunSlice(int64_t first, int64_t count) {
    first_ = first;
    count_ = count;
    context_->Fill(histogram_, 0, count * num_scores_ * int64_t{4});
    Score();
    Launch(context_, CutKernel, Grid(count), kThreads, 0,
           static_cast<const uint32_t*>(histogram_), num_scores_, input_.keep,
           cuts_, output_.counts + first);
    if (is_bytes_) {
      Compact(reinterpret_cast<const uint8_t*>(scores_));
    } else {
      Compact(reinterpret_cast<const uint16_t*>(scores_));
    }
    if (!is_final_) Sort();
  }

  void Score() {
    CodeScoreInput input;
    input.codes = input_.codes;
    input.words = input_.words;
    input.num_rows = input_.num_rows;
    input.scoring = input_.scoring;
    input.num_queries = count_;
    input.queries = queries_;
    if (input.queries.codes != nullptr) {
      input.queries.codes += first_ * input_.words;
    }
    if (input.queries.tables != nullptr) {
      input.queries.tables += first_ * input_.words * 256;
    }
    input.masks = masks_.words;
    input.mask_stride = masks_.stride;
    for (int64_t i = 0; i < count_; ++i) {
      const int32_t mask = mask_of_query_[first_ + i];
      input.mask_of_query[i] = masks_.passes_all[mask] ? -1 : mask;
    }
    ScoreCodes(input, row_stride_, context_, scores_, histogram_);
  }

  template <typename Score>
  void Compact(const Score* scores) {
    const TileLoop loop = {tiles_, tile_rows_, row_stride_, count_};
    const Output output = MakeOutput();
    if (tiles_ > 0) {
      const dim3 grid = Grid(
          std::min<int64_t>(CeilDiv(count_ * tiles_, kWarps),
                            int64_t{context_->num_multiprocessors()} * 16));
      Launch(context_, CountKernel<Score>, grid, kThreads, 0, scores, loop,
             static_cast<const Cut*>(cuts_), tile_counts_);
      Launch(context_, ScanKernel, Grid(count_), kScanThreads, 0, tiles_,
             tile_counts_);
      Launch(
          context_,
          is_final_ ? CompactKernel<Score, true> : CompactKernel<Score, false>,
          grid, kThreads, 0, scores, loop, static_cast<const Cut*>(cuts_),
          static_cast<const TileCounts*>(tile_counts_), output);
    }
    // A small sort knows what is not there by itself.
    if (!is_final_ && num_kept_ <= kSmallSort) return;
    Launch(context_, is_final_ ? PadKernel<true> : PadKernel<false>,
           GridFor(output.stride), kThreads, 0,
           static_cast<const int64_t*>(output_.counts + first_), count_,
           output);
  }

  Output MakeOutput() const {
    Output output = {};
    if (is_final_) {
      output.stride = input_.keep;
      output.scores = ScoresOf(first_);
      output.rows = output_.rows + first_ * input_.keep;
      output.scales = queries_.scales + 2 * first_;
    } else {
      output.stride = num_kept_;
      output.keys = keys_;
      output.values = values_;
    }
    return output;
  }

  void Sort() {
    if (num_kept_ <= kSmallSort) {
      int size = 1;
      while (size < num_kept_) size *= 2;
      Launch(context_, SmallSortKernel, Grid(count_), kThreads,
             size * int64_t{4}, static_cast<const uint16_t*>(keys_),
             static_cast<const uint32_t*>(values_), static_cast<int>(num_kept_),
             size, static_cast<const int64_t*>(output_.counts + first_),
             queries_.scales + 2 * first_, input_.keep, ScoresOf(first_),
             output_.rows + first_ * input_.keep);
      return;
    }
    for (int64_t i = 0; i < count_; ++i) {
      const int64_t query = first_ + i;
      StableSortDescending(keys_ + i * num_kept_, values_ + i * num_kept_,
                           num_kept_, BitsOf(num_scores_ - 1), context_,
                           sorted_keys_, sorted_values_);
      Launch(context_, FinishKernel, GridFor(input_.keep), kThreads, 0,
             static_cast<const uint16_t*>(sorted_keys_),
             static_cast<const uint32_t*>(sorted_values_), num_kept_,
             static_cast<const int64_t*>(output_.counts + query),
             queries_.scales + 2 * query, input_.keep, ScoresOf(query),
             output_.rows + query * input_.keep);
    }
  }

  float* ScoresOf(int64_t query) const {
    return output_.scores == nullptr ? nullptr
                                     : output_.scores + query * input_.keep;
  }

  static dim3 Grid(int64_t blocks) {
    return dim3(static_cast<unsigned>(std::max<int64_t>(blocks, 1)));
  }
  // For a thread a value.
  dim3 GridFor(int64_t values) const {
    return Grid(
        std::min<int64_t>(CeilDiv(values, kThreads),
                          int64_t{context_->num_multiprocessors()} * 8));
  }

  const CodeKnnInput& input_;
  const Masks& masks_;
  const int32_t* const mask_of_query_;
  const CodeKnnOutput& output_;
  Context* const context_;
  const bool is_final_;  // the order of the rows is that of the outputs
  const bool is_bytes_;
  const int64_t row_stride_;
  const int64_t tile_rows_;
  const int64_t tiles_;
  const int num_scores_;
  const int64_t num_kept_;  // at most

  CodeQueries queries_;
  char* scores_ = nullptr;
  uint32_t* histogram_ = nullptr;
  TileCounts* tile_counts_ = nullptr;
  Cut* cuts_ = nullptr;
  uint16_t* keys_ = nullptr;
  uint32_t* values_ = nullptr;
  uint16_t* sorted_keys_ = nullptr;
  uint32_t* sorted_values_ = nullptr;

  int64_t first_ = 0;  // of the slice
  int64_t count_ = 0;
};

}  // namespace

void CodeKnn(const CodeKnnInput& input, const Masks& masks,
             const int32_t* mask_of_query, CodeOrder order, Context* context,
             const CodeKnnOutput& output) {
  if (input.num_queries == 0) return;
  if (input.num_rows > kMaxSegmentRows) {
    context->Fail("a search by codes on one GPU takes at most " +
                  std::to_string(kMaxSegmentRows) + " rows, there are " +
                  std::to_string(input.num_rows) +
                  "; cut the index into shards");
    return;
  }
  Search(input, masks, mask_of_query, order, context, output).Run();
}

}  // namespace lintf::gpu
