// SPDX-License-Identifier: Apache-2.0
// What the attributes of an op say about 1-bit codes.
#ifndef LINTF_CUSTOM_OPS_KERNELS_CODE_ATTRS_H_
#define LINTF_CUSTOM_OPS_KERNELS_CODE_ATTRS_H_

#include <algorithm>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "custom_ops/core/code_knn.h"
#include "custom_ops/core/parallel.h"
#include "custom_ops/core/sign_oporp.h"
#include "tensorflow/core/framework/op_kernel.h"

namespace lintf {

// Reads `bins`, `repeats` and `seed`, for vectors of dimension `dim`.
inline absl::Status GetOporpAttrs(tensorflow::OpKernelConstruction* ctx,
                                  OporpConfig* config) {
  int64_t seed;
  TF_RETURN_IF_ERROR(ctx->GetAttr("bins", &config->bins));
  TF_RETURN_IF_ERROR(ctx->GetAttr("repeats", &config->repeats));
  TF_RETURN_IF_ERROR(ctx->GetAttr("seed", &seed));
  config->seed = static_cast<uint64_t>(seed);
  return absl::OkStatus();
}

inline absl::Status CheckOporp(const OporpConfig& config) {
  const std::string error = CheckOporpConfig(config);
  if (error.empty()) return absl::OkStatus();
  return absl::InvalidArgumentError(error);
}

// The code attributes of an op on an index; nothing if it has no codes.
class CodeAttrs {
 public:
  absl::Status Init(tensorflow::OpKernelConstruction* ctx) {
    int64_t num_codes;
    TF_RETURN_IF_ERROR(ctx->GetAttr("num_codes", &num_codes));
    if (num_codes == 0) return absl::OkStatus();
    OporpConfig config;
    TF_RETURN_IF_ERROR(ctx->GetAttr("dim", &config.dim));
    TF_RETURN_IF_ERROR(GetOporpAttrs(ctx, &config));
    TF_RETURN_IF_ERROR(CheckOporp(config));
    oporp_.emplace(config);
    std::string scoring;
    TF_RETURN_IF_ERROR(ctx->GetAttr("scoring", &scoring));
    scoring_ = scoring == "symmetric" ? CodeScoring::kSymmetric
                                      : CodeScoring::kAsymmetric;
    return absl::OkStatus();
  }

  bool has_codes() const { return oporp_.has_value(); }
  int64_t dim() const { return oporp_->config().dim; }
  CodeScoring scoring() const { return scoring_; }

  // The codes of the index must be the ones that the attributes describe, for
  // queries of dimension `query_dim`.
  absl::Status Check(int64_t code_words, int64_t query_dim) const {
    TF_RETURN_IF_ERROR(CheckWords(code_words));
    if (query_dim != dim()) {
      return absl::InvalidArgumentError(
          absl::StrCat("`dim` must be the dimension of the queries, ",
                       query_dim, ", got ", dim()));
    }
    return absl::OkStatus();
  }

  // The same, for rows of dimension `row_dim`, of which the codes may leave out
  // the end.
  absl::Status CheckRows(int64_t code_words, int64_t row_dim) const {
    TF_RETURN_IF_ERROR(CheckWords(code_words));
    if (dim() > row_dim) {
      return absl::InvalidArgumentError(
          absl::StrCat("`dim`, the coded numbers of an embedding, must be at "
                       "most its length, ",
                       row_dim, ", got ", dim()));
    }
    return absl::OkStatus();
  }

  // The samples of queries [count, row_dim], of the first numbers of each.
  std::vector<float> Project(const float* queries, int64_t count,
                             int64_t row_dim) const {
    std::vector<float> coded;
    std::vector<float> samples(count * oporp_->config().bits());
    oporp_->ProjectBatch(Coded(queries, count, row_dim, &coded), count,
                         samples.data());
    return samples;
  }

  // The codes of items [count, row_dim], of the first numbers of each.
  std::vector<uint64_t> Encode(const float* items, int64_t count,
                               int64_t row_dim) const {
    std::vector<float> coded;
    std::vector<uint64_t> codes(count * oporp_->config().words());
    oporp_->EncodeBatch(Coded(items, count, row_dim, &coded), count,
                        codes.data());
    return codes;
  }

 private:
  // The first dim() numbers of rows, in `coded` where that is not all of them.
  const float* Coded(const float* rows, int64_t count, int64_t row_dim,
                     std::vector<float>* coded) const {
    if (row_dim == dim()) return rows;
    coded->resize(count * dim());
    for (int64_t i = 0; i < count; ++i) {
      std::copy_n(rows + i * row_dim, dim(), coded->data() + i * dim());
    }
    return coded->data();
  }

  absl::Status CheckWords(int64_t code_words) const {
    if (code_words == oporp_->config().words()) return absl::OkStatus();
    return absl::InvalidArgumentError(absl::StrCat(
        "the variable `codes` must hold ", oporp_->config().words(),
        " words a row, `bins` times `repeats` over 64, got ", code_words));
  }

  std::optional<SignOporp> oporp_;
  CodeScoring scoring_ = CodeScoring::kAsymmetric;
};

}  // namespace lintf

#endif  // LINTF_CUSTOM_OPS_KERNELS_CODE_ATTRS_H_
