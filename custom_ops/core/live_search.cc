// SPDX-License-Identifier: Apache-2.0
#include "custom_ops/core/live_search.h"

#include <algorithm>
#include <cstdint>
#include <limits>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <unordered_set>
#include <utility>
#include <vector>

#include "custom_ops/core/filter_eval.h"
#include "custom_ops/core/racy_copy.h"

namespace lintf {
namespace {

// Searches with ever more results to spare before writers have to wait.
constexpr int kMaxScans = 4;
// Corrections of what one search has found, before the same.
constexpr int kMaxRounds = 8;
// Results to spare in the second search; 8 times as many in each further one.
constexpr int64_t kSpare = 64;

struct Found {
  float score;
  int64_t row;
  int64_t place;  // among the copies; -1: not copied

  // The order of results.
  bool IsBefore(const Found& other) const {
    return score != other.score ? score > other.score : row < other.row;
  }
};

class LiveSearch {
 public:
  LiveSearch(const RowTables& tables, const IndexState& state,
             const LiveQuery& query, const Parallel& parallel,
             const LiveOutput& output)
      : tables_(tables),
        state_(state),
        query_(query),
        parallel_(parallel),
        output_(output),
        k_(query.retrieval.knn.k),
        num_queries_(query.retrieval.knn.num_queries) {}

  std::string Run(RetrievalCounts* counts, int64_t* bad_program) {
    int64_t spare = 0;
    for (int scan = 0;; ++scan) {
      std::unique_lock<std::mutex> writers(state_.write_mu(), std::defer_lock);
      if (scan == kMaxScans) {
        writers.lock();
        spare = 0;
      }
      // Before anything is read: what is not finished now counts as changed.
      begin_ = state_.changes().finished();
      keep_ = k_ + spare;
      std::string error = Scan(counts, bad_program);
      if (!error.empty()) return error;
      if (Correct(writers.owns_lock())) return "";
      spare = spare == 0 ? kSpare : spare * 8;
    }
  }

 private:
  // Finds the `keep_` best as the tables stand, in the outputs themselves if
  // nothing is kept to spare.
  std::string Scan(RetrievalCounts* counts, int64_t* bad_program) {
    KnnOutput output;
    output.scores = output_.scores;
    output.rows = output_.rows;
    output.counts = output_.counts;
    if (keep_ != k_) {
      scores_.resize(num_queries_ * keep_);
      rows_.resize(num_queries_ * keep_);
      counts_.resize(num_queries_);
      output.scores = scores_.data();
      output.rows = rows_.data();
      output.counts = counts_.data();
    }
    const bool counts_scored =
        output_.num_scored != nullptr && query_.retrieval.similarity != nullptr;
    if (counts_scored) {
      scored_.assign(num_queries_, 0);
      output.num_scored = scored_.data();
    }
    const int64_t num_rows = state_.num_rows();
    FilterMasks masks;
    std::string error =
        masks.Init(query_.programs, num_queries_, query_.words_per_program,
                   &tables_.columns, tables_.ids, state_.live_bits(),
                   &state_.row_of_id(), bad_program);
    if (!error.empty()) return error;
    // A search that is done again is still one.
    const RetrievalCounts found = RetrieveRows(
        InputFor(tables_, num_rows, keep_, query_.retrieval.algorithm), masks,
        masks.mask_of_program().data(), parallel_, output);
    if (!counted_) {
      counts->masked += found.masked;
      counts->prefiltered += found.prefiltered;
      counts->quantized += found.quantized;
      counts->exact += found.exact;
      counts->bounded += found.bounded;
      counts->two_stage += found.two_stage;
      counted_ = true;
    }
    if (counts_scored) {
      std::copy_n(scored_.data(), num_queries_, output_.num_scored);
    }
    Step();
    return "";
  }

  RetrievalInput InputFor(const RowTables& tables, int64_t num_rows,
                          int64_t keep, Algorithm algorithm) const {
    RetrievalInput input = query_.retrieval;
    input.knn.items = tables.items;
    input.knn.num_rows = num_rows;
    input.knn.k = keep;
    if (input.code.samples != nullptr) {
      input.code.codes = tables.codes;
      input.code.words = tables.code_words;
    }
    input.algorithm = algorithm;
    return input;
  }

  // Puts rows that have changed since the scan began where they belong, and
  // fetches what is returned of the results. False if that needs another scan.
  bool Correct(bool writers_wait) {
    const RowChanges& changes = state_.changes();
    std::vector<int64_t> fresh;
    changed_.clear();
    copies_.reset();
    places_.clear();
    int64_t seen = begin_;
    for (int round = 0;; ++round) {
      std::unique_lock<std::mutex> writers(state_.write_mu(), std::defer_lock);
      if (round >= kMaxRounds && !writers_wait) writers.lock();
      const int64_t now = changes.announced();
      fresh.clear();
      if (!changes.Collect(seen, now, &fresh)) return false;
      seen = now;
      if (!fresh.empty()) {
        if (changed_.empty()) KeepScan();
        changed_.insert(changed_.end(), fresh.begin(), fresh.end());
        std::sort(changed_.begin(), changed_.end());
        changed_.erase(std::unique(changed_.begin(), changed_.end()),
                       changed_.end());
        const int64_t count = static_cast<int64_t>(changed_.size());
        if (count > query_.max_copy_bytes / tables_.row_bytes()) return false;
      }
      if (!changed_.empty() || keep_ != k_) {
        CopyChanged();
        if (!Merge()) return false;
      }
      Gather();
      Step();
      const int64_t after = changes.announced();
      if (after == now) return true;
      fresh.clear();
      if (!changes.Collect(now, after, &fresh)) return false;
      if (!IsAmongResults(fresh)) return true;
    }
  }

  // The scan wrote into the outputs, which the merge overwrites.
  void KeepScan() {
    if (keep_ != k_) return;
    scores_.assign(output_.scores, output_.scores + num_queries_ * k_);
    rows_.assign(output_.rows, output_.rows + num_queries_ * k_);
    counts_.assign(output_.counts, output_.counts + num_queries_);
  }

  // Copies those of the changed rows that are live, and finds the best of
  // them.
  void CopyChanged() {
    const int64_t most = static_cast<int64_t>(changed_.size());
    copies_ = std::make_unique<RowCopies>(tables_, most);
    places_.clear();
    for (const int64_t row : changed_) {
      const int64_t place = static_cast<int64_t>(places_.size());
      bool is_in_use = false;
      state_.ReadRow(row, [&] {
        copies_->Load(tables_, row, place);
        // A new row is announced before it is written; until then it holds
        // whatever lies past the rows in use.
        is_in_use = row < state_.num_rows();
      });
      if (is_in_use && copies_->id(place) != kNoId) places_.push_back(row);
    }
    const int64_t count = static_cast<int64_t>(places_.size());
    copy_keep_ = std::min(k_, count);
    copy_counts_.assign(num_queries_, 0);
    if (count == 0) return;
    copy_scores_.resize(num_queries_ * copy_keep_);
    copy_rows_.resize(num_queries_ * copy_keep_);
    FilterMasks masks;
    int64_t bad_program;
    // It has been right for the tables, whose layout this is.
    masks.Init(query_.programs, num_queries_, query_.words_per_program,
               &copies_->tables().columns, copies_->tables().ids, nullptr,
               nullptr, &bad_program);
    KnnOutput output;
    output.scores = copy_scores_.data();
    output.rows = copy_rows_.data();
    output.counts = copy_counts_.data();
    std::vector<int64_t> copies_scored(num_queries_, 0);
    output.num_scored = copies_scored.data();
    const Algorithm algorithm =
        query_.retrieval.similarity != nullptr ? Algorithm::kExact
        : tables_.items.data == nullptr        ? Algorithm::kQuantized
                                               : Algorithm::kMasked;
    RetrieveRows(InputFor(copies_->tables(), count, copy_keep_, algorithm),
                 masks, masks.mask_of_program().data(), parallel_, output);
    if (scored_.empty()) return;
    for (int64_t b = 0; b < num_queries_; ++b) {
      output_.num_scored[b] = scored_[b] + copies_scored[b];
    }
  }

  // Writes the best of the scan and the copies to the outputs. False if rows
  // that the scan left out may belong between them.
  bool Merge() {
    result_places_.assign(num_queries_ * k_, -1);
    std::vector<Found> found;
    for (int64_t b = 0; b < num_queries_; ++b) {
      found.clear();
      const int64_t scanned = counts_[b];
      for (int64_t i = b * keep_; i < b * keep_ + scanned; ++i) {
        if (!IsChanged(rows_[i])) found.push_back({scores_[i], rows_[i], -1});
      }
      const size_t unchanged = found.size();
      for (int64_t i = b * copy_keep_; i < b * copy_keep_ + copy_counts_[b];
           ++i) {
        const int64_t place = copy_rows_[i];
        found.push_back({copy_scores_[i], places_[place], place});
      }
      std::inplace_merge(
          found.begin(), found.begin() + unchanged, found.end(),
          [](const Found& a, const Found& b) { return a.IsBefore(b); });
      if (scanned == keep_) {
        // Rows after the last one that the scan has kept are not known.
        const int64_t i = b * keep_ + keep_ - 1;
        const Found last = {scores_[i], rows_[i], -1};
        const auto known = std::find_if(
            found.begin(), found.end(),
            [&](const Found& entry) { return last.IsBefore(entry); });
        if (known - found.begin() < k_) return false;
      }
      found.resize(std::min<size_t>(found.size(), k_));
      Write(b, found);
    }
    return true;
  }

  bool IsChanged(int64_t row) const {
    return std::binary_search(changed_.begin(), changed_.end(), row);
  }

  void Write(int64_t query, const std::vector<Found>& found) {
    int64_t slot = query * k_;
    for (const Found& entry : found) {
      output_.scores[slot] = entry.score;
      output_.rows[slot] = entry.row;
      result_places_[slot++] = entry.place;
    }
    output_.counts[query] = static_cast<int32_t>(found.size());
    for (; slot < (query + 1) * k_; ++slot) {
      output_.scores[slot] = -std::numeric_limits<float>::infinity();
      output_.rows[slot] = -1;
    }
  }

  // Fetches the ids and columns of the results: of copied rows from the copy
  // that was scored, of others from the tables.
  void Gather() {
    for (int64_t slot = 0; slot < num_queries_ * k_; ++slot) {
      const int64_t row = output_.rows[slot];
      output_.ids[slot] = kNoId;
      if (row < 0) continue;
      const int64_t place = changed_.empty() ? -1 : result_places_[slot];
      const RowTables& from = place < 0 ? tables_ : copies_->tables();
      const int64_t at = place < 0 ? row : place;
      LoadRacy(&output_.ids[slot], from.ids + at, sizeof(int64_t));
      for (size_t i = 0; i < output_.columns.size(); ++i) {
        const int64_t column = query_.returned_columns[i];
        const int64_t bytes = from.column_bytes(column);
        LoadRacy(
            static_cast<char*>(output_.columns[i]) + slot * bytes,
            static_cast<const char*>(from.columns[column].data) + at * bytes,
            bytes);
      }
    }
  }

  bool IsAmongResults(const std::vector<int64_t>& rows) const {
    const std::unordered_set<int64_t> wanted(rows.begin(), rows.end());
    return std::any_of(
        output_.rows, output_.rows + num_queries_ * k_,
        [&](int64_t row) { return wanted.find(row) != wanted.end(); });
  }

  void Step() const {
    if (query_.between_steps) query_.between_steps();
  }

  const RowTables& tables_;
  const IndexState& state_;
  const LiveQuery& query_;
  const Parallel& parallel_;
  const LiveOutput& output_;
  const int64_t k_;
  const int64_t num_queries_;
  int64_t begin_ = 0;  // changes that were finished when the scan began
  int64_t keep_ = 0;   // results of a query that the scan keeps
  bool counted_ = false;

  // What the scan found, [num_queries, keep_]; if keep_ is k_, only once
  // something has changed.
  std::vector<float> scores_;
  std::vector<int64_t> rows_;
  std::vector<int32_t> counts_;
  std::vector<int64_t> scored_;  // as KnnOutput::num_scored; may be empty

  std::vector<int64_t> changed_;  // rows, ascending
  std::unique_ptr<RowCopies> copies_;
  std::vector<int64_t> places_;  // the row of each copy
  int64_t copy_keep_ = 0;
  std::vector<float> copy_scores_;  // [num_queries, copy_keep_]
  std::vector<int64_t> copy_rows_;
  std::vector<int32_t> copy_counts_;
  std::vector<int64_t> result_places_;  // [num_queries, k]
};

}  // namespace

std::string SearchLive(const RowTables& tables, const IndexState& state,
                       const LiveQuery& query, const Parallel& parallel,
                       const LiveOutput& output, RetrievalCounts* counts,
                       int64_t* bad_program) {
  return LiveSearch(tables, state, query, parallel, output)
      .Run(counts, bad_program);
}

int64_t LookupLive(const RowTables& tables, const IndexState& state, int64_t id,
                   int64_t place, RowCopies* copies) {
  for (;;) {
    const int64_t row = state.row_of_id().RowOf(id);
    if (row < 0) return -1;
    state.ReadRow(row, [&] { copies->Load(tables, row, place); });
    if (copies->id(place) == id) return row;
    // It was deleted in between, and the map will say so in a moment.
    std::this_thread::yield();
  }
}

}  // namespace lintf
