// SPDX-License-Identifier: Apache-2.0
// Lintf>CompileFilter, wherever the index is: strings stay on the CPU.
#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "custom_ops/core/column.h"
#include "custom_ops/core/filter_compiler.h"
#include "custom_ops/core/filter_schema.h"
#include "custom_ops/kernels/kernel_checks.h"
#include "tensorflow/core/framework/op_kernel.h"
#include "tensorflow/core/framework/tensor.h"
#include "tensorflow/core/framework/tensor_shape.h"
#include "tensorflow/core/framework/types.h"

// FarmHash Fingerprint64, which TensorFlow carries and exports. Its header is
// not among those that the wheel puts on the include path.
namespace util {
uint64_t Fingerprint64(const char* text, size_t length);
}  // namespace util

namespace lintf {
namespace {

using tensorflow::OpKernel;
using tensorflow::OpKernelConstruction;
using tensorflow::OpKernelContext;
using tensorflow::Tensor;
using tensorflow::TensorShape;
using tensorflow::tstring;

// The same as `tf.fingerprint(text, "farmhash64")`.
uint64_t Fingerprint(std::string_view text) {
  return ::util::Fingerprint64(text.data(), text.size());
}

template <typename Value>
struct Named {
  const char* name;
  Value value;
};

constexpr Named<AttributeKind> kKinds[] = {
    {"category", AttributeKind::kCategory},
    {"tags", AttributeKind::kTags},
    {"int", AttributeKind::kInt},
    {"float", AttributeKind::kFloat},
    {"timestamp", AttributeKind::kTimestamp},
    {"bool", AttributeKind::kBool}};

constexpr Named<AttributeEncoding> kEncodings[] = {
    {"number", AttributeEncoding::kNumber},
    {"vocabulary", AttributeEncoding::kVocabulary},
    {"hash", AttributeEncoding::kHash},
    {"bits", AttributeEncoding::kBits}};

constexpr Named<ColumnType> kTypes[] = {
    {"int8", ColumnType::kInt8},     {"int16", ColumnType::kInt16},
    {"int64", ColumnType::kInt64},   {"uint8", ColumnType::kUint8},
    {"uint16", ColumnType::kUint16}, {"uint32", ColumnType::kUint32},
    {"uint64", ColumnType::kUint64}, {"float32", ColumnType::kFloat}};

// Finds `name` in one of the tables above.
template <typename Value, size_t size>
absl::Status FromName(const Named<Value> (&table)[size], const char* attr,
                      const std::string& name, Value* value) {
  std::string known;
  for (const Named<Value>& entry : table) {
    if (name == entry.name) {
      *value = entry.value;
      return absl::OkStatus();
    }
    absl::StrAppend(&known, known.empty() ? "" : ", ", entry.name);
  }
  return absl::InvalidArgumentError(
      absl::StrCat("`", attr, "` must be of ", known, "; got \"", name, "\""));
}

// The schema as the op's attributes give it.
absl::Status SchemaFromAttrs(OpKernelConstruction* ctx, FilterSchema* schema) {
  std::vector<std::string> names, kinds, encodings, types, vocabularies;
  std::vector<int64_t> widths, sizes;
  TF_RETURN_IF_ERROR(ctx->GetAttr("names", &names));
  TF_RETURN_IF_ERROR(ctx->GetAttr("kinds", &kinds));
  TF_RETURN_IF_ERROR(ctx->GetAttr("encodings", &encodings));
  TF_RETURN_IF_ERROR(ctx->GetAttr("types", &types));
  TF_RETURN_IF_ERROR(ctx->GetAttr("widths", &widths));
  TF_RETURN_IF_ERROR(ctx->GetAttr("vocabularies", &vocabularies));
  TF_RETURN_IF_ERROR(ctx->GetAttr("vocabulary_sizes", &sizes));
  TF_RETURN_IF_ERROR(ctx->GetAttr("string_ids", &schema->string_ids));
  schema->fingerprint = Fingerprint;
  const size_t count = names.size();
  if (kinds.size() != count || encodings.size() != count ||
      types.size() != count || widths.size() != count ||
      sizes.size() != count) {
    return absl::InvalidArgumentError(absl::StrCat(
        "`kinds`, `encodings`, `types`, `widths` and `vocabulary_sizes` must "
        "have one entry for each of the ",
        count, " `names`"));
  }
  size_t next_word = 0;
  for (size_t i = 0; i < count; ++i) {
    AttributeDef attribute;
    attribute.name = names[i];
    TF_RETURN_IF_ERROR(FromName(kKinds, "kinds", kinds[i], &attribute.kind));
    TF_RETURN_IF_ERROR(
        FromName(kEncodings, "encodings", encodings[i], &attribute.encoding));
    TF_RETURN_IF_ERROR(FromName(kTypes, "types", types[i], &attribute.type));
    attribute.width = widths[i];
    if (widths[i] < 1) {
      return absl::InvalidArgumentError(
          absl::StrCat("`widths` must be at least 1, got ", widths[i]));
    }
    if (sizes[i] < 0 ||
        static_cast<size_t>(sizes[i]) > vocabularies.size() - next_word) {
      return absl::InvalidArgumentError(
          absl::StrCat("`vocabulary_sizes` must add up to the ",
                       vocabularies.size(), " entries of `vocabularies`"));
    }
    for (int64_t word = 0; word < sizes[i]; ++word) {
      attribute.vocabulary.emplace(std::move(vocabularies[next_word++]), word);
    }
    schema->attributes.push_back(std::move(attribute));
  }
  if (next_word != vocabularies.size()) {
    return absl::InvalidArgumentError(absl::StrCat(
        "`vocabulary_sizes` must add up to the ", vocabularies.size(),
        " entries of `vocabularies`, got ", next_word));
  }
  return absl::OkStatus();
}

class CompileFilterOp : public OpKernel {
 public:
  explicit CompileFilterOp(OpKernelConstruction* ctx) : OpKernel(ctx) {
    OP_REQUIRES_OK(ctx, SchemaFromAttrs(ctx, &schema_));
    OP_REQUIRES_OK(ctx, ctx->GetAttr("max_length", &limits_.max_length));
    OP_REQUIRES_OK(ctx, ctx->GetAttr("max_depth", &limits_.max_depth));
    OP_REQUIRES_OK(ctx, ctx->GetAttr("max_words", &limits_.max_words));
    OP_REQUIRES_OK(ctx, ctx->GetAttr("pad_words", &pad_words_));
  }

  void Compute(OpKernelContext* ctx) override {
    const Tensor& input = ctx->input(0);
    OP_REQUIRES(ctx, input.dims() == 1,
                absl::InvalidArgumentError(
                    absl::StrCat("`filters` must have shape [batch], got ",
                                 input.shape().DebugString())));
    const auto filters = input.vec<tstring>();
    const int64_t batch = filters.size();

    // Queries of a batch often have the same filter; each text is compiled
    // once.
    std::unordered_map<std::string_view, size_t> program_of_text;
    std::vector<std::vector<int64_t>> programs;
    std::vector<size_t> program_of_filter(batch);
    int64_t longest = 1;
    for (int64_t i = 0; i < batch; ++i) {
      const std::string_view text(filters(i).data(), filters(i).size());
      const auto [found, inserted] =
          program_of_text.emplace(text, programs.size());
      program_of_filter[i] = found->second;
      if (!inserted) continue;
      std::vector<int64_t>& program = programs.emplace_back();
      const std::string error = CompileFilter(text, schema_, limits_, &program);
      OP_REQUIRES(
          ctx, error.empty(),
          absl::InvalidArgumentError(absl::StrCat("filter[", i, "]: ", error)));
      const int64_t words = static_cast<int64_t>(program.size());
      OP_REQUIRES(ctx, pad_words_ == 0 || words <= pad_words_,
                  absl::InvalidArgumentError(absl::StrCat(
                      "filter[", i, "]: the filter must compile to at most ",
                      pad_words_, " words, got ", words, "; shorten it")));
      longest = std::max(longest, words);
    }

    const int64_t words = pad_words_ > 0 ? pad_words_ : longest;
    Tensor* output;
    OP_REQUIRES_OK(ctx, AllocateOutput(ctx, 0, {batch, words}, &output));
    int64_t* const out = output->flat<int64_t>().data();
    std::fill_n(out, batch * words, 0);
    for (int64_t i = 0; i < batch; ++i) {
      const std::vector<int64_t>& program = programs[program_of_filter[i]];
      std::copy(program.begin(), program.end(), out + i * words);
    }
  }

 private:
  FilterSchema schema_;
  FilterLimits limits_;
  int64_t pad_words_ = 0;
};

REGISTER_KERNEL_BUILDER(
    Name("Lintf>CompileFilter").Device(tensorflow::DEVICE_CPU),
    CompileFilterOp);

}  // namespace
}  // namespace lintf
