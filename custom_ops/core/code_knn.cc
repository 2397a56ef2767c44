// SPDX-License-Identifier: Apache-2.0
#include "custom_ops/core/code_knn.h"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstdint>
#include <limits>
#include <memory>
#include <numeric>
#include <utility>
#include <vector>

#include "custom_ops/core/code_knn_hits.h"
#include "custom_ops/core/code_knn_kernels.h"
#include "custom_ops/core/code_knn_tables.h"

namespace lintf {
namespace {

// Split codes of a tile stay in the L1 cache while every query passes over it.
constexpr int64_t kTilePlaneBytes = 16 << 10;
// Masks are filled in stretches of this many rows.
constexpr int64_t kStretchRows = 4096;
// How far ahead codes are fetched.
constexpr int64_t kAheadBytes = 4096;
// With fewer queries, symmetric scores are cheaper from unsplit codes.
constexpr int64_t kMinSplitQueries = 2;
// Below this much estimated work another task is not worth it.
constexpr double kMinTaskNanoseconds = 50e3;
// Tasks a thread, so that uneven filters are evened out.
constexpr int64_t kTasksAThread = 4;
// Guesses are worth their sample, of one block in kSampleStep, where enough is
// kept of each query and of all, and a small part of the rows.
constexpr int64_t kMinGuessKeepOfAll = 4096;
constexpr int64_t kMinGuessKeep = 512;
constexpr int64_t kMinGuessRate = 8;
constexpr int64_t kSampleStep = 16;
// From this many hits on, the final selection of a query is shared by threads.
constexpr int64_t kManyHits = 1 << 20;

constexpr int64_t CeilDiv(int64_t a, int64_t b) { return (a + b - 1) / b; }
constexpr int64_t RoundUp(int64_t a, int64_t b) { return CeilDiv(a, b) * b; }

// A slice of the queries, the same for all threads.
struct Slice {
  std::vector<int64_t> slots;  // of the queries, in the input
  std::vector<CodeQuery> queries;
  std::vector<int32_t> masks;          // the distinct ones
  std::vector<int64_t> mask_of_query;  // index into masks
  uint32_t max_score = 0;
  // For each query: rows that score less are not among the best.
  std::unique_ptr<std::atomic<uint32_t>[]> floors;

  void RaiseFloor(int64_t query, uint32_t score) {
    std::atomic<uint32_t>& floor = floors[query];
    uint32_t known = floor.load(std::memory_order_relaxed);
    while (known < score && !floor.compare_exchange_weak(
                                known, score, std::memory_order_relaxed)) {
    }
  }
};

Slice MakeSlice(const CodeKnnInput& input, const int32_t* mask_of_query,
                const std::vector<int64_t>& queries) {
  Slice slice;
  slice.slots = queries;
  for (int64_t b : queries) slice.masks.push_back(mask_of_query[b]);
  std::sort(slice.masks.begin(), slice.masks.end());
  slice.masks.erase(std::unique(slice.masks.begin(), slice.masks.end()),
                    slice.masks.end());
  slice.floors.reset(new std::atomic<uint32_t>[queries.size()]);
  for (size_t i = 0; i < queries.size(); ++i) {
    const int64_t b = queries[i];
    slice.queries.push_back(MakeCodeQuery(input.samples + b * input.words * 64,
                                          input.words, input.scoring));
    slice.max_score = std::max(slice.max_score, slice.queries.back().max_score);
    slice.mask_of_query.push_back(std::lower_bound(slice.masks.begin(),
                                                   slice.masks.end(),
                                                   mask_of_query[b]) -
                                  slice.masks.begin());
    slice.floors[i].store(0, std::memory_order_relaxed);
  }
  return slice;
}

// Planes that start on a cache line.
class AlignedBytes {
 public:
  explicit AlignedBytes(int64_t size) : lines_(CeilDiv(size, 64)) {}
  uint8_t* data() { return lines_.data()->bytes; }

 private:
  struct alignas(64) Line {
    uint8_t bytes[64];
  };
  std::vector<Line> lines_;
};

// Searches rows [begin, end) for the queries of a slice; `begin` is a multiple
// of 64.
class Worker {
 public:
  Worker(const CodeKnnInput& input, const MaskSource& masks, Slice* slice,
         std::vector<std::unique_ptr<HitList>>* lists)
      : input_(input),
        masks_(masks),
        slice_(*slice),
        lists_(*lists),
        kernels_(ActiveCodeKernels()),
        split_(
            kernels_.split != nullptr &&
            (kernels_.scan_codes == nullptr ||
             input.scoring != CodeScoring::kSymmetric ||
             static_cast<int64_t>(slice->queries.size()) >= kMinSplitQueries)),
        tile_blocks_(std::clamp<int64_t>(
            kTilePlaneBytes / (input.words * kPlaneBytesOfWord), 1,
            kMaxTileBlocks)),
        planes_(split_ ? tile_blocks_ * input.words * kPlaneBytesOfWord : 0),
        bits_(slice->masks.size() * kStretchWords),
        passing_(slice->masks.size()),
        histogram_(0, slice->max_score) {}

  // `step` above 1: only one block of so many, as a sample.
  void Run(int64_t begin, int64_t end, int64_t step) {
    if (step > 1) {
      ahead_bytes_ = step * kCodeBlockRows * input_.words *
                     static_cast<int64_t>(sizeof(uint64_t));
      for (int64_t row = begin; row < end; row += step * kCodeBlockRows) {
        if (FillMasks(row, std::min(kCodeBlockRows, end - row))) {
          ScanTile(row, 0, 1);
        }
      }
      return;
    }
    for (int64_t row = begin; row < end; row += kStretchRows) {
      const int64_t rows = std::min(kStretchRows, end - row);
      if (!FillMasks(row, rows)) continue;
      const int64_t blocks = CeilDiv(rows, kCodeBlockRows);
      for (int64_t first = 0; first < blocks; first += tile_blocks_) {
        ScanTile(row, first, std::min(tile_blocks_, blocks - first));
      }
    }
  }

 private:
  static constexpr int64_t kStretchWords = kStretchRows / kRowsPerWord;
  static constexpr int64_t kMaxTileBlocks = 16;

  // False if no row passes for any query.
  bool FillMasks(int64_t begin, int64_t rows) {
    int64_t total = 0;
    const int64_t words = CeilDiv(rows, kRowsPerWord);
    for (size_t m = 0; m < slice_.masks.size(); ++m) {
      uint64_t* bits = bits_.data() + m * kStretchWords;
      if (masks_.PassesAll(slice_.masks[m])) {
        std::fill_n(bits, words, ~uint64_t{0});
        if (rows % kRowsPerWord != 0) {
          bits[words - 1] >>= kRowsPerWord - rows % kRowsPerWord;
        }
        passing_[m] = rows;
      } else {
        passing_[m] = masks_.Fill(slice_.masks[m], begin, begin + rows, bits);
      }
      total += passing_[m];
    }
    return total > 0;
  }

  void ScanTile(int64_t first_row, int64_t first_block, int64_t num_blocks) {
    // Where the blocks that pass for any query are.
    const void* data[kMaxTileBlocks] = {};
    for (int64_t i = 0; i < num_blocks; ++i) {
      uint64_t united = 0;
      for (size_t m = 0; m < slice_.masks.size(); ++m) {
        united |= bits_[m * kStretchWords + first_block + i];
      }
      if (united == 0) continue;
      const int64_t row = first_row + (first_block + i) * kCodeBlockRows;
      const uint64_t* codes =
          input_.codes + CodeWordIndex(row, 0, input_.words);
      data[i] = codes;
      if (!split_) continue;
      uint8_t* planes = planes_.data() + i * input_.words * kPlaneBytesOfWord;
      kernels_.split(codes, input_.words, ahead_bytes_, planes);
      data[i] = planes;
    }
    CodeBlock blocks[kMaxTileBlocks];
    int64_t listed_mask = -1;
    CodeScan scan;
    scan.scoring = input_.scoring;
    scan.words = input_.words;
    scan.blocks = blocks;
    scan.ahead_bytes = ahead_bytes_;
    scan.histogram = &histogram_;
    for (size_t b = 0; b < slice_.queries.size(); ++b) {
      const int64_t mask = slice_.mask_of_query[b];
      if (passing_[mask] == 0) continue;
      if (mask != listed_mask) {
        scan.num_blocks = 0;
        for (int64_t i = 0; i < num_blocks; ++i) {
          const uint64_t word = bits_[mask * kStretchWords + first_block + i];
          if (word == 0) continue;
          blocks[scan.num_blocks++] = {
              data[i], word, first_row + (first_block + i) * kCodeBlockRows};
        }
        listed_mask = mask;
      }
      if (scan.num_blocks == 0) continue;
      scan.query = &slice_.queries[b];
      HitList* hits = lists_[b].get();
      scan.hits = hits;
      hits->RaiseThreshold(slice_.floors[b].load(std::memory_order_relaxed));
      const uint32_t before = hits->threshold();
      if (!split_ && kernels_.scan_codes != nullptr &&
          scan.scoring == CodeScoring::kSymmetric) {
        kernels_.scan_codes(scan);
      } else {
        kernels_.scan(scan);
      }
      if (hits->threshold() > before) {
        slice_.RaiseFloor(b, hits->threshold() - 1);
      }
    }
  }

  const CodeKnnInput& input_;
  const MaskSource& masks_;
  Slice& slice_;
  std::vector<std::unique_ptr<HitList>>& lists_;
  const CodeKernels& kernels_;
  bool split_;
  int64_t ahead_bytes_ = kAheadBytes;
  int64_t tile_blocks_;
  AlignedBytes planes_;           // of the tile
  std::vector<uint64_t> bits_;    // of the stretch: [masks, kStretchWords]
  std::vector<int64_t> passing_;  // of the stretch, for each mask
  HitHistogram histogram_;
};

// The outputs of one query.
struct QueryOutput {
  float* scores;  // may be null
  int64_t* rows;
  int64_t* count;
};

// Hits of one query in ascending order of rows, in several lists.
using HitLists = std::vector<HitList*>;

// Writes the `keep` best of the hits; those that score less than `floor` are
// not among them.
class Selection {
 public:
  Selection(const HitLists& lists, const CodeQuery& query, uint32_t floor,
            int64_t keep, CodeOrder order, const QueryOutput& output)
      : lists_(lists),
        query_(query),
        floor_(floor),
        keep_(keep),
        order_(order),
        output_(output),
        histograms_(lists.size(), HitHistogram(floor, query.max_score)),
        places_(lists.size()) {}

  void Run(const Parallel& parallel) {
    const int64_t num_lists = static_cast<int64_t>(lists_.size());
    parallel.run(num_lists, [&](int64_t i) {
      histograms_[i].Add(lists_[i]->hits(), lists_[i]->size());
    });
    MakeCuts();
    parallel.run(num_lists, [&](int64_t i) { lists_[i]->Cut(cuts_[i]); });
    const int64_t count = MakePlaces();
    parallel.run(num_lists, [&](int64_t i) { Write(i); });
    *output_.count = count;
    std::fill(output_.rows + count, output_.rows + keep_, int64_t{-1});
    if (output_.scores != nullptr) {
      std::fill(output_.scores + count, output_.scores + keep_,
                -std::numeric_limits<float>::infinity());
    }
  }

 private:
  // The first lists have the lower rows, and so theirs are the first ties.
  void MakeCuts() {
    HitHistogram total = histograms_[0];
    for (size_t i = 1; i < histograms_.size(); ++i) total.Add(histograms_[i]);
    HitCut cut = total.CutOf(keep_);
    for (const HitHistogram& histogram : histograms_) {
      cuts_.push_back(
          {cut.score, std::min(cut.ties, histogram.Count(cut.score))});
      cut.ties -= cuts_.back().ties;
    }
  }

  // Where each list's first hit goes, or its first hit of each score. Returns
  // the number of results.
  int64_t MakePlaces() {
    int64_t next = 0;
    if (order_ == CodeOrder::kAscendingRow) {
      for (size_t i = 0; i < lists_.size(); ++i) {
        places_[i].push_back(next);
        next += lists_[i]->size();
      }
      return next;
    }
    const uint32_t lowest = cuts_[0].score;
    for (std::vector<int64_t>& places : places_) {
      places.resize(query_.max_score + 1 - floor_);
    }
    for (uint32_t score = query_.max_score + 1; score-- > lowest;) {
      for (size_t i = 0; i < lists_.size(); ++i) {
        places_[i][score - floor_] = next;
        next += score == lowest ? cuts_[i].ties : histograms_[i].Count(score);
      }
    }
    return next;
  }

  void Write(int64_t i) {
    const HitList& list = *lists_[i];
    int64_t* const places = places_[i].data();
    for (int64_t h = 0; h < list.size(); ++h) {
      const uint64_t hit = list.hits()[h];
      const uint32_t score = HitScore(hit);
      const int64_t place = order_ == CodeOrder::kAscendingRow
                                ? places[0]++
                                : places[score - floor_]++;
      output_.rows[place] = HitRow(hit);
      if (output_.scores != nullptr) {
        output_.scores[place] = query_.Reported(score);
      }
    }
  }

  const HitLists& lists_;
  const CodeQuery& query_;
  uint32_t floor_;
  int64_t keep_;
  CodeOrder order_;
  QueryOutput output_;
  std::vector<HitHistogram> histograms_;
  std::vector<HitCut> cuts_;
  std::vector<std::vector<int64_t>> places_;
};

// The lists of each task, [tasks][queries]; the rows of a task are above those
// of the tasks before.
using TaskLists = std::vector<std::vector<std::unique_ptr<HitList>>>;

class Search {
 public:
  Search(const CodeKnnInput& input, const MaskSource& masks, Slice* slice,
         const Parallel& parallel)
      : input_(input), masks_(masks), slice_(*slice), parallel_(parallel) {}

  // Searches rows [begin, end) for the `keep` best by `num_tasks` tasks, each
  // in a stretch of its own; of `step` blocks only the first one.
  TaskLists Run(int64_t begin, int64_t end, int64_t num_tasks, int64_t keep,
                int64_t step = 1) {
    const int64_t share = TaskRows(end - begin, num_tasks);
    TaskLists lists(std::max<int64_t>(CeilDiv(end - begin, share), 1));
    parallel_.run(static_cast<int64_t>(lists.size()), [&](int64_t task) {
      const int64_t first = begin + task * share;
      const int64_t last = std::min(first + share, end);
      const int64_t most = CeilDiv(last - first, step) + kCodeBlockRows;
      for (size_t b = 0; b < slice_.queries.size(); ++b) {
        lists[task].push_back(std::make_unique<HitList>(keep, most));
      }
      Worker(input_, masks_, &slice_, &lists[task]).Run(first, last, step);
    });
    return lists;
  }

  // Guesses from a sample of the rows what the best of each query score at
  // least, and makes that the floor, so that far fewer hits are held. A guess
  // is low enough unless what a query likes comes in long runs of rows; then
  // too few rows reach it, and the query is searched again without.
  void GuessFloors(int64_t num_tasks) {
    const double expected =
        static_cast<double>(input_.keep) / static_cast<double>(kSampleStep);
    // Four standard deviations for rows that come in runs of so many.
    constexpr double kRun = 16.0;
    const int64_t keep =
        static_cast<int64_t>(expected + 4.0 * std::sqrt(expected * kRun));
    const TaskLists lists =
        Run(0, input_.num_rows, num_tasks, keep, kSampleStep);
    for (size_t b = 0; b < slice_.queries.size(); ++b) {
      HitHistogram histogram(0, slice_.queries[b].max_score);
      int64_t hits = 0;
      for (const auto& of_task : lists) {
        histogram.Add(of_task[b]->hits(), of_task[b]->size());
        hits += of_task[b]->size();
      }
      // The sample's own floor holds for the sample alone.
      slice_.floors[b].store(hits < keep ? 0 : histogram.CutOf(keep).score,
                             std::memory_order_relaxed);
    }
  }

  static int64_t TaskRows(int64_t rows, int64_t num_tasks) {
    return std::max(RoundUp(CeilDiv(rows, num_tasks), kStretchRows),
                    kStretchRows);
  }

 private:
  const CodeKnnInput& input_;
  const MaskSource& masks_;
  Slice& slice_;
  const Parallel& parallel_;
};

// Adds what a segment has found to what the segments before it have.
void Merge(const TaskLists& found, Slice* slice,
           std::vector<std::unique_ptr<HitList>>* merged,
           HitHistogram* histogram) {
  for (size_t b = 0; b < merged->size(); ++b) {
    HitList& list = *(*merged)[b];
    for (const auto& of_task : found) {
      const HitList& more = *of_task[b];
      for (int64_t i = 0; i < more.size(); i += kRowsPerWord) {
        const int64_t count = std::min(kRowsPerWord, more.size() - i);
        uint64_t* end = list.end();
        int64_t kept = 0;
        for (int64_t h = i; h < i + count; ++h) {
          end[kept] = more.hits()[h];
          kept += HitScore(more.hits()[h]) >= list.threshold() ? 1 : 0;
        }
        if (list.Commit(kept)) list.Shrink(histogram);
      }
    }
    if (list.threshold() > 0) slice->RaiseFloor(b, list.threshold() - 1);
  }
}

void Select(const CodeKnnInput& input, const Slice& slice,
            const TaskLists& lists, CodeOrder order, const Parallel& parallel,
            const CodeKnnOutput& output) {
  const int64_t num_queries = static_cast<int64_t>(slice.queries.size());
  const auto select = [&](int64_t b, const Parallel& helpers) {
    HitLists of_query;
    for (const auto& of_task : lists) of_query.push_back(of_task[b].get());
    const int64_t slot = slice.slots[b];
    const QueryOutput query_output = {
        output.scores == nullptr ? nullptr : output.scores + slot * input.keep,
        output.rows + slot * input.keep, output.counts + slot};
    Selection(of_query, slice.queries[b],
              slice.floors[b].load(std::memory_order_relaxed), input.keep,
              order, query_output)
        .Run(helpers);
  };
  int64_t hits = 0;
  for (const auto& of_task : lists) {
    for (const auto& list : of_task) hits += list->size();
  }
  const bool shared = parallel.num_threads > 1;
  if (shared && hits >= kManyHits * num_queries) {
    for (int64_t b = 0; b < num_queries; ++b) select(b, parallel);
  } else if (shared && hits >= kManyHits / 8) {
    parallel.run(num_queries, [&](int64_t b) { select(b, Parallel()); });
  } else {
    for (int64_t b = 0; b < num_queries; ++b) select(b, Parallel());
  }
}

// The queries of a slice that found less than they keep under a guessed floor.
std::vector<int64_t> Misguessed(const CodeKnnInput& input, const Slice& slice,
                                const TaskLists& lists) {
  std::vector<int64_t> queries;
  for (size_t b = 0; b < slice.queries.size(); ++b) {
    if (slice.floors[b].load(std::memory_order_relaxed) == 0) continue;
    int64_t hits = 0;
    for (const auto& of_task : lists) hits += of_task[b]->size();
    if (hits < input.keep) queries.push_back(slice.slots[b]);
  }
  return queries;
}

int64_t NumTasks(const CodeKnnInput& input, int64_t queries,
                 const Parallel& parallel) {
  if (parallel.num_threads == 1) return 1;
  const double nanoseconds = static_cast<double>(input.num_rows * input.words) *
                             (0.4 + 0.1 * static_cast<double>(queries));
  const double most = static_cast<double>(parallel.num_threads * kTasksAThread);
  return static_cast<int64_t>(
      std::clamp(nanoseconds / kMinTaskNanoseconds, 1.0, most));
}

}  // namespace

void CodeKnn(const CodeKnnInput& input, const MaskSource& masks,
             const int32_t* mask_of_query, CodeOrder order,
             const Parallel& parallel, const CodeKnnOutput& output) {
  const int64_t num_tasks = NumTasks(input, input.num_queries, parallel);
  // What a query's lists take at most.
  const int64_t query_bytes =
      num_tasks * static_cast<int64_t>(sizeof(uint64_t)) *
      HitList::Capacity(input.keep,
                        Search::TaskRows(input.num_rows, num_tasks));
  const int64_t slice_queries =
      std::max<int64_t>(input.scratch_bytes / query_bytes, 1);
  // If one query alone takes more, its rows are searched in segments.
  int64_t segment_rows = std::max<int64_t>(input.num_rows, 1);
  if (query_bytes > input.scratch_bytes) {
    segment_rows =
        RoundUp(std::max<int64_t>(input.scratch_bytes / 8, 1), kStretchRows);
  }
  // Returns the queries that have to be searched again.
  const auto search_slice = [&](const std::vector<int64_t>& queries,
                                bool may_guess) {
    Slice slice = MakeSlice(input, mask_of_query, queries);
    Search search(input, masks, &slice, parallel);
    const int64_t count = static_cast<int64_t>(queries.size());
    if (may_guess && input.keep >= kMinGuessKeep &&
        input.keep >= kMinGuessKeepOfAll / count &&
        input.keep <= input.num_rows / kMinGuessRate) {
      search.GuessFloors(num_tasks);
    }
    TaskLists lists;
    if (segment_rows >= input.num_rows) {
      lists = search.Run(0, input.num_rows, num_tasks, input.keep);
    } else {
      HitHistogram histogram(0, slice.max_score);
      lists.resize(1);
      for (size_t b = 0; b < queries.size(); ++b) {
        lists[0].push_back(
            std::make_unique<HitList>(input.keep, input.num_rows));
      }
      for (int64_t row = 0; row < input.num_rows; row += segment_rows) {
        Merge(search.Run(row, std::min(row + segment_rows, input.num_rows),
                         num_tasks, input.keep),
              &slice, &lists[0], &histogram);
      }
    }
    const std::vector<int64_t> again = Misguessed(input, slice, lists);
    Select(input, slice, lists, order, parallel, output);
    return again;
  };
  for (int64_t first = 0; first < input.num_queries; first += slice_queries) {
    std::vector<int64_t> queries(
        std::min(slice_queries, input.num_queries - first));
    std::iota(queries.begin(), queries.end(), first);
    const std::vector<int64_t> again = search_slice(queries, true);
    if (!again.empty()) search_slice(again, false);
  }
}

}  // namespace lintf
