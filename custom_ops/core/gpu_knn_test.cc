// SPDX-License-Identifier: Apache-2.0
// Searches on the GPU against the scalar reference: bit for bit where they do
// the same operations, within a bound where the tensor cores add up.
#include "custom_ops/core/gpu_knn.h"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <random>
#include <string>
#include <vector>

#include "custom_ops/core/gpu_masks.h"
#include "custom_ops/core/gpu_testing.h"
#include "custom_ops/core/item_encoding.h"
#include "custom_ops/core/knn_test_data.h"
#include "custom_ops/core/masked_knn.h"
#include "custom_ops/core/search_test_data.h"
#include "custom_ops/core/testing.h"

namespace lintf {
namespace {

using Random = std::mt19937_64;

constexpr float kInfinity = std::numeric_limits<float>::infinity();

struct Case {
  int64_t rows = 0;
  int64_t dim = 0;
  int64_t batch = 0;
  int64_t k = 0;
  Metric metric = Metric::kInnerProduct;
  ElementType type = ElementType::kFloat32;
  std::vector<float> items;
  std::vector<float> queries;
  std::vector<std::vector<bool>> masks;
  std::vector<int32_t> mask_of_query;
  gpu::KnnOptions options;
  int64_t segment_rows = (int64_t{1} << 32) - 64;
  int64_t scratch_bytes = int64_t{512} << 20;

  std::string Describe() const {
    return "rows " + std::to_string(rows) + " dim " + std::to_string(dim) +
           " batch " + std::to_string(batch) + " k " + std::to_string(k) +
           " type " + std::to_string(static_cast<int>(type)) +
           (metric == Metric::kL2 ? " l2" : " inner product") + " masks " +
           std::to_string(masks.size()) + " order " +
           std::to_string(static_cast<int>(options.order)) + " segments of " +
           std::to_string(segment_rows) + " scratch " +
           std::to_string(scratch_bytes) + " ";
  }

  bool OnTensorCores() const {
    return metric == Metric::kInnerProduct && dim % 8 == 0 &&
           (type == ElementType::kBfloat16 || type == ElementType::kFloat16);
  }
};

using Answer = testing::KnnAnswer;
using Stored = testing::StoredRows;

Case RandomCase(int64_t rows, int64_t dim, int64_t batch, int64_t k,
                Metric metric, ElementType type, Random* random) {
  Case c;
  c.rows = rows;
  c.dim = dim;
  c.batch = batch;
  c.k = k;
  c.metric = metric;
  c.type = type;
  std::normal_distribution<float> normal;
  c.items.resize(rows * dim);
  c.queries.resize(batch * dim);
  for (float& x : c.items) x = normal(*random);
  for (float& x : c.queries) x = normal(*random);
  // Ties: some rows are others.
  for (int64_t row = 1; row < rows; ++row) {
    if ((*random)() % 5 != 0) continue;
    const int64_t other = (*random)() % row;
    std::copy_n(c.items.begin() + other * dim, dim,
                c.items.begin() + row * dim);
  }
  // Masks of every density; mask 0 passes all.
  const double densities[] = {0.5, 0.02, 0.0, 1.0, 0.9};
  c.masks.emplace_back();
  const int64_t num_masks = 1 + (*random)() % 5;
  for (int64_t m = 0; m < num_masks; ++m) {
    std::bernoulli_distribution passes(densities[(*random)() % 5]);
    std::vector<bool> mask(rows);
    for (int64_t row = 0; row < rows; ++row) mask[row] = passes(*random);
    c.masks.push_back(mask);
  }
  const bool all_filtered = (*random)() % 2 == 0;
  for (int64_t b = 0; b < batch; ++b) {
    c.mask_of_query.push_back(all_filtered ? 1 + (*random)() % num_masks
                                           : (*random)() % (num_masks + 1));
  }
  return c;
}

KnnInput InputOf(const Case& c, const float* queries, const ItemMatrix& items) {
  KnnInput input;
  input.queries = queries;
  input.num_queries = c.batch;
  input.items = items;
  input.num_rows = c.rows;
  input.dim = c.dim;
  input.metric = c.metric;
  input.k = c.k;
  input.tuning.segment_rows = c.segment_rows;
  return input;
}

Answer Reference(const Case& c) {
  const Stored stored(c);
  Answer answer{std::vector<float>(c.batch * c.k),
                std::vector<int64_t>(c.batch * c.k),
                std::vector<int32_t>(c.batch)};
  KnnOutput output;
  output.scores = answer.scores.data();
  output.rows = answer.rows.data();
  output.counts = answer.counts.data();
  MaskedKnnReference(InputOf(c, c.queries.data(), stored.matrix),
                     VectorMasks(c.masks), c.mask_of_query.data(), output);
  return answer;
}

// The masks of a case in device memory.
struct DeviceMasks {
  explicit DeviceMasks(const Case& c)
      : words(std::vector<uint64_t>(c.masks.size() * gpu::MaskWords(c.rows))) {
    const VectorMasks masks(c.masks);
    view.stride = gpu::MaskWords(c.rows);
    std::vector<uint64_t> bits(c.masks.size() * view.stride,
                               0x5555555555555555u);
    for (size_t m = 0; m < c.masks.size(); ++m) {
      view.passes_all.push_back(masks.PassesAll(m));
      if (view.passes_all.back() || c.rows == 0) continue;
      masks.Fill(m, 0, c.rows, bits.data() + m * view.stride);
    }
    words.Set(bits);
    view.words = words.data();
  }

  gpu::DeviceArray<uint64_t> words;
  gpu::Masks view;
};

struct DeviceAnswer {
  explicit DeviceAnswer(const Case& c)
      : scores(c.batch * c.k), rows(c.batch * c.k), counts(c.batch) {}

  KnnOutput output() {
    KnnOutput output;
    output.scores = scores.data();
    output.rows = rows.data();
    output.counts = counts.data();
    return output;
  }
  Answer ToHost() const {
    return {scores.ToHost(), rows.ToHost(), counts.ToHost()};
  }

  gpu::DeviceArray<float> scores;
  gpu::DeviceArray<int64_t> rows;
  gpu::DeviceArray<int32_t> counts;
};

Answer Search(const Case& c) {
  const Stored stored(c);
  gpu::DeviceArray<char> items(stored.data);
  gpu::DeviceArray<float> scales(stored.scales);
  gpu::DeviceArray<float> queries(c.queries);
  const DeviceMasks masks(c);
  DeviceAnswer answer(c);
  gpu::TestContext context;
  context.set_scratch_bytes(c.scratch_bytes);
  gpu::MaskedKnn(InputOf(c, queries.data(),
                         ItemMatrix(items.data(), c.type, scales.data())),
                 masks.view, c.mask_of_query.data(), c.options, &context,
                 answer.output());
  CHECK_THAT(context.Finish());
  return answer.ToHost();
}

// What a row's score is off at most: the rounding of float32 sums, and a
// query whose last bits are cut off.
float Bound(const Case& c, int64_t query, int64_t row) {
  double magnitude = 0;
  for (int64_t d = 0; d < c.dim; ++d) {
    magnitude += std::fabs(static_cast<double>(c.queries[query * c.dim + d]) *
                           c.items[row * c.dim + d]);
  }
  return static_cast<float>(magnitude * (c.dim + 16) * std::ldexp(1.0, -22));
}

// `found` may differ from the reference by rounding: in scores, and in the
// order of rows whose scores are about the same.
void CheckClose(const Case& c, const Answer& found) {
  Case all = c;
  all.k = c.rows;
  const Answer exact = Reference(all);
  for (int64_t b = 0; b < c.batch; ++b) {
    std::vector<float> score(c.rows, -kInfinity);
    std::vector<bool> passes(c.rows);
    for (int64_t i = 0; i < exact.counts[b]; ++i) {
      score[exact.rows[b * c.rows + i]] = exact.scores[b * c.rows + i];
      passes[exact.rows[b * c.rows + i]] = true;
    }
    const int64_t count = std::min<int64_t>(c.k, exact.counts[b]);
    CHECK_THAT(found.counts[b] == count) << c.Describe();
    std::vector<bool> is_found(c.rows);
    float worst = kInfinity;
    for (int64_t i = 0; i < count; ++i) {
      const int64_t row = found.rows[b * c.k + i];
      const float s = found.scores[b * c.k + i];
      CHECK_THAT(row >= 0 && row < c.rows) << c.Describe();
      if (row < 0 || row >= c.rows) return;
      CHECK_THAT(passes[row] && !is_found[row]) << c.Describe();
      is_found[row] = true;
      CHECK_THAT(std::fabs(s - score[row]) <= Bound(c, b, row))
          << c.Describe() << "row " << row << ": " << s << " is not "
          << score[row];
      if (i > 0) {
        const float before = found.scores[b * c.k + i - 1];
        CHECK_THAT(before > s ||
                   (before == s && found.rows[b * c.k + i - 1] < row))
            << c.Describe();
      }
      worst = s;
    }
    for (int64_t row = 0; row < c.rows && count > 0; ++row) {
      if (!passes[row] || is_found[row]) continue;
      CHECK_THAT(score[row] <= worst + 2 * Bound(c, b, row))
          << c.Describe() << "row " << row << " is missing";
    }
    for (int64_t i = count; i < c.k; ++i) {
      CHECK_THAT(found.rows[b * c.k + i] == -1 &&
                 found.scores[b * c.k + i] == -kInfinity)
          << c.Describe();
    }
  }
}

void Check(const Case& c) {
  const Answer found = Search(c);
  if (c.OnTensorCores()) {
    CheckClose(c, found);
  } else {
    CHECK_THAT(found == Reference(c)) << c.Describe();
  }
}

constexpr ElementType kTypes[] = {ElementType::kFloat32, ElementType::kBfloat16,
                                  ElementType::kFloat16, ElementType::kInt8};

void TestRandomCases() {
  Random random(1);
  const int64_t all_rows[] = {1, 31, 64, 127, 257, 1000, 1600};
  const int64_t dims[] = {1, 3, 8, 16, 31, 40, 64, 104, 128, 136, 264};
  const int64_t batches[] = {1, 2, 7, 17, 40};
  const int64_t ks[] = {1, 3, 50, 2000};
  const int count = gpu::IsReduced() ? 12 : 120;
  for (int i = 0; i < count; ++i) {
    gpu::SetSchedule(i % 5);
    Case c = RandomCase(all_rows[random() % 7], dims[random() % 11],
                        batches[random() % 5], ks[random() % 4],
                        random() % 3 == 0 ? Metric::kL2 : Metric::kInnerProduct,
                        kTypes[random() % 4], &random);
    c.options.order = static_cast<gpu::ScanOrder>(random() % 3);
    if (random() % 4 == 0) c.segment_rows = 128;
    if (random() % 3 == 0) c.scratch_bytes = 1 << (12 + random() % 8);
    Check(c);
  }
  gpu::SetSchedule(0);
}

// Enough rows for a sample; and rows whose scores ascend, so that every row is
// a candidate when it comes and regions are cut again and again.
void TestManyRows() {
  for (const ElementType type : kTypes) {
    // Two of them, one on the tensor cores, are both kernels.
    if (gpu::IsReduced() && type != ElementType::kFloat32 &&
        type != ElementType::kBfloat16) {
      continue;
    }
    Random random(2);
    Case c = RandomCase(30000, 8, 3, 40, Metric::kInnerProduct, type, &random);
    Check(c);
    // So many queries take a second sample.
    Case many =
        RandomCase(20000, 8, 33, 10, Metric::kInnerProduct, type, &random);
    Check(many);
    for (int64_t row = 0; row < c.rows; ++row) {
      for (int64_t d = 0; d < c.dim; ++d) {
        c.items[row * c.dim + d] = static_cast<float>(row / 120 + 1) / 250.0f;
      }
    }
    std::fill(c.queries.begin(), c.queries.end(), 0.5f);
    c.scratch_bytes = 1 << 12;
    for (const gpu::ScanOrder order :
         {gpu::ScanOrder::kAll, gpu::ScanOrder::kListed}) {
      c.options.order = order;
      Check(c);
    }
  }
}

// All scores equal: the lowest rows win. NaN counts as -inf, -0 as +0.
void TestSpecialScores() {
  for (const ElementType type : kTypes) {
    Random random(3);
    Case c = RandomCase(3000, 8, 5, 37, Metric::kInnerProduct, type, &random);
    std::fill(c.items.begin(), c.items.end(), 1.0f);
    std::fill(c.queries.begin(), c.queries.end(), 0.25f);
    c.scratch_bytes = 1 << 14;
    Check(c);
    std::fill(c.queries.begin(), c.queries.end(), -0.0f);
    Check(c);
  }
  Random random(4);
  Case c = RandomCase(500, 8, 4, 300, Metric::kInnerProduct,
                      ElementType::kFloat32, &random);
  for (int64_t row = 0; row < c.rows; ++row) {
    float* const item = c.items.data() + row * c.dim;
    const float huge = std::numeric_limits<float>::max();
    if (row % 3 == 0) item[0] = huge, item[1] = huge;   // inf
    if (row % 3 == 1) item[0] = huge, item[1] = -huge;  // inf - inf
    if (row % 7 == 0) item[2] = 1e-42f;
  }
  for (float& x : c.queries) x = x < 0 ? -3.0f : 3.0f;
  Check(c);
  c.metric = Metric::kL2;
  Check(c);
}

// A query's result does not depend on its batch, on the order of the threads,
// nor on whether rows are listed.
void TestBatchInvariance() {
  Random random(5);
  for (const ElementType type : kTypes) {
    for (const int64_t dim : {64, 128, 160}) {
      Case c =
          RandomCase(1500, dim, 40, 60, Metric::kInnerProduct, type, &random);
      const Answer whole = Search(c);
      gpu::SetSchedule(3);
      CHECK_THAT(Search(c) == whole) << c.Describe();
      c.options.order = gpu::ScanOrder::kAll;
      CHECK_THAT(Search(c) == whole) << c.Describe();
      for (const int64_t b : {0, 7, 39}) {
        Case one = c;
        one.batch = 1;
        one.queries.assign(c.queries.begin() + b * dim,
                           c.queries.begin() + (b + 1) * dim);
        one.mask_of_query = {c.mask_of_query[b]};
        one.options.order = gpu::ScanOrder::kListed;
        const Answer alone = Search(one);
        CHECK_THAT(alone.counts[0] == whole.counts[b]) << c.Describe();
        CHECK_THAT(std::equal(alone.rows.begin(), alone.rows.end(),
                              whole.rows.begin() + b * c.k))
            << c.Describe();
        CHECK_THAT(std::memcmp(alone.scores.data(),
                               whole.scores.data() + b * c.k,
                               c.k * sizeof(float)) == 0)
            << c.Describe();
      }
      gpu::SetSchedule(0);
    }
  }
}

// More results than one block sorts.
void TestLargeK() {
  Random random(6);
  for (const ElementType type : {ElementType::kFloat32, ElementType::kInt8}) {
    Case c = RandomCase(9000, 4, 2, 5000, Metric::kL2, type, &random);
    Check(c);
    c.options.order = gpu::ScanOrder::kAll;
    c.k = 20000;
    Check(c);
  }
}

// Queries that float16 could not hold.
void TestWideQueries() {
  Random random(7);
  Case c = RandomCase(300, 32, 6, 30, Metric::kInnerProduct,
                      ElementType::kFloat16, &random);
  const float factors[] = {1e-40f, 1e-30f, 1e-5f, 1e5f, 1e30f, 0.0f};
  for (int64_t i = 0; i < c.batch * c.dim; ++i) {
    c.queries[i] *= factors[i / c.dim];
  }
  c.masks = {{}};
  c.mask_of_query.assign(c.batch, 0);
  Check(c);
  c.type = ElementType::kBfloat16;
  c.queries[0] = std::numeric_limits<float>::max();
  for (float& x : c.items) x = std::min(std::max(x, -0.5f), 0.5f);
  Check(c);
}

// kStorage: the query rounded to the type of the rows, and nothing else.
void TestStoragePrecision() {
  Random random(8);
  for (const ElementType type :
       {ElementType::kBfloat16, ElementType::kFloat16}) {
    Case c = RandomCase(700, 72, 20, 40, Metric::kInnerProduct, type, &random);
    c.options.precision = gpu::QueryPrecision::kStorage;
    const Answer found = Search(c);
    std::vector<char> bits(c.dim * 2);
    for (int64_t b = 0; b < c.batch; ++b) {
      float* const query = c.queries.data() + b * c.dim;
      EncodeRow(type, query, c.dim, bits.data(), nullptr);
      DecodeRow(ItemMatrix(bits.data(), type), 0, c.dim, query);
    }
    CheckClose(c, found);
  }
  // float32: rows and queries of 11 bits, which products have exactly.
  for (const int64_t dim : {4, 64, 100, 200}) {
    Case c = RandomCase(700, dim, 40, 40, Metric::kInnerProduct,
                        ElementType::kFloat32, &random);
    for (float& x : c.items) x = std::round(x * 256.0f) / 256.0f;
    for (float& x : c.queries) x = std::round(x * 256.0f) / 256.0f;
    c.options.precision = gpu::QueryPrecision::kStorage;
    CheckClose(c, Search(c));
  }
}

void TestNothing() {
  Random random(9);
  Case c = RandomCase(10, 4, 3, 5, Metric::kInnerProduct, ElementType::kFloat32,
                      &random);
  c.rows = 0;
  c.items.clear();
  for (auto& mask : c.masks) mask.clear();
  Check(c);
}

void TestRescoring() {
  Random random(10);
  for (const ElementType type : kTypes) {
    Case c = RandomCase(2000, 40, 5, 30, Metric::kInnerProduct, type, &random);
    c.masks.assign(c.batch, {});
    const int64_t stride = 700;
    std::vector<int64_t> rows(c.batch * stride, -1);
    std::vector<int64_t> counts;
    for (int64_t b = 0; b < c.batch; ++b) {
      c.mask_of_query[b] = b;
      c.masks[b].resize(c.rows);
      const int64_t most = b == 0 ? 0 : b == 1 ? 9 : stride;
      int64_t count = 0;
      for (int64_t row = 0; row < c.rows && count < most; ++row) {
        if (random() % 3 != 0) continue;
        c.masks[b][row] = true;
        rows[b * stride + count++] = row;
      }
      counts.push_back(count);
    }
    const Stored stored(c);
    gpu::DeviceArray<char> items(stored.data);
    gpu::DeviceArray<float> scales(stored.scales);
    gpu::DeviceArray<float> queries(c.queries);
    gpu::DeviceArray<int64_t> list_rows(rows);
    gpu::DeviceArray<int64_t> list_counts(counts);
    DeviceAnswer answer(c);
    gpu::TestContext context;
    gpu::Shortlists lists;
    lists.rows = list_rows.data();
    lists.stride = stride;
    lists.counts = list_counts.data();
    gpu::RescoreRows(InputOf(c, queries.data(),
                             ItemMatrix(items.data(), type, scales.data())),
                     lists, c.options, &context, answer.output());
    CHECK_THAT(context.Finish());
    // The same bits as a search whose masks are the lists.
    CHECK_THAT(answer.ToHost() == Search(c)) << c.Describe();
    Check(c);
  }
}

// Scratch memory that is not there is an error, not a crash.
void TestNoMemory() {
  Random random(11);
  const Case c = RandomCase(100, 4, 2, 5, Metric::kInnerProduct,
                            ElementType::kFloat32, &random);
  const Stored stored(c);
  gpu::DeviceArray<char> items(stored.data);
  gpu::DeviceArray<float> queries(c.queries);
  const DeviceMasks masks(c);
  DeviceAnswer answer(c);
  gpu::TestContext context(1000);
  gpu::MaskedKnn(InputOf(c, queries.data(), ItemMatrix(items.data(), c.type)),
                 masks.view, c.mask_of_query.data(), c.options, &context,
                 answer.output());
  CHECK_THAT(context.error().find("of free GPU memory") != std::string::npos)
      << context.error();
}

}  // namespace
}  // namespace lintf

int main() {
  lintf::TestRandomCases();
  lintf::TestManyRows();
  if (!lintf::gpu::IsReduced()) {
    lintf::TestSpecialScores();
    lintf::TestBatchInvariance();
    lintf::TestLargeK();
  }
  lintf::TestWideQueries();
  lintf::TestStoragePrecision();
  lintf::TestNothing();
  lintf::TestRescoring();
  lintf::TestNoMemory();
  return lintf::testing::Result();
}
