// SPDX-License-Identifier: Apache-2.0
// A small index for the tests of updates, in which everything that a row holds
// follows from one number, so that a row mixed from two versions shows.
#ifndef LINTF_CUSTOM_OPS_CORE_LIVE_TEST_INDEX_H_
#define LINTF_CUSTOM_OPS_CORE_LIVE_TEST_INDEX_H_

#include <cstdint>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "custom_ops/core/filter_compiler.h"
#include "custom_ops/core/index_state.h"
#include "custom_ops/core/item_encoding.h"
#include "custom_ops/core/live_search.h"
#include "custom_ops/core/masked_knn.h"
#include "custom_ops/core/row_tables.h"
#include "custom_ops/core/row_writer.h"
#include "custom_ops/core/sign_oporp.h"
#include "custom_ops/core/testing.h"

namespace lintf::testing {

// An item is its id and a version; its number is id + version * kIds.
inline constexpr int64_t kIds = 1000;
inline constexpr int64_t kTestDim = 24;
inline constexpr int64_t kTagWidth = 3;

struct TestIndexOptions {
  int64_t capacity = kIds;
  ElementType type = ElementType::kFloat32;
  bool has_items = true;
  bool has_codes = false;
  int64_t ring_size = 1 << 16;
  int64_t max_copy_bytes = int64_t{128} << 20;  // of its searches
  // Of a learned index; its item_dim must be kTestDim. Null: inner products.
  const Similarity* similarity = nullptr;
  // What the ids of rows not in use happen to hold.
  int64_t unused_id = kNoId;
};

class TestIndex {
 public:
  using Options = TestIndexOptions;

  explicit TestIndex(const Options& options)
      : options_(options),
        oporp_({kTestDim, kTestDim, 8, 7}),
        ids_(options.capacity, options.unused_id),
        items_(options.capacity * kTestDim),
        scales_(options.capacity),
        codes_((options.capacity + 63) / 64 * 64 * oporp_.config().words()),
        number_(options.capacity),
        label_(options.capacity),
        tags_(options.capacity * kTagWidth) {
    tables_.ids = ids_.data();
    tables_.dim = kTestDim;
    if (options.has_items) {
      tables_.items = ItemMatrix(
          items_.data(), options.type,
          options.type == ElementType::kInt8 ? scales_.data() : nullptr);
    }
    if (options.has_codes) {
      tables_.codes = codes_.data();
      tables_.code_words = oporp_.config().words();
    }
    tables_.columns = {{ColumnType::kInt64, number_.data(), 1},
                       {ColumnType::kUint16, label_.data(), 1},
                       {ColumnType::kUint8, tags_.data(), kTagWidth}};
    state_ = std::make_unique<IndexState>(ids_.data(), 0, options.capacity,
                                          options.ring_size);
  }

  static std::vector<float> VectorOf(int64_t number) {
    std::vector<float> vector(kTestDim);
    uint64_t x = static_cast<uint64_t>(number) * 0x9E3779B97F4A7C15u + 1;
    for (float& value : vector) {
      x ^= x << 13;
      x ^= x >> 7;
      x ^= x << 17;
      value = static_cast<float>(static_cast<int64_t>(x % 2001) - 1000) / 512;
    }
    return vector;
  }
  static uint16_t LabelOf(int64_t number) {
    return static_cast<uint16_t>(number % 997 + kFirstVocabularyCode);
  }
  static uint8_t TagOf(int64_t number, int64_t slot) {
    return static_cast<uint8_t>((number >> slot) % 7 + 2);
  }

  // Applies upserts of numbers and deletes of ids, in this order.
  std::vector<UpdateStatus> Update(const std::vector<int64_t>& numbers,
                                   const std::vector<int64_t>& deleted,
                                   bool attributes_only = false) {
    const int64_t count = static_cast<int64_t>(numbers.size() + deleted.size());
    RowUpdates updates;
    updates.count = count;
    updates.attributes_only = attributes_only;
    std::vector<int64_t> ids;
    const auto remove = std::make_unique<bool[]>(count);
    const int64_t bytes = kTestDim * ElementSize(options_.type);
    std::vector<uint64_t> items((count * bytes + 7) / 8);
    std::vector<float> scales(count);
    std::vector<uint64_t> codes(count * oporp_.config().words());
    std::vector<int64_t> number(count);
    std::vector<uint16_t> label(count);
    std::vector<uint8_t> tags(count * kTagWidth);
    for (int64_t i = 0; i < count; ++i) {
      remove[i] = i >= static_cast<int64_t>(numbers.size());
      const int64_t n = remove[i] ? deleted[i - numbers.size()] : numbers[i];
      ids.push_back(n % kIds);
      number[i] = n;
      label[i] = LabelOf(n);
      for (int64_t t = 0; t < kTagWidth; ++t) {
        tags[i * kTagWidth + t] = TagOf(n, t);
      }
      const std::vector<float> vector = VectorOf(n);
      EncodeRow(options_.type, vector.data(), kTestDim,
                reinterpret_cast<char*>(items.data()) + i * bytes, &scales[i]);
      oporp_.Encode(vector.data(), codes.data() + i * oporp_.config().words());
    }
    updates.ids = ids.data();
    updates.remove = remove.get();
    if (!attributes_only) {
      updates.items = items.data();
      updates.scales = scales.data();
      updates.codes = codes.data();
    }
    updates.columns = {number.data(), label.data(), tags.data()};
    const std::lock_guard<std::mutex> lock(state_->write_mu());
    const UpdatePlan plan(updates, *state_);
    if (plan.missing_room() > 0) return {};
    plan.Apply(tables_, state_.get());
    return plan.status();
  }

  // As a writer that has announced a row and written nothing of it yet.
  void Announce(int64_t row) {
    state_->changes().Begin(row);
    state_->changes().End(row);
  }

  const Options& options() const { return options_; }
  const RowTables& tables() const { return tables_; }
  const IndexState& state() const { return *state_; }
  const SignOporp& oporp() const { return oporp_; }
  const std::vector<int64_t>& ids() const { return ids_; }

  static FilterSchema Schema() {
    FilterSchema schema;
    AttributeDef number;
    number.name = "number";
    AttributeDef label;
    label.name = "label";
    label.kind = AttributeKind::kCategory;
    label.encoding = AttributeEncoding::kVocabulary;
    label.type = ColumnType::kUint16;
    for (int64_t i = 0; i < 997; ++i) {
      label.vocabulary["l" + std::to_string(i)] = i;
    }
    AttributeDef tags;
    tags.name = "tags";
    tags.kind = AttributeKind::kTags;
    tags.encoding = AttributeEncoding::kVocabulary;
    tags.type = ColumnType::kUint8;
    tags.width = kTagWidth;
    for (int64_t i = 0; i < 7; ++i) {
      tags.vocabulary["t" + std::to_string(i)] = i;
    }
    schema.attributes = {number, label, tags};
    return schema;
  }

 private:
  const Options options_;
  const SignOporp oporp_;
  std::vector<int64_t> ids_;
  std::vector<float> items_;
  std::vector<float> scales_;
  std::vector<uint64_t> codes_;
  std::vector<int64_t> number_;
  std::vector<uint16_t> label_;
  std::vector<uint8_t> tags_;
  RowTables tables_;
  std::unique_ptr<IndexState> state_;
};

// One search of a TestIndex, and what it found.
class TestSearch {
 public:
  // One query for each filter.
  TestSearch(const std::vector<std::string>& filters, int64_t k, uint64_t seed)
      : k_(k), num_queries_(static_cast<int64_t>(filters.size())) {
    for (int64_t b = 0; b < num_queries_; ++b) {
      const std::vector<float> query = TestIndex::VectorOf(
          static_cast<int64_t>(seed) * 1000003 + b + 77777777);
      queries_.insert(queries_.end(), query.begin(), query.end());
    }
    std::vector<std::vector<int64_t>> compiled(filters.size());
    const FilterSchema schema = TestIndex::Schema();
    for (size_t i = 0; i < filters.size(); ++i) {
      const std::string error =
          CompileFilter(filters[i], schema, {}, &compiled[i]);
      CHECK_THAT(error.empty()) << error;
      words_ = std::max<int64_t>(words_, compiled[i].size());
    }
    words_ = std::max<int64_t>(words_, 1);
    for (std::vector<int64_t>& program : compiled) {
      program.resize(words_);
      programs_.insert(programs_.end(), program.begin(), program.end());
    }
    scores.resize(num_queries_ * k);
    rows.resize(num_queries_ * k);
    counts.resize(num_queries_);
    ids.resize(num_queries_ * k);
    number.resize(num_queries_ * k);
    label.resize(num_queries_ * k);
    tags.resize(num_queries_ * k * kTagWidth);
  }

  void Run(const TestIndex& index, Algorithm algorithm,
           const std::function<void()>& between_steps = nullptr,
           const Parallel& parallel = Parallel()) {
    LiveQuery query;
    query.programs = programs_.data();
    query.words_per_program = words_;
    query.returned_columns = {2, 0, 1};
    query.max_copy_bytes = index.options().max_copy_bytes;
    query.between_steps = between_steps;
    RetrievalInput& input = query.retrieval;
    std::vector<float> queries;
    for (int64_t b = 0; b < num_queries_; ++b) {
      const std::vector<float> query = Query(b, index.options().similarity);
      queries.insert(queries.end(), query.begin(), query.end());
    }
    input.knn.queries = queries.data();
    input.similarity = index.options().similarity;
    SimilarityCosts::FromList({}, &input.similarity_costs);
    input.knn.num_queries = num_queries_;
    input.knn.dim = kTestDim;
    input.knn.k = k_;
    input.algorithm = algorithm;
    PlannerCosts::FromList({}, index.tables().items.type, &input.costs);
    std::vector<float> samples;
    if (index.tables().codes != nullptr) {
      samples.resize(num_queries_ * index.oporp().config().bits());
      index.oporp().ProjectBatch(queries_.data(), num_queries_, samples.data());
      input.code.samples = samples.data();
      input.code.shortlist = 2 * k_;
    }
    LiveOutput output;
    output.scores = scores.data();
    output.rows = rows.data();
    output.counts = counts.data();
    output.ids = ids.data();
    output.columns = {tags.data(), number.data(), label.data()};
    num_scored.assign(num_queries_, -1);
    output.num_scored = num_scored.data();
    RetrievalCounts answered;
    int64_t bad = -1;
    const std::string error = SearchLive(index.tables(), index.state(), query,
                                         parallel, output, &answered, &bad);
    CHECK_THAT(error.empty()) << error;
    CHECK_THAT(answered.masked + answered.prefiltered + answered.quantized +
                   answered.exact + answered.bounded + answered.two_stage ==
               num_queries_);
  }

  // Query `b`, as long as a learned index wants it.
  std::vector<float> Query(int64_t b, const Similarity* similarity) const {
    const float* const query = queries_.data() + b * kTestDim;
    std::vector<float> longer(query, query + kTestDim);
    if (similarity == nullptr) return longer;
    const int64_t dim = similarity->shape.query_dim();
    for (int64_t d = kTestDim; d < dim; ++d) {
      longer.push_back(0.5f * query[d % kTestDim] - query[d % 7]);
    }
    longer.resize(dim);
    return longer;
  }
  const std::vector<float>& queries() const { return queries_; }

  std::vector<float> scores;
  std::vector<int64_t> rows;
  std::vector<int32_t> counts;
  std::vector<int64_t> ids;
  std::vector<int64_t> number;
  std::vector<uint16_t> label;
  std::vector<uint8_t> tags;
  std::vector<int64_t> num_scored;  // -1: not set

 private:
  const int64_t k_;
  const int64_t num_queries_;
  int64_t words_ = 0;
  std::vector<float> queries_;
  std::vector<int64_t> programs_;
};

// The exact score of an item by its number.
inline float TestScore(const std::vector<float>& query, int64_t number,
                       const TestIndexOptions& options) {
  const ElementType type = options.type;
  const std::vector<float> vector = TestIndex::VectorOf(number);
  std::vector<float> stored(kTestDim);
  float scale = 0.0f;
  EncodeRow(type, vector.data(), kTestDim, stored.data(), &scale);
  RetrievalInput retrieval;
  KnnInput& input = retrieval.knn;
  input.queries = query.data();
  input.num_queries = 1;
  input.items = ItemMatrix(stored.data(), type,
                           type == ElementType::kInt8 ? &scale : nullptr);
  input.num_rows = 1;
  input.dim = kTestDim;
  input.k = 1;
  class AllRows : public MaskSource {
    int64_t num_masks() const override { return 1; }
    bool PassesAll(int64_t) const override { return true; }
    int64_t Fill(int64_t, int64_t, int64_t, uint64_t*) const override {
      return 0;
    }
  };
  float score = 0.0f;
  int64_t row = 0;
  int32_t count = 0;
  const int32_t mask = 0;
  KnnOutput output;
  output.scores = &score;
  output.rows = &row;
  output.counts = &count;
  if (options.similarity != nullptr) {
    retrieval.similarity = options.similarity;
    RetrieveRowsReference(retrieval, AllRows(), &mask, output);
  } else {
    MaskedKnnReference(input, AllRows(), &mask, output);
  }
  return score;
}

}  // namespace lintf::testing

#endif  // LINTF_CUSTOM_OPS_CORE_LIVE_TEST_INDEX_H_
