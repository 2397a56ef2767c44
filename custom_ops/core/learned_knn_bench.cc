// SPDX-License-Identifier: Apache-2.0
// Times searches by a learned similarity beside an inner product search of the
// same number of rows: milliseconds, fused multiply-adds and bytes a second,
// and the ratio.
//
//   learned_knn_bench [rows] [queries] [k] [threads] [budget] [passing %]
//
// The similarity is a Mixture of Logits of 8 x 4 components of 32 with 128
// hidden units in its gate, the inner product has 128 dimensions. The rows are
// of 1000 clusters, so that there is something to find.
#if defined(__x86_64__) && defined(__GNUC__)
#include <immintrin.h>
#endif

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <numeric>
#include <random>
#include <vector>

#include "custom_ops/core/knn_kernels.h"
#include "custom_ops/core/retrieval.h"
#include "custom_ops/core/search_test_data.h"
#include "custom_ops/core/sign_oporp.h"
#include "custom_ops/core/similarity_test_data.h"

namespace lintf {
namespace {

using testing::ShapeOf;
using testing::SimilarityCase;

constexpr int64_t kDotDim = 128;
constexpr int kRounds = 5;

struct Options {
  int64_t rows = 1000000;
  int64_t queries = 1;
  int64_t k = 100;
  int threads = 1;
  int64_t budget = 1000;
  int64_t passing = 100;
};

double Milliseconds(const std::function<void()>& work) {
  double best = 1e30;
  for (int i = 0; i < kRounds; ++i) {
    const auto start = std::chrono::steady_clock::now();
    work();
    const std::chrono::duration<double, std::milli> passed =
        std::chrono::steady_clock::now() - start;
    best = std::min(best, passed.count());
  }
  return best;
}

// Fused multiply-adds a second of sums that stay in registers: what a thread
// can do at most.
#if defined(__x86_64__) && defined(__GNUC__)
constexpr int64_t kPeakSteps = 20000000;
constexpr int kPeakSums = 16;

__attribute__((target("avx512f"))) float PeakAvx512() {
  __m512 sums[kPeakSums];
  for (int i = 0; i < kPeakSums; ++i) {
    sums[i] = _mm512_set1_ps(static_cast<float>(i));
  }
  const __m512 a = _mm512_set1_ps(1.0001f);
  for (int64_t i = 0; i < kPeakSteps; ++i) {
#pragma GCC unroll 16
    for (__m512& sum : sums) sum = _mm512_fmadd_ps(sum, a, a);
  }
  for (int i = 1; i < kPeakSums; ++i) sums[0] = _mm512_add_ps(sums[0], sums[i]);
  float lanes[16];
  _mm512_storeu_ps(lanes, sums[0]);
  return std::accumulate(lanes, lanes + 16, 0.0f);
}

__attribute__((target("avx2,fma"))) float PeakAvx2() {
  __m256 sums[kPeakSums - 4];
  for (int i = 0; i < kPeakSums - 4; ++i) {
    sums[i] = _mm256_set1_ps(static_cast<float>(i));
  }
  const __m256 a = _mm256_set1_ps(1.0001f);
  for (int64_t i = 0; i < kPeakSteps; ++i) {
#pragma GCC unroll 16
    for (__m256& sum : sums) sum = _mm256_fmadd_ps(sum, a, a);
  }
  for (int i = 1; i < kPeakSums - 4; ++i) {
    sums[0] = _mm256_add_ps(sums[0], sums[i]);
  }
  float lanes[8];
  _mm256_storeu_ps(lanes, sums[0]);
  return std::accumulate(lanes, lanes + 8, 0.0f);
}

double PeakFmas() {
  const bool wide = Avx512KnnKernels() != nullptr;
  if (!wide && Avx2KnnKernels() == nullptr) return 0.0;
  volatile float sink = 0.0f;
  const double milliseconds =
      Milliseconds([&] { sink = wide ? PeakAvx512() : PeakAvx2(); });
  const int64_t fmas =
      kPeakSteps * (wide ? 16 * kPeakSums : 8 * (kPeakSums - 4));
  return static_cast<double>(fmas) / milliseconds * 1e3;
}
#else
double PeakFmas() { return 0.0; }
#endif

struct Results {
  explicit Results(const Options& o)
      : scores(o.queries * o.k),
        rows(o.queries * o.k),
        counts(o.queries),
        num_scored(o.queries) {}
  KnnOutput Output() {
    KnnOutput output;
    output.scores = scores.data();
    output.rows = rows.data();
    output.counts = counts.data();
    output.num_scored = num_scored.data();
    return output;
  }
  std::vector<float> scores;
  std::vector<int64_t> rows;
  std::vector<int32_t> counts;
  std::vector<int64_t> num_scored;
};

// Passes every row, or `percent` of them, evenly.
class SomeRows : public MaskSource {
 public:
  explicit SomeRows(int64_t percent) : percent_(percent) {}
  int64_t num_masks() const override { return 1; }
  bool PassesAll(int64_t /*mask*/) const override { return percent_ == 100; }
  int64_t Fill(int64_t /*mask*/, int64_t begin, int64_t end,
               uint64_t* bits) const override {
    std::fill_n(bits, (end - begin + kRowsPerWord - 1) / kRowsPerWord,
                uint64_t{0});
    int64_t count = 0;
    for (int64_t row = begin; row < end; ++row) {
      if (row * 37 % 100 >= percent_) continue;
      bits[(row - begin) / kRowsPerWord] |= uint64_t{1}
                                            << (row - begin) % kRowsPerWord;
      ++count;
    }
    return count;
  }

 private:
  const int64_t percent_;
};

// Moves `vectors`, of `components` each, towards one of 1000 centres, and makes
// components length 1 again. Component i is like the centre's i mod 4.
void Cluster(const SimilarityCase& centres, int64_t components, int64_t stride,
             std::vector<float>* vectors) {
  const int64_t dim = centres.shape.component_dim;
  const int64_t count = static_cast<int64_t>(vectors->size()) / stride;
  for (int64_t i = 0; i < count; ++i) {
    const float* const centre = centres.items.data() + i % 1000 * centres.dim;
    for (int64_t c = 0; c < components; ++c) {
      float* const x = vectors->data() + i * stride + c * dim;
      const float* const like = centre + c % 4 * dim;
      double squares = 0.0;
      for (int64_t d = 0; d < dim; ++d) {
        x[d] = like[d] + 0.2f * x[d];
        squares += static_cast<double>(x[d]) * x[d];
      }
      for (int64_t d = 0; d < dim; ++d) {
        x[d] = static_cast<float>(x[d] / std::sqrt(squares));
      }
    }
  }
}

class Bench {
 public:
  explicit Bench(const Options& options)
      : options_(options),
        case_(Shape(), options.queries, options.rows, 1),
        masks_(options.passing),
        mask_of_query_(options.queries, 0),
        parallel_(Threads(options.threads)),
        found_(options),
        exact_(options) {
    const SimilarityCase centres(Shape(), 1, 1000, 99);
    Cluster(centres, 4, case_.dim, &case_.items);
    Cluster(centres, 8, Shape().query_dim(), &case_.queries);
    for (auto& weights : case_.weights) {
      for (float& w : weights) w *= 0.1f;
    }
  }

  void Run() {
    peak_ = PeakFmas() * options_.threads;
    std::printf(
        "%lld rows, %lld queries, k %lld, %d threads, %lld %% pass; peak %.1f "
        "Gfma/s\n",
        static_cast<long long>(options_.rows),
        static_cast<long long>(options_.queries),
        static_cast<long long>(options_.k), options_.threads,
        static_cast<long long>(options_.passing), peak_ / 1e9);
    Dot();
    RetrievalInput input;
    input.similarity = &case_.similarity;
    input.knn.queries = case_.queries.data();
    input.knn.num_queries = options_.queries;
    input.knn.items = ItemMatrix(case_.items.data(), ElementType::kFloat32);
    input.knn.num_rows = options_.rows;
    input.knn.dim = case_.dim;
    input.knn.k = options_.k;
    input.budget = options_.budget;
    PlannerCosts::FromList({}, ElementType::kFloat32, &input.costs);
    SimilarityCosts::FromList({}, &input.similarity_costs);
    MakeCodes(&input);
    input.algorithm = Algorithm::kExact;
    Time("exact", input);
    exact_ = found_;
    input.algorithm = Algorithm::kBounded;
    Time("bounded", input);
    input.algorithm = Algorithm::kTwoStage;
    Time("two_stage averaged", input);
    input.candidates = Candidates::kComponents;
    Time("two_stage components", input);
    input.candidates = Candidates::kCodes;
    Time("two_stage codes", input);
  }

 private:
  static SimilarityShape Shape() {
    return ShapeOf(PairSimilarity::kInnerProduct, Gate::kSiluSoftmax, 8, 4, 32,
                   128);
  }

  void Dot() {
    std::mt19937 random(3);
    std::uniform_real_distribution<float> uniform(-1.0f, 1.0f);
    std::vector<float> items(options_.rows * kDotDim);
    for (float& x : items) x = uniform(random);
    KnnInput knn;
    knn.queries = items.data();
    knn.num_queries = options_.queries;
    knn.items = ItemMatrix(items.data(), ElementType::kFloat32);
    knn.num_rows = options_.rows;
    knn.dim = kDotDim;
    knn.k = options_.k;
    KnnOutput output = found_.Output();
    dot_ = Milliseconds([&] {
      MaskedKnn(knn, masks_, mask_of_query_.data(), parallel_, output);
    });
    std::printf("%-22s %9.2f ms  %6.2f GB/s\n", "dot, 128 dimensions", dot_,
                static_cast<double>(options_.rows * options_.passing / 100 *
                                    kDotDim * 4) /
                    dot_ / 1e6);
  }

  void MakeCodes(RetrievalInput* input) {
    const int64_t dim = case_.shape.components_dim();
    const SignOporp oporp({dim, 512, 1, 5});
    constexpr int64_t kWords = 8;
    codes_.resize((options_.rows + 63) / 64 * 64 * kWords);
    uint64_t code[kWords];
    for (int64_t row = 0; row < options_.rows; ++row) {
      oporp.Encode(case_.items.data() + row * case_.dim, code);
      for (int w = 0; w < kWords; ++w) {
        codes_[CodeWordIndex(row, w, kWords)] = code[w];
      }
    }
    samples_.resize(options_.queries * 64 * kWords);
    std::vector<float> proxy(case_.dim);
    for (int64_t b = 0; b < options_.queries; ++b) {
      AveragedQuery(case_.similarity,
                    case_.queries.data() + b * case_.shape.query_dim(),
                    proxy.data());
      oporp.ProjectBatch(proxy.data(), 1, samples_.data() + b * 64 * kWords);
    }
    input->code.codes = codes_.data();
    input->code.samples = samples_.data();
    input->code.words = kWords;
    input->code.scoring = CodeScoring::kAsymmetric;
  }

  void Time(const char* name, const RetrievalInput& input) {
    const double milliseconds = Milliseconds([&] {
      RetrieveRows(input, masks_, mask_of_query_.data(), parallel_,
                   found_.Output());
    });
    double scored = 0.0;
    for (const int64_t rows : found_.num_scored) {
      scored += static_cast<double>(rows);
    }
    const SimilarityShape shape = Shape();
    const double passing = static_cast<double>(
        options_.rows * options_.passing / 100 * options_.queries);
    double fmas = scored * static_cast<double>(shape.gate_fmas());
    fmas += (input.algorithm == Algorithm::kBounded ? passing : scored) *
            static_cast<double>(shape.logit_fmas());
    const bool scans_all = input.algorithm != Algorithm::kTwoStage;
    const double bytes = passing / static_cast<double>(options_.queries) *
                         static_cast<double>(case_.dim) * 4.0;
    std::printf("%-22s %9.2f ms", name, milliseconds);
    if (scans_all) {
      std::printf("  %6.2f GB/s", bytes / milliseconds / 1e6);
    } else {
      std::printf("             ");
    }
    std::printf(
        "  %6.2f Gfma/s (%4.1f %% of peak)  %5.2f x dot  scored %.4f  "
        "recall %.4f\n",
        fmas / milliseconds / 1e6,
        peak_ > 0 ? fmas / milliseconds * 1e5 / peak_ : 0.0,
        milliseconds / dot_, scored / passing, Recall());
  }

  double Recall() const {
    int64_t found = 0;
    int64_t wanted = 0;
    for (int64_t b = 0; b < options_.queries; ++b) {
      const auto begin = found_.rows.begin() + b * options_.k;
      for (int64_t i = 0; i < exact_.counts[b]; ++i, ++wanted) {
        found += std::count(begin, begin + found_.counts[b],
                            exact_.rows[b * options_.k + i]);
      }
    }
    return wanted == 0
               ? 1.0
               : static_cast<double>(found) / static_cast<double>(wanted);
  }

  Options options_;
  SimilarityCase case_;
  SomeRows masks_;
  std::vector<int32_t> mask_of_query_;
  Parallel parallel_;
  Results found_;
  Results exact_;
  std::vector<uint64_t> codes_;
  std::vector<float> samples_;
  double dot_ = 0.0;
  double peak_ = 0.0;
};

}  // namespace
}  // namespace lintf

int main(int argc, char** argv) {
  lintf::Options options;
  int64_t values[] = {options.rows,    options.queries, options.k,
                      options.threads, options.budget,  options.passing};
  for (int i = 1; i < argc && i <= 6; ++i) values[i - 1] = std::atoll(argv[i]);
  options.rows = values[0];
  options.queries = values[1];
  options.k = values[2];
  options.threads = static_cast<int>(values[3]);
  options.budget = values[4];
  options.passing = values[5];
  lintf::Bench(options).Run();
  return 0;
}
