// SPDX-License-Identifier: Apache-2.0
// Micro-benchmark of the KNN search: CPU time of one search, against the read
// bandwidth and the multiply-add rate of the same machine in the same run.
//
//   masked_knn_bench [rows=1000000] [dim=128] [k=100] [threads=1] [repeats=7]
//       [cells= of all] [type=f32]
//
// `cells` is a part of the names to run, as none/32/ or own; `type` f32, bf16,
// f16 or int8. Each time is the least of the repeats. Masks are ready-made
// bits. The share of the read bandwidth is of the stored bytes of the rows
// that pass for any query.
#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <ctime>
#include <limits>
#include <random>
#include <string>
#include <thread>
#include <vector>

#ifdef __x86_64__
#include <immintrin.h>
#endif

#include "custom_ops/core/huge_pages.h"
#include "custom_ops/core/item_encoding.h"
#include "custom_ops/core/knn_kernels.h"
#include "custom_ops/core/masked_knn.h"

namespace lintf {
namespace {

// Keeps a result from being optimised away.
volatile float sink;

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

#ifdef __x86_64__
__attribute__((target("avx2,fma"))) float SumAvx2(const float* data,
                                                  int64_t count) {
  __m256 sums[8] = {};
  for (int64_t i = 0; i + 64 <= count; i += 64) {
    for (int j = 0; j < 8; ++j) {
      sums[j] = _mm256_add_ps(sums[j], _mm256_loadu_ps(data + i + 8 * j));
    }
  }
  for (int j = 1; j < 8; ++j) sums[0] = _mm256_add_ps(sums[0], sums[j]);
  return _mm256_cvtss_f32(sums[0]);
}

__attribute__((target("avx2,fma"))) float FmasAvx2(int64_t rounds) {
  const __m256 x = _mm256_set1_ps(1e-3f);
  __m256 a = x, b = x, c = x, d = x, e = x, f = x, g = x, h = x, i = x, j = x;
  for (int64_t round = 0; round < rounds; ++round) {
    a = _mm256_fmadd_ps(x, x, a);
    b = _mm256_fmadd_ps(x, x, b);
    c = _mm256_fmadd_ps(x, x, c);
    d = _mm256_fmadd_ps(x, x, d);
    e = _mm256_fmadd_ps(x, x, e);
    f = _mm256_fmadd_ps(x, x, f);
    g = _mm256_fmadd_ps(x, x, g);
    h = _mm256_fmadd_ps(x, x, h);
    i = _mm256_fmadd_ps(x, x, i);
    j = _mm256_fmadd_ps(x, x, j);
    // Keeps the compiler from seeing that all sums are equal.
    asm volatile(""
                 : "+x"(a), "+x"(b), "+x"(c), "+x"(d), "+x"(e), "+x"(f),
                   "+x"(g), "+x"(h), "+x"(i), "+x"(j));
  }
  a = _mm256_add_ps(a, _mm256_add_ps(b, _mm256_add_ps(c, d)));
  e = _mm256_add_ps(e, _mm256_add_ps(f, _mm256_add_ps(g, h)));
  a = _mm256_add_ps(_mm256_add_ps(a, e), _mm256_add_ps(i, j));
  return _mm256_cvtss_f32(a);
}

__attribute__((target("avx512f"))) float FmasAvx512(int64_t rounds) {
  const __m512 x = _mm512_set1_ps(1e-3f);
  __m512 a = x, b = x, c = x, d = x, e = x, f = x, g = x, h = x, i = x, j = x;
  for (int64_t round = 0; round < rounds; ++round) {
    a = _mm512_fmadd_ps(x, x, a);
    b = _mm512_fmadd_ps(x, x, b);
    c = _mm512_fmadd_ps(x, x, c);
    d = _mm512_fmadd_ps(x, x, d);
    e = _mm512_fmadd_ps(x, x, e);
    f = _mm512_fmadd_ps(x, x, f);
    g = _mm512_fmadd_ps(x, x, g);
    h = _mm512_fmadd_ps(x, x, h);
    i = _mm512_fmadd_ps(x, x, i);
    j = _mm512_fmadd_ps(x, x, j);
    // Keeps the compiler from seeing that all sums are equal.
    asm volatile(""
                 : "+v"(a), "+v"(b), "+v"(c), "+v"(d), "+v"(e), "+v"(f),
                   "+v"(g), "+v"(h), "+v"(i), "+v"(j));
  }
  a = _mm512_add_ps(a, _mm512_add_ps(b, _mm512_add_ps(c, d)));
  e = _mm512_add_ps(e, _mm512_add_ps(f, _mm512_add_ps(g, h)));
  a = _mm512_add_ps(_mm512_add_ps(a, e), _mm512_add_ps(i, j));
  return _mm512_cvtss_f32(a);
}
#endif

float Sum(const float* data, int64_t count) {
#ifdef __x86_64__
  if (Avx2KnnKernels() != nullptr) return SumAvx2(data, count);
#endif
  float sums[16] = {};
  for (int64_t i = 0; i + 16 <= count; i += 16) {
    for (int j = 0; j < 16; ++j) sums[j] += data[i + j];
  }
  return sums[0];
}

// Multiply-adds done in `rounds`.
double Fmas(int64_t rounds) {
#ifdef __x86_64__
  if (Avx512KnnKernels() != nullptr) {
    sink = FmasAvx512(rounds);
    return 10.0 * 16.0 * static_cast<double>(rounds);
  }
  if (Avx2KnnKernels() != nullptr) {
    sink = FmasAvx2(rounds);
    return 10.0 * 8.0 * static_cast<double>(rounds);
  }
#endif
  (void)rounds;
  return 0.0;
}

class BitMasks : public MaskSource {
 public:
  BitMasks(int64_t num_masks, int64_t rows, double rate)
      : rate_(rate), masks_(num_masks) {
    if (rate >= 1.0) return;
    std::mt19937 random(5);
    for (std::vector<uint64_t>& mask : masks_) {
      mask.resize((rows + 63) / 64);
      for (int64_t i = 0; i < rows; ++i) {
        if (random() < rate * 4294967296.0) {
          mask[i / 64] |= uint64_t{1} << (i % 64);
        }
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
    return ActiveKnnKernels().count_bits(bits, words);
  }

 private:
  double rate_;
  std::vector<std::vector<uint64_t>> masks_;
};

class Threads {
 public:
  explicit Threads(int count) {
    parallel_.num_threads = count;
    if (count == 1) return;
    parallel_.run = [count](int64_t num_tasks, const Parallel::Work& work) {
      std::atomic<int64_t> next{0};
      std::vector<std::thread> threads;
      for (int i = 0; i < count; ++i) {
        threads.emplace_back([&] {
          for (int64_t t = next++; t < num_tasks; t = next++) work(t);
        });
      }
      for (std::thread& thread : threads) thread.join();
    };
  }
  const Parallel& parallel() const { return parallel_; }

 private:
  Parallel parallel_;
};

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

int64_t Argument(int argc, char** argv, int index, int64_t otherwise) {
  return argc > index ? std::atoll(argv[index]) : otherwise;
}

int Main(int argc, char** argv) {
  const int64_t rows = Argument(argc, argv, 1, 1000000);
  const int64_t dim = Argument(argc, argv, 2, 128);
  const int64_t k = Argument(argc, argv, 3, 100);
  const int threads = static_cast<int>(Argument(argc, argv, 4, 1));
  const int repeats = static_cast<int>(Argument(argc, argv, 5, 7));
  const char* only = argc > 6 ? argv[6] : "";
  const std::string type_name = argc > 7 ? argv[7] : "f32";
  const ElementType type = type_name == "bf16"   ? ElementType::kBfloat16
                           : type_name == "f16"  ? ElementType::kFloat16
                           : type_name == "int8" ? ElementType::kInt8
                                                 : ElementType::kFloat32;

  std::vector<float> items(rows * dim);
  std::mt19937 random(1);
  std::uniform_real_distribution<float> uniform(-1.0f, 1.0f);
  for (float& x : items) x = uniform(random);
  constexpr int64_t kMaxBatch = 256;
  PreferHugePages(items.data(), rows * dim * 4);
  std::vector<float> queries(kMaxBatch * dim);
  for (float& x : queries) x = uniform(random);
  const Threads pool(threads);

  const int64_t row_bytes = dim * ElementSize(type);
  std::vector<char> stored;
  std::vector<float> scales(rows);
  ItemMatrix matrix(items.data(), type, scales.data());
  if (type != ElementType::kFloat32) {
    stored.resize(rows * row_bytes);
    for (int64_t row = 0; row < rows; ++row) {
      EncodeRow(type, items.data() + row * dim, dim,
                stored.data() + row * row_bytes, &scales[row]);
    }
    matrix.data = stored.data();
  }

  const double item_bytes = static_cast<double>(rows * row_bytes);
  const double read_bytes = static_cast<double>(rows * dim) * sizeof(float);
  double bandwidth = 0.0;
  double flops = 0.0;
  const auto calibrate = [&] {
    const Best read = Measure(2, [&] { sink = Sum(items.data(), rows * dim); });
    bandwidth = std::max(bandwidth, read_bytes / read.cpu);
    const double cpu = CpuSeconds();
    const double done = Fmas(2000000);
    flops = std::max(flops, 2.0 * done / (CpuSeconds() - cpu));
  };
  for (int i = 0; i < 3; ++i) calibrate();
  std::printf(
      "%s rows %lld dim %lld k %lld threads %d; one core reads %.1f GB/s "
      "and does %.0f GFLOP/s\n",
      type_name.c_str(), static_cast<long long>(rows),
      static_cast<long long>(dim), static_cast<long long>(k), threads,
      bandwidth * 1e-9, flops * 1e-9);
  std::printf("%-16s %5s %9s %9s %8s %7s %8s %7s\n", "filter", "batch",
              "CPU ms", "wall ms", "GB/s", "% read", "GFLOP/s", "% peak");

  const auto cell = [&](const char* name, int64_t batch, bool own,
                        double rate) {
    const std::string label =
        std::string(name) + "/" + std::to_string(batch) + "/";
    if (label.find(only) == std::string::npos) return;
    const BitMasks masks(own ? batch : 1, rows, rate);
    std::vector<int32_t> mask_of_query(batch, 0);
    for (int64_t b = 0; own && b < batch; ++b) {
      mask_of_query[b] = static_cast<int32_t>(b);
    }
    std::vector<float> scores(batch * k);
    std::vector<int64_t> found(batch * k);
    std::vector<int32_t> counts(batch);
    KnnInput input;
    input.queries = queries.data();
    input.num_queries = batch;
    input.items = matrix;
    input.num_rows = rows;
    input.dim = dim;
    input.k = k;
    const KnnOutput output{scores.data(), found.data(), counts.data(), nullptr};
    const Best best = Measure(repeats, [&] {
      MaskedKnn(input, masks, mask_of_query.data(), pool.parallel(), output);
    });
    calibrate();
    // What has to be read and computed at least: the passing rows.
    double union_rate = 1.0;
    for (int64_t b = 0; b < (own ? batch : 1); ++b) union_rate *= 1.0 - rate;
    const double bytes = item_bytes * (1.0 - union_rate);
    const double work = 2.0 * static_cast<double>(rows * dim * batch) * rate;
    std::printf("%-16s %5lld %9.2f %9.2f %8.1f %7.0f %8.1f %7.0f\n", name,
                static_cast<long long>(batch), best.cpu * 1e3, best.wall * 1e3,
                bytes / best.cpu * 1e-9, 100.0 * bytes / best.cpu / bandwidth,
                work / best.cpu * 1e-9, 100.0 * work / best.cpu / flops);
    std::fflush(stdout);
  };
  for (int64_t batch : {1, 2, 4, 8, 16, 32, 64, 128}) {
    cell("none", batch, false, 1.0);
  }
  for (int64_t batch : {1, 32}) {
    cell("shared 50 %", batch, false, 0.5);
    cell("shared 10 %", batch, false, 0.1);
    cell("shared 1 %", batch, false, 0.01);
    cell("shared 0.1 %", batch, false, 0.001);
  }
  cell("own 50 %", 32, true, 0.5);
  cell("own 20 %", 32, true, 0.2);
  cell("own 10 %", 32, true, 0.1);
  cell("own 5 %", 32, true, 0.05);
  cell("own 1 %", 32, true, 0.01);
  cell("own 0.1 %", 32, true, 0.001);
  std::printf("over all cells one core read %.1f GB/s and did %.0f GFLOP/s\n",
              bandwidth * 1e-9, flops * 1e-9);
  return 0;
}

}  // namespace
}  // namespace lintf

int main(int argc, char** argv) { return lintf::Main(argc, argv); }
