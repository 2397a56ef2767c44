// SPDX-License-Identifier: Apache-2.0
// A warp scores a block of 64 rows at a time, two rows a lane: each word of
// their codes is one load of 16 bytes. Where neither row of a lane passes
// nothing is loaded: of a filtered table as many sectors are read as hold a
// row that passes.
#include "custom_ops/core/gpu_code_knn_scores.h"

#include <algorithm>
#include <cstdint>

#include "custom_ops/core/gpu.h"
#include "custom_ops/core/sign_oporp.h"

namespace lintf::gpu {
namespace {

constexpr int kThreads = 256;
constexpr int kWarps = kThreads / kWarpSize;
constexpr int kNibblesOfWord = 16;
constexpr int kNibbleValues = 16;
// Queries that share a load of codes that a thread holds as a whole, and of
// others.
constexpr int64_t kHeldQueries = 16;
constexpr int kStreamedQueries = 4;
// A block's counts go to shared memory if they take no more.
constexpr int64_t kMaxCountBytes = 48 << 10;

// Blocks of rows that a warp has in flight together, by the words of a code.
template <int kWords>
inline constexpr int kBlocksTogether = kWords == 1 ? 4 : (kWords == 2 ? 2 : 1);

struct Arguments {
  CodeScoreInput input;
  int64_t queries_together;  // of a block
  int64_t row_stride;
  void* scores;
  uint32_t* histogram;
  int num_scores;
};

// Which rows of a block there are.
__device__ __forceinline__ uint64_t RowsOf(const Arguments& arguments,
                                           int64_t block) {
  const int64_t left = arguments.input.num_rows - block * kCodeBlockRows;
  if (left <= 0) return 0;
  return left >= kCodeBlockRows ? ~uint64_t{0} : (uint64_t{1} << left) - 1;
}

// The words of a query's mask; null if all rows pass.
__device__ __forceinline__ const uint64_t* WordsOf(const Arguments& arguments,
                                                   int64_t query) {
  const int32_t mask = arguments.input.mask_of_query[query];
  return mask < 0 ? nullptr
                  : arguments.input.masks + mask * arguments.input.mask_stride;
}

// Which of the rows `rows` of a block pass.
__device__ __forceinline__ uint64_t MaskOf(const uint64_t* words, int64_t block,
                                           uint64_t rows) {
  return words == nullptr || rows == 0 ? rows : words[block];
}

// Whether one of the lane's two rows is in the mask.
__device__ __forceinline__ bool IsWanted(uint64_t mask) {
  return (mask >> (threadIdx.x % kWarpSize * 2) & 3) != 0;
}

// Where a lane's scores of rows 2 * lane and 2 * lane + 1 of a block go.
template <typename Score>
__device__ __forceinline__ Score* ScoresOf(const Arguments& arguments,
                                           int64_t query, int64_t block) {
  return static_cast<Score*>(arguments.scores) + query * arguments.row_stride +
         block * kCodeBlockRows + threadIdx.x % kWarpSize * 2;
}

// Writes the lane's two scores, with those that do not pass crossed out, and
// counts the others.
template <typename Score>
__device__ __forceinline__ void FinishPair(uint64_t mask, uint32_t first,
                                           uint32_t second, uint32_t* counts,
                                           Score* to) {
  const uint32_t two =
      static_cast<uint32_t>(mask >> (threadIdx.x % kWarpSize * 2)) & 3;
  if ((two & 1) != 0) {
    atomicAdd(counts + first, 1u);
  } else {
    first = kNoScore<Score>;
  }
  if ((two & 2) != 0) {
    atomicAdd(counts + second, 1u);
  } else {
    second = kNoScore<Score>;
  }
  if (sizeof(Score) == 1) {
    *reinterpret_cast<uint16_t*>(to) =
        static_cast<uint16_t>(first | second << 8);
  } else {
    *reinterpret_cast<uint32_t*>(to) = first | second << 16;
  }
}

__device__ __forceinline__ uint4 LoadPair(const Arguments& arguments,
                                          int64_t block, int64_t word) {
  return LoadOnce(arguments.input.codes +
                  (block * arguments.input.words + word) * kCodeBlockRows +
                  threadIdx.x % kWarpSize * 2);
}

// Bits of two rows' words that match, `query` being complemented.
__device__ __forceinline__ void AddMatches(const uint4& pair, uint64_t query,
                                           uint32_t* first, uint32_t* second) {
  const uint32_t low = static_cast<uint32_t>(query);
  const uint32_t high = static_cast<uint32_t>(query >> 32);
  *first += __popc(pair.x ^ low) + __popc(pair.y ^ high);
  *second += __popc(pair.z ^ low) + __popc(pair.w ^ high);
}

__device__ __forceinline__ void ClearCounts(uint32_t* counts, int64_t count) {
  for (int64_t i = threadIdx.x; i < count; i += kThreads) counts[i] = 0;
}

// Adds the block's counts to those of the query `first` and on.
__device__ __forceinline__ void FlushCounts(const Arguments& arguments,
                                            const uint32_t* counts,
                                            int64_t first, int64_t queries) {
  const int64_t left = arguments.input.num_queries - first;
  const int64_t count =
      (left < queries ? left : queries) * arguments.num_scores;
  uint32_t* const to = arguments.histogram + first * arguments.num_scores;
  for (int64_t i = threadIdx.x; i < count; i += kThreads) {
    if (counts[i] != 0) atomicAdd(to + i, counts[i]);
  }
}

// a + b + c = sum + 2 * carry, bit by bit.
struct BitSum {
  uint32_t sum;
  uint32_t carry;
};
__device__ __forceinline__ BitSum AddBits(uint32_t a, uint32_t b, uint32_t c) {
  return {a ^ b ^ c, (a & b) | (a & c) | (b & c)};
}

__device__ __forceinline__ uint32_t CountBits(const uint32_t (&x)[2]) {
  return __popc(x[0]) + __popc(x[1]);
}
// Counting bits takes four times as long as an operation on them, so that
// words are first added bit by bit.
__device__ __forceinline__ uint32_t CountBits(const uint32_t (&x)[4]) {
  const BitSum ones = AddBits(x[0], x[1], x[2]);
  return __popc(ones.sum) + __popc(x[3]) + 2 * __popc(ones.carry);
}
__device__ __forceinline__ uint32_t CountBits(const uint32_t (&x)[8]) {
  const BitSum a = AddBits(x[0], x[1], x[2]);
  const BitSum b = AddBits(x[3], x[4], x[5]);
  const BitSum c = AddBits(x[6], x[7], a.sum);
  const BitSum twos = AddBits(a.carry, b.carry, c.carry);
  return __popc(b.sum) + __popc(c.sum) + 2 * __popc(twos.sum) +
         4 * __popc(twos.carry);
}
__device__ __forceinline__ uint32_t CountBits(const uint32_t (&x)[16]) {
  const BitSum a = AddBits(x[0], x[1], x[2]);
  const BitSum b = AddBits(x[3], x[4], x[5]);
  const BitSum c = AddBits(x[6], x[7], x[8]);
  const BitSum d = AddBits(x[9], x[10], x[11]);
  const BitSum e = AddBits(x[12], x[13], x[14]);
  const BitSum f = AddBits(a.sum, b.sum, c.sum);
  const BitSum g = AddBits(d.sum, e.sum, x[15]);
  const BitSum h = AddBits(a.carry, b.carry, c.carry);
  const BitSum i = AddBits(d.carry, e.carry, f.carry);
  const BitSum twos = AddBits(h.sum, i.sum, g.carry);
  const BitSum fours = AddBits(h.carry, i.carry, twos.carry);
  return __popc(f.sum) + __popc(g.sum) + 2 * __popc(twos.sum) +
         4 * __popc(fours.sum) + 8 * __popc(fours.carry);
}

// The queries blockIdx.y * queries_together and on. A thread holds the codes
// of its rows, for all of them.
template <int kWords, typename Score>
__global__ __launch_bounds__(kThreads) void HeldKernel(
    const __grid_constant__ Arguments arguments) {
  constexpr int kUnroll = kBlocksTogether<kWords>;
  const CodeScoreInput& input = arguments.input;
  const int64_t first_query =
      static_cast<int64_t>(blockIdx.y) * arguments.queries_together;
  const int64_t left = input.num_queries - first_query;
  const int num_queries = static_cast<int>(
      left < arguments.queries_together ? left : arguments.queries_together);
  uint64_t* const queries = reinterpret_cast<uint64_t*>(DynamicShared());
  const uint64_t** const words_of_query = reinterpret_cast<const uint64_t**>(
      queries + arguments.queries_together * kWords);
  uint32_t* const counts =
      reinterpret_cast<uint32_t*>(words_of_query + arguments.queries_together);
  for (int i = threadIdx.x; i < num_queries * kWords; i += kThreads) {
    queries[i] = input.queries.codes[first_query * kWords + i];
  }
  for (int q = threadIdx.x; q < num_queries; q += kThreads) {
    words_of_query[q] = WordsOf(arguments, first_query + q);
  }
  ClearCounts(counts, int64_t{num_queries} * arguments.num_scores);
  __syncthreads();

  const int64_t num_blocks = arguments.row_stride / kCodeBlockRows;
  const int64_t step = static_cast<int64_t>(gridDim.x) * kWarps * kUnroll;
  for (int64_t block = (static_cast<int64_t>(blockIdx.x) * kWarps +
                        threadIdx.x / kWarpSize) *
                       kUnroll;
       block < num_blocks; block += step) {
    uint64_t rows[kUnroll];
    uint64_t masks[kUnroll];  // of all queries together
    uint4 pairs[kUnroll][kWords];
#pragma unroll
    for (int u = 0; u < kUnroll; ++u) {
      rows[u] = RowsOf(arguments, block + u);
      masks[u] = 0;
    }
#pragma unroll 1
    for (int q = 0; q < num_queries; ++q) {
#pragma unroll
      for (int u = 0; u < kUnroll; ++u) {
        masks[u] |= MaskOf(words_of_query[q], block + u, rows[u]);
      }
    }
#pragma unroll
    for (int u = 0; u < kUnroll; ++u) {
      if (IsWanted(masks[u])) {
#pragma unroll
        for (int w = 0; w < kWords; ++w) {
          pairs[u][w] = LoadPair(arguments, block + u, w);
        }
      }
    }
#pragma unroll
    for (int u = 0; u < kUnroll; ++u) {
      if (block + u >= num_blocks) break;
      Score* to = ScoresOf<Score>(arguments, first_query, block + u);
      uint32_t* own_counts = counts;
#pragma unroll 1
      for (int q = 0; q < num_queries; ++q) {
        uint32_t first = 0;
        uint32_t second = 0;
        if (IsWanted(masks[u])) {
          uint32_t first_bits[2 * kWords];
          uint32_t second_bits[2 * kWords];
#pragma unroll
          for (int w = 0; w < kWords; ++w) {
            const uint64_t query = queries[q * kWords + w];
            const uint32_t low = static_cast<uint32_t>(query);
            const uint32_t high = static_cast<uint32_t>(query >> 32);
            first_bits[2 * w] = pairs[u][w].x ^ low;
            first_bits[2 * w + 1] = pairs[u][w].y ^ high;
            second_bits[2 * w] = pairs[u][w].z ^ low;
            second_bits[2 * w + 1] = pairs[u][w].w ^ high;
          }
          first = CountBits(first_bits);
          second = CountBits(second_bits);
        }
        const uint64_t mask =
            num_queries == 1 ? masks[u]
                             : MaskOf(words_of_query[q], block + u, rows[u]);
        FinishPair(mask, first, second, own_counts, to);
        to += arguments.row_stride;
        own_counts += arguments.num_scores;
      }
    }
  }
  __syncthreads();
  FlushCounts(arguments, counts, first_query, num_queries);
}

// The queries blockIdx.y * kQueries and on; codes of any length.
template <int kQueries, typename Score>
__global__ __launch_bounds__(kThreads) void StreamedKernel(
    const __grid_constant__ Arguments arguments) {
  const CodeScoreInput& input = arguments.input;
  const int64_t words = input.words;
  uint64_t* const queries = reinterpret_cast<uint64_t*>(DynamicShared());
  uint32_t* const counts =
      reinterpret_cast<uint32_t*>(queries + kQueries * words);
  const int64_t first_query = static_cast<int64_t>(blockIdx.y) * kQueries;
  for (int64_t i = threadIdx.x; i < kQueries * words; i += kThreads) {
    const bool is_there = first_query + i / words < input.num_queries;
    queries[i] = is_there ? input.queries.codes[first_query * words + i] : 0;
  }
  ClearCounts(counts, int64_t{kQueries} * arguments.num_scores);
  __syncthreads();

  const int64_t num_blocks = arguments.row_stride / kCodeBlockRows;
  for (int64_t block =
           static_cast<int64_t>(blockIdx.x) * kWarps + threadIdx.x / kWarpSize;
       block < num_blocks; block += static_cast<int64_t>(gridDim.x) * kWarps) {
    const uint64_t rows = RowsOf(arguments, block);
    uint64_t masks[kQueries];
    uint64_t any = 0;
#pragma unroll
    for (int q = 0; q < kQueries; ++q) {
      masks[q] = 0;
      if (first_query + q < input.num_queries) {
        masks[q] = MaskOf(WordsOf(arguments, first_query + q), block, rows);
      }
      any |= masks[q];
    }
    uint32_t first[kQueries] = {};
    uint32_t second[kQueries] = {};
    if (IsWanted(any)) {
#pragma unroll 4
      for (int64_t w = 0; w < words; ++w) {
        const uint4 pair = LoadPair(arguments, block, w);
#pragma unroll
        for (int q = 0; q < kQueries; ++q) {
          AddMatches(pair, queries[q * words + w], &first[q], &second[q]);
        }
      }
    }
#pragma unroll
    for (int q = 0; q < kQueries; ++q) {
      const int64_t query = first_query + q;
      if (query >= input.num_queries) break;
      FinishPair(masks[q], first[q], second[q],
                 counts + q * arguments.num_scores,
                 ScoresOf<Score>(arguments, query, block));
    }
  }
  __syncthreads();
  FlushCounts(arguments, counts, first_query, kQueries);
}

// One query, blockIdx.y, whose tables are in shared memory; if there is room,
// so are its counts.
template <bool kCountInShared>
__global__ __launch_bounds__(kThreads) void AsymmetricKernel(
    const __grid_constant__ Arguments arguments) {
  const CodeScoreInput& input = arguments.input;
  const int64_t query = blockIdx.y;
  const uint64_t* const words = WordsOf(arguments, query);
  const int64_t table_words = input.words * kNibblesOfWord * kNibbleValues / 4;
  uint32_t* const shared = reinterpret_cast<uint32_t*>(DynamicShared());
  uint32_t* const counts =
      kCountInShared ? shared + table_words
                     : arguments.histogram + query * arguments.num_scores;
  const uint32_t* const tables =
      reinterpret_cast<const uint32_t*>(input.queries.tables);
  for (int64_t i = threadIdx.x; i < table_words; i += kThreads) {
    shared[i] = tables[query * table_words + i];
  }
  if (kCountInShared) ClearCounts(counts, arguments.num_scores);
  __syncthreads();

  const uint8_t* const table = reinterpret_cast<const uint8_t*>(shared);
  const int64_t num_blocks = arguments.row_stride / kCodeBlockRows;
  for (int64_t block =
           static_cast<int64_t>(blockIdx.x) * kWarps + threadIdx.x / kWarpSize;
       block < num_blocks; block += static_cast<int64_t>(gridDim.x) * kWarps) {
    const uint64_t mask = MaskOf(words, block, RowsOf(arguments, block));
    uint32_t first = 0;
    uint32_t second = 0;
    if (IsWanted(mask)) {
#pragma unroll 2
      for (int64_t w = 0; w < input.words; ++w) {
        const uint4 pair = LoadPair(arguments, block, w);
        const uint8_t* const low = table + w * (kNibblesOfWord * kNibbleValues);
        const uint8_t* const high = low + 8 * kNibbleValues;
#pragma unroll
        for (int n = 0; n < 8; ++n) {
          const int at = n * kNibbleValues;
          first += low[at + (pair.x >> (4 * n) & 15)];
          first += high[at + (pair.y >> (4 * n) & 15)];
          second += low[at + (pair.z >> (4 * n) & 15)];
          second += high[at + (pair.w >> (4 * n) & 15)];
        }
      }
    }
    FinishPair(mask, first, second, counts,
               ScoresOf<uint16_t>(arguments, query, block));
  }
  __syncthreads();
  if (kCountInShared) FlushCounts(arguments, counts, query, 1);
}

void LaunchScores(void (*kernel)(Arguments), const Arguments& arguments,
                  int64_t blocks_together, int64_t shared_bytes,
                  Context* context) {
  const int64_t groups =
      (arguments.input.num_queries + arguments.queries_together - 1) /
      arguments.queries_together;
  const int64_t warps_of_rows =
      (arguments.row_stride / kCodeBlockRows + blocks_together - 1) /
      blocks_together;
  const int64_t blocks = std::min<int64_t>(
      (warps_of_rows + kWarps - 1) / kWarps,
      int64_t{context->num_multiprocessors()} *
          BlocksPerMultiprocessor(context, kernel, kThreads, shared_bytes));
  Launch(context, kernel,
         dim3(static_cast<unsigned>(blocks), static_cast<unsigned>(groups)),
         kThreads, shared_bytes, arguments);
}

// What a block of a symmetric search has in shared memory for each query: its
// code, where its mask is, and its counts.
int64_t SymmetricBytes(const Arguments& arguments) {
  return (arguments.input.words + 1) * int64_t{8} +
         arguments.num_scores * int64_t{4};
}

template <int kWords, typename Score>
void ScoreHeld(Arguments arguments, Context* context) {
  const int64_t query_bytes = SymmetricBytes(arguments);
  arguments.queries_together =
      std::min({arguments.input.num_queries, kHeldQueries,
                kMaxCountBytes / query_bytes});
  LaunchScores(HeldKernel<kWords, Score>, arguments, kBlocksTogether<kWords>,
               arguments.queries_together * query_bytes, context);
}

template <typename Score>
void ScoreStreamed(Arguments arguments, Context* context) {
  const int64_t query_bytes = SymmetricBytes(arguments);
  const bool several = arguments.input.num_queries > 1 &&
                       query_bytes * kStreamedQueries <= kMaxCountBytes;
  arguments.queries_together = several ? kStreamedQueries : 1;
  LaunchScores(several ? StreamedKernel<kStreamedQueries, Score>
                       : StreamedKernel<1, Score>,
               arguments, 1, arguments.queries_together * query_bytes, context);
}

}  // namespace

void ScoreCodes(const CodeScoreInput& input, int64_t row_stride,
                Context* context, void* scores, uint32_t* histogram) {
  if (row_stride == 0 || input.num_queries == 0) return;
  Arguments arguments;
  arguments.input = input;
  arguments.queries_together = 1;
  arguments.row_stride = row_stride;
  arguments.scores = scores;
  arguments.histogram = histogram;
  arguments.num_scores =
      static_cast<int>(MaxCodeScore(input.words, input.scoring)) + 1;
  if (input.scoring == CodeScoring::kAsymmetric) {
    const int64_t table_bytes = input.words * kNibblesOfWord * kNibbleValues;
    const int64_t count_bytes = int64_t{arguments.num_scores} * 4;
    if (count_bytes <= kMaxCountBytes) {
      LaunchScores(AsymmetricKernel<true>, arguments, 1,
                   table_bytes + count_bytes, context);
    } else {
      LaunchScores(AsymmetricKernel<false>, arguments, 1, table_bytes, context);
    }
    return;
  }
  switch (input.words) {
    case 1:
      return ScoreHeld<1, uint8_t>(arguments, context);
    case 2:
      return ScoreHeld<2, uint8_t>(arguments, context);
    case 3:
      return ScoreStreamed<uint8_t>(arguments, context);
    case 4:
      return ScoreHeld<4, uint16_t>(arguments, context);
    case 8:
      return ScoreHeld<8, uint16_t>(arguments, context);
    default:
      return ScoreStreamed<uint16_t>(arguments, context);
  }
}

}  // namespace lintf::gpu
