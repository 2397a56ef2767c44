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
  int64_t first_slot;
  int vectors;
  uint64_t active;  // the lanes in use
  std::vector<MaskRun> runs;
  // Index into Plan::packed.
  int64_t packed_offset;
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

// Cuts the queries of one mask into lane groups of at most max_vectors.
void AddPureGroups(int64_t mask, const std::vector<int64_t>& queries,
                   Plan* plan) {
  const KnnKernels& kernels = *plan->kernels;
  const int64_t count = static_cast<int64_t>(queries.size());
  int64_t vectors = CeilDiv(count, kernels.lanes);
  int64_t groups = CeilDiv(vectors, kernels.max_vectors);
  int64_t next = 0;
  for (; groups > 0; --groups) {
    LaneGroup group;
    group.vectors = static_cast<int>(CeilDiv(vectors, groups));
    vectors -= group.vectors;
    group.first_slot = static_cast<int64_t>(plan->query_of_slot.size());
    const int64_t slots = int64_t{group.vectors} * kernels.lanes;
    const int64_t used = std::min(slots, count - next);
    group.runs.push_back({mask, group.first_slot, static_cast<int>(used)});
    for (int64_t i = 0; i < slots; ++i) {
      plan->query_of_slot.push_back(i < used ? queries[next + i] : -1);
    }
    next += used;
    plan->groups.push_back(std::move(group));
  }
}

// Collects the few queries of each of several masks in shared vectors.
class MixedGroups {
 public:
  explicit MixedGroups(Plan* plan) : plan_(plan) {}

  void Add(int64_t mask, const std::vector<int64_t>& queries) {
    const int lanes = plan_->kernels->lanes;
    for (size_t i = 0; i < queries.size(); ++i) {
      if (free_ == 0) {
        LaneGroup group;
        group.vectors = 1;
        group.first_slot = static_cast<int64_t>(plan_->query_of_slot.size());
        plan_->groups.push_back(std::move(group));
        plan_->query_of_slot.resize(plan_->query_of_slot.size() + lanes, -1);
        free_ = lanes;
      }
      LaneGroup& group = plan_->groups.back();
      const int64_t slot = group.first_slot + lanes - free_;
      if (group.runs.empty() || group.runs.back().mask != mask) {
        group.runs.push_back({mask, slot, 0});
      }
      ++group.runs.back().num_queries;
      plan_->query_of_slot[slot] = queries[i];
      --free_;
    }
  }

 private:
  Plan* plan_;
  int free_ = 0;
};

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
  std::vector<std::pair<int64_t, std::vector<int64_t>>> rest;
  for (size_t i = 0; i < order.size();) {
    const int32_t mask = mask_of_query[order[i]];
    size_t next = i;
    while (next < order.size() && mask_of_query[order[next]] == mask) ++next;
    const int64_t index = static_cast<int64_t>(plan.masks.size());
    plan.masks.push_back(mask);
    // A vector that is at least half full is left to its mask alone.
    const size_t lanes = plan.kernels->lanes;
    const size_t over = (next - i) % lanes;
    const size_t pure = 2 * over >= lanes ? next - i : next - i - over;
    AddPureGroups(index, {order.begin() + i, order.begin() + i + pure}, &plan);
    if (i + pure < next) {
      rest.emplace_back(index, std::vector<int64_t>(order.begin() + i + pure,
                                                    order.begin() + next));
    }
    i = next;
  }
  MixedGroups mixed(&plan);
  for (const auto& [mask, queries] : rest) mixed.Add(mask, queries);
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

// Appends first_row + i for each bit i of `bits`.
int64_t AppendRows(const uint64_t* bits, int64_t words, uint32_t first_row,
                   uint32_t* rows) {
  int64_t count = 0;
  for (int64_t w = 0; w < words; ++w) {
    const uint32_t base = first_row + static_cast<uint32_t>(w * kRowsPerWord);
    if (bits[w] == ~uint64_t{0}) {
      for (uint32_t i = 0; i < kRowsPerWord; ++i) rows[count + i] = base + i;
      count += kRowsPerWord;
      continue;
    }
    for (uint64_t word = bits[w]; word != 0; word &= word - 1) {
      rows[count++] = base + static_cast<uint32_t>(__builtin_ctzll(word));
    }
  }
  return count;
}

int64_t CountBits(const uint64_t* bits, int64_t words) {
  int64_t count = 0;
  for (int64_t w = 0; w < words; ++w) count += __builtin_popcountll(bits[w]);
  return count;
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
  int64_t tile_rows;
};

// One thread's part of a search: takes blocks of rows in ascending order.
class Worker {
 public:
  Worker(const Search& search, TopKCollector* collector)
      : input_(*search.input),
        masks_(*search.masks),
        plan_(*search.plan),
        search_(search),
        collector_(collector),
        block_words_(search.block_rows / kRowsPerWord),
        bits_(plan_.masks.size() * block_words_),
        union_(search.tile_rows / kRowsPerWord),
        rows_(search.tile_rows),
        lanes_of_row_(search.tile_rows),
        pointers_(search.tile_rows + plan_.kernels->row_granularity) {
    int64_t num_runs = 0;
    for (const LaneGroup& group : plan_.groups) {
      first_run_.push_back(num_runs);
      num_runs += static_cast<int64_t>(group.runs.size());
    }
    passing_.resize(num_runs);
    pending_.resize(num_runs);
  }

  // Searches rows [begin, end), which lie in one block.
  void SearchBlock(int64_t begin, int64_t end) {
    int64_t total = 0;
    for (size_t m = 0; m < plan_.masks.size(); ++m) {
      uint64_t* bits = bits_.data() + m * block_words_;
      if (masks_.PassesAll(plan_.masks[m])) {
        FillAll(end - begin, bits);
        total += end - begin;
      } else {
        total += masks_.Fill(plan_.masks[m], begin, end, bits);
      }
    }
    if (total == 0) return;
    for (int64_t tile = begin; tile < end; tile += search_.tile_rows) {
      SearchTile(begin, tile, std::min(tile + search_.tile_rows, end));
    }
  }

  // Scores what waits for more rows.
  void Finish() {
    for (size_t g = 0; g < plan_.groups.size(); ++g) {
      FlushGroup(plan_.groups[g], first_run_[g]);
    }
  }

 private:
  // Rows of a run that were not scored yet, in ascending order: less than the
  // kernels' granularity is carried over to the next tile.
  struct Pending {
    std::vector<uint32_t> rows;
    int64_t count = 0;
    KnnLayout layout = KnnLayout::kOwn;
  };

  static void FillAll(int64_t rows, uint64_t* bits) {
    for (; rows >= kRowsPerWord; rows -= kRowsPerWord) *bits++ = ~uint64_t{0};
    if (rows > 0) *bits = (uint64_t{1} << rows) - 1;
  }

  void SearchTile(int64_t block, int64_t begin, int64_t end) {
    const int64_t offset = (begin - block) / kRowsPerWord;
    const int64_t words = CeilDiv(end - begin, kRowsPerWord);
    const uint32_t first_row =
        static_cast<uint32_t>(begin - search_.segment_begin);
    for (size_t g = 0; g < plan_.groups.size(); ++g) {
      const LaneGroup& group = plan_.groups[g];
      int64_t* passing = passing_.data() + first_run_[g];
      int64_t total = 0;
      for (size_t i = 0; i < group.runs.size(); ++i) {
        passing[i] = CountBits(BitsOf(group.runs[i]) + offset, words);
        total += passing[i];
      }
      if (total == 0) continue;
      const int64_t in_union =
          group.runs.size() == 1 ? total : UniteMasks(group, offset, words);
      const KnnLayout layout = ChooseLayout(input_.tuning, plan_.kernels->costs,
                                            group, passing, in_union);
      if (layout == KnnLayout::kShared && group.runs.size() > 1) {
        FlushGroup(group, first_run_[g]);
        ScoreUnion(group, offset, words, first_row);
        continue;
      }
      for (size_t i = 0; i < group.runs.size(); ++i) {
        if (passing[i] == 0) continue;
        Pending& pending = pending_[first_run_[g] + i];
        pending.rows.resize(search_.tile_rows + plan_.kernels->row_granularity);
        pending.count +=
            AppendRows(BitsOf(group.runs[i]) + offset, words, first_row,
                       pending.rows.data() + pending.count);
        pending.layout = layout;
        ScorePending(
            group, group.runs[i],
            pending.count - pending.count % plan_.kernels->row_granularity,
            &pending);
      }
    }
  }

  const uint64_t* BitsOf(const MaskRun& run) const {
    return bits_.data() + run.mask * block_words_;
  }

  // Leaves the rows that pass for any query of the group in union_.
  int64_t UniteMasks(const LaneGroup& group, int64_t offset, int64_t words) {
    std::fill_n(union_.data(), words, uint64_t{0});
    for (const MaskRun& run : group.runs) {
      const uint64_t* bits = BitsOf(run) + offset;
      for (int64_t w = 0; w < words; ++w) union_[w] |= bits[w];
    }
    return CountBits(union_.data(), words);
  }

  void FlushGroup(const LaneGroup& group, int64_t first_run) {
    for (size_t i = 0; i < group.runs.size(); ++i) {
      Pending& pending = pending_[first_run + i];
      ScorePending(group, group.runs[i], pending.count, &pending);
    }
  }

  // Scores the first `count` pending rows of a run and drops them.
  void ScorePending(const LaneGroup& group, const MaskRun& run, int64_t count,
                    Pending* pending) {
    if (count == 0) return;
    const KnnRows rows = MakeRows(pending->rows.data(), count);
    if (pending->layout == KnnLayout::kShared) {
      ScoreQueryLanes(group, rows, nullptr);
    } else {
      RowLanesCall call;
      call.metric = input_.metric;
      call.dim = input_.dim;
      call.query_stride = plan_.padded_dim;
      call.rows = rows;
      for (int q = 0; q < run.num_queries; q += kMaxSharedQueries) {
        call.first_slot = run.first_slot + q;
        call.queries = plan_.padded.data() + call.first_slot * plan_.padded_dim;
        call.num_queries = std::min(kMaxSharedQueries, run.num_queries - q);
        plan_.kernels->row_lanes(call, collector_);
      }
    }
    std::copy(pending->rows.begin() + count,
              pending->rows.begin() + pending->count, pending->rows.begin());
    pending->count -= count;
  }

  // Scores the rows of union_ for every query of the group.
  void ScoreUnion(const LaneGroup& group, int64_t offset, int64_t words,
                  uint32_t first_row) {
    const int lanes = group.vectors * plan_.kernels->lanes;
    int64_t count = 0;
    for (int64_t w = 0; w < words; ++w) {
      if (union_[w] == 0) continue;
      uint64_t word_of_lane[kMaxLanes] = {};
      for (const MaskRun& run : group.runs) {
        const uint64_t word = BitsOf(run)[offset + w];
        const int64_t lane = run.first_slot - group.first_slot;
        for (int q = 0; q < run.num_queries; ++q) word_of_lane[lane + q] = word;
      }
      uint64_t lanes_of_row[kRowsPerWord];
      TransposeBits(word_of_lane, lanes, lanes_of_row);
      const uint32_t base = first_row + static_cast<uint32_t>(w * kRowsPerWord);
      for (uint64_t word = union_[w]; word != 0; word &= word - 1) {
        const int bit = __builtin_ctzll(word);
        rows_[count] = base + static_cast<uint32_t>(bit);
        lanes_of_row_[count] = lanes_of_row[bit];
        ++count;
      }
    }
    ScoreQueryLanes(group, MakeRows(rows_.data(), count), lanes_of_row_.data());
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
    plan_.kernels->query_lanes(call, collector_);
  }

  KnnRows MakeRows(const uint32_t* ids, int64_t count) {
    const float* items = input_.items + search_.segment_begin * input_.dim;
    for (int64_t i = 0; i < count; ++i) {
      pointers_[i] = items + int64_t{ids[i]} * input_.dim;
    }
    return {pointers_.data(), ids, count};
  }

  const KnnInput& input_;
  const MaskSource& masks_;
  const Plan& plan_;
  const Search& search_;
  TopKCollector* collector_;
  int64_t block_words_;
  std::vector<uint64_t> bits_;   // [masks, block_words]
  std::vector<uint64_t> union_;  // of the tile and group at hand
  std::vector<uint32_t> rows_;   // in union_
  std::vector<uint64_t> lanes_of_row_;
  std::vector<const float*> pointers_;
  std::vector<int64_t> first_run_;  // of each group, in the next two
  std::vector<int64_t> passing_;
  std::vector<Pending> pending_;
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
  const int64_t row_bytes = input.dim * static_cast<int64_t>(sizeof(float));
  search.tile_rows = std::clamp(kTileBytes / std::max<int64_t>(row_bytes, 1) /
                                    kRowsPerWord * kRowsPerWord,
                                kRowsPerWord, search.block_rows);

  std::vector<bool> is_used;
  for (int64_t query : plan.query_of_slot) is_used.push_back(query >= 0);
  std::vector<std::unique_ptr<TopKCollector>> collectors(max_workers);
  std::atomic<int64_t> next_block{segment_begin};
  parallel.run(max_workers, [&](int64_t task) {
    const ScopedFloatEnvironment environment;
    std::unique_ptr<Worker> worker;
    while (true) {
      const int64_t begin = next_block.fetch_add(search.block_rows);
      if (begin >= segment_end) break;
      if (worker == nullptr) {
        collectors[task] = std::make_unique<TopKCollector>(is_used, k);
        worker = std::make_unique<Worker>(search, collectors[task].get());
      }
      worker->SearchBlock(begin,
                          std::min(begin + search.block_rows, segment_end));
    }
    if (worker != nullptr) worker->Finish();
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
