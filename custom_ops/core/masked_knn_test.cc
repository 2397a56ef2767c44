// SPDX-License-Identifier: Apache-2.0
// Property tests of the KNN search against its scalar reference, bit for bit.
#include "custom_ops/core/masked_knn.h"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <random>
#include <string>
#include <vector>

#ifdef __SSE2__
#include <xmmintrin.h>
#endif

#include "custom_ops/core/item_encoding.h"
#include "custom_ops/core/knn_kernels.h"
#include "custom_ops/core/knn_test_data.h"
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
  KnnTuning tuning;

  std::string Describe() const {
    return "rows " + std::to_string(rows) + " dim " + std::to_string(dim) +
           " batch " + std::to_string(batch) + " k " + std::to_string(k) +
           " type " + std::to_string(static_cast<int>(type)) +
           (metric == Metric::kL2 ? " l2" : " inner product") + " masks " +
           std::to_string(masks.size()) + " layout " +
           std::to_string(static_cast<int>(tuning.layout)) + " ";
  }
};

using Answer = testing::KnnAnswer;
using Stored = testing::StoredRows;

KnnInput InputOf(const Case& c, const Stored& stored) {
  KnnInput input;
  input.queries = c.queries.data();
  input.num_queries = c.batch;
  input.items = stored.matrix;
  input.num_rows = c.rows;
  input.dim = c.dim;
  input.metric = c.metric;
  input.k = c.k;
  input.tuning = c.tuning;
  return input;
}

template <typename Run>
Answer RunWith(const Case& c, const Run& run) {
  Answer answer;
  answer.scores.assign(c.batch * c.k, 12345.0f);
  answer.rows.assign(c.batch * c.k, 12345);
  answer.counts.assign(c.batch, 12345);
  const Stored stored(c);
  run(InputOf(c, stored), KnnOutput{answer.scores.data(), answer.rows.data(),
                                    answer.counts.data(), nullptr});
  return answer;
}

Answer Expected(const Case& c) {
  return RunWith(c, [&](const KnnInput& input, const KnnOutput& output) {
    MaskedKnnReference(input, VectorMasks(c.masks), c.mask_of_query.data(),
                       output);
  });
}

Answer Got(const Case& c, const Parallel& parallel) {
  return RunWith(c, [&](const KnnInput& input, const KnnOutput& output) {
    MaskedKnn(input, VectorMasks(c.masks), c.mask_of_query.data(), parallel,
              output);
  });
}

std::vector<KnnPath> Paths() {
  std::vector<KnnPath> paths;
  for (KnnPath path : {KnnPath::kPlain, KnnPath::kAvx2, KnnPath::kAvx512,
                       KnnPath::kAvx512Vnni}) {
    if (KnnKernelsOf(path) != nullptr) paths.push_back(path);
  }
  return paths;
}

constexpr ElementType kTypes[kNumElementTypes] = {
    ElementType::kFloat32, ElementType::kBfloat16, ElementType::kFloat16,
    ElementType::kInt8};

template <typename T>
T Pick(const std::vector<T>& values, Random* random) {
  return values[(*random)() % values.size()];
}

// Values of many magnitudes, or small integers so that scores tie.
std::vector<float> RandomValues(int64_t count, int kind, Random* random) {
  std::normal_distribution<float> normal;
  std::vector<float> values(count);
  for (float& value : values) {
    switch (kind) {
      case 0:
        value = normal(*random);
        break;
      case 1:
        value = static_cast<float>(static_cast<int>((*random)() % 3) - 1);
        break;
      default: {
        static const std::vector<float> kExtremes = {
            1e38f,   -1e38f,      3e38f,   1e-38f, -1e-38f, 1e-45f,
            -3e-45f, 1e-20f,      -1e-20f, 0.0f,   -0.0f,   1.0f,
            -1.0f,   16777216.0f, 1e19f,   -1e19f};
        value = Pick(kExtremes, random);
      }
    }
  }
  return values;
}

// A mask of each shape that the search treats in its own way.
std::vector<bool> RandomMask(int64_t rows, Random* random) {
  const uint64_t shape = (*random)() % 8;
  if (shape == 0) return {};  // passes all, says so
  std::vector<bool> mask(rows, false);
  if (shape == 1) return mask;
  if (shape == 2) {
    mask.assign(rows, true);
  } else if (shape == 3) {  // one stretch
    const int64_t begin = static_cast<int64_t>((*random)() % (rows + 1));
    const int64_t length = static_cast<int64_t>((*random)() % (rows + 1));
    for (int64_t i = begin; i < std::min(begin + length, rows); ++i) {
      mask[i] = true;
    }
  } else {
    const double rate =
        Pick<double>({0.002, 0.02, 0.1, 0.3, 0.5, 0.95}, random);
    std::bernoulli_distribution passes(rate);
    for (int64_t i = 0; i < rows; ++i) mask[i] = passes(*random);
  }
  return mask;
}

Case RandomCase(Random* random) {
  static const std::vector<int64_t> kRows = {0,  1,  15,  16,   17,  63,
                                             64, 65, 200, 1000, 4097};
  static const std::vector<int64_t> kDims = {1,  2,  7,  8,  16,  17, 31,
                                             33, 50, 63, 64, 128, 129};
  static const std::vector<int64_t> kBatches = {1,  2,  3,  4,  7,  8, 9,
                                                16, 17, 31, 32, 33, 64};
  Case c;
  c.rows = Pick(kRows, random);
  c.dim = Pick(kDims, random);
  c.batch = Pick(kBatches, random);
  // The reference is slow: the largest shapes are left to other tests.
  if (c.rows * c.dim * c.batch > 4000000) c.batch = 3;
  c.k = Pick<int64_t>({1, 10, 100, c.rows + 5}, random);
  c.metric = (*random)() % 2 == 0 ? Metric::kInnerProduct : Metric::kL2;
  c.type = kTypes[(*random)() % kNumElementTypes];
  const int kind = static_cast<int>((*random)() % 4) % 3;
  c.items = RandomValues(c.rows * c.dim, kind, random);
  c.queries = RandomValues(c.batch * c.dim, kind, random);
  if (c.rows > 10) {
    // Duplicates and zero rows.
    for (int64_t i = 0; i < c.rows / 10; ++i) {
      const int64_t from = static_cast<int64_t>((*random)() % c.rows);
      const int64_t to = static_cast<int64_t>((*random)() % c.rows);
      for (int64_t d = 0; d < c.dim; ++d) {
        c.items[to * c.dim + d] = i % 4 == 0 ? 0.0f : c.items[from * c.dim + d];
      }
    }
  }
  const int64_t num_masks = Pick<int64_t>({1, 2, 5, c.batch}, random);
  for (int64_t i = 0; i < num_masks; ++i) {
    c.masks.push_back(RandomMask(c.rows, random));
  }
  for (int64_t b = 0; b < c.batch; ++b) {
    c.mask_of_query.push_back(static_cast<int32_t>(
        num_masks == c.batch ? b : (*random)() % num_masks));
  }
  return c;
}

void TestRandomCases() {
  Random random(20240718);
  const std::vector<KnnPath> paths = Paths();
  for (int i = 0; i < 800; ++i) {
    Case c = RandomCase(&random);
    const Answer expected = Expected(c);
    const int threads = Pick<int>({1, 2, 8}, &random);
    c.tuning.layout = Pick<KnnLayout>(
        {KnnLayout::kAuto, KnnLayout::kShared, KnnLayout::kOwn}, &random);
    c.tuning.segment_rows =
        Pick<int64_t>({c.tuning.segment_rows, 64, 256, 1024}, &random);
    c.tuning.candidate_bytes =
        Pick<int64_t>({c.tuning.candidate_bytes, 1}, &random);
    for (KnnPath path : paths) {
      SetKnnPathForTesting(path);
      CHECK_THAT(Got(c, Threads(threads)) == expected)
          << "case " << i << ": " << c.Describe() << "path "
          << static_cast<int>(path) << " threads " << threads << " segment "
          << c.tuning.segment_rows;
    }
    ResetKnnPathForTesting();
  }
}

// A larger input, where several threads really share the work.
void TestThreadsAndBatchesAgree(ElementType type) {
  Random random(7);
  Case c;
  c.type = type;
  c.rows = 12011;
  c.dim = 50;
  c.batch = 45;
  c.k = 77;
  c.items = RandomValues(c.rows * c.dim, 0, &random);
  c.queries = RandomValues(c.batch * c.dim, 0, &random);
  for (int i = 0; i < 9; ++i) c.masks.push_back(RandomMask(c.rows, &random));
  for (int64_t b = 0; b < c.batch; ++b) {
    c.mask_of_query.push_back(static_cast<int32_t>(b * b % 9));
  }
  const Answer whole = Got(c, Threads(1));
  CHECK_THAT(whole == Expected(c));
  for (KnnPath path : Paths()) {
    SetKnnPathForTesting(path);
    for (int threads : {2, 8}) {
      CHECK_THAT(Got(c, Threads(threads)) == whole) << threads << " threads";
    }
    for (int64_t b = 0; b < c.batch; ++b) {
      Case single = c;
      single.batch = 1;
      single.queries.assign(c.queries.begin() + b * c.dim,
                            c.queries.begin() + (b + 1) * c.dim);
      single.mask_of_query = {c.mask_of_query[b]};
      const Answer alone = Got(single, Threads(1));
      CHECK_THAT(alone.counts[0] == whole.counts[b]);
      CHECK_THAT(std::memcmp(alone.scores.data(), whole.scores.data() + b * c.k,
                             c.k * sizeof(float)) == 0)
          << "query " << b;
      CHECK_THAT(std::equal(alone.rows.begin(), alone.rows.end(),
                            whole.rows.begin() + b * c.k))
          << "query " << b;
    }
  }
  ResetKnnPathForTesting();
}

// Every row ties: the lowest passing rows win, in order.
void TestTiesGoToLowerRows() {
  Case c;
  c.rows = 5000;
  c.dim = 17;
  c.batch = 20;
  c.k = 300;
  c.items.assign(c.rows * c.dim, 0.25f);
  c.queries.assign(c.batch * c.dim, 0.5f);
  std::vector<bool> even(c.rows);
  for (int64_t i = 0; i < c.rows; i += 2) even[i] = true;
  c.masks = {{}, even};
  for (int64_t b = 0; b < c.batch; ++b) {
    c.mask_of_query.push_back(static_cast<int32_t>(b % 2));
  }
  for (KnnPath path : Paths()) {
    SetKnnPathForTesting(path);
    const Answer answer = Got(c, Threads(8));
    for (int64_t b = 0; b < c.batch; ++b) {
      for (int64_t i = 0; i < c.k; ++i) {
        CHECK_THAT(answer.rows[b * c.k + i] == i * (1 + b % 2));
      }
    }
  }
  ResetKnnPathForTesting();
}

// Few rows pass at first, so that each query's are scored on their own and some
// are carried over; then most do, and they are scored together. The early ones
// must not come late.
void TestTiesAcrossLayouts() {
  Case c;
  c.rows = 20000;
  c.dim = 9;
  c.batch = 32;
  c.k = 40;
  c.items.assign(c.rows * c.dim, 1.0f);
  c.queries.assign(c.batch * c.dim, 1.0f);
  for (int64_t b = 0; b < c.batch; ++b) {
    std::vector<bool> mask(c.rows);
    for (int64_t i = 0; i < c.rows; ++i) {
      mask[i] = i < 10000 ? i % 1000 == b : (i + b) % 8 != 0;
    }
    c.masks.push_back(mask);
    c.mask_of_query.push_back(static_cast<int32_t>(b));
  }
  const Answer expected = Expected(c);
  for (KnnPath path : Paths()) {
    SetKnnPathForTesting(path);
    CHECK_THAT(Got(c, Threads(1)) == expected)
        << "path " << static_cast<int>(path);
  }
  ResetKnnPathForTesting();
}

// NaN and -inf rows are results, after all others, if there is room.
void TestNanAndInfinityCountAsLowest() {
  Case c;
  c.rows = 4;
  c.dim = 2;
  c.batch = 1;
  c.k = 6;
  c.queries = {1.0f, 1.0f};
  c.items = {kInfinity, -kInfinity, -kInfinity, 0.0f, 1.0f, 2.0f, 0.0f, -0.0f};
  c.masks = {{}};
  c.mask_of_query = {0};
  for (KnnPath path : Paths()) {
    SetKnnPathForTesting(path);
    const Answer answer = Got(c, Threads(1));
    CHECK_THAT(answer.counts[0] == 4);
    CHECK_THAT((answer.rows == std::vector<int64_t>{2, 3, 0, 1, -1, -1}));
    CHECK_THAT(
        (answer.scores == std::vector<float>{3, 0, -kInfinity, -kInfinity,
                                             -kInfinity, -kInfinity}));
  }
  ResetKnnPathForTesting();
}

// A product that is rounded before it is added, even to double precision,
// gives 1 + 2^-22 here.
void TestProductsAreFused() {
  Case c;
  c.rows = 1;
  c.dim = 2;
  c.batch = 1;
  c.k = 1;
  c.queries = {1.0f + 0x1p-23f, 0x1p-24f * (1.0f + 0x1p-23f)};
  c.items = {1.0f, 1.0f - 0x1p-23f};
  c.masks = {{}};
  c.mask_of_query = {0};
  CHECK_THAT(Expected(c).scores[0] == 1.0f + 0x1p-23f);
  for (KnnPath path : Paths()) {
    SetKnnPathForTesting(path);
    for (KnnLayout layout : {KnnLayout::kShared, KnnLayout::kOwn}) {
      c.tuning.layout = layout;
      CHECK_THAT(Got(c, Threads(1)).scores[0] == 1.0f + 0x1p-23f)
          << "path " << static_cast<int>(path);
    }
  }
  ResetKnnPathForTesting();
}

// Infinities in items make NaN of the zeros that fill up a vector of queries.
void TestInfiniteItemsDoNotReachUnusedLanes() {
  Case c;
  c.rows = 100;
  c.dim = 5;
  c.batch = 9;
  c.k = 7;
  c.queries.assign(c.batch * c.dim, 1.0f);
  c.items.assign(c.rows * c.dim, kInfinity);
  c.masks = {{}};
  c.mask_of_query.assign(c.batch, 0);
  const Answer expected = Expected(c);
  CHECK_THAT(expected.scores[0] == kInfinity);
  for (KnnPath path : Paths()) {
    SetKnnPathForTesting(path);
    c.tuning.layout = KnnLayout::kShared;
    CHECK_THAT(Got(c, Threads(1)) == expected);
  }
  ResetKnnPathForTesting();
}

void TestMinusZeroIsZero() {
  Case c;
  c.rows = 1;
  c.dim = 3;
  c.batch = 1;
  c.k = 1;
  c.metric = Metric::kL2;
  c.queries = {1.0f, 2.0f, 3.0f};
  c.items = c.queries;
  c.masks = {{}};
  c.mask_of_query = {0};
  for (KnnPath path : Paths()) {
    SetKnnPathForTesting(path);
    const Answer answer = Got(c, Threads(1));
    CHECK_THAT(answer.scores[0] == 0.0f && !std::signbit(answer.scores[0]));
  }
  ResetKnnPathForTesting();
}

// The bounds that masked_knn.h states, against the scores of the float32 rows
// in double precision.
void TestErrorBounds(ElementType type) {
  Random random(11);
  for (int i = 0; i < 40; ++i) {
    Case c;
    c.type = type;
    c.rows = 200;
    c.dim = Pick<int64_t>({1, 3, 64, 128, 300}, &random);
    c.batch = 4;
    c.k = c.rows;
    c.metric = i % 2 == 0 ? Metric::kInnerProduct : Metric::kL2;
    c.items = RandomValues(c.rows * c.dim, 0, &random);
    c.queries = RandomValues(c.batch * c.dim, 0, &random);
    // Rows next to a query: small distances of large numbers.
    std::copy_n(c.queries.data(), c.dim, c.items.data());
    for (int64_t d = 0; d < c.dim; ++d) {
      c.items[c.dim + d] = c.queries[d] * 1.001f;
    }
    c.masks = {{}};
    c.mask_of_query.assign(c.batch, 0);
    const Answer answer = Got(c, Threads(1));
    const double u = 0x1p-24;
    for (int64_t j = 0; j < c.batch * c.k; ++j) {
      const float* query = c.queries.data() + j / c.k * c.dim;
      const float* row = c.items.data() + answer.rows[j] * c.dim;
      double largest_q = 0.0;
      double largest_x = 0.0;
      for (int64_t d = 0; d < c.dim; ++d) {
        largest_q = std::max<double>(largest_q, std::fabs(query[d]));
        largest_x = std::max<double>(largest_x, std::fabs(row[d]));
      }
      double exact = 0.0;
      double stored = 0.0;
      double rounding = 0.0;
      for (int64_t d = 0; d < c.dim; ++d) {
        const double q = query[d];
        const double x = row[d];
        const double row_error =
            type == ElementType::kFloat32    ? 0.0
            : type == ElementType::kBfloat16 ? 0x1p-8 * std::fabs(x)
            : type == ElementType::kFloat16  ? 0x1p-11 * std::fabs(x) + 0x1p-25
                                             : 0.5001 * largest_x / 127;
        const double query_error =
            type == ElementType::kInt8 ? 0.502 * largest_q / 32639 : 0.0;
        const double error = row_error + query_error;
        if (c.metric == Metric::kInnerProduct) {
          exact += q * x;
          stored += std::fabs(q) * row_error +
                    (std::fabs(x) + row_error) * query_error;
          rounding += std::fabs(q) * (std::fabs(x) + row_error);
        } else {
          exact -= (q - x) * (q - x);
          stored += 2.0 * std::fabs(q - x) * error + error * error;
          rounding += (std::fabs(q - x) + error) * (std::fabs(q - x) + error);
        }
      }
      const double n = static_cast<double>(c.dim);
      if (type == ElementType::kInt8) {
        const double sum = largest_q + largest_x;
        rounding =
            8 * u * n *
            (c.metric == Metric::kL2 ? sum * sum : largest_q * largest_x);
      } else {
        rounding *= (n + 2) * u * 1.01;
      }
      CHECK_THAT(std::fabs(answer.scores[j] - exact) <= stored + rounding)
          << c.Describe() << "score " << answer.scores[j] << " exact " << exact
          << " bound " << stored + rounding;
    }
  }
}

void TestStatsCountPairs() {
  Case c;
  c.rows = 1000;
  c.dim = 8;
  c.batch = 20;
  c.k = 5;
  Random random(3);
  c.items = RandomValues(c.rows * c.dim, 0, &random);
  c.queries = RandomValues(c.batch * c.dim, 0, &random);
  c.masks = {{}};
  c.mask_of_query.assign(c.batch, 0);
  for (KnnLayout layout : {KnnLayout::kShared, KnnLayout::kOwn}) {
    c.tuning.layout = layout;
    KnnStats stats = {7, 7};
    RunWith(c, [&](const KnnInput& input, KnnOutput output) {
      output.stats = &stats;
      MaskedKnn(input, VectorMasks(c.masks), c.mask_of_query.data(), Threads(2),
                output);
    });
    const bool shared = layout == KnnLayout::kShared;
    CHECK_THAT(stats.shared == (shared ? c.rows * c.batch : 0));
    CHECK_THAT(stats.own == (shared ? 0 : c.rows * c.batch));
  }
  // Costs from outside steer the choice.
  c.tuning.layout = KnnLayout::kAuto;
  for (const KnnCosts& costs :
       {KnnCosts{1.0f, 100.0f, 100.0f}, KnnCosts{100.0f, 0.001f, 0.001f}}) {
    c.tuning.costs = &costs;
    KnnStats stats;
    RunWith(c, [&](const KnnInput& input, KnnOutput output) {
      output.stats = &stats;
      MaskedKnn(input, VectorMasks(c.masks), c.mask_of_query.data(), Threads(1),
                output);
    });
    CHECK_THAT((stats.own > 0) == (costs.row_lanes_row < 1.0f));
    CHECK_THAT(stats.own + stats.shared == c.rows * c.batch);
  }
}

// The integer sums come as close to overflow as they can.
void TestLargestInt8Dim() {
  Case c;
  c.type = ElementType::kInt8;
  c.rows = 17;
  c.dim = kMaxInt8Dim;
  c.batch = 3;
  c.k = 17;
  c.items.assign(c.rows * c.dim, 1.0f);
  std::fill_n(c.items.data(), 8 * c.dim, -1.0f);
  c.queries.assign(c.batch * c.dim, -1.0f);
  std::fill_n(c.queries.data(), c.dim, 1.0f);
  c.masks = {{}};
  c.mask_of_query.assign(c.batch, 0);
  for (Metric metric : {Metric::kInnerProduct, Metric::kL2}) {
    c.metric = metric;
    const Answer expected = Expected(c);
    for (KnnPath path : Paths()) {
      SetKnnPathForTesting(path);
      for (KnnLayout layout : {KnnLayout::kShared, KnnLayout::kOwn}) {
        c.tuning.layout = layout;
        CHECK_THAT(Got(c, Threads(1)) == expected)
            << c.Describe() << "path " << static_cast<int>(path);
      }
    }
    ResetKnnPathForTesting();
  }
}

// TensorFlow's threads run with subnormals flushed to zero.
void TestCallersFloatModeDoesNotMatter() {
#ifdef __SSE2__
  Case c;
  c.rows = 1;
  c.dim = 1;
  c.batch = 1;
  c.k = 1;
  c.queries = {1e-20f};
  c.items = {1e-20f};
  c.masks = {{}};
  c.mask_of_query = {0};
  const Answer expected = Expected(c);
  CHECK_THAT(expected.scores[0] > 0.0f);
  const unsigned int saved = _mm_getcsr();
  constexpr unsigned int kFlushToZero = 0x8040;
  for (KnnPath path : Paths()) {
    SetKnnPathForTesting(path);
    _mm_setcsr(saved | kFlushToZero);
    const Answer answer = Got(c, Threads(1));
    CHECK_THAT(_mm_getcsr() == (saved | kFlushToZero));
    _mm_setcsr(saved);
    CHECK_THAT(answer == expected) << "path " << static_cast<int>(path);
  }
  ResetKnnPathForTesting();
#endif
}

// k larger than any buffer that is kept from start to end.
void TestLargeK() {
  Random random(3);
  Case c;
  c.rows = 120000;
  c.dim = 3;
  c.batch = 2;
  c.k = 50000;
  c.items = RandomValues(c.rows * c.dim, 0, &random);
  c.queries = RandomValues(c.batch * c.dim, 0, &random);
  c.masks = {{}, std::vector<bool>(c.rows, true)};
  c.masks[1][5] = false;
  c.mask_of_query = {0, 1};
  const Answer expected = Expected(c);
  CHECK_THAT(Got(c, Threads(1)) == expected);
  CHECK_THAT(Got(c, Threads(2)) == expected);
}

}  // namespace
}  // namespace lintf

int main() {
  lintf::TestRandomCases();
  for (lintf::ElementType type : lintf::kTypes) {
    lintf::TestThreadsAndBatchesAgree(type);
    lintf::TestErrorBounds(type);
  }
  lintf::TestStatsCountPairs();
  lintf::TestLargestInt8Dim();
  lintf::TestTiesGoToLowerRows();
  lintf::TestTiesAcrossLayouts();
  lintf::TestNanAndInfinityCountAsLowest();
  lintf::TestProductsAreFused();
  lintf::TestInfiniteItemsDoNotReachUnusedLanes();
  lintf::TestMinusZeroIsZero();
  lintf::TestCallersFloatModeDoesNotMatter();
  lintf::TestLargeK();
  return lintf::testing::Result();
}
