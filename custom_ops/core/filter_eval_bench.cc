// SPDX-License-Identifier: Apache-2.0
// CPU time of filter masks: filter_eval_bench [rows]. For each workload the
// bytes of the columns that its leaves read, and the rate; beside it the rate
// at which this core reads memory of that size.
#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <ctime>
#include <functional>
#include <random>

#include "custom_ops/core/filter_compiler.h"
#include "custom_ops/core/filter_eval.h"

namespace lintf {
namespace {

double CpuSeconds() {
  std::timespec time;
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &time);
  return static_cast<double>(time.tv_sec) +
         1e-9 * static_cast<double>(time.tv_nsec);
}

template <typename T>
std::vector<T> RandomColumn(int64_t size, int64_t limit, uint64_t seed) {
  std::mt19937_64 rng(seed);
  std::vector<T> column(size);
  for (T& value : column) {
    value = static_cast<T>(rng() % static_cast<uint64_t>(limit));
  }
  return column;
}

struct Workload {
  const char* name;
  std::vector<std::string> filters;
  double bytes_per_row;  // of all leaves of all filters
};

void Run(int64_t rows) {
  const auto country = RandomColumn<uint8_t>(rows, 200, 1);
  const auto year = RandomColumn<int16_t>(rows, 100, 2);
  const auto genre = RandomColumn<uint32_t>(rows, 1 << 19, 3);
  const auto added = RandomColumn<int64_t>(rows, 1000000000, 4);
  const auto company = RandomColumn<uint16_t>(rows, 5000, 5);
  const auto tags = RandomColumn<uint16_t>(rows * 4, 5000, 6);
  const auto price = RandomColumn<float>(rows, 1000, 7);
  std::vector<int64_t> ids(rows);
  for (int64_t i = 0; i < rows; ++i) ids[i] = 3 * i;

  FilterSchema schema;
  std::vector<Column> columns;
  const auto add = [&](const char* name, AttributeKind kind,
                       AttributeEncoding encoding, ColumnType type,
                       const void* data, int64_t width, int64_t num_words) {
    AttributeDef attribute;
    attribute.name = name;
    attribute.kind = kind;
    attribute.encoding = encoding;
    attribute.type = type;
    attribute.width = width;
    for (int64_t i = 0; i < num_words; ++i) {
      attribute.vocabulary["v" + std::to_string(i)] = i;
    }
    schema.attributes.push_back(attribute);
    columns.push_back({type, data, width});
  };
  using K = AttributeKind;
  using E = AttributeEncoding;
  using C = ColumnType;
  add("country", K::kCategory, E::kVocabulary, C::kUint8, country.data(), 1,
      200);
  add("year", K::kInt, E::kNumber, C::kInt16, year.data(), 1, 0);
  add("genre", K::kTags, E::kBits, C::kUint32, genre.data(), 1, 19);
  add("added", K::kTimestamp, E::kNumber, C::kInt64, added.data(), 1, 0);
  add("company", K::kCategory, E::kVocabulary, C::kUint16, company.data(), 1,
      5000);
  add("tags", K::kTags, E::kVocabulary, C::kUint16, tags.data(), 4, 5000);
  add("price", K::kFloat, E::kNumber, C::kFloat, price.data(), 1, 0);

  const auto many = [](int count, const std::function<std::string(int)>& f) {
    std::vector<std::string> filters;
    for (int i = 0; i < count; ++i) filters.push_back(f(i));
    return filters;
  };
  const auto text = [](int64_t i) { return std::to_string(i); };
  std::string some_ids = "id not in [", some_companies = "company in [";
  std::string some_times = "added in [";
  for (int i = 0; i < 300; ++i) {
    const char* comma = i > 0 ? ", " : "";
    some_ids += comma + text(i * 1001 * 3);
    some_companies += std::string(comma) + "'v" + text(i * 13) + "'";
    some_times += comma + text(added[i]);
  }
  const std::vector<Workload> workloads = {
      {"32 x (country == a and year >= b)",
       many(32,
            [&](int i) {
              return "country == 'v" + text(i) + "' and year >= " + text(i);
            }),
       32 * 3},
      {"32 x (country in [4] and year >= b)",
       many(32,
            [&](int i) {
              return "country in ['v" + text(i) +
                     "', 'v7', 'v99', 'v150'] "
                     "and year >= " +
                     text(i);
            }),
       32 * 3},
      {"country != a", {"country != 'v1'"}, 1},
      {"year >= a", {"year >= 50"}, 2},
      {"genre in [2] (bits)", {"genre in ['v1', 'v2']"}, 4},
      {"price < a", {"price < 500.5"}, 4},
      {"added >= a", {"added >= 500000000"}, 8},
      {"company in [5]", {"company in ['v1', 'v9', 'v44', 'v7', 'v80']"}, 2},
      {"company in [300]", {some_companies + "]"}, 2},
      {"added in [300]", {some_times + "]"}, 8},
      {"id not in [300], no resolver", {some_ids + "]"}, 8},
      {"tags == a (4 a row)", {"tags == 'v3'"}, 8},
      {"tags in [300] (4 a row)",
       {"tags " + some_companies.substr(8) + "]"},
       8},
      {"year < a or price < b and added > c",
       {"year < 50 or price < 100 and added > 500000000"},
       14},
  };
  std::printf("%lld rows, instruction set %d (0 plain, 1 AVX2, 2 AVX-512)\n",
              static_cast<long long>(rows), static_cast<int>(BestFilterIsa()));
  std::printf("%-40s %10s %8s %9s\n", "filters", "CPU ms", "GB/s", "passing");
  for (const Workload& workload : workloads) {
    std::vector<std::vector<int64_t>> programs;
    size_t length = 1;
    for (const std::string& filter : workload.filters) {
      std::vector<int64_t> program;
      const std::string error =
          CompileFilter(filter, schema, FilterLimits(), &program);
      if (!error.empty()) {
        std::printf("%s: %s\n", filter.c_str(), error.c_str());
        std::exit(1);
      }
      length = std::max(length, program.size());
      programs.push_back(program);
    }
    std::vector<int64_t> words;
    for (auto& program : programs) {
      program.resize(length, 0);
      words.insert(words.end(), program.begin(), program.end());
    }
    std::vector<uint64_t> bits(2048 / 64);
    double best = 1e9;
    int64_t passing = 0;
    for (int repeat = 0; repeat < 15; ++repeat) {
      const double start = CpuSeconds();
      FilterMasks masks;
      int64_t bad;
      masks.Init(words.data(), static_cast<int64_t>(programs.size()),
                 static_cast<int64_t>(length), &columns, ids.data(), nullptr,
                 nullptr, &bad);
      passing = 0;
      // In the order of a search: all masks of a tile of rows, then the next.
      for (int64_t row = 0; row < rows; row += 2048) {
        for (int64_t mask = 0; mask < masks.num_masks(); ++mask) {
          passing +=
              masks.Fill(mask, row, std::min(rows, row + 2048), bits.data());
        }
      }
      best = std::min(best, CpuSeconds() - start);
    }
    const double share = static_cast<double>(passing) /
                         static_cast<double>(rows) /
                         static_cast<double>(programs.size());
    std::printf(
        "%-40s %10.3f %8.1f %8.2f%%\n", workload.name, 1e3 * best,
        1e-9 * workload.bytes_per_row * static_cast<double>(rows) / best,
        100 * share);
  }
  double best = 1e9;
  int64_t sum = 0;
  for (int repeat = 0; repeat < 15; ++repeat) {
    const double start = CpuSeconds();
    for (const int64_t value : added) sum += value;
    best = std::min(best, CpuSeconds() - start);
  }
  std::printf("%-40s %10.3f %8.1f   (%lld)\n", "sum of an int64 column",
              1e3 * best, 8e-9 * static_cast<double>(rows) / best,
              static_cast<long long>(sum % 10));
}

}  // namespace
}  // namespace lintf

int main(int argc, char** argv) {
  lintf::Run(argc > 1 ? std::atoll(argv[1]) : 1000000);
  return 0;
}
