// SPDX-License-Identifier: Apache-2.0
// Micro-benchmark of the search by codes: CPU time of one search, against the
// read bandwidth of the same machine in the same run.
//
//   code_knn_bench [rows=1000000] [bits=128] [threads=1] [repeats=7] [only=]
//                  [scratch_mb=256]
//
// Each time is the least of the repeats. Codes and queries are random, masks
// are ready-made bits. Prints a line for each cell: scoring, filter, batch,
// keep, CPU ms, wall ms, picoseconds of CPU a row, word and query, GB/s of
// codes read and the share of the bandwidth that one core reads them with.
#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <ctime>
#include <limits>
#include <memory>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "custom_ops/core/code_knn.h"
#include "custom_ops/core/sign_oporp.h"

namespace lintf {
namespace {

// Keeps a result from being optimised away.
volatile uint64_t sink;

double CpuSeconds() {
  timespec now;
  clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &now);
  return static_cast<double>(now.tv_sec) +
         1e-9 * static_cast<double>(now.tv_nsec);
}

double WallSeconds() {
  return std::chrono::duration<double>(
             std::chrono::steady_clock::now().time_since_epoch())
      .count();
}

// Vectorised by the compiler; memory is the limit.
#if defined(__x86_64__) && defined(__GNUC__)
__attribute__((target("avx2"), optimize("O3")))
#endif
uint64_t Sum(const uint64_t* data, int64_t count) {
  uint64_t sums[32] = {};
  for (int64_t i = 0; i + 32 <= count; i += 32) {
    for (int j = 0; j < 32; ++j) sums[j] ^= data[i + j];
  }
  uint64_t sum = 0;
  for (uint64_t x : sums) sum ^= x;
  return sum;
}

class BitMasks : public MaskSource {
 public:
  BitMasks(int64_t num_masks, int64_t rows, double rate)
      : rate_(rate), masks_(num_masks) {
    if (rate >= 1.0) return;
    std::mt19937_64 random(5);
    std::geometric_distribution<int64_t> gap(rate);
    for (std::vector<uint64_t>& mask : masks_) {
      mask.resize((rows + 63) / 64);
      for (int64_t i = gap(random); i < rows; i += 1 + gap(random)) {
        mask[i / 64] |= uint64_t{1} << (i % 64);
      }
    }
  }
  int64_t num_masks() const override {
    return static_cast<int64_t>(masks_.size());
  }
  bool PassesAll(int64_t) const override { return rate_ >= 1.0; }
  int64_t Fill(int64_t mask, int64_t begin, int64_t end,
               uint64_t* bits) const override {
    const int64_t words = (end - begin + 63) / 64;
    std::memcpy(bits, masks_[mask].data() + begin / 64, words * 8);
    int64_t count = 0;
    for (int64_t w = 0; w < words; ++w) {
      if (bits[w] != 0) count += __builtin_popcountll(bits[w]);
    }
    return count;
  }

 private:
  double rate_;
  std::vector<std::vector<uint64_t>> masks_;
};

Parallel Threads(int count) {
  Parallel parallel;
  parallel.num_threads = count;
  if (count == 1) return parallel;
  parallel.run = [count](int64_t num_tasks, const Parallel::Work& work) {
    std::atomic<int64_t> next{0};
    std::vector<std::thread> threads;
    for (int i = 0; i < count; ++i) {
      threads.emplace_back([&] {
        for (int64_t t = next++; t < num_tasks; t = next++) work(t);
      });
    }
    for (std::thread& thread : threads) thread.join();
  };
  return parallel;
}

struct Best {
  double cpu = std::numeric_limits<double>::infinity();
  double wall = std::numeric_limits<double>::infinity();
};

template <typename Run>
Best Measure(int repeats, const Run& run) {
  Best best;
  for (int i = 0; i < repeats; ++i) {
    const double wall = WallSeconds();
    const double cpu = CpuSeconds();
    run();
    best.cpu = std::min(best.cpu, CpuSeconds() - cpu);
    best.wall = std::min(best.wall, WallSeconds() - wall);
  }
  return best;
}

class Bench {
 public:
  Bench(int64_t rows, int64_t words, int threads, int repeats,
        const std::string& only, int64_t scratch_bytes)
      : rows_(rows),
        words_(words),
        repeats_(repeats),
        only_(only),
        scratch_bytes_(scratch_bytes),
        parallel_(Threads(threads)),
        codes_((rows + 63) / 64 * 64 * words),
        samples_(kMaxBatch * words * 64) {
    std::mt19937_64 random(1);
    for (uint64_t& word : codes_) word = random();
    std::normal_distribution<float> normal;
    for (float& sample : samples_) sample = normal(random);
    Calibrate();
    Calibrate();
  }

  double bandwidth() const { return bandwidth_; }

  void Cell(CodeScoring scoring, int64_t batch, int64_t keep, bool own,
            double rate) {
    const bool symmetric = scoring == CodeScoring::kSymmetric;
    char label[100];
    std::snprintf(label, sizeof(label), "%-10s %-6s %9g %5lld %9lld",
                  symmetric ? "symmetric" : "asymmetric",
                  own ? "own" : "shared", rate, static_cast<long long>(batch),
                  static_cast<long long>(keep));
    if (std::string(label).find(only_) == std::string::npos) return;
    const BitMasks masks(own ? batch : 1, rows_, rate);
    std::vector<int32_t> mask_of_query(batch, 0);
    for (int64_t b = 0; own && b < batch; ++b) {
      mask_of_query[b] = static_cast<int32_t>(b);
    }
    std::vector<float> scores(batch * keep);
    std::vector<int64_t> found(batch * keep);
    std::vector<int64_t> counts(batch);
    CodeKnnInput input;
    input.samples = samples_.data();
    input.num_queries = batch;
    input.codes = codes_.data();
    input.num_rows = rows_;
    input.words = words_;
    input.scoring = scoring;
    input.keep = keep;
    input.scratch_bytes = scratch_bytes_;
    const CodeKnnOutput output = {scores.data(), found.data(), counts.data()};
    const Best best = Measure(repeats_, [&] {
      CodeKnn(input, masks, mask_of_query.data(), CodeOrder::kBestFirst,
              parallel_, output);
    });
    Calibrate();
    const double bytes = static_cast<double>(codes_.size()) * 8;
    const double work =
        static_cast<double>(rows_) * static_cast<double>(words_ * batch);
    std::printf("%s %10.3f %10.3f %9.1f %7.1f %7.0f\n", label, best.cpu * 1e3,
                best.wall * 1e3, best.cpu / work * 1e12,
                bytes / best.cpu * 1e-9, 100.0 * bytes / best.cpu / bandwidth_);
    std::fflush(stdout);
  }

  void Encode() {
    if (std::string("encode").find(only_) == std::string::npos) return;
    constexpr int64_t kDim = 128;
    constexpr int64_t kCount = 20000;
    std::vector<float> vectors(kCount * kDim);
    std::mt19937_64 random(2);
    std::normal_distribution<float> normal;
    for (float& x : vectors) x = normal(random);
    for (int64_t repeats : {8, 32}) {
      OporpConfig config;
      config.dim = kDim;
      config.bins = 16;
      config.repeats = repeats;
      const SignOporp oporp(config);
      std::vector<uint64_t> codes(kCount * config.words());
      const Best best = Measure(repeats_, [&] {
        oporp.EncodeBatch(vectors.data(), kCount, codes.data());
      });
      std::printf("encode 1,000,000 x %lld into %lld bits (16 bins): %.0f ms\n",
                  static_cast<long long>(kDim),
                  static_cast<long long>(config.bits()),
                  best.cpu * 1e3 * 1e6 / kCount);
    }
  }

 private:
  static constexpr int64_t kMaxBatch = 256;

  void Calibrate() {
    const int64_t count = static_cast<int64_t>(codes_.size());
    const Best read = Measure(3, [&] { sink = Sum(codes_.data(), count); });
    bandwidth_ =
        std::max(bandwidth_, static_cast<double>(count) * 8 / read.cpu);
  }

  int64_t rows_;
  int64_t words_;
  int repeats_;
  std::string only_;
  int64_t scratch_bytes_;
  Parallel parallel_;
  std::vector<uint64_t> codes_;
  std::vector<float> samples_;
  double bandwidth_ = 0.0;
};

int64_t Argument(int argc, char** argv, int index, int64_t otherwise) {
  return argc > index ? std::atoll(argv[index]) : otherwise;
}

int Main(int argc, char** argv) {
  const int64_t rows = Argument(argc, argv, 1, 1000000);
  const int64_t bits = Argument(argc, argv, 2, 128);
  const int threads = static_cast<int>(Argument(argc, argv, 3, 1));
  const int repeats = static_cast<int>(Argument(argc, argv, 4, 7));
  const std::string only = argc > 5 ? argv[5] : "";
  const int64_t scratch_mb = Argument(argc, argv, 6, 256);
  Bench bench(rows, bits / 64, threads, repeats, only, scratch_mb << 20);
  std::printf("rows %lld bits %lld threads %d; one core reads %.1f GB/s\n",
              static_cast<long long>(rows), static_cast<long long>(bits),
              threads, bench.bandwidth() * 1e-9);
  std::printf("%-10s %-6s %9s %5s %9s %10s %10s %9s %7s %7s\n", "scoring",
              "filter", "rate", "batch", "keep", "CPU ms", "wall ms", "ps",
              "GB/s", "% read");
  for (CodeScoring scoring :
       {CodeScoring::kSymmetric, CodeScoring::kAsymmetric}) {
    for (int64_t batch : {1, 2, 4, 8, 16, 32, 64, 128, 256}) {
      bench.Cell(scoring, batch, 100, false, 1.0);
    }
    for (int64_t keep : {1, 1000, 10000})
      bench.Cell(scoring, 1, keep, false, 1);
    for (int64_t part : {20, 2, 1}) {
      bench.Cell(scoring, 1, rows / part, false, 1.0);
    }
    bench.Cell(scoring, 32, 1000, false, 1.0);
    bench.Cell(scoring, 32, rows / 100, false, 1.0);
    for (double rate : {0.5, 0.1, 0.01, 1e-3, 1e-4, 1e-5}) {
      bench.Cell(scoring, 1, 100, false, rate);
      bench.Cell(scoring, 32, 100, true, rate);
    }
  }
  bench.Encode();
  return 0;
}

}  // namespace
}  // namespace lintf

int main(int argc, char** argv) { return lintf::Main(argc, argv); }
