// SPDX-License-Identifier: Apache-2.0
#include "custom_ops/core/masked_knn.h"

#ifdef __SSE2__
#include <emmintrin.h>
#endif

#include <algorithm>
#include <atomic>
#include <limits>
#include <memory>
#include <numeric>
#include <utility>
#include <vector>

#include "custom_ops/core/float_environment.h"
#include "custom_ops/core/knn_kernels.h"
#include "custom_ops/core/top_k.h"

namespace lintf {
namespace {

constexpr float kNoScore = -std::numeric_limits<float>::infinity();

// A tile of rows stays in the L2 cache while every query passes over it.
constexpr int64_t kTileBytes = 384 << 10;
// Masks are filled, and threads take work, in blocks of tiles.
constexpr int64_t kMaxBlockRows = 4096;
// Queries that search together; their packed form shares the L2 cache.
constexpr int64_t kMaxSliceQueries = 256;
constexpr int64_t kMinSliceQueries = 16;
// Below this much estimated work another thread is not worth waking up.
constexpr double kMinWorkerNanoseconds = 50e3;

constexpr int64_t CeilDiv(int64_t a, int64_t b) { return (a + b - 1) / b; }
constexpr int64_t RoundUp(int64_t a, int64_t b) { return CeilDiv(a, b) * b; }

// Floats that start on a cache line, so that no vector straddles two.
class AlignedFloats {
 public:
  void AssignZeros(int64_t size) {
    lines_.assign(CeilDiv(size, kLineFloats), Line{});
  }
  float* data() { return lines_.data()->values; }
  const float* data() const { return lines_.data()->values; }

 private:
  static constexpr int64_t kLineFloats = 16;
  struct alignas(64) Line {
    float values[kLineFloats];
  };
  std::vector<Line> lines_;
};

// Queries with one mask, next to each other in a lane group.
struct MaskRun {
  int64_t mask;  // index into Plan::masks
  int64_t first_slot;
  int num_queries;
};

// Queries that can be scored together as vectors of query lanes.
struct LaneGroup {
  int64_t first_slot = 0;
  int vectors = 0;
  uint64_t active = 0;  // the lanes in use
  std::vector<MaskRun> runs;
  int64_t packed_offset = 0;  // in Plan::packed
};

// How a slice of the queries is searched; the same for all threads. Queries
// sit in slots: those of a lane group are next to each other, those with the
// same mask too, and groups are filled up with unused slots.
struct Plan {
  const KnnKernels* kernels;
  std::vector<LaneGroup> groups;
  std::vector<int64_t> query_of_slot;  // -1: unused
  std::vector<int32_t> masks;          // the distinct masks
  AlignedFloats packed;                // query lanes: [dim, vectors * lanes]
  AlignedFloats padded;                // row lanes: [slots, padded_dim]
  int64_t padded_dim;
};

// Puts queries into lane groups. `queries` has (mask, query) pairs, those with
// the same mask next to each other.
void AddLaneGroups(const std::vector<std::pair<int64_t, int64_t>>& queries,
                   Plan* plan) {
  const KnnKernels& kernels = *plan->kernels;
  const int64_t count = static_cast<int64_t>(queries.size());
  int64_t vectors = CeilDiv(count, kernels.lanes);
  int64_t next = 0;
  for (int64_t groups = CeilDiv(vectors, kernels.max_vectors); groups > 0;
       --groups) {
    LaneGroup group;
    group.vectors = static_cast<int>(CeilDiv(vectors, groups));
    vectors -= group.vectors;
    group.first_slot = static_cast<int64_t>(plan->query_of_slot.size());
    for (int i = 0; i < group.vectors * kernels.lanes; ++i, ++next) {
      if (next >= count) {
        plan->query_of_slot.push_back(-1);
        continue;
      }
      const auto [mask, query] = queries[next];
      if (group.runs.empty() || group.runs.back().mask != mask) {
        group.runs.push_back({mask, group.first_slot + i, 0});
      }
      ++group.runs.back().num_queries;
      plan->query_of_slot.push_back(query);
    }
    plan->groups.push_back(std::move(group));
  }
}

void PackQueries(const KnnInput& input, Plan* plan) {
  const int64_t dim = input.dim;
  const int lanes = plan->kernels->lanes;
  int64_t packed_size = 0;
  for (LaneGroup& group : plan->groups) {
    group.packed_offset = packed_size;
    packed_size += dim * group.vectors * lanes;
    group.active = 0;
    for (int i = 0; i < group.vectors * lanes; ++i) {
      if (plan->query_of_slot[group.first_slot + i] >= 0) {
        group.active |= uint64_t{1} << i;
      }
    }
  }
  plan->packed.AssignZeros(packed_size);
  plan->padded_dim = RoundUp(dim, kQueryPadding);
  const int64_t slots = static_cast<int64_t>(plan->query_of_slot.size());
  plan->padded.AssignZeros(slots * plan->padded_dim);
  for (const LaneGroup& group : plan->groups) {
    const int64_t width = int64_t{group.vectors} * lanes;
    for (int64_t i = 0; i < width; ++i) {
      const int64_t slot = group.first_slot + i;
      if (plan->query_of_slot[slot] < 0) continue;
      const float* query = input.queries + plan->query_of_slot[slot] * dim;
      std::copy_n(query, dim, plan->padded.data() + slot * plan->padded_dim);
      float* packed = plan->packed.data() + group.packed_offset + i;
      for (int64_t d = 0; d < dim; ++d) packed[d * width] = query[d];
    }
  }
}

// Plans the search for queries [begin, end).
Plan MakePlan(const KnnInput& input, const int32_t* mask_of_query,
              int64_t begin, int64_t end) {
  Plan plan;
  plan.kernels = &ActiveKnnKernels();
  std::vector<int64_t> order(end - begin);
  std::iota(order.begin(), order.end(), begin);
  std::stable_sort(order.begin(), order.end(), [&](int64_t a, int64_t b) {
    return mask_of_query[a] < mask_of_query[b];
  });
  // Queries left over where a mask does not fill whole vectors.
  std::vector<std::pair<int64_t, int64_t>> rest;
  for (size_t i = 0; i < order.size();) {
    const int32_t mask = mask_of_query[order[i]];
    const int64_t index = static_cast<int64_t>(plan.masks.size());
    plan.masks.push_back(mask);
    std::vector<std::pair<int64_t, int64_t>> same;
    for (; i < order.size() && mask_of_query[order[i]] == mask; ++i) {
      same.emplace_back(index, order[i]);
    }
    // A vector that is at least half full is left to its mask alone.
    const size_t lanes = plan.kernels->lanes;
    const size_t over = same.size() % lanes;
    if (2 * over < lanes) {
      rest.insert(rest.end(), same.end() - over, same.end());
      same.resize(same.size() - over);
    }
    AddLaneGroups(same, &plan);
  }
  AddLaneGroups(rest, &plan);
  PackQueries(input, &plan);
  return plan;
}

// The choice between the two ways to score a group in a tile, by estimated
// time for each dimension: the rows that pass for any query as query lanes
// for the whole group (masked), or the rows of each mask as row lanes for its
// own queries (prefiltered). `passing[i]` rows pass run i, `in_union` any.
KnnLayout ChooseLayout(const KnnTuning& tuning, const KnnCosts& costs,
                       const LaneGroup& group, const int64_t* passing,
                       int64_t in_union) {
  if (tuning.layout != KnnLayout::kAuto) return tuning.layout;
  const float shared =
      costs.query_lanes_vector * static_cast<float>(group.vectors * in_union);
  float own = 0.0f;
  for (size_t i = 0; i < group.runs.size(); ++i) {
    const int queries = group.runs[i].num_queries;
    own += static_cast<float>(passing[i]) *
           (costs.row_lanes_row *
                static_cast<float>(CeilDiv(queries, kMaxSharedQueries)) +
            costs.row_lanes_query * static_cast<float>(queries));
  }
  return own < shared ? KnnLayout::kOwn : KnnLayout::kShared;
}

// Transposes bits: bit i of words[lane] becomes bit `lane` of out[i]. There
// are `lanes` (at most kMaxLanes) words.
void TransposeBits(const uint64_t* words, int lanes, uint64_t* out) {
  std::fill_n(out, kRowsPerWord, uint64_t{0});
  for (int first = 0; first < lanes; first += 16) {
    uint8_t bytes[8][16] = {};
    for (int i = 0; i < std::min(16, lanes - first); ++i) {
      for (int b = 0; b < 8; ++b) {
        bytes[b][i] = static_cast<uint8_t>(words[first + i] >> (8 * b));
      }
    }
    for (int b = 0; b < 8; ++b) {
#ifdef __SSE2__
      __m128i column = _mm_loadu_si128(reinterpret_cast<__m128i*>(bytes[b]));
      for (int bit = 7; bit >= 0; --bit) {
        out[8 * b + bit] |= static_cast<uint64_t>(static_cast<uint32_t>(
                                _mm_movemask_epi8(column)))
                            << first;
        column = _mm_add_epi8(column, column);
      }
#else
      for (int i = 0; i < 16; ++i) {
        for (int bit = 0; bit < 8; ++bit) {
          out[8 * b + bit] |= static_cast<uint64_t>(bytes[b][i] >> bit & 1)
                              << (first + i);
        }
      }
#endif
    }
  }
}

// What all threads of one search share.
struct Search {
  const KnnInput* input;
  const MaskSource* masks;
  const Plan* plan;
  int64_t segment_begin;  // rows are numbered from here
  int64_t segment_end;
  int64_t block_rows;
  std::atomic<int64_t>* next_block;
};

// One thread's part of a search.
class Worker {
 public:
  Worker(const Search& search, TopKCollector* collector)
      : input_(*search.input),
        masks_(*search.masks),
        plan_(*search.plan),
        kernels_(*search.plan->kernels),
        search_(search),
        collector_(collector),
        block_words_(search.block_rows / kRowsPerWord) {
    const int64_t block_rows = search.block_rows;
    for (Block& block : blocks_) {
      block.bits.resize(plan_.masks.size() * block_words_);
      block.united.resize(block_words_);
    }
    united_.resize(block_words_);
    rows_.resize(block_rows + kRowsPerWord);
    lanes_of_row_.resize(block_rows);
    // A list, the rows it carries over, and the rows ahead.
    pointers_.resize(block_rows + kMaxCarried + kLookahead);
    fetch_.resize(block_rows);
    for (const LaneGroup& group : plan_.groups) {
      first_run_.push_back(static_cast<int64_t>(runs_.size()));
      runs_.resize(runs_.size() + group.runs.size());
    }
    layouts_.resize(plan_.groups.size());
  }

  // Takes blocks of rows in ascending order until none are left.
  void Run() {
    Block* block = &blocks_[0];
    Block* next = &blocks_[1];
    bool more = Take(block);
    while (more) {
      more = Take(next);
      SearchBlock(*block, more ? next : nullptr);
      std::swap(block, next);
    }
    for (size_t g = 0; g < plan_.groups.size(); ++g) FlushGroup(g);
  }

 private:
  // Rows and the bits of all masks for them.
  struct Block {
    int64_t begin = 0;
    int64_t end = 0;
    std::vector<uint64_t> bits;    // [masks, block_words]
    std::vector<uint64_t> united;  // rows that pass for any query
    int64_t num_united = 0;
  };

  // A part of a block.
  struct Tile {
    const Block* block;
    int64_t offset;  // in words
    int64_t words;

    const uint64_t* united() const { return block->united.data() + offset; }
  };

  // What happens to one run of queries.
  struct RunState {
    int64_t passing = 0;  // rows of the tile
    // Rows not scored yet, in ascending order. Some are carried over to the
    // next tile, so that kernels get whole blocks and know the rows ahead.
    std::vector<uint32_t> pending;
    int64_t num_pending = 0;
    KnnLayout layout = KnnLayout::kOwn;
  };

  static constexpr int64_t kMaxCarried = 2 * kRowsPerWord;

  const uint64_t* Bits(const Tile& tile, const MaskRun& run) const {
    return tile.block->bits.data() + run.mask * block_words_ + tile.offset;
  }

  uint32_t FirstRow(const Tile& tile) const {
    return static_cast<uint32_t>(
        tile.block->begin + tile.offset * kRowsPerWord - search_.segment_begin);
  }

  const float* Items() const {
    return input_.items + search_.segment_begin * input_.dim;
  }

  // Fills `block` with the next block in which any row passes.
  bool Take(Block* block) {
    while (true) {
      block->begin = search_.next_block->fetch_add(search_.block_rows);
      if (block->begin >= search_.segment_end) return false;
      block->end =
          std::min(block->begin + search_.block_rows, search_.segment_end);
      const int64_t rows = block->end - block->begin;
      const int64_t words = CeilDiv(rows, kRowsPerWord);
      int64_t total = 0;
      for (size_t m = 0; m < plan_.masks.size(); ++m) {
        uint64_t* bits = block->bits.data() + m * block_words_;
        if (masks_.PassesAll(plan_.masks[m])) {
          std::fill_n(bits, words, ~uint64_t{0});
          if (rows % kRowsPerWord != 0) {
            bits[words - 1] >>= kRowsPerWord - rows % kRowsPerWord;
          }
          total += rows;
        } else {
          total += masks_.Fill(plan_.masks[m], block->begin, block->end, bits);
        }
      }
      if (total == 0) continue;
      std::copy_n(block->bits.data(), words, block->united.data());
      for (size_t m = 1; m < plan_.masks.size(); ++m) {
        Unite(block->bits.data() + m * block_words_, words,
              block->united.data());
      }
      block->num_united = kernels_.count_bits(block->united.data(), words);
      return true;
    }
  }

  static void Unite(const uint64_t* bits, int64_t words, uint64_t* united) {
    for (int64_t w = 0; w < words; ++w) united[w] |= bits[w];
  }

  // If several runs pass over the rows, a block is cut into tiles whose
  // passing rows fit in the cache.
  int64_t TileWords(const Block& block) const {
    if (runs_.size() == 1) return block_words_;
    const int64_t bytes =
        block.num_united * input_.dim * static_cast<int64_t>(sizeof(float));
    const int64_t tiles = CeilDiv(bytes, kTileBytes);
    return std::max<int64_t>(1, block_words_ / std::max<int64_t>(1, tiles));
  }

  void SearchBlock(const Block& block, const Block* next_block) {
    const int64_t words = CeilDiv(block.end - block.begin, kRowsPerWord);
    const int64_t tile_words = TileWords(block);
    for (int64_t offset = 0; offset < words; offset += tile_words) {
      const Tile tile = {&block, offset, std::min(tile_words, words - offset)};
      Tile next = {nullptr, 0, 0};
      if (offset + tile_words < words) {
        next = {&block, offset + tile_words,
                std::min(tile_words, words - offset - tile_words)};
      } else if (next_block != nullptr) {
        const int64_t next_words =
            CeilDiv(next_block->end - next_block->begin, kRowsPerWord);
        next = {next_block, 0, std::min(TileWords(*next_block), next_words)};
      }
      SearchTile(tile, next);
    }
  }

  void SearchTile(const Tile& tile, const Tile& next) {
    // Row-lane blocks that the tile will take.
    int64_t own_blocks = 0;
    for (size_t g = 0; g < plan_.groups.size(); ++g) {
      layouts_[g] = PlanGroup(tile, g);
      if (layouts_[g] != KnnLayout::kOwn) continue;
      for (size_t i = 0; i < plan_.groups[g].runs.size(); ++i) {
        own_blocks +=
            CeilDiv(plan_.groups[g].runs[i].num_queries, kMaxSharedQueries) *
            CeilDiv(RunOf(g, i).passing, kernels_.lanes);
      }
    }
    // A list of its own leads each run from row to row. If there are many,
    // they meet the same rows: then what the next tile needs is fetched
    // once, spread over all of this one.
    fetch_cursor_ = fetch_.data();
    fetch_end_ = fetch_.data();
    fetch_per_block_ = 0;
    if (own_blocks > 0 && runs_.size() > 1 && next.block != nullptr) {
      const int64_t count = kernels_.append_rows(next.united(), next.words,
                                                 FirstRow(next), rows_.data());
      for (int64_t i = 0; i < count; ++i) {
        fetch_[i] = Items() + int64_t{rows_[i]} * input_.dim;
      }
      fetch_end_ = fetch_.data() + count;
      fetch_per_block_ = CeilDiv(count, own_blocks);
    }
    for (size_t g = 0; g < plan_.groups.size(); ++g) {
      const LaneGroup& group = plan_.groups[g];
      if (layouts_[g] == KnnLayout::kShared && group.runs.size() > 1) {
        FlushGroup(g);
        ScoreUnion(tile, group);
        continue;
      }
      for (size_t i = 0; i < group.runs.size(); ++i) {
        RunState& run = RunOf(g, i);
        if (run.passing == 0) continue;
        run.pending.resize(search_.block_rows + kMaxCarried + kRowsPerWord);
        run.num_pending += kernels_.append_rows(
            Bits(tile, group.runs[i]), tile.words, FirstRow(tile),
            run.pending.data() + run.num_pending);
        run.layout = layouts_[g];
        // What is kept tells the kernels the rows ahead.
        const int64_t ready = run.num_pending - kLookahead;
        if (ready < kernels_.row_granularity) continue;
        ScorePending(group, group.runs[i],
                     ready - ready % kernels_.row_granularity, &run);
      }
    }
  }

  RunState& RunOf(size_t group, size_t i) {
    return runs_[first_run_[group] + i];
  }

  // Counts what passes in a tile, leaves the union of several runs in united_,
  // and chooses the layout.
  KnnLayout PlanGroup(const Tile& tile, size_t g) {
    const LaneGroup& group = plan_.groups[g];
    passing_.resize(group.runs.size());
    int64_t total = 0;
    for (size_t i = 0; i < group.runs.size(); ++i) {
      passing_[i] = kernels_.count_bits(Bits(tile, group.runs[i]), tile.words);
      RunOf(g, i).passing = passing_[i];
      total += passing_[i];
    }
    int64_t in_union = total;
    if (group.runs.size() > 1) {
      UniteRuns(tile, group);
      in_union = kernels_.count_bits(united_.data(), tile.words);
    }
    return ChooseLayout(input_.tuning, kernels_.costs, group, passing_.data(),
                        in_union);
  }

  void UniteRuns(const Tile& tile, const LaneGroup& group) {
    std::fill_n(united_.data(), tile.words, uint64_t{0});
    for (const MaskRun& run : group.runs) {
      Unite(Bits(tile, run), tile.words, united_.data());
    }
  }

  void FlushGroup(size_t g) {
    const LaneGroup& group = plan_.groups[g];
    for (size_t i = 0; i < group.runs.size(); ++i) {
      RunState& run = RunOf(g, i);
      ScorePending(group, group.runs[i], run.num_pending, &run);
    }
  }

  // Scores the first `count` pending rows of a run and drops them.
  void ScorePending(const LaneGroup& group, const MaskRun& run, int64_t count,
                    RunState* state) {
    if (count == 0) return;
    const KnnRows rows =
        MakeRows(state->pending.data(), count, state->num_pending);
    if (state->layout == KnnLayout::kShared) {
      ScoreQueryLanes(group, rows, nullptr);
    } else {
      ScoreRowLanes(run, rows);
    }
    std::copy(state->pending.begin() + count,
              state->pending.begin() + state->num_pending,
              state->pending.begin());
    state->num_pending -= count;
  }

  void ScoreRowLanes(const MaskRun& run, const KnnRows& rows) {
    RowLanesCall call;
    call.metric = input_.metric;
    call.dim = input_.dim;
    call.query_stride = plan_.padded_dim;
    call.rows = rows;
    for (int q = 0; q < run.num_queries; q += kMaxSharedQueries) {
      call.first_slot = run.first_slot + q;
      call.queries = plan_.padded.data() + call.first_slot * plan_.padded_dim;
      call.num_queries = std::min(kMaxSharedQueries, run.num_queries - q);
      if (runs_.size() == 1 && q == 0) {
        call.fetch = rows.data + kernels_.lanes;
        call.fetch_end = rows.data + rows.count + kLookahead;
        call.fetch_per_block = kernels_.lanes;
      } else {
        call.fetch = fetch_cursor_;
        call.fetch_end = fetch_end_;
        call.fetch_per_block = fetch_per_block_;
        fetch_cursor_ = std::min(
            fetch_end_, fetch_cursor_ + CeilDiv(rows.count, kernels_.lanes) *
                                            fetch_per_block_);
      }
      kernels_.row_lanes(call, collector_);
    }
  }

  // Scores the rows that pass for any query of the group, for all of them.
  void ScoreUnion(const Tile& tile, const LaneGroup& group) {
    UniteRuns(tile, group);
    const int lanes = group.vectors * kernels_.lanes;
    int64_t count = 0;
    for (int64_t w = 0; w < tile.words; ++w) {
      if (united_[w] == 0) continue;
      uint64_t word_of_lane[kMaxLanes] = {};
      for (const MaskRun& run : group.runs) {
        const uint64_t word = Bits(tile, run)[w];
        const int64_t lane = run.first_slot - group.first_slot;
        for (int q = 0; q < run.num_queries; ++q) word_of_lane[lane + q] = word;
      }
      uint64_t lanes_of_row[kRowsPerWord];
      TransposeBits(word_of_lane, lanes, lanes_of_row);
      const uint32_t base =
          FirstRow(tile) + static_cast<uint32_t>(w * kRowsPerWord);
      for (uint64_t word = united_[w]; word != 0; word &= word - 1) {
        const int bit = __builtin_ctzll(word);
        rows_[count] = base + static_cast<uint32_t>(bit);
        lanes_of_row_[count] = lanes_of_row[bit];
        ++count;
      }
    }
    ScoreQueryLanes(group, MakeRows(rows_.data(), count, count),
                    lanes_of_row_.data());
  }

  void ScoreQueryLanes(const LaneGroup& group, const KnnRows& rows,
                       const uint64_t* lanes_of_row) {
    QueryLanesCall call;
    call.metric = input_.metric;
    call.dim = input_.dim;
    call.packed = plan_.packed.data() + group.packed_offset;
    call.vectors = group.vectors;
    call.first_slot = group.first_slot;
    call.active = group.active;
    call.lanes_of_row = lanes_of_row;
    call.rows = rows;
    kernels_.query_lanes(call, collector_);
  }

  // A list of the first `count` of `known` rows. Past those that are known
  // the rows ahead are a guess: the ones that follow.
  KnnRows MakeRows(const uint32_t* ids, int64_t count, int64_t known) {
    const float* items = Items();
    const int64_t ahead = std::min(known, count + kLookahead);
    for (int64_t i = 0; i < ahead; ++i) {
      pointers_[i] = items + int64_t{ids[i]} * input_.dim;
    }
    const int64_t last = search_.segment_end - search_.segment_begin - 1;
    int64_t guess = ids[known - 1];
    for (int64_t i = ahead; i < count + kLookahead; ++i) {
      guess = std::min(guess + 1, last);
      pointers_[i] = items + guess * input_.dim;
    }
    return {pointers_.data(), ids, count};
  }

  const KnnInput& input_;
  const MaskSource& masks_;
  const Plan& plan_;
  const KnnKernels& kernels_;
  const Search& search_;
  TopKCollector* collector_;
  int64_t block_words_;
  Block blocks_[2];               // the one at hand and the next one
  std::vector<uint64_t> united_;  // of the tile and group at hand
  std::vector<uint32_t> rows_;    // in united_
  std::vector<uint64_t> lanes_of_row_;
  std::vector<const float*> pointers_;
  std::vector<const float*> fetch_;  // rows of the next tile
  const float** fetch_cursor_ = nullptr;
  const float** fetch_end_ = nullptr;
  int64_t fetch_per_block_ = 0;
  std::vector<int64_t> first_run_;  // of each group, in runs_
  std::vector<RunState> runs_;
  std::vector<KnnLayout> layouts_;  // of each group, in the tile at hand
  std::vector<int64_t> passing_;    // of each run of the group at hand
};

int64_t NumWorkers(const KnnInput& input, int64_t rows, int64_t queries,
                   int64_t masks, const Parallel& parallel) {
  const double nanoseconds =
      static_cast<double>(rows) *
      (static_cast<double>(input.dim) *
           (0.15 + 0.015 * static_cast<double>(queries)) +
       0.3 * static_cast<double>(masks));
  const double worth = nanoseconds / kMinWorkerNanoseconds;
  return static_cast<int64_t>(std::max(
      1.0, std::min(static_cast<double>(parallel.num_threads), worth)));
}

// Merges the descending `keys` of a segment into what earlier segments gave.
void WriteResults(const KnnInput& input, int64_t query, int64_t segment_begin,
                  const std::vector<uint64_t>& keys, const KnnOutput& output) {
  float* scores = output.scores + query * input.k;
  int64_t* rows = output.rows + query * input.k;
  const int64_t before = output.counts[query];
  const int64_t found = static_cast<int64_t>(keys.size());
  const int64_t total = std::min(input.k, before + found);
  // On ties the earlier results have the lower rows, so they go first.
  int64_t kept = 0;
  int64_t taken = 0;
  while (kept + taken < total) {
    if (taken == found ||
        (kept < before && scores[kept] >= CandidateScore(keys[taken]))) {
      ++kept;
    } else {
      ++taken;
    }
  }
  output.counts[query] = static_cast<int32_t>(total);
  // From the back, so that nothing is overwritten before it was moved.
  for (int64_t i = total - 1; taken > 0; --i) {
    if (kept > 0 && scores[kept - 1] < CandidateScore(keys[taken - 1])) {
      --kept;
      scores[i] = scores[kept];
      rows[i] = rows[kept];
    } else {
      --taken;
      scores[i] = CandidateScore(keys[taken]);
      rows[i] = segment_begin + CandidateRow(keys[taken]);
    }
  }
}

void SearchSlice(const KnnInput& input, const MaskSource& masks,
                 const Plan& plan, int64_t segment_begin, int64_t segment_end,
                 int64_t max_workers, const Parallel& parallel,
                 const KnnOutput& output) {
  const int64_t rows = segment_end - segment_begin;
  const int64_t k = std::min(input.k, rows);
  Search search;
  search.input = &input;
  search.masks = &masks;
  search.plan = &plan;
  search.segment_begin = segment_begin;
  search.segment_end = segment_end;
  search.block_rows = std::min(
      kMaxBlockRows, RoundUp(CeilDiv(rows, 4 * max_workers), kRowsPerWord));
  std::vector<bool> is_used;
  for (int64_t query : plan.query_of_slot) is_used.push_back(query >= 0);
  std::vector<std::unique_ptr<TopKCollector>> collectors(max_workers);
  std::atomic<int64_t> next_block{segment_begin};
  search.next_block = &next_block;
  parallel.run(max_workers, [&](int64_t task) {
    if (next_block.load(std::memory_order_relaxed) >= segment_end) return;
    const ScopedFloatEnvironment environment;
    collectors[task] = std::make_unique<TopKCollector>(is_used, k);
    Worker(search, collectors[task].get()).Run();
  });

  const int64_t slots = static_cast<int64_t>(plan.query_of_slot.size());
  const auto merge = [&](int64_t slot) {
    if (plan.query_of_slot[slot] < 0) return;
    const ScopedFloatEnvironment environment;
    std::vector<uint64_t> keys;
    for (const auto& collector : collectors) {
      if (collector == nullptr) continue;
      const uint64_t* found = collector->keys(slot);
      keys.insert(keys.end(), found, found + collector->num_keys(slot));
    }
    SortTopK(k, &keys);
    WriteResults(input, plan.query_of_slot[slot], segment_begin, keys, output);
  };
  if (max_workers > 1 && slots * k > 100000) {
    parallel.run(slots, merge);
  } else {
    for (int64_t slot = 0; slot < slots; ++slot) merge(slot);
  }
}

}  // namespace

void MaskedKnn(const KnnInput& input, const MaskSource& masks,
               const int32_t* mask_of_query, const Parallel& parallel,
               const KnnOutput& output) {
  std::fill_n(output.scores, input.num_queries * input.k, kNoScore);
  std::fill_n(output.rows, input.num_queries * input.k, int64_t{-1});
  std::fill_n(output.counts, input.num_queries, int32_t{0});
  if (input.num_rows == 0 || input.num_queries == 0) return;

  const int64_t segment_rows =
      std::min(input.tuning.segment_rows, input.num_rows);
  const int64_t slice_limit = std::min(kMaxSliceQueries, input.num_queries);
  const int64_t workers =
      NumWorkers(input, segment_rows, slice_limit, masks.num_masks(), parallel);
  const int64_t bytes_a_query = 2 * std::min(input.k, segment_rows) *
                                static_cast<int64_t>(sizeof(uint64_t)) *
                                workers;
  const int64_t slice =
      std::clamp(input.tuning.candidate_bytes / bytes_a_query,
                 std::min(kMinSliceQueries, slice_limit), slice_limit);
  for (int64_t begin = 0; begin < input.num_queries; begin += slice) {
    const Plan plan = MakePlan(input, mask_of_query, begin,
                               std::min(begin + slice, input.num_queries));
    for (int64_t row = 0; row < input.num_rows; row += segment_rows) {
      SearchSlice(input, masks, plan, row,
                  std::min(row + segment_rows, input.num_rows), workers,
                  parallel, output);
    }
  }
}

}  // namespace lintf
