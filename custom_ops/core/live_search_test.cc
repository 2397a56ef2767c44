// SPDX-License-Identifier: Apache-2.0
// Searches of an index that changes meanwhile: first with changes at chosen
// moments, then with threads.
#include "custom_ops/core/live_search.h"

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <cstdlib>
#include <map>
#include <memory>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "custom_ops/core/live_test_index.h"
#include "custom_ops/core/search_test_data.h"
#include "custom_ops/core/similarity_test_data.h"
#include "custom_ops/core/testing.h"

// A scan reads rows that are being written, and what it finds of those is
// thrown away. The thread sanitizer is to watch everything else.
extern "C" __attribute__((visibility("default"))) const char*
__tsan_default_suppressions();
const char* __tsan_default_suppressions() {
  return "race:core/filter_eval.cc\n"
         "race:core/filter_kernels\n"
         "race:core/filter_plan.cc\n"
         "race:core/knn_kernels\n"
         "race:core/masked_knn.cc\n"
         "race:core/learned_kernels\n"
         "race:core/learned_knn.cc\n"
         "race:core/pair_knn.cc\n"
         "race:core/tile_scan.h\n"
         "race:core/code_knn\n";
}

// It knows a scan by its stack, which it must remember for long enough.
extern "C" __attribute__((visibility("default"))) const char*
__tsan_default_options();
const char* __tsan_default_options() { return "history_size=7"; }

namespace lintf {
namespace {

using testing::kIds;
using testing::kTagWidth;
using testing::SimilarityCase;
using testing::TestIndex;
using testing::TestScore;
using testing::TestSearch;

// The items of an index, by id, each with its number.
using Items = std::map<int64_t, int64_t>;

struct Filter {
  std::string text;
  bool (*passes)(int64_t number);
};

bool HasTag(int64_t number, uint8_t code) {
  for (int64_t t = 0; t < kTagWidth; ++t) {
    if (TestIndex::TagOf(number, t) == code) return true;
  }
  return false;
}

const std::vector<Filter>& Filters() {
  static const std::vector<Filter> filters = {
      {"", [](int64_t) { return true; }},
      {"number >= 5000", [](int64_t n) { return n >= 5000; }},
      {R"(contains_any(tags, ["t1"]) and number < 900000)",
       [](int64_t n) { return HasTag(n, 3) && n < 900000; }},
      {R"(not contains_all(tags, ["t0", "t3"]))",
       [](int64_t n) { return !(HasTag(n, 2) && HasTag(n, 5)); }},
      {R"(id in [3, 5, 8, 13] or label == "l77")",
       [](int64_t n) {
         const int64_t id = n % kIds;
         return id == 3 || id == 5 || id == 8 || id == 13 || n % 997 == 77;
       }},
      {"id not in [1, 2, 4] and number < 0", [](int64_t) { return false; }},
  };
  return filters;
}

std::vector<std::string> FilterTexts() {
  std::vector<std::string> texts;
  for (const Filter& filter : Filters()) texts.push_back(filter.text);
  return texts;
}

struct Scored {
  float score;
  int64_t row;
  int64_t number;
  bool operator==(const Scored& other) const {
    return score == other.score && row == other.row && number == other.number;
  }
};

// Brute force over a state of the index.
std::vector<Scored> Expected(const Items& items, const TestIndex& index,
                             const std::map<int64_t, int64_t>& row_of_id,
                             const std::vector<float>& query,
                             const Filter& filter, int64_t k) {
  std::vector<Scored> all;
  for (const auto& [id, number] : items) {
    if (!filter.passes(number)) continue;
    all.push_back(
        {TestScore(query, number, index.options()), row_of_id.at(id), number});
  }
  std::sort(all.begin(), all.end(), [](const Scored& a, const Scored& b) {
    return a.score != b.score ? a.score > b.score : a.row < b.row;
  });
  if (static_cast<int64_t>(all.size()) > k) all.resize(k);
  return all;
}

// What a search returned for a query. Checks that each result is of a piece.
std::vector<Scored> Got(const TestSearch& search, int64_t b, int64_t k) {
  std::vector<Scored> got;
  for (int64_t i = b * k; i < (b + 1) * k; ++i) {
    const bool is_result = i < b * k + search.counts[b];
    CHECK_THAT((search.rows[i] >= 0) == is_result);
    CHECK_THAT((search.ids[i] != kNoId) == is_result);
    if (!is_result) continue;
    const int64_t number = search.number[i];
    CHECK_THAT(search.ids[i] == number % kIds) << number;
    CHECK_THAT(search.label[i] == TestIndex::LabelOf(number)) << number;
    for (int64_t t = 0; t < kTagWidth; ++t) {
      CHECK_THAT(search.tags[i * kTagWidth + t] == TestIndex::TagOf(number, t));
    }
    got.push_back({search.scores[i], search.rows[i], number});
  }
  return got;
}

// An index together with a plain model of it.
class Model {
 public:
  explicit Model(const TestIndex::Options& options)
      : index_(options), random_(17) {}

  void Fill(int64_t count) {
    std::vector<int64_t> numbers;
    for (int64_t id = 0; id < count; ++id) numbers.push_back(id);
    Apply(numbers, {});
  }

  // Rewrites, inserts and deletes some items.
  void Change(int64_t count, int64_t ids) {
    std::vector<int64_t> numbers;
    std::vector<int64_t> deleted;
    ++version_;
    for (int64_t i = 0; i < count; ++i) {
      const int64_t id = static_cast<int64_t>(random_() % ids);
      if (random_() % 4 == 0) {
        deleted.push_back(id);
      } else {
        numbers.push_back(id + version_ * kIds);
      }
    }
    Apply(numbers, deleted);
  }

  void Apply(const std::vector<int64_t>& numbers,
             const std::vector<int64_t>& deleted) {
    if (index_.Update(numbers, deleted).empty()) return;
    for (const int64_t n : numbers) items_[n % kIds] = n;
    for (const int64_t id : deleted) items_.erase(id);
  }

  struct Snapshot {
    Items items;
    std::map<int64_t, int64_t> row_of_id;
  };
  Snapshot Now() const {
    Snapshot now;
    now.items = items_;
    for (const auto& [id, number] : items_) {
      now.row_of_id[id] = index_.state().row_of_id().RowOf(id);
    }
    return now;
  }

  const TestIndex& index() const { return index_; }

 private:
  TestIndex index_;
  std::mt19937_64 random_;
  Items items_;
  int64_t version_ = 0;
};

// The algorithms of an index that give exact results, in turn; codes alone have
// but one.
Algorithm AlgorithmOf(const TestIndex::Options& options, int64_t turn) {
  if (!options.has_items) return Algorithm::kQuantized;
  if (options.similarity != nullptr) {
    return turn % 2 == 0 ? Algorithm::kBounded : Algorithm::kExact;
  }
  return turn % 2 == 0 ? Algorithm::kMasked : Algorithm::kPrefiltered;
}

// A similarity whose rows have as many numbers as those of a TestIndex.
const Similarity* Learned() {
  static const SimilarityCase* const learned =
      new SimilarityCase(testing::ShapeOf(PairSimilarity::kInnerProduct,
                                          Gate::kSiluSoftmax, 3, 2, 9, 8),
                         0, 0, 5);
  return &learned->similarity;
}

// The index changes between the steps of a search, a few times or at every
// one. Each query's results must be those of one moment during the search.
void ChangesBetweenSteps(const TestIndex::Options& options, int64_t items,
                         int64_t ids, int64_t k, int64_t changes_at_once,
                         int most_changes) {
  Model model(options);
  model.Fill(items);
  const bool exact = options.has_items;
  for (int round = 0; round < 60; ++round) {
    TestSearch search(FilterTexts(), k, round);
    std::vector<Model::Snapshot> moments = {model.Now()};
    int steps = 0;
    search.Run(model.index(), AlgorithmOf(options, round), [&] {
      // The mutex is held after many steps; then nobody can change rows.
      if (steps++ >= most_changes) return;
      model.Change(changes_at_once, ids);
      moments.push_back(model.Now());
    });
    for (size_t b = 0; b < Filters().size(); ++b) {
      const std::vector<Scored> got = Got(search, b, k);
      if (!exact) {
        for (const Scored& result : got) {
          CHECK_THAT(Filters()[b].passes(result.number));
        }
        continue;
      }
      bool found = false;
      for (const Model::Snapshot& moment : moments) {
        found = found ||
                got == Expected(moment.items, model.index(), moment.row_of_id,
                                search.Query(b, options.similarity),
                                Filters()[b], k);
      }
      CHECK_THAT(found) << "round " << round << " query " << b << " after "
                        << steps << " steps";
    }
  }
}

void StepsOfEveryKind() {
  TestIndex::Options options;
  ChangesBetweenSteps(options, 300, 400, 10, 0, 100);
  ChangesBetweenSteps(options, 300, 400, 10, 3, 1);
  ChangesBetweenSteps(options, 300, 400, 10, 3, 4);
  // So many that too little is left of what a scan found.
  ChangesBetweenSteps(options, 300, 400, 10, 200, 2);
  ChangesBetweenSteps(options, 300, 400, 10, 200, 4);
  // More results than rows.
  ChangesBetweenSteps(options, 50, 80, 200, 20, 3);
  // An index that starts empty, and one that is full.
  ChangesBetweenSteps(options, 0, 90, 7, 5, 3);
  options.capacity = 64;
  ChangesBetweenSteps(options, 64, 90, 7, 5, 3);
  // A ring that forgets.
  options = {};
  options.ring_size = 8;
  ChangesBetweenSteps(options, 300, 400, 10, 40, 2);
  // Copies that would take too much memory.
  options = {};
  options.max_copy_bytes = 1000;
  ChangesBetweenSteps(options, 300, 400, 10, 40, 2);
  // Rows not in use that look like items.
  options = {};
  options.unused_id = 77;
  ChangesBetweenSteps(options, 0, 400, 10, 20, 4);
  options = {};
  options.type = ElementType::kInt8;
  options.has_codes = true;
  ChangesBetweenSteps(options, 300, 400, 10, 20, 3);
  options.type = ElementType::kBfloat16;
  ChangesBetweenSteps(options, 300, 400, 10, 20, 3);
  options.has_items = false;
  ChangesBetweenSteps(options, 300, 400, 10, 20, 3);
  // A learned similarity.
  options = {};
  options.similarity = Learned();
  ChangesBetweenSteps(options, 300, 400, 10, 0, 100);
  ChangesBetweenSteps(options, 300, 400, 10, 200, 4);
  ChangesBetweenSteps(options, 50, 80, 200, 20, 3);
  options.type = ElementType::kInt8;
  ChangesBetweenSteps(options, 300, 400, 10, 20, 3);
}

// What changed meanwhile is scored once more than the others.
void CopiesCountAsScored() {
  TestIndex::Options options;
  options.similarity = Learned();
  Model model(options);
  model.Fill(200);
  TestSearch search({"", "number >= 150"}, 10, 3);
  search.Run(model.index(), Algorithm::kExact);
  CHECK_THAT(search.num_scored == std::vector<int64_t>({200, 50}));
  int steps = 0;
  search.Run(model.index(), Algorithm::kExact, [&] {
    if (steps++ == 0) model.Apply({1 + kIds, 2 + kIds, 170 + kIds}, {160});
  });
  CHECK_THAT(search.num_scored == std::vector<int64_t>({203, 53}))
      << search.num_scored[0] << " " << search.num_scored[1];
}

// Candidates of the rows as they were, exact scores of the rows as they are.
void TwoStageBetweenSteps() {
  TestIndex::Options options;
  options.similarity = Learned();
  Model model(options);
  model.Fill(300);
  for (int round = 0; round < 20; ++round) {
    TestSearch search(FilterTexts(), 10, round);
    int steps = 0;
    search.Run(model.index(), Algorithm::kTwoStage, [&] {
      if (steps++ < 3) model.Change(5, 300);
    });
    for (size_t b = 0; b < Filters().size(); ++b) {
      for (const Scored& result : Got(search, b, 10)) {
        CHECK_THAT(Filters()[b].passes(result.number));
        CHECK_THAT(result.score == TestScore(search.Query(b, Learned()),
                                             result.number, options));
      }
    }
  }
}

// A row that is about to be taken is no result yet, whatever it holds.
void AnnouncedBeforeItIsWritten() {
  TestIndex::Options options;
  options.unused_id = 77;
  TestIndex index(options);
  index.Update({1, 2, 3}, {});
  TestSearch search({""}, 10, 1);
  int steps = 0;
  search.Run(index, Algorithm::kMasked, [&] {
    if (steps++ == 0) index.Announce(3);
  });
  CHECK_THAT(search.counts[0] == 3) << search.counts[0];
  CHECK_THAT(std::count(search.rows.begin(), search.rows.end(), 3) == 0);
}

// Codes and rescoring: what is returned is of a piece, passes, and nothing
// that was there all the time is missing where the short list has all.
void QuantizedBetweenSteps() {
  TestIndex::Options options;
  options.has_codes = true;
  Model model(options);
  model.Fill(100);
  for (int round = 0; round < 40; ++round) {
    TestSearch search(FilterTexts(), 60, round);
    int steps = 0;
    search.Run(model.index(), Algorithm::kQuantized, [&] {
      if (steps++ < 3) model.Change(5, 100);
    });
    for (size_t b = 0; b < Filters().size(); ++b) {
      for (const Scored& result : Got(search, b, 60)) {
        CHECK_THAT(Filters()[b].passes(result.number));
        CHECK_THAT(result.score ==
                   TestScore(search.Query(b, nullptr), result.number, options));
      }
    }
  }
}

// The part of the checker that all threads share.
struct Shared {
  explicit Shared(const TestIndex::Options& options) : index(options) {
    for (int64_t id = 0; id < kIds; ++id) {
      started[id] = 0;
      finished[id] = 0;
    }
  }
  TestIndex index;
  // By id: the newest version whose write has begun, and has ended. A version
  // is a number of the item, or minus one where it was deleted; counted in
  // `clock` ticks so that they compare.
  std::atomic<int64_t> started[kIds];
  std::atomic<int64_t> finished[kIds];
  std::atomic<bool> done{false};
  std::atomic<int64_t> searches{0};
};

// Ids below kFixed never change; of the others, odd versions are in the index
// and even ones are not.
constexpr int64_t kFixed = 300;
constexpr int64_t kMoving = 500;  // ids [kFixed, kMoving) change

int64_t NumberOf(int64_t id, int64_t version) {
  return id < kFixed ? id : id + version * kIds;
}

void WriteForAWhile(Shared* shared, int64_t first, int64_t step,
                    int64_t changes) {
  std::mt19937_64 random(first);
  for (int64_t i = 0; i < changes; ++i) {
    std::vector<int64_t> numbers;
    std::vector<int64_t> deleted;
    std::vector<int64_t> ids;
    const int64_t count = 1 + static_cast<int64_t>(random() % 4);
    for (int64_t c = 0; c < count; ++c) {
      // Ids of this writer alone.
      const int64_t slots = (kMoving - kFixed) / step;
      const int64_t id =
          kFixed + first + step * static_cast<int64_t>(random() % slots);
      if (std::find(ids.begin(), ids.end(), id) != ids.end()) continue;
      ids.push_back(id);
      const int64_t version = shared->started[id] + 1 +
                              (random() % 3 == 0 ? 0 : shared->started[id] % 2);
      shared->started[id] = version;
      if (version % 2 == 1) {
        numbers.push_back(NumberOf(id, version));
      } else {
        deleted.push_back(id);
      }
    }
    shared->index.Update(numbers, deleted);
    for (const int64_t id : ids) {
      shared->finished[id] = shared->started[id].load();
    }
  }
}

void SearchUntilDone(Shared* shared, int64_t k, uint64_t seed, int threads) {
  const TestIndex::Options& options = shared->index.options();
  const bool exact = options.has_items;
  std::vector<int64_t> before(kIds);
  std::vector<int64_t> after(kIds);
  for (uint64_t i = seed; !shared->done; i += 100) {
    TestSearch search(FilterTexts(), k, i);
    for (int64_t id = 0; id < kMoving; ++id) before[id] = shared->finished[id];
    search.Run(shared->index, AlgorithmOf(options, static_cast<int64_t>(i)),
               nullptr, Threads(threads));
    for (int64_t id = 0; id < kMoving; ++id) after[id] = shared->started[id];
    ++shared->searches;
    for (size_t b = 0; b < Filters().size(); ++b) {
      const std::vector<Scored> got = Got(search, b, k);
      std::map<int64_t, int64_t> number_of_id;
      for (const Scored& result : got) {
        const int64_t id = result.number % kIds;
        const int64_t version = result.number / kIds;
        CHECK_THAT(number_of_id.emplace(id, result.number).second)
            << "twice: " << id;
        CHECK_THAT(Filters()[b].passes(result.number));
        if (exact) {
          CHECK_THAT(result.score ==
                     TestScore(search.Query(b, options.similarity),
                               result.number, options))
              << "torn " << result.number;
        }
        if (id < kFixed) continue;
        // Of a time during the search, and not deleted before it.
        CHECK_THAT(version >= before[id] && version <= after[id])
            << id << " " << before[id] << " " << version << " " << after[id];
      }
      if (!exact) continue;
      // Whatever did not change meanwhile is there, if it belongs there.
      const bool is_full = static_cast<int64_t>(got.size()) == k;
      for (int64_t id = 0; id < kMoving; ++id) {
        const bool moved = id >= kFixed && before[id] != after[id];
        const bool is_there = id < kFixed || before[id] % 2 == 1;
        const int64_t number = NumberOf(id, before[id]);
        if (moved || !is_there || !Filters()[b].passes(number)) continue;
        if (number_of_id.count(id) > 0) continue;
        CHECK_THAT(is_full) << "missing " << id;
        if (!is_full) continue;
        CHECK_THAT(TestScore(search.Query(b, options.similarity), number,
                             options) <= got.back().score)
            << "missing " << id;
      }
    }
  }
}

// LINTF_TEST_CHANGES: how many batches each writer writes; more of them make
// it run for minutes.
void ReadersAndWriters(const TestIndex::Options& options, int64_t k) {
  const char* const wish = std::getenv("LINTF_TEST_CHANGES");
  const int64_t changes = wish == nullptr ? 4000 : std::atoll(wish);
  auto shared = std::make_unique<Shared>(options);
  std::vector<int64_t> fixed;
  for (int64_t id = 0; id < kFixed; ++id) fixed.push_back(id);
  shared->index.Update(fixed, {});
  std::vector<std::thread> readers;
  for (int r = 0; r < 2; ++r) {
    readers.emplace_back(
        [&, r] { SearchUntilDone(shared.get(), k, r, /*threads=*/1 + r); });
  }
  std::vector<std::thread> writers;
  for (int w = 0; w < 2; ++w) {
    writers.emplace_back(
        [&, w] { WriteForAWhile(shared.get(), w, 2, changes); });
  }
  for (std::thread& writer : writers) writer.join();
  while (shared->searches == 0) std::this_thread::yield();
  shared->done = true;
  for (std::thread& reader : readers) reader.join();
}

void ThreadsOfEveryKind() {
  TestIndex::Options options;
  ReadersAndWriters(options, 10);
  ReadersAndWriters(options, 600);
  options.type = ElementType::kInt8;
  ReadersAndWriters(options, 20);
  options.type = ElementType::kFloat16;
  options.has_codes = true;
  options.ring_size = 64;
  ReadersAndWriters(options, 20);
  options.has_items = false;
  ReadersAndWriters(options, 20);
  options = {};
  options.similarity = Learned();
  ReadersAndWriters(options, 10);
}

}  // namespace
}  // namespace lintf

int main() {
  lintf::StepsOfEveryKind();
  lintf::AnnouncedBeforeItIsWritten();
  lintf::QuantizedBetweenSteps();
  lintf::CopiesCountAsScored();
  lintf::TwoStageBetweenSteps();
  lintf::ThreadsOfEveryKind();
  return lintf::testing::Result();
}
