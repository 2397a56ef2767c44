// SPDX-License-Identifier: Apache-2.0
// Filter text -> tokens. The grammar is at the top of filter_compiler.cc.
#ifndef LINTF_CUSTOM_OPS_CORE_FILTER_LEXER_H_
#define LINTF_CUSTOM_OPS_CORE_FILTER_LEXER_H_

#include <cstdint>
#include <string>
#include <string_view>

namespace lintf {

enum class FilterTokenType : uint8_t {
  kEnd,
  kName,
  kString,
  kInt,
  kFloat,
  kTrue,
  kFalse,
  kAnd,
  kOr,
  kNot,
  kIn,
  kContainsAny,
  kContainsAll,
  kExists,
  kEqual,
  kNotEqual,
  kLess,
  kLessEqual,
  kGreater,
  kGreaterEqual,
  kOpenParen,
  kCloseParen,
  kOpenBracket,
  kCloseBracket,
  kComma,
};

struct FilterToken {
  FilterTokenType type = FilterTokenType::kEnd;
  int64_t offset = 0;     // of the token's first byte
  std::string_view text;  // the token as written
};

// "column 7: message"; columns count bytes from 1.
std::string FilterErrorAt(int64_t offset, std::string_view message);

// Text of a user's filter, fit for an error message: valid UTF-8 without
// control characters, at most about 40 bytes, between backquotes.
std::string QuoteForError(std::string_view text);

// What was found, for messages: the quoted token, or "the end of the filter".
std::string DescribeToken(const FilterToken& token);

// The value of a kString token: without its quotes, escapes replaced.
std::string StringValue(const FilterToken& token);

class FilterLexer {
 public:
  // `text` must outlive the lexer and its tokens.
  explicit FilterLexer(std::string_view text) : text_(text) {}

  // Reads the next token; kEnd for ever after the last one. Returns an empty
  // string, or the error.
  std::string Next(FilterToken* token);

 private:
  std::string ReadNumber(FilterToken* token);
  std::string ReadName(FilterToken* token);
  std::string ReadOperator(FilterToken* token);

  // The byte at `offset`, 0 past the end.
  char At(int64_t offset) const {
    return offset < static_cast<int64_t>(text_.size()) ? text_[offset] : '\0';
  }

  std::string_view text_;
  int64_t offset_ = 0;
};

}  // namespace lintf

#endif  // LINTF_CUSTOM_OPS_CORE_FILTER_LEXER_H_
