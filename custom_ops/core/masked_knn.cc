// SPDX-License-Identifier: Apache-2.0
#include "custom_ops/core/masked_knn.h"

#ifdef __SSE2__
#include <emmintrin.h>
#endif

#include <algorithm>
#include <atomic>
#include <cstring>
#include <limits>
#include <memory>
#include <numeric>
#include <utility>
#include <vector>

#include "custom_ops/core/aligned_array.h"
#include "custom_ops/core/float_environment.h"
#include "custom_ops/core/item_encoding.h"
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

constexpr int64_t kLineBytes = 64;

constexpr int64_t CeilDiv(int64_t a, int64_t b) { return (a + b - 1) / b; }
constexpr int64_t RoundUp(int64_t a, int64_t b) { return CeilDiv(a, b) * b; }

constexpr int kPlanes = 2;  // of an Int8Query

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
  int64_t packed_offset = 0;  // in Plan::packed or int8_packed
};

// How a slice of the queries is searched; the same for all threads. Queries
// sit in slots: those of a lane group are next to each other, those with the
// same mask too, and groups are filled up with unused slots.
struct Plan {
  const KnnKernels* kernels;
  std::vector<LaneGroup> groups;
  std::vector<int64_t> query_of_slot;  // -1: unused
  std::vector<int32_t> masks;          // the distinct masks
  AlignedArray<float> packed;          // query lanes: [dim, vectors * lanes]
  AlignedArray<float> padded;          // row lanes: [slots, padded_dim]
  int64_t padded_dim;
  // For kInt8 instead; `steps` and `padded_steps` as knn_kernels.h has them.
  AlignedArray<int32_t> int8_packed;  // [steps, vectors, planes, lanes]
  AlignedArray<int32_t> int8_padded;  // [slots, padded_steps, planes]
  int64_t steps;
  int64_t padded_steps;
  AlignedArray<int32_t> int8_start[kPlanes];  // [slots]
  AlignedArray<float> int8_scales;
  AlignedArray<float> int8_norms;

  Int8Queries Int8() const {
    return {{int8_start[0].data(), int8_start[1].data()},
            int8_scales.data(),
            int8_norms.data()};
  }
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

// One step of a plane: four bytes, or every other one as 16 bits.
int32_t Int8StepOf(const int8_t* quad, int part, int parts) {
  uint32_t bits = 0;
  if (parts == 1) {
    std::memcpy(&bits, quad, sizeof(bits));
  } else {
    const auto low = static_cast<uint16_t>(int16_t{quad[part]});
    const auto high = static_cast<uint16_t>(int16_t{quad[part + 2]});
    bits = low | (static_cast<uint32_t>(high) << 16);
  }
  int32_t step;
  std::memcpy(&step, &bits, sizeof(step));
  return step;
}

void PackInt8Queries(const KnnInput& input, Plan* plan) {
  const KnnKernels& kernels = *plan->kernels;
  const int64_t quads = CeilDiv(input.dim, 4);
  plan->steps = kernels.Int8Steps(quads);
  plan->padded_steps = kernels.Int8Steps(RoundUp(quads, kernels.lanes));
  const int64_t slots = static_cast<int64_t>(plan->query_of_slot.size());
  int64_t packed_size = 0;
  for (LaneGroup& group : plan->groups) {
    group.packed_offset = packed_size;
    packed_size += plan->steps * group.vectors * kPlanes * kernels.lanes;
  }
  plan->int8_packed.AssignZeros(packed_size);
  plan->int8_padded.AssignZeros(slots * plan->padded_steps * kPlanes);
  for (auto& start : plan->int8_start) start.AssignZeros(slots);
  plan->int8_scales.AssignZeros(slots);
  plan->int8_norms.AssignZeros(slots);
  std::vector<int8_t> planes[kPlanes];
  for (auto& plane : planes) plane.assign(4 * quads, 0);
  for (const LaneGroup& group : plan->groups) {
    for (int64_t i = 0; i < group.vectors * kernels.lanes; ++i) {
      const int64_t slot = group.first_slot + i;
      if (plan->query_of_slot[slot] < 0) continue;
      const Int8Query query =
          EncodeInt8Query(input.queries + plan->query_of_slot[slot] * input.dim,
                          input.dim, planes[0].data(), planes[1].data());
      plan->int8_scales.data()[slot] = query.scale;
      plan->int8_norms.data()[slot] = query.norm;
      for (int p = 0; p < kPlanes; ++p) {
        plan->int8_start[p].data()[slot] =
            -kernels.int8_offset *
            std::accumulate(planes[p].begin(), planes[p].end(), int32_t{0});
        for (int64_t quad = 0; quad < quads; ++quad) {
          for (int part = 0; part < kernels.int8_parts; ++part) {
            const int32_t value = Int8StepOf(planes[p].data() + 4 * quad, part,
                                             kernels.int8_parts);
            const int64_t step = kernels.Int8Step(quad, part);
            plan->int8_padded
                .data()[(slot * plan->padded_steps + step) * kPlanes + p] =
                value;
            const int64_t vector =
                (step * group.vectors + i / kernels.lanes) * kPlanes + p;
            plan->int8_packed
                .data()[group.packed_offset + vector * kernels.lanes +
                        i % kernels.lanes] = value;
          }
        }
      }
    }
  }
}

void PackQueries(const KnnInput& input, Plan* plan) {
  const int64_t dim = input.dim;
  const int lanes = plan->kernels->lanes;
  int64_t packed_size = 0;
  for (LaneGroup& group : plan->groups) {
    group.packed_offset = packed_size;  // PackInt8Queries sets its own
    packed_size += dim * group.vectors * lanes;
    group.active = 0;
    for (int i = 0; i < group.vectors * lanes; ++i) {
      if (plan->query_of_slot[group.first_slot + i] >= 0) {
        group.active |= uint64_t{1} << i;
      }
    }
  }
  if (input.items.type == ElementType::kInt8) {
    PackInt8Queries(input, plan);
    return;
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

// Transposes bits: bit i of words[lane] becomes bit `lane` of out[i]. Works on
// 16 lanes at a time; `lanes` is rounded up, and `words` has kMaxLanes.
void TransposeBits(const uint64_t* words, int lanes, uint64_t* out) {
  std::fill_n(out, kRowsPerWord, uint64_t{0});
#ifdef __SSE2__
  for (int first = 0; first < lanes; first += 16) {
    // In four steps, byte b of all 16 words into bytes[b].
    __m128i pairs[8];
    for (int i = 0; i < 8; ++i) {
      const auto* at = reinterpret_cast<const __m128i*>(words + first + 2 * i);
      pairs[i] = _mm_unpacklo_epi8(
          _mm_loadl_epi64(at), _mm_loadl_epi64(reinterpret_cast<const __m128i*>(
                                   words + first + 2 * i + 1)));
    }
    __m128i quads[2][4];  // [bytes 0-3 or 4-7][words 4i to 4i + 3]
    for (int i = 0; i < 4; ++i) {
      quads[0][i] = _mm_unpacklo_epi16(pairs[2 * i], pairs[2 * i + 1]);
      quads[1][i] = _mm_unpackhi_epi16(pairs[2 * i], pairs[2 * i + 1]);
    }
    for (int half = 0; half < 2; ++half) {
      const __m128i* q = quads[half];
      const __m128i low01 = _mm_unpacklo_epi32(q[0], q[1]);
      const __m128i high01 = _mm_unpackhi_epi32(q[0], q[1]);
      const __m128i low23 = _mm_unpacklo_epi32(q[2], q[3]);
      const __m128i high23 = _mm_unpackhi_epi32(q[2], q[3]);
      const __m128i bytes[4] = {_mm_unpacklo_epi64(low01, low23),
                                _mm_unpackhi_epi64(low01, low23),
                                _mm_unpacklo_epi64(high01, high23),
                                _mm_unpackhi_epi64(high01, high23)};
      for (int b = 0; b < 4; ++b) {
        __m128i column = bytes[b];
        uint64_t* rows = out + 8 * (4 * half + b);
        for (int bit = 7; bit >= 0; --bit) {
          rows[bit] |= static_cast<uint64_t>(
                           static_cast<uint32_t>(_mm_movemask_epi8(column)))
                       << first;
          column = _mm_add_epi8(column, column);
        }
      }
    }
  }
#else
  for (int lane = 0; lane < lanes; ++lane) {
    for (int i = 0; i < kRowsPerWord; ++i) {
      out[i] |= (words[lane] >> i & 1) << lane;
    }
  }
#endif
}

// What all threads of one search share.
struct Search {
  const KnnInput* input;
  const MaskSource* masks;
  const Plan* plan;
  int64_t segment_begin;  // rows are numbered from here
  int64_t segment_end;
  int64_t block_rows;
  KnnCosts costs;
  std::atomic<int64_t>* next_block;
  std::atomic<int64_t>* pairs_shared;
  std::atomic<int64_t>* pairs_own;
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
    bits_.resize(plan_.masks.size() * block_words_);
    united_.resize(block_words_);
    rows_.resize(block_rows + kRowsPerWord);
    lanes_of_row_.resize(block_rows);
    pointers_.resize(block_rows + kLookahead);
    queued_rows_.resize(kQueueRows + block_rows + 2 * kRowsPerWord);
    queued_pointers_.resize(queued_rows_.size() + kLookahead);
    if (input_.items.type != ElementType::kFloat32) {
      expanded_.AssignZeros(kExpandRows * ExpandedRow() + kExpandSlack);
      for (int64_t r = 0; r < kExpandRows; ++r) {
        expanded_rows_[r] =
            reinterpret_cast<const char*>(expanded_.data() + r * ExpandedRow());
      }
    }
    for (const LaneGroup& group : plan_.groups) {
      first_run_.push_back(static_cast<int64_t>(carries_.size()));
      carries_.resize(carries_.size() + group.runs.size());
    }
  }

  // Takes blocks of rows in ascending order until none are left.
  void Run() {
    while (TakeBlock()) SearchBlock();
    for (size_t g = 0; g < plan_.groups.size(); ++g) FlushGroup(g);
    ScoreQueue(0);
    search_.pairs_shared->fetch_add(pairs_shared_, std::memory_order_relaxed);
    search_.pairs_own->fetch_add(pairs_own_, std::memory_order_relaxed);
  }

 private:
  // A part of a block, in words from its start.
  struct Tile {
    int64_t offset;
    int64_t words;
  };

  // Rows of one run that wait to be scored, at the end of the queue when they
  // were put there.
  struct Work {
    size_t group;
    size_t run;  // of the group
    KnnLayout layout;
    int64_t count;
  };

  // What is left of the rows of a run after whole blocks were queued.
  struct Carry {
    uint32_t rows[kRowsPerWord];
    int64_t count = 0;
    KnnLayout layout = KnnLayout::kOwn;
  };

  // Rows in the queue at which it is worked off.
  static constexpr int64_t kQueueRows = 1024;
  // Rows that stay behind then, so that there is something to fetch ahead.
  static constexpr int64_t kKeepRows = 80;
  // Rows that are expanded at once.
  static constexpr int64_t kExpandRows = 48;

  const uint64_t* Bits(const Tile& tile, const MaskRun& run) const {
    return bits_.data() + run.mask * block_words_ + tile.offset;
  }

  uint32_t FirstRow(const Tile& tile) const {
    return static_cast<uint32_t>(block_begin_ + tile.offset * kRowsPerWord -
                                 search_.segment_begin);
  }

  int64_t RowBytes() const {
    return input_.dim * ElementSize(input_.items.type);
  }

  // Row 0 of the segment.
  const char* Items() const {
    return static_cast<const char*>(input_.items.data) +
           search_.segment_begin * RowBytes();
  }

  const float* Scales() const {
    return input_.items.scales + search_.segment_begin;
  }

  // Numbers in an expanded row.
  int64_t ExpandedRow() const {
    return input_.items.type == ElementType::kInt8 ? plan_.steps : input_.dim;
  }

  // Takes the next block in which any row passes, and fills all masks for it.
  bool TakeBlock() {
    while (true) {
      block_begin_ = search_.next_block->fetch_add(search_.block_rows);
      if (block_begin_ >= search_.segment_end) return false;
      block_end_ =
          std::min(block_begin_ + search_.block_rows, search_.segment_end);
      const int64_t rows = block_end_ - block_begin_;
      const int64_t words = CeilDiv(rows, kRowsPerWord);
      int64_t total = 0;
      for (size_t m = 0; m < plan_.masks.size(); ++m) {
        uint64_t* bits = bits_.data() + m * block_words_;
        if (masks_.PassesAll(plan_.masks[m])) {
          std::fill_n(bits, words, ~uint64_t{0});
          if (rows % kRowsPerWord != 0) {
            bits[words - 1] >>= kRowsPerWord - rows % kRowsPerWord;
          }
          total += rows;
        } else {
          total += masks_.Fill(plan_.masks[m], block_begin_, block_end_, bits);
        }
      }
      if (total > 0) return true;
    }
  }

  static void Unite(const uint64_t* bits, int64_t words, uint64_t* united) {
    for (int64_t w = 0; w < words; ++w) united[w] |= bits[w];
  }

  // If several runs pass over the rows, a block is cut into tiles whose
  // passing rows fit in the cache.
  int64_t TileWords(int64_t words) {
    if (carries_.size() == 1) return words;
    std::fill_n(united_.data(), words, uint64_t{0});
    for (size_t m = 0; m < plan_.masks.size(); ++m) {
      Unite(bits_.data() + m * block_words_, words, united_.data());
    }
    const int64_t bytes =
        kernels_.count_bits(united_.data(), words) * RowBytes();
    return CeilDiv(words, std::max<int64_t>(1, CeilDiv(bytes, kTileBytes)));
  }

  void SearchBlock() {
    const int64_t words = CeilDiv(block_end_ - block_begin_, kRowsPerWord);
    const int64_t tile_words = TileWords(words);
    for (int64_t offset = 0; offset < words; offset += tile_words) {
      const Tile tile = {offset, std::min(tile_words, words - offset)};
      for (size_t g = 0; g < plan_.groups.size(); ++g) SearchTile(tile, g);
    }
  }

  void SearchTile(const Tile& tile, size_t g) {
    const LaneGroup& group = plan_.groups[g];
    if (CountPassing(tile, group) == 0) return;
    int64_t in_union = passing_[0];
    if (group.runs.size() > 1) {
      std::fill_n(united_.data(), tile.words, uint64_t{0});
      for (const MaskRun& run : group.runs) {
        Unite(Bits(tile, run), tile.words, united_.data());
      }
      in_union = kernels_.count_bits(united_.data(), tile.words);
    }
    const KnnLayout layout = ChooseLayout(input_.tuning, search_.costs, group,
                                          passing_.data(), in_union);
    if (layout == KnnLayout::kShared && group.runs.size() > 1) {
      FlushGroup(g);
      ScoreQueue(0);
      ScoreUnion(tile, group);
      return;
    }
    for (size_t i = 0; i < group.runs.size(); ++i) {
      if (passing_[i] == 0) continue;
      Enqueue(tile, g, i, layout);
      if (num_queued_ >= kQueueRows) ScoreQueue(kKeepRows);
    }
  }

  // Leaves the number of rows that pass for each run in passing_.
  int64_t CountPassing(const Tile& tile, const LaneGroup& group) {
    passing_.clear();
    int64_t total = 0;
    for (const MaskRun& run : group.runs) {
      passing_.push_back(kernels_.count_bits(Bits(tile, run), tile.words));
      total += passing_.back();
    }
    return total;
  }

  // Puts the rows that pass for run i of a group into the queue, up to whole
  // blocks; the rest is carried over to the next tile.
  void Enqueue(const Tile& tile, size_t g, size_t i, KnnLayout layout) {
    Carry& carry = carries_[first_run_[g] + i];
    uint32_t* rows = queued_rows_.data() + num_queued_;
    std::copy_n(carry.rows, carry.count, rows);
    const int64_t count =
        carry.count + kernels_.append_rows(Bits(tile, plan_.groups[g].runs[i]),
                                           tile.words, FirstRow(tile),
                                           rows + carry.count);
    const int64_t block = layout == KnnLayout::kShared
                              ? kernels_.query_lanes_rows
                              : kernels_.lanes;
    carry.layout = layout;
    carry.count = count % block;
    std::copy_n(rows + (count - carry.count), carry.count, carry.rows);
    AddWork({g, i, layout, count - carry.count});
  }

  void SetPointers(const uint32_t* rows, int64_t count,
                   const char** pointers) const {
    const char* const items = Items();
    const int64_t row_bytes = RowBytes();
    for (int64_t i = 0; i < count; ++i) {
      pointers[i] = items + int64_t{rows[i]} * row_bytes;
    }
    if (input_.items.type != ElementType::kInt8) return;
    const float* const scales = Scales();
    for (int64_t i = 0; i < count; ++i) __builtin_prefetch(scales + rows[i]);
  }

  void FlushGroup(size_t g) {
    for (size_t i = 0; i < plan_.groups[g].runs.size(); ++i) {
      Carry& carry = carries_[first_run_[g] + i];
      std::copy_n(carry.rows, carry.count, queued_rows_.data() + num_queued_);
      AddWork({g, i, carry.layout, carry.count});
      carry.count = 0;
      if (num_queued_ >= kQueueRows) ScoreQueue(kKeepRows);
    }
  }

  // Takes over `work.count` rows that were written behind the queue.
  void AddWork(const Work& work) {
    if (work.count == 0) return;
    SetPointers(queued_rows_.data() + num_queued_, work.count,
                queued_pointers_.data() + num_queued_);
    num_queued_ += work.count;
    works_.push_back(work);
  }

  // Scores what is in the queue, except for about the last `keep` rows: those
  // are what kernels fetch ahead.
  void ScoreQueue(int64_t keep) {
    if (num_queued_ == 0) return;
    // There may be nothing ahead.
    std::fill_n(queued_pointers_.data() + num_queued_, kLookahead,
                queued_pointers_[num_queued_ - 1]);
    int64_t done = 0;
    size_t next = 0;
    for (; next < works_.size(); ++next) {
      Work& work = works_[next];
      const int64_t block = work.layout == KnnLayout::kShared
                                ? kernels_.query_lanes_rows
                                : kernels_.lanes;
      int64_t count = std::min(work.count, num_queued_ - keep - done);
      if (count < work.count)
        count = std::max<int64_t>(0, count / block * block);
      if (count > 0) {
        const LaneGroup& group = plan_.groups[work.group];
        const KnnRows rows = {queued_pointers_.data() + done,
                              queued_rows_.data() + done, count};
        if (work.layout == KnnLayout::kShared) {
          ScoreQueryLanes(group, rows, nullptr);
        } else {
          ScoreRowLanes(group.runs[work.run], rows);
        }
        done += count;
        work.count -= count;
      }
      if (work.count > 0) break;
    }
    works_.erase(works_.begin(), works_.begin() + next);
    num_queued_ -= done;
    std::copy_n(queued_rows_.data() + done, num_queued_, queued_rows_.data());
    std::copy_n(queued_pointers_.data() + done, num_queued_,
                queued_pointers_.data());
  }

  void ScoreRowLanes(const MaskRun& run, const KnnRows& rows) {
    pairs_own_ += rows.count * run.num_queries;
    RowLanesCall call;
    call.metric = input_.metric;
    call.type = input_.items.type;
    call.dim = input_.dim;
    call.rows = rows;
    const bool is_int8 = call.type == ElementType::kInt8;
    if (is_int8) {
      call.int8 = plan_.Int8();
      call.scales = Scales();
    }
    for (int q = 0; q < run.num_queries; q += kMaxSharedQueries) {
      call.first_slot = run.first_slot + q;
      call.num_queries = std::min(kMaxSharedQueries, run.num_queries - q);
      if (is_int8) {
        call.query_stride = plan_.padded_steps;
        call.int8_queries = plan_.int8_padded.data() +
                            call.first_slot * plan_.padded_steps * kPlanes;
        kernels_.row_lanes_int8(call, collector_);
      } else {
        call.query_stride = plan_.padded_dim;
        call.queries = plan_.padded.data() + call.first_slot * plan_.padded_dim;
        kernels_.row_lanes(call, collector_);
      }
    }
  }

  // Scores the rows that pass for any query of the group, for all of them.
  void ScoreUnion(const Tile& tile, const LaneGroup& group) {
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
    ScoreQueryLanes(group, MakeRows(count), lanes_of_row_.data());
  }

  void ScoreQueryLanes(const LaneGroup& group, const KnnRows& rows,
                       const uint64_t* lanes_of_row) {
    pairs_shared_ += rows.count * __builtin_popcountll(group.active);
    QueryLanesCall call;
    call.metric = input_.metric;
    call.dim = input_.dim;
    if (input_.items.type == ElementType::kInt8) {
      call.int8_packed = plan_.int8_packed.data() + group.packed_offset;
    } else {
      call.packed = plan_.packed.data() + group.packed_offset;
    }
    call.vectors = group.vectors;
    call.first_slot = group.first_slot;
    call.active = group.active;
    call.lanes_of_row = lanes_of_row;
    call.rows = rows;
    call.ahead = rows.data;
    if (input_.items.type == ElementType::kFloat32) {
      call.ahead_bytes = kLineBytes;
      kernels_.query_lanes(call, collector_);
    } else {
      ScoreExpanded(call);
    }
  }

  // Expands a few rows at a time, for which `call` is ready otherwise.
  void ScoreExpanded(QueryLanesCall call) {
    const KnnRows rows = call.rows;
    const bool is_int8 = input_.items.type == ElementType::kInt8;
    float scales[kExpandRows];
    int32_t norms[kExpandRows];
    ExpandCall expand;
    expand.type = input_.items.type;
    expand.dim = input_.dim;
    expand.out = expanded_.data();
    if (is_int8) {
      call.dim = plan_.steps;
      call.int8 = plan_.Int8();
      call.row_scales = scales;
      call.row_norms = norms;
      call.ahead_bytes = kLineBytes / kernels_.int8_parts;
      if (input_.metric == Metric::kL2) expand.norms = norms;
    } else {
      call.ahead_bytes = kLineBytes / 2;
    }
    for (int64_t done = 0; done < rows.count; done += kExpandRows) {
      const int64_t count = std::min(kExpandRows, rows.count - done);
      expand.rows = rows.data + done;
      expand.count = count;
      kernels_.expand(expand);
      call.rows = {expanded_rows_, rows.ids + done, count};
      call.ahead = rows.data + done;
      if (is_int8) {
        for (int64_t i = 0; i < count; ++i) {
          scales[i] = Scales()[rows.ids[done + i]];
        }
        kernels_.query_lanes_int8(call, collector_);
      } else {
        kernels_.query_lanes(call, collector_);
      }
      if (call.lanes_of_row != nullptr) call.lanes_of_row += count;
    }
  }

  // The first `count` of rows_. Beyond, the rows ahead are a guess: the ones
  // that follow.
  KnnRows MakeRows(int64_t count) {
    SetPointers(rows_.data(), count, pointers_.data());
    const char* const items = Items();
    const int64_t last = search_.segment_end - search_.segment_begin - 1;
    int64_t guess = rows_[count - 1];
    for (int64_t i = count; i < count + kLookahead; ++i) {
      guess = std::min(guess + 1, last);
      pointers_[i] = items + guess * RowBytes();
    }
    return {pointers_.data(), rows_.data(), count};
  }

  const KnnInput& input_;
  const MaskSource& masks_;
  const Plan& plan_;
  const KnnKernels& kernels_;
  const Search& search_;
  TopKCollector* collector_;
  int64_t block_words_;
  int64_t block_begin_ = 0;
  int64_t block_end_ = 0;
  std::vector<uint64_t> bits_;    // of the block: [masks, block_words]
  std::vector<uint64_t> united_;  // of the tile and group at hand
  std::vector<int64_t> passing_;  // of each run of the group at hand
  std::vector<uint32_t> rows_;    // in united_
  std::vector<const char*> pointers_;
  std::vector<uint64_t> lanes_of_row_;
  std::vector<int64_t> first_run_;  // of each group, in carries_
  std::vector<Carry> carries_;
  std::vector<Work> works_;  // the queue, and its rows
  std::vector<uint32_t> queued_rows_;
  std::vector<const char*> queued_pointers_;
  AlignedArray<float> expanded_;  // of kExpandRows rows; kInt8: integers
  const char* expanded_rows_[kExpandRows];
  int64_t num_queued_ = 0;
  int64_t pairs_shared_ = 0;
  int64_t pairs_own_ = 0;
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
  search.costs = input.tuning.costs != nullptr
                     ? *input.tuning.costs
                     : DefaultKnnCosts(input.items.type);
  std::atomic<int64_t> next_block{segment_begin};
  search.next_block = &next_block;
  std::atomic<int64_t> pairs_shared{0};
  std::atomic<int64_t> pairs_own{0};
  search.pairs_shared = &pairs_shared;
  search.pairs_own = &pairs_own;
  parallel.run(max_workers, [&](int64_t task) {
    if (next_block.load(std::memory_order_relaxed) >= segment_end) return;
    const ScopedFloatEnvironment environment;
    collectors[task] = std::make_unique<TopKCollector>(is_used, k);
    Worker(search, collectors[task].get()).Run();
  });
  if (output.stats != nullptr) {
    output.stats->shared += pairs_shared.load(std::memory_order_relaxed);
    output.stats->own += pairs_own.load(std::memory_order_relaxed);
  }

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
    const int64_t query = plan.query_of_slot[slot];
    MergeTopK(keys, segment_begin, input.k, output.scores + query * input.k,
              output.rows + query * input.k, output.counts + query);
  };
  if (max_workers > 1 && slots * k > 100000) {
    parallel.run(slots, merge);
  } else {
    for (int64_t slot = 0; slot < slots; ++slot) merge(slot);
  }
}

}  // namespace

KnnCosts DefaultKnnCosts(ElementType type) {
  return ActiveKnnKernels().costs[static_cast<int>(type)];
}

void MaskedKnn(const KnnInput& input, const MaskSource& masks,
               const int32_t* mask_of_query, const Parallel& parallel,
               const KnnOutput& output) {
  std::fill_n(output.scores, input.num_queries * input.k, kNoScore);
  std::fill_n(output.rows, input.num_queries * input.k, int64_t{-1});
  std::fill_n(output.counts, input.num_queries, int32_t{0});
  if (output.stats != nullptr) *output.stats = {};
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
