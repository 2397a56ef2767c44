// SPDX-License-Identifier: Apache-2.0
#include "custom_ops/core/gpu_c_api.h"

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <cstdio>
#include <exception>
#include <functional>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "custom_ops/core/code_knn.h"
#include "custom_ops/core/column.h"
#include "custom_ops/core/filter_eval.h"
#include "custom_ops/core/gpu.h"
#include "custom_ops/core/gpu_code_knn.h"
#include "custom_ops/core/gpu_context.h"
#include "custom_ops/core/gpu_filter.h"
#include "custom_ops/core/gpu_knn.h"
#include "custom_ops/core/gpu_masks.h"
#include "custom_ops/core/gpu_retrieval.h"
#include "custom_ops/core/gpu_rows.h"
#include "custom_ops/core/item_matrix.h"
#include "custom_ops/core/mask_source.h"
#include "custom_ops/core/parallel.h"
#include "custom_ops/core/planner.h"
#include "custom_ops/core/retrieval.h"
#include "custom_ops/core/row_tables.h"
#include "custom_ops/core/sign_oporp.h"
#include "custom_ops/core/similarity.h"

namespace lintf {
namespace {

// Hands out the caller's buffer from its begin to its end.
class Workspace : public gpu::Memory {
 public:
  explicit Workspace(LintfCall* call) : call_(call) { call->needed_bytes = 0; }

  void* Allocate(int64_t bytes) override {
    constexpr int64_t kAlignment = 256;
    const int64_t begin = call_->needed_bytes;
    call_->needed_bytes =
        (begin + bytes + kAlignment - 1) / kAlignment * kAlignment;
    if (call_->needed_bytes > call_->workspace_bytes) return nullptr;
    return static_cast<char*>(call_->workspace) + begin;
  }

 private:
  LintfCall* const call_;
};

int Answer(LintfCall* call, const std::string& error) {
  std::snprintf(call->error, sizeof(call->error), "%s", error.c_str());
  return error.empty() ? 0 : 1;
}

// Runs `work`, which returns what is wrong; nothing is thrown at C programs.
template <typename Work>
int Guard(LintfCall* call, const Work& work) {
  try {
    return Answer(call, work());
  } catch (const std::exception& error) {
    return Answer(call, std::string("failed: ") + error.what());
  }
}

template <typename Work>
int OnGpu(LintfCall* call, const Work& work) {
  return Guard(call, [&]() -> std::string {
    Workspace workspace(call);
    gpu::Context context(static_cast<gpu::Stream>(call->stream), &workspace);
    if (call->scratch_bytes > 0) context.set_scratch_bytes(call->scratch_bytes);
    const std::string error = work(&context);
    return error.empty() ? context.error() : error;
  });
}

std::vector<Column> ColumnsOf(const LintfColumn* columns, int64_t count) {
  std::vector<Column> result(count);
  for (int64_t i = 0; i < count; ++i) {
    result[i].type = static_cast<ColumnType>(columns[i].type);
    result[i].data = columns[i].data;
    result[i].width = columns[i].width;
  }
  return result;
}

KnnInput KnnOf(const LintfSearch& search) {
  KnnInput input;
  input.queries = search.queries;
  input.num_queries = search.num_queries;
  input.items =
      ItemMatrix(search.items, static_cast<ElementType>(search.element_type),
                 search.scales);
  input.num_rows = search.num_rows;
  input.dim = search.dim;
  input.metric = static_cast<Metric>(search.metric);
  input.k = search.k;
  if (search.segment_rows > 0) input.tuning.segment_rows = search.segment_rows;
  return input;
}

// A search by any algorithm, and what it points to.
struct Retrieval {
  RetrievalInput input;
  Similarity similarity;

  // Returns what is wrong with the search.
  std::string Init(const LintfSearch& search);
};

Similarity SimilarityOf(const LintfSimilarity& given, std::string* error) {
  SimilarityShape shape;
  shape.query_components = given.query_components;
  shape.item_components = given.item_components;
  shape.component_dim = given.component_dim;
  shape.component = static_cast<PairSimilarity>(given.component);
  shape.hidden = given.hidden;
  shape.temperature = static_cast<float>(given.temperature);
  shape.gate = static_cast<Gate>(given.gate);
  shape.gate_hidden = given.gate_hidden;
  *error = shape.Error();
  if (!error->empty()) return Similarity();
  const size_t count = Similarity::Weights(shape).size();
  return Similarity::Of(shape, {given.weights, given.weights + count});
}

std::string Retrieval::Init(const LintfSearch& search) {
  input.knn = KnnOf(search);
  input.code.samples = search.samples;
  input.code.codes = search.codes;
  input.code.words = search.code_words;
  input.code.scoring = static_cast<CodeScoring>(search.scoring);
  input.code.shortlist = search.shortlist;
  input.algorithm = static_cast<Algorithm>(search.algorithm);
  PlannerCosts::FromList({}, input.knn.items.type, &input.costs);
  if (search.similarity == nullptr) return "";
  SimilarityCosts::FromList({}, &input.similarity_costs);
  std::string error;
  similarity = SimilarityOf(*search.similarity, &error);
  input.similarity = &similarity;
  input.candidates = static_cast<Candidates>(search.similarity->candidates);
  input.budget = search.similarity->budget;
  if (!error.empty() || search.dim == similarity.shape.item_dim()) return error;
  return "`dim` must be " + std::to_string(similarity.shape.item_dim()) +
         ", the item vectors of the similarity, got " +
         std::to_string(search.dim);
}

CodeKnnInput CodesOf(const LintfSearch& search) {
  CodeKnnInput input;
  input.samples = search.samples;
  input.num_queries = search.num_queries;
  input.codes = search.codes;
  input.num_rows = search.num_rows;
  input.words = search.code_words;
  input.scoring = static_cast<CodeScoring>(search.scoring);
  input.keep = search.k;
  return input;
}

gpu::KnnOptions OptionsOf(const LintfSearch& search) {
  gpu::KnnOptions options;
  options.precision = static_cast<gpu::QueryPrecision>(search.precision);
  options.order = static_cast<gpu::ScanOrder>(search.order);
  return options;
}

KnnOutput OutputOf(const LintfResults& results) {
  KnnOutput output;
  output.scores = results.scores;
  output.rows = results.rows;
  output.counts = results.counts;
  output.num_scored = results.num_scored;
  return output;
}

std::string BadProgram(const std::string& error, int64_t program) {
  return "program " + std::to_string(program) + ": " + error;
}

// The masks that a search without programs names.
std::vector<bool> GivenPassesAll(const LintfSearch& search) {
  if (search.mask_words == nullptr) return {true};
  std::vector<bool> passes_all(search.num_masks, false);
  for (int64_t i = 0; i < search.num_masks; ++i) {
    passes_all[i] = search.passes_all != nullptr && search.passes_all[i] != 0;
  }
  return passes_all;
}

std::vector<int32_t> GivenMaskOfQuery(const LintfSearch& search) {
  std::vector<int32_t> masks(search.num_queries, 0);
  if (search.mask_words != nullptr && search.mask_of_query != nullptr) {
    std::copy_n(search.mask_of_query, search.num_queries, masks.begin());
  }
  return masks;
}

// A search's masks on the GPU.
struct GpuMasks {
  gpu::FilterMasks filter;
  gpu::Masks masks;
  std::vector<int32_t> mask_of_query;

  std::string Init(const LintfSearch& search, gpu::Context* context) {
    if (search.programs == nullptr) {
      masks.words = search.mask_words;
      masks.stride = search.mask_stride;
      masks.passes_all = GivenPassesAll(search);
      mask_of_query = GivenMaskOfQuery(search);
      return "";
    }
    int64_t bad = 0;
    const std::string error = filter.Init(
        search.programs, search.num_queries, search.words_per_program,
        ColumnsOf(search.columns, search.num_columns), search.ids,
        /*resolver=*/nullptr, &bad);
    if (!error.empty()) return BadProgram(error, bad);
    masks = filter.Evaluate(search.num_rows, search.live, context);
    mask_of_query = filter.mask_of_program();
    return "";
  }
};

// Masks of words in host memory.
class WordMasks : public MaskSource {
 public:
  explicit WordMasks(const LintfSearch& search)
      : words_(search.mask_words),
        stride_(search.mask_stride),
        passes_all_(GivenPassesAll(search)) {}

  int64_t num_masks() const override {
    return static_cast<int64_t>(passes_all_.size());
  }
  bool PassesAll(int64_t mask) const override { return passes_all_[mask]; }
  int64_t Fill(int64_t mask, int64_t begin, int64_t end,
               uint64_t* bits) const override {
    int64_t passing = 0;
    for (int64_t row = begin; row < end; row += kRowsPerWord) {
      uint64_t word = ~uint64_t{0};
      if (!passes_all_[mask]) {
        word = words_[mask * stride_ + row / kRowsPerWord];
      }
      const int64_t rows = std::min(kRowsPerWord, end - row);
      if (rows < kRowsPerWord) word &= (uint64_t{1} << rows) - 1;
      passing += __builtin_popcountll(word);
      *bits++ = word;
    }
    return passing;
  }

 private:
  const uint64_t* const words_;
  const int64_t stride_;
  const std::vector<bool> passes_all_;
};

// A search's masks on the CPU.
struct CpuMasks {
  std::vector<Column> columns;
  FilterMasks filter;
  std::unique_ptr<WordMasks> words;
  std::vector<int32_t> mask_of_query;

  std::string Init(const LintfSearch& search) {
    if (search.programs == nullptr) {
      words = std::make_unique<WordMasks>(search);
      mask_of_query = GivenMaskOfQuery(search);
      return "";
    }
    columns = ColumnsOf(search.columns, search.num_columns);
    int64_t bad = 0;
    const std::string error = filter.Init(
        search.programs, search.num_queries, search.words_per_program, &columns,
        search.ids, search.live, /*resolver=*/nullptr, &bad);
    if (!error.empty()) return BadProgram(error, bad);
    mask_of_query = filter.mask_of_program();
    return "";
  }

  const MaskSource& source() const {
    if (words != nullptr) return *words;
    return filter;
  }
};

Parallel OnThreads(int64_t threads) {
  Parallel parallel;
  if (threads <= 1) return parallel;
  parallel.num_threads = static_cast<int>(threads);
  parallel.run = [threads](int64_t num_tasks, const Parallel::Work& work) {
    std::atomic<int64_t> next{0};
    const auto go = [&] {
      for (int64_t task = next++; task < num_tasks; task = next++) work(task);
    };
    std::vector<std::thread> others;
    for (int64_t i = 1; i < std::min(threads, num_tasks); ++i) {
      others.emplace_back(go);
    }
    go();
    for (std::thread& other : others) other.join();
  };
  return parallel;
}

RowTables TablesOf(const LintfTables& tables) {
  RowTables result;
  result.ids = tables.ids;
  result.items =
      ItemMatrix(tables.items, static_cast<ElementType>(tables.element_type),
                 tables.scales);
  result.dim = tables.dim;
  result.codes = tables.codes;
  result.code_words = tables.code_words;
  result.columns = ColumnsOf(tables.columns, tables.num_columns);
  return result;
}

}  // namespace
}  // namespace lintf

using lintf::Guard;
using lintf::OnGpu;

int lintf_gpu_pack_masks(LintfCall* call, const uint8_t* passes,
                         int64_t num_masks, int64_t num_rows, int64_t stride,
                         uint64_t* words) {
  return OnGpu(call, [&](lintf::gpu::Context* context) {
    lintf::gpu::PackMasks(reinterpret_cast<const bool*>(passes), num_masks,
                          num_rows, stride, context, words);
    return "";
  });
}

int lintf_gpu_list_rows(LintfCall* call, const uint64_t* words,
                        int64_t num_lists, int64_t stride, int64_t num_rows,
                        uint32_t* rows, int64_t rows_stride, uint32_t* counts) {
  return OnGpu(call, [&](lintf::gpu::Context* context) {
    lintf::gpu::ListRows(words, num_lists, stride, num_rows, context, rows,
                         rows_stride, counts);
    return "";
  });
}

int lintf_gpu_filter_masks(LintfCall* call, const LintfSearch* search,
                           int64_t stride, uint64_t* words,
                           int32_t* mask_of_query, uint8_t* passes_all,
                           int64_t* num_masks) {
  return OnGpu(call, [&](lintf::gpu::Context* context) -> std::string {
    lintf::GpuMasks masks;
    const std::string error = masks.Init(*search, context);
    if (!error.empty() || !context->ok()) return error;
    *num_masks = masks.masks.num_masks();
    std::copy(masks.mask_of_query.begin(), masks.mask_of_query.end(),
              mask_of_query);
    const int64_t used = lintf::gpu::MaskWords(search->num_rows);
    for (int64_t i = 0; i < *num_masks; ++i) {
      passes_all[i] = masks.masks.passes_all[i];
      if (masks.masks.passes_all[i]) continue;
      context->Check(
          cudaMemcpyAsync(words + i * stride,
                          masks.masks.words + i * masks.masks.stride,
                          used * sizeof(uint64_t), cudaMemcpyDeviceToDevice,
                          context->stream()),
          "copying masks");
    }
    return "";
  });
}

int lintf_gpu_masked_knn(LintfCall* call, const LintfSearch* search,
                         const LintfResults* results) {
  return OnGpu(call, [&](lintf::gpu::Context* context) -> std::string {
    lintf::GpuMasks masks;
    const std::string error = masks.Init(*search, context);
    if (!error.empty() || !context->ok()) return error;
    lintf::gpu::MaskedKnn(lintf::KnnOf(*search), masks.masks,
                          masks.mask_of_query.data(), lintf::OptionsOf(*search),
                          context, lintf::OutputOf(*results));
    return "";
  });
}

int lintf_gpu_rescore_rows(LintfCall* call, const LintfSearch* search,
                           const int64_t* rows, int64_t stride,
                           const int64_t* counts, const LintfResults* results) {
  return OnGpu(call, [&](lintf::gpu::Context* context) {
    lintf::gpu::RescoreRows(lintf::KnnOf(*search), {rows, stride, counts},
                            lintf::OptionsOf(*search), context,
                            lintf::OutputOf(*results));
    return "";
  });
}

int lintf_gpu_code_knn(LintfCall* call, const LintfSearch* search,
                       int64_t order, float* scores, int64_t* rows,
                       int64_t* counts) {
  return OnGpu(call, [&](lintf::gpu::Context* context) -> std::string {
    lintf::GpuMasks masks;
    const std::string error = masks.Init(*search, context);
    if (!error.empty() || !context->ok()) return error;
    lintf::gpu::CodeKnn(
        lintf::CodesOf(*search), masks.masks, masks.mask_of_query.data(),
        static_cast<lintf::CodeOrder>(order), context, {scores, rows, counts});
    return "";
  });
}

int lintf_gpu_retrieve(LintfCall* call, const LintfSearch* search,
                       const LintfResults* results) {
  return OnGpu(call, [&](lintf::gpu::Context* context) -> std::string {
    lintf::Retrieval retrieval;
    std::string error = retrieval.Init(*search);
    if (!error.empty()) return error;
    lintf::GpuMasks masks;
    error = masks.Init(*search, context);
    if (!error.empty() || !context->ok()) return error;
    lintf::gpu::RetrieveRows(
        retrieval.input, masks.masks, masks.mask_of_query.data(),
        lintf::OptionsOf(*search), context, lintf::OutputOf(*results));
    if (results->result_ids != nullptr) {
      lintf::gpu::GatherIds(search->ids, results->rows,
                            search->num_queries * search->k, context,
                            results->result_ids);
    }
    return "";
  });
}

int lintf_gpu_store_rows(LintfCall* call, const LintfTables* tables,
                         const LintfContents* contents, uint64_t* live) {
  return OnGpu(call, [&](lintf::gpu::Context* context) {
    lintf::gpu::RowContents rows;
    rows.count = contents->count;
    rows.rows = contents->rows;
    rows.ids = contents->ids;
    rows.places = contents->places;
    rows.items = contents->items;
    rows.scales = contents->scales;
    rows.codes = contents->codes;
    rows.columns.assign(contents->columns,
                        contents->columns + contents->num_columns);
    lintf::gpu::StoreRows(lintf::TablesOf(*tables), rows, context, live);
    return "";
  });
}

int lintf_gpu_store_codes(LintfCall* call, const uint64_t* codes, int64_t start,
                          int64_t count, int64_t words, uint64_t* laid_out) {
  return OnGpu(call, [&](lintf::gpu::Context* context) {
    lintf::gpu::StoreCodes(codes, start, count, words, context, laid_out);
    return "";
  });
}

int lintf_gpu_gather_ids(LintfCall* call, const int64_t* ids,
                         const int64_t* rows, int64_t count,
                         int64_t* gathered) {
  return OnGpu(call, [&](lintf::gpu::Context* context) {
    lintf::gpu::GatherIds(ids, rows, count, context, gathered);
    return "";
  });
}

int lintf_gpu_gather_column(LintfCall* call, const LintfColumn* column,
                            const int64_t* rows, int64_t count,
                            const void* missing, void* gathered) {
  return OnGpu(call, [&](lintf::gpu::Context* context) {
    lintf::gpu::GatherColumn(lintf::ColumnsOf(column, 1)[0], rows, count,
                             missing, context, gathered);
    return "";
  });
}

int lintf_gpu_gather_items(LintfCall* call, const void* items,
                           int64_t element_type, const float* scales,
                           int64_t dim, const int64_t* rows, int64_t count,
                           float* gathered) {
  return OnGpu(call, [&](lintf::gpu::Context* context) {
    lintf::gpu::GatherItems(
        {items, static_cast<lintf::ElementType>(element_type), scales}, dim,
        rows, count, context, gathered);
    return "";
  });
}

int lintf_cpu_filter_masks(LintfCall* call, const LintfSearch* search,
                           int64_t stride, uint64_t* words,
                           int32_t* mask_of_query, uint8_t* passes_all,
                           int64_t* num_masks) {
  return Guard(call, [&]() -> std::string {
    lintf::CpuMasks masks;
    const std::string error = masks.Init(*search);
    if (!error.empty()) return error;
    const lintf::MaskSource& source = masks.source();
    *num_masks = source.num_masks();
    std::copy(masks.mask_of_query.begin(), masks.mask_of_query.end(),
              mask_of_query);
    for (int64_t i = 0; i < *num_masks; ++i) {
      passes_all[i] = source.PassesAll(i);
      if (passes_all[i]) continue;
      source.Fill(i, 0, search->num_rows, words + i * stride);
    }
    return "";
  });
}

int lintf_cpu_retrieve(LintfCall* call, const LintfSearch* search,
                       int64_t threads, const LintfResults* results) {
  return Guard(call, [&]() -> std::string {
    lintf::Retrieval retrieval;
    std::string error = retrieval.Init(*search);
    if (!error.empty()) return error;
    lintf::CpuMasks masks;
    error = masks.Init(*search);
    if (!error.empty()) return error;
    lintf::RetrieveRows(retrieval.input, masks.source(),
                        masks.mask_of_query.data(), lintf::OnThreads(threads),
                        lintf::OutputOf(*results));
    if (results->result_ids == nullptr) return "";
    for (int64_t i = 0; i < search->num_queries * search->k; ++i) {
      const int64_t row = results->rows[i];
      results->result_ids[i] = row < 0 ? -1 : search->ids[row];
    }
    return "";
  });
}

int lintf_cpu_code_knn(LintfCall* call, const LintfSearch* search,
                       int64_t order, int64_t threads, float* scores,
                       int64_t* rows, int64_t* counts) {
  return Guard(call, [&]() -> std::string {
    lintf::CpuMasks masks;
    const std::string error = masks.Init(*search);
    if (!error.empty()) return error;
    lintf::CodeKnn(lintf::CodesOf(*search), masks.source(),
                   masks.mask_of_query.data(),
                   static_cast<lintf::CodeOrder>(order),
                   lintf::OnThreads(threads), {scores, rows, counts});
    return "";
  });
}

int lintf_cpu_project(LintfCall* call, int64_t dim, int64_t bins,
                      int64_t repeats, uint64_t seed, const float* vectors,
                      int64_t count, float* samples) {
  return Guard(call, [&]() -> std::string {
    lintf::OporpConfig config;
    config.dim = dim;
    config.bins = bins;
    config.repeats = repeats;
    config.seed = seed;
    const std::string error = lintf::CheckOporpConfig(config);
    if (!error.empty()) return error;
    lintf::SignOporp(config).ProjectBatch(vectors, count, samples);
    return "";
  });
}
