// SPDX-License-Identifier: Apache-2.0
// Micro-benchmark of search by codes with exact rescoring: CPU milliseconds of
// the codes, of the whole, and of the exact search of every row.
//
//   quantized_knn_bench [rows=1000000] [dim=128] [k=100] [repeats=9]
//
// One bit a dimension, float32 rows, one thread; the least of the repeats.
#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <ctime>
#include <limits>
#include <random>
#include <vector>

#include "custom_ops/core/quantized_knn.h"
#include "custom_ops/core/sign_oporp.h"

namespace lintf {
namespace {

class PassAll : public MaskSource {
 public:
  int64_t num_masks() const override { return 1; }
  bool PassesAll(int64_t) const override { return true; }
  int64_t Fill(int64_t, int64_t, int64_t, uint64_t*) const override {
    return 0;
  }
};

double CpuSeconds() {
  timespec now;
  clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &now);
  return static_cast<double>(now.tv_sec) +
         1e-9 * static_cast<double>(now.tv_nsec);
}

template <typename Run>
double Milliseconds(int64_t repeats, const Run& run) {
  double best = std::numeric_limits<double>::infinity();
  for (int64_t i = 0; i < repeats; ++i) {
    const double begin = CpuSeconds();
    run();
    best = std::min(best, CpuSeconds() - begin);
  }
  return best * 1e3;
}

int64_t Argument(int argc, char** argv, int index, int64_t otherwise) {
  return argc > index ? std::atoll(argv[index]) : otherwise;
}

int Main(int argc, char** argv) {
  const int64_t rows = Argument(argc, argv, 1, 1000000);
  const int64_t dim = Argument(argc, argv, 2, 128);
  const int64_t k = Argument(argc, argv, 3, 100);
  const int64_t repeats = Argument(argc, argv, 4, 9);
  constexpr int64_t kMaxBatch = 32;

  std::mt19937_64 random(1);
  std::normal_distribution<float> normal;
  std::vector<float> items(rows * dim);
  for (float& x : items) x = normal(random);
  std::vector<float> queries(kMaxBatch * dim);
  for (float& x : queries) x = normal(random);
  OporpConfig config;
  config.dim = dim;
  config.bins = dim;
  config.repeats = 1;
  const SignOporp oporp(config);
  const int64_t words = config.words();
  std::vector<uint64_t> codes((rows + 63) / 64 * 64 * words);
  std::vector<uint64_t> code(words);
  for (int64_t row = 0; row < rows; ++row) {
    oporp.Encode(items.data() + row * dim, code.data());
    for (int64_t w = 0; w < words; ++w) {
      codes[CodeWordIndex(row, w, words)] = code[w];
    }
  }
  std::vector<float> samples(kMaxBatch * config.bits());
  oporp.ProjectBatch(queries.data(), kMaxBatch, samples.data());

  const std::vector<int32_t> mask_of_query(kMaxBatch, 0);
  std::vector<float> scores(kMaxBatch * k);
  std::vector<int64_t> found(kMaxBatch * k);
  std::vector<int32_t> counts(kMaxBatch);
  const KnnOutput output = {scores.data(), found.data(), counts.data()};
  std::printf("%-10s %5s %9s %9s %9s %9s\n", "scoring", "batch", "shortlist",
              "codes", "whole", "exact");
  for (int64_t batch : {int64_t{1}, kMaxBatch}) {
    KnnInput input;
    input.queries = queries.data();
    input.num_queries = batch;
    input.items = ItemMatrix(items.data(), ElementType::kFloat32);
    input.num_rows = rows;
    input.dim = dim;
    input.k = k;
    const double exact = Milliseconds(3, [&] {
      MaskedKnn(input, PassAll(), mask_of_query.data(), Parallel(), output);
    });
    for (CodeScoring scoring :
         {CodeScoring::kSymmetric, CodeScoring::kAsymmetric}) {
      for (int64_t factor : {4, 10, 40}) {
        CodeKnnInput by_code;
        by_code.samples = samples.data();
        by_code.num_queries = batch;
        by_code.codes = codes.data();
        by_code.num_rows = rows;
        by_code.words = words;
        by_code.scoring = scoring;
        by_code.keep = factor * k;
        std::vector<int64_t> kept(batch * factor * k);
        std::vector<int64_t> kept_counts(batch);
        const double alone = Milliseconds(repeats, [&] {
          CodeKnn(by_code, PassAll(), mask_of_query.data(),
                  CodeOrder::kAscendingRow, Parallel(),
                  {nullptr, kept.data(), kept_counts.data()});
        });
        const CodeSide code_side = {samples.data(), codes.data(), words,
                                    scoring, factor * k};
        const double whole = Milliseconds(repeats, [&] {
          QuantizedKnn(input, code_side, PassAll(), mask_of_query.data(),
                       Parallel(), output);
        });
        std::printf(
            "%-10s %5lld %9lld %9.3f %9.3f %9.3f\n",
            scoring == CodeScoring::kSymmetric ? "symmetric" : "asymmetric",
            static_cast<long long>(batch), static_cast<long long>(factor * k),
            alone, whole, exact);
      }
    }
  }
  return 0;
}

}  // namespace
}  // namespace lintf

int main(int argc, char** argv) { return lintf::Main(argc, argv); }
