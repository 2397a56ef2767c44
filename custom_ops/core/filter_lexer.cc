// SPDX-License-Identifier: Apache-2.0
#include "custom_ops/core/filter_lexer.h"

#include <array>
#include <utility>

namespace lintf {
namespace {

// Not <cctype>: its answers depend on the process's locale.
bool IsDigit(char c) { return c >= '0' && c <= '9'; }
bool IsNameStart(char c) {
  return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '_';
}
bool IsNameByte(char c) { return IsNameStart(c) || IsDigit(c); }
bool IsSpace(char c) { return c == ' ' || c == '\t' || c == '\n' || c == '\r'; }

// Bytes of the UTF-8 sequence at the start of `text`; 0 if there is none that
// is well-formed (overlong forms and surrogates are not).
int64_t Utf8Length(std::string_view text) {
  if (text.empty()) return 0;
  const auto byte = [&](size_t i) {
    return i < text.size() ? static_cast<uint8_t>(text[i]) : uint8_t{0};
  };
  const auto continues = [&](size_t i) { return (byte(i) & 0xC0) == 0x80; };
  const uint8_t lead = byte(0);
  if (lead < 0x80) return 1;
  if (lead >= 0xC2 && lead <= 0xDF) return continues(1) ? 2 : 0;
  if (lead >= 0xE0 && lead <= 0xEF) {
    if (!continues(1) || !continues(2)) return 0;
    if (lead == 0xE0 && byte(1) < 0xA0) return 0;
    if (lead == 0xED && byte(1) >= 0xA0) return 0;
    return 3;
  }
  if (lead >= 0xF0 && lead <= 0xF4) {
    if (!continues(1) || !continues(2) || !continues(3)) return 0;
    if (lead == 0xF0 && byte(1) < 0x90) return 0;
    if (lead == 0xF4 && byte(1) >= 0x90) return 0;
    return 4;
  }
  return 0;
}

void AppendUtf8(uint32_t code, std::string* out) {
  const auto put = [&](uint32_t byte) {
    out->push_back(static_cast<char>(byte));
  };
  if (code < 0x80) {
    put(code);
  } else if (code < 0x800) {
    put(0xC0 | (code >> 6));
    put(0x80 | (code & 0x3F));
  } else if (code < 0x10000) {
    put(0xE0 | (code >> 12));
    put(0x80 | ((code >> 6) & 0x3F));
    put(0x80 | (code & 0x3F));
  } else {
    put(0xF0 | (code >> 18));
    put(0x80 | ((code >> 12) & 0x3F));
    put(0x80 | ((code >> 6) & 0x3F));
    put(0x80 | (code & 0x3F));
  }
}

// Four hex digits at the start of `text`; -1 if they are not there.
int32_t HexDigits(std::string_view text) {
  if (text.size() < 4) return -1;
  int32_t value = 0;
  for (int i = 0; i < 4; ++i) {
    const char c = text[i];
    int32_t digit;
    if (IsDigit(c)) {
      digit = c - '0';
    } else if (c >= 'a' && c <= 'f') {
      digit = c - 'a' + 10;
    } else if (c >= 'A' && c <= 'F') {
      digit = c - 'A' + 10;
    } else {
      return -1;
    }
    value = value * 16 + digit;
  }
  return value;
}

bool EqualsIgnoringCase(std::string_view text, std::string_view lower) {
  if (text.size() != lower.size()) return false;
  for (size_t i = 0; i < text.size(); ++i) {
    const char c = text[i];
    if ((c >= 'A' && c <= 'Z' ? c - 'A' + 'a' : c) != lower[i]) return false;
  }
  return true;
}

constexpr std::array<std::pair<std::string_view, FilterTokenType>, 9>
    kKeywords = {{
        {"and", FilterTokenType::kAnd},
        {"or", FilterTokenType::kOr},
        {"not", FilterTokenType::kNot},
        {"in", FilterTokenType::kIn},
        {"true", FilterTokenType::kTrue},
        {"false", FilterTokenType::kFalse},
        {"contains_any", FilterTokenType::kContainsAny},
        {"contains_all", FilterTokenType::kContainsAll},
        {"exists", FilterTokenType::kExists},
    }};

// Reads the string that starts at `*offset`, moves `*offset` past it and, if
// `value` is not null, appends its value. Returns an empty string, or the
// error.
std::string ScanString(std::string_view text, int64_t* offset,
                       std::string* value) {
  const int64_t size = static_cast<int64_t>(text.size());
  const auto at = [&](int64_t i) { return i < size ? text[i] : '\0'; };
  const auto append = [&](std::string_view bytes) {
    if (value != nullptr) value->append(bytes);
  };
  const int64_t start = *offset;
  const char quote = at((*offset)++);
  while (*offset < size) {
    const char c = at(*offset);
    if (c == quote) {
      ++*offset;
      return "";
    }
    if (c != '\\') {
      const int64_t length = Utf8Length(text.substr(*offset, 4));
      if (length == 0) {
        return FilterErrorAt(*offset, "expected UTF-8, found the byte " +
                                          QuoteForError({&text[(*offset)], 1}));
      }
      append(text.substr(*offset, length));
      *offset += length;
      continue;
    }
    const int64_t escape = (*offset);
    *offset += 2;
    switch (at(escape + 1)) {
      case '\\':
      case '"':
      case '\'':
      case '/':
        append(text.substr(escape + 1, 1));
        continue;
      case 'b':
        append("\b");
        continue;
      case 'f':
        append("\f");
        continue;
      case 'n':
        append("\n");
        continue;
      case 'r':
        append("\r");
        continue;
      case 't':
        append("\t");
        continue;
      case 'u':
        break;
      default:
        // A backslash at the very end: the string is not closed.
        if (escape + 1 >= size) continue;
        return FilterErrorAt(
            escape,
            "expected one of the escapes \\\\ \\\" \\' \\/ \\b \\f \\n \\r "
            "\\t \\uXXXX, found " +
                QuoteForError(text.substr(escape, 2)) +
                "; a backslash itself is written \\\\");
    }
    int32_t code = HexDigits(text.substr(*offset, 4));
    if (code < 0) {
      return FilterErrorAt(escape, "expected four hex digits after \\u");
    }
    *offset += 4;
    if (code >= 0xD800 && code < 0xE000) {
      // JSON writes characters past U+FFFF as a pair of surrogates.
      int32_t low = -1;
      if (code < 0xDC00 && at(*offset) == '\\' && at(*offset + 1) == 'u') {
        low = HexDigits(text.substr(*offset + 2, 4));
      }
      if (low < 0xDC00 || low >= 0xE000) {
        return FilterErrorAt(escape,
                             "expected a pair of surrogates, found one alone");
      }
      code = 0x10000 + ((code - 0xD800) << 10) + (low - 0xDC00);
      *offset += 6;
    }
    if (value != nullptr) AppendUtf8(static_cast<uint32_t>(code), value);
  }
  return FilterErrorAt(start,
                       std::string("the string that starts here is not closed; "
                                   "expected another ") +
                           quote);
}

}  // namespace

std::string StringValue(const FilterToken& token) {
  std::string value;
  int64_t offset = 0;
  ScanString(token.text, &offset, &value);
  return value;
}

std::string FilterErrorAt(int64_t offset, std::string_view message) {
  std::string error = "column " + std::to_string(offset + 1) + ": ";
  error.append(message);
  return error;
}

std::string QuoteForError(std::string_view text) {
  constexpr size_t kMaxBytes = 40;
  constexpr char kHex[] = "0123456789abcdef";
  std::string quoted = "`";
  size_t offset = 0;
  while (offset < text.size() && quoted.size() < kMaxBytes) {
    const uint8_t byte = static_cast<uint8_t>(text[offset]);
    const int64_t length = Utf8Length(text.substr(offset, 4));
    if (length == 0 || byte < 0x20 || byte == 0x7F) {
      quoted += "\\x";
      quoted += kHex[byte >> 4];
      quoted += kHex[byte & 15];
      ++offset;
    } else {
      quoted.append(text.substr(offset, length));
      offset += length;
    }
  }
  if (offset < text.size()) quoted += "...";
  quoted += "`";
  return quoted;
}

std::string DescribeToken(const FilterToken& token) {
  if (token.type == FilterTokenType::kEnd) return "the end of the filter";
  return QuoteForError(token.text);
}

std::string FilterLexer::Next(FilterToken* token) {
  while (IsSpace(At(offset_))) ++offset_;
  token->offset = offset_;
  token->text = {};
  if (offset_ >= static_cast<int64_t>(text_.size())) {
    token->type = FilterTokenType::kEnd;
    return "";
  }
  const char c = At(offset_);
  std::string error;
  if (c == '"' || c == '\'') {
    token->type = FilterTokenType::kString;
    error = ScanString(text_, &offset_, nullptr);
  } else if (IsDigit(c) || c == '.' || c == '-' || c == '+') {
    error = ReadNumber(token);
  } else if (IsNameStart(c)) {
    error = ReadName(token);
  } else {
    error = ReadOperator(token);
  }
  token->text = text_.substr(token->offset, offset_ - token->offset);
  return error;
}

std::string FilterLexer::ReadNumber(FilterToken* token) {
  token->type = FilterTokenType::kInt;
  if (At(offset_) == '-' || At(offset_) == '+') ++offset_;
  bool has_digits = false;
  bool is_good = true;
  while (IsDigit(At(offset_))) {
    ++offset_;
    has_digits = true;
  }
  if (At(offset_) == '.') {
    token->type = FilterTokenType::kFloat;
    ++offset_;
    while (IsDigit(At(offset_))) {
      ++offset_;
      has_digits = true;
    }
  }
  if (has_digits && (At(offset_) == 'e' || At(offset_) == 'E')) {
    token->type = FilterTokenType::kFloat;
    ++offset_;
    if (At(offset_) == '-' || At(offset_) == '+') ++offset_;
    is_good = IsDigit(At(offset_));
    while (IsDigit(At(offset_))) ++offset_;
  }
  // 1990s, 1.2.3
  if (IsNameByte(At(offset_)) || At(offset_) == '.') is_good = false;
  if (is_good && has_digits) return "";
  while (IsNameByte(At(offset_)) || At(offset_) == '.') ++offset_;
  return FilterErrorAt(
      token->offset,
      "expected a number, found " +
          QuoteForError(text_.substr(token->offset, offset_ - token->offset)));
}

std::string FilterLexer::ReadName(FilterToken* token) {
  token->type = FilterTokenType::kName;
  while (IsNameByte(At(offset_))) ++offset_;
  const std::string_view name =
      text_.substr(token->offset, offset_ - token->offset);
  for (const auto& [keyword, type] : kKeywords) {
    if (EqualsIgnoringCase(name, keyword)) token->type = type;
  }
  return "";
}

std::string FilterLexer::ReadOperator(FilterToken* token) {
  const char c = At(offset_);
  const char next = At(offset_ + 1);
  const auto take = [&](FilterTokenType type, int64_t length) {
    token->type = type;
    offset_ += length;
    return std::string();
  };
  switch (c) {
    case '(':
      return take(FilterTokenType::kOpenParen, 1);
    case ')':
      return take(FilterTokenType::kCloseParen, 1);
    case '[':
      return take(FilterTokenType::kOpenBracket, 1);
    case ']':
      return take(FilterTokenType::kCloseBracket, 1);
    case ',':
      return take(FilterTokenType::kComma, 1);
    case '=':
      if (next == '=') return take(FilterTokenType::kEqual, 2);
      return FilterErrorAt(offset_,
                           "expected `==`, found `=`; equality is "
                           "written with two signs");
    case '!':
      if (next == '=') return take(FilterTokenType::kNotEqual, 2);
      return take(FilterTokenType::kNot, 1);
    case '<':
      if (next == '=') return take(FilterTokenType::kLessEqual, 2);
      if (next == '>') {
        return FilterErrorAt(offset_, "expected `!=`, found `<>`");
      }
      return take(FilterTokenType::kLess, 1);
    case '>':
      if (next == '=') return take(FilterTokenType::kGreaterEqual, 2);
      return take(FilterTokenType::kGreater, 1);
    case '&':
      if (next == '&') return take(FilterTokenType::kAnd, 2);
      return FilterErrorAt(offset_, "expected `&&` or `and`, found `&`");
    case '|':
      if (next == '|') return take(FilterTokenType::kOr, 2);
      return FilterErrorAt(offset_, "expected `||` or `or`, found `|`");
    default:
      break;
  }
  const int64_t length = Utf8Length(text_.substr(offset_, 4));
  return FilterErrorAt(
      offset_, "expected a name, a value or an operator, found " +
                   QuoteForError(text_.substr(offset_, length ? length : 1)));
}

}  // namespace lintf
