// SPDX-License-Identifier: Apache-2.0
// The GPU functions of this folder for programs without TensorFlow, and what
// they are checked against: tests/gpu builds a shared library of them and calls
// it from Python.
//
// Each function returns 0, or 1 and a message in `call->error`. Pointers are
// device memory unless a comment says "host"; for lintf_cpu_* functions all of
// them are host memory. Work is queued on the call's stream, and nothing waits
// for it. Numbers that are enums are the enums' values, in the order in which
// the headers that are named have them. All arrays are row-major.
#ifndef LINTF_CUSTOM_OPS_CORE_GPU_C_API_H_
#define LINTF_CUSTOM_OPS_CORE_GPU_C_API_H_

#include <stdint.h>

// Hidden where the functions are a part of another library.
#ifdef LINTF_EXPORT_C_API
#define LINTF_C_API __attribute__((visibility("default")))
#else
#define LINTF_C_API
#endif

#ifdef __cplusplus
extern "C" {
#endif

// What a call works with.
typedef struct {
  void* stream;  // a cudaStream_t
  // Scratch memory, aligned to 256 bytes; whoever uses it next must come after
  // this call on the stream.
  void* workspace;
  int64_t workspace_bytes;
  int64_t scratch_bytes;  // about this much for one slice; 0: the default
  // Out: bytes of the workspace that were taken, or that were asked for when it
  // was not large enough (there may be more to ask for after that).
  int64_t needed_bytes;
  char error[1024];  // out
} LintfCall;

typedef struct {
  int64_t type;  // ColumnType of column.h
  const void* data;
  int64_t width;
} LintfColumn;

// A learned similarity (similarity.h), and where candidates come from.
typedef struct {
  int64_t query_components;
  int64_t item_components;
  int64_t component_dim;
  int64_t component;  // PairSimilarity
  int64_t hidden;
  double temperature;
  int64_t gate;  // Gate
  int64_t gate_hidden;
  const float* const* weights;  // host, in the order of Similarity's fields
                                // that the shape has
  int64_t candidates;           // Candidates of retrieval.h
  int64_t budget;
} LintfSimilarity;

// A search. Filters are masks or, if `programs` is not null, programs; with
// neither, all rows pass.
typedef struct {
  const float* queries;  // [num_queries, dim]
  int64_t num_queries;
  const void* items;     // [num_rows, dim]; may be null: codes alone
  int64_t element_type;  // ElementType of item_matrix.h
  const float* scales;   // [num_rows] for int8 items
  int64_t num_rows;
  int64_t dim;
  int64_t metric;  // Metric of masked_knn.h
  int64_t k;
  int64_t segment_rows;  // 0: the default

  int64_t precision;  // QueryPrecision of gpu_knn.h
  int64_t order;      // ScanOrder of gpu_knn.h; lintf_gpu_masked_knn only
  int64_t algorithm;  // Algorithm of retrieval.h; lintf_*_retrieve only

  const uint64_t* mask_words;  // [num_masks, mask_stride]
  int64_t mask_stride;
  int64_t num_masks;
  const uint8_t* passes_all;     // host, [num_masks]; null: none does
  const int32_t* mask_of_query;  // host, [num_queries]; null: mask 0

  const int64_t* programs;  // host, [num_queries, words_per_program]
  int64_t words_per_program;
  const LintfColumn* columns;  // host; the data are device memory
  int64_t num_columns;
  const int64_t* ids;    // [num_rows]; may be null if no filter reads them
  const uint64_t* live;  // a bit a row, ANDed to all programs; may be null

  const float* samples;   // [num_queries, 64 * code_words]
  const uint64_t* codes;  // laid out as sign_oporp.h says; may be null
  int64_t code_words;
  int64_t scoring;    // CodeScoring of code_knn.h
  int64_t shortlist;  // rows kept for rescoring

  // lintf_*_retrieve only: by a learned similarity, if not null; host. A query
  // has its query_dim numbers then, and `dim` is its item_dim.
  const LintfSimilarity* similarity;
} LintfSearch;

typedef struct {
  float* scores;        // [num_queries, k]
  int64_t* rows;        // [num_queries, k]
  int32_t* counts;      // [num_queries]
  int64_t* result_ids;  // [num_queries, k], from the search's ids; or null
  // [num_queries], rows whose full score was computed; or null. Of searches by
  // a learned similarity alone.
  int64_t* num_scored;
} LintfResults;

// gpu_masks.h
LINTF_C_API int lintf_gpu_pack_masks(LintfCall* call, const uint8_t* passes,
                                     int64_t num_masks, int64_t num_rows,
                                     int64_t stride, uint64_t* words);
LINTF_C_API int lintf_gpu_list_rows(LintfCall* call, const uint64_t* words,
                                    int64_t num_lists, int64_t stride,
                                    int64_t num_rows, uint32_t* rows,
                                    int64_t rows_stride, uint32_t* counts);

// The masks of the search's programs: words, [num_masks, stride]; there is
// room for num_queries masks, the three others are host memory.
LINTF_C_API int lintf_gpu_filter_masks(LintfCall* call,
                                       const LintfSearch* search,
                                       int64_t stride, uint64_t* words,
                                       int32_t* mask_of_query,
                                       uint8_t* passes_all, int64_t* num_masks);

// gpu_knn.h
LINTF_C_API int lintf_gpu_masked_knn(LintfCall* call, const LintfSearch* search,
                                     const LintfResults* results);
LINTF_C_API int lintf_gpu_rescore_rows(LintfCall* call,
                                       const LintfSearch* search,
                                       const int64_t* rows, int64_t stride,
                                       const int64_t* counts,
                                       const LintfResults* results);

// gpu_code_knn.h; `k` is how many to keep, `order` a CodeOrder of code_knn.h,
// `scores` may be null, counts is [num_queries].
LINTF_C_API int lintf_gpu_code_knn(LintfCall* call, const LintfSearch* search,
                                   int64_t order, float* scores, int64_t* rows,
                                   int64_t* counts);

// gpu_retrieval.h, filters and ids included: what a server does for a batch.
LINTF_C_API int lintf_gpu_retrieve(LintfCall* call, const LintfSearch* search,
                                   const LintfResults* results);

// gpu_rows.h. Null pointers are tables that are not there.
typedef struct {
  int64_t* ids;
  void* items;
  int64_t element_type;
  float* scales;
  int64_t dim;
  uint64_t* codes;
  int64_t code_words;
  const LintfColumn* columns;  // host
  int64_t num_columns;
} LintfTables;

// RowContents of gpu_rows.h; all host memory.
typedef struct {
  int64_t count;
  const int64_t* rows;
  const int64_t* ids;
  const int64_t* places;
  const void* items;
  const float* scales;
  const uint64_t* codes;
  const void* const* columns;
  int64_t num_columns;
} LintfContents;

LINTF_C_API int lintf_gpu_store_rows(LintfCall* call, const LintfTables* tables,
                                     const LintfContents* contents,
                                     uint64_t* live);
LINTF_C_API int lintf_gpu_store_codes(LintfCall* call, const uint64_t* codes,
                                      int64_t start, int64_t count,
                                      int64_t words, uint64_t* laid_out);
LINTF_C_API int lintf_gpu_gather_ids(LintfCall* call, const int64_t* ids,
                                     const int64_t* rows, int64_t count,
                                     int64_t* gathered);
// `missing` is host memory.
LINTF_C_API int lintf_gpu_gather_column(LintfCall* call,
                                        const LintfColumn* column,
                                        const int64_t* rows, int64_t count,
                                        const void* missing, void* gathered);
LINTF_C_API int lintf_gpu_gather_items(LintfCall* call, const void* items,
                                       int64_t element_type,
                                       const float* scales, int64_t dim,
                                       const int64_t* rows, int64_t count,
                                       float* gathered);

// The CPU's versions, on `threads` threads.
LINTF_C_API int lintf_cpu_filter_masks(LintfCall* call,
                                       const LintfSearch* search,
                                       int64_t stride, uint64_t* words,
                                       int32_t* mask_of_query,
                                       uint8_t* passes_all, int64_t* num_masks);
LINTF_C_API int lintf_cpu_retrieve(LintfCall* call, const LintfSearch* search,
                                   int64_t threads,
                                   const LintfResults* results);
LINTF_C_API int lintf_cpu_code_knn(LintfCall* call, const LintfSearch* search,
                                   int64_t order, int64_t threads,
                                   float* scores, int64_t* rows,
                                   int64_t* counts);
// sign_oporp.h: samples, [count, bins * repeats], of vectors, [count, dim].
LINTF_C_API int lintf_cpu_project(LintfCall* call, int64_t dim, int64_t bins,
                                  int64_t repeats, uint64_t seed,
                                  const float* vectors, int64_t count,
                                  float* samples);

#ifdef __cplusplus
}  // extern "C"
#endif

#endif  // LINTF_CUSTOM_OPS_CORE_GPU_C_API_H_
