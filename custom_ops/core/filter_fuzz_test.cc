// SPDX-License-Identifier: Apache-2.0
// Random filters, good and bad: filter_fuzz_test [count] [seed].
//
// Each round makes a random syntax tree over random items and
// - prints it in a random style, compiles it and compares every row with an
//   evaluation of the tree over the items' values (no columns, no programs);
// - spoils the text (or makes one of random tokens or bytes) and asks an
//   independent recogniser whether it is a filter: the compiler must agree,
//   and must name a position if it refuses.
#include <cctype>
#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <ctime>

#include "custom_ops/core/filter_compiler.h"
#include "custom_ops/core/filter_eval.h"
#include "custom_ops/core/filter_test_data.h"
#include "custom_ops/core/testing.h"

namespace lintf {
namespace {

using testing::Below;
using testing::Pick;
using testing::Rng;
using testing::TestItems;
using testing::TestValue;

constexpr int kId = -1;

struct Literal {
  std::string text;    // as written in the filter
  std::string string;  // strings: the value
  int64_t number = 0;  // ints, times, bools
  float real = 0;
};

struct Expression {
  enum Kind { kAnd, kOr, kNot, kPredicate } kind = kPredicate;
  std::vector<Expression> children;
  int attribute = kId;
  // One of == != < <= > >= in, "not in", any, all, exists, bare.
  std::string op;
  std::vector<Literal> literals;
};

// ---------------------------------------------------------------- meaning

bool Known(const TestItems& items, int attribute, const std::string& text) {
  if (text.empty()) return false;
  if (attribute == kId) return true;
  const AttributeDef& def = items.schema.attributes[attribute];
  return def.encoding == AttributeEncoding::kHash ||
         def.vocabulary.count(text) > 0;
}

bool HasString(const TestItems& items, const Expression& e, int64_t row,
               const std::string& text) {
  if (!Known(items, e.attribute, text)) return false;
  if (e.attribute == kId) return items.string_ids[row] == text;
  const auto& strings = items.values[e.attribute][row].strings;
  return std::find(strings.begin(), strings.end(), text) != strings.end();
}

bool Positive(const TestItems& items, const Expression& e, int64_t row) {
  const bool is_id = e.attribute == kId;
  static const TestValue kNone;
  const TestValue& value = is_id ? kNone : items.values[e.attribute][row];
  if (e.op == "exists") return is_id || !value.missing;
  const AttributeKind kind =
      is_id ? (items.schema.string_ids ? AttributeKind::kCategory
                                       : AttributeKind::kInt)
            : items.schema.attributes[e.attribute].kind;
  if (!is_id && value.missing) return false;
  if (e.op == "bare") return value.number == 1;
  if (e.op == "all") {
    return std::all_of(
        e.literals.begin(), e.literals.end(),
        [&](const Literal& l) { return HasString(items, e, row, l.string); });
  }
  const int64_t number = is_id ? items.ids[row] : value.number;
  const auto matches = [&](const Literal& l) {
    switch (kind) {
      case AttributeKind::kCategory:
      case AttributeKind::kTags:
        return HasString(items, e, row, l.string);
      case AttributeKind::kFloat:
        if (e.op == "<") return value.real < l.real;
        if (e.op == "<=") return value.real <= l.real;
        if (e.op == ">") return value.real > l.real;
        if (e.op == ">=") return value.real >= l.real;
        return value.real == l.real;
      default:
        if (e.op == "<") return number < l.number;
        if (e.op == "<=") return number <= l.number;
        if (e.op == ">") return number > l.number;
        if (e.op == ">=") return number >= l.number;
        return number == l.number;
    }
  };
  return std::any_of(e.literals.begin(), e.literals.end(), matches);
}

bool Evaluate(const TestItems& items, const Expression& e, int64_t row) {
  switch (e.kind) {
    case Expression::kNot:
      return !Evaluate(items, e.children[0], row);
    case Expression::kAnd:
      for (const Expression& child : e.children) {
        if (!Evaluate(items, child, row)) return false;
      }
      return true;
    case Expression::kOr:
      for (const Expression& child : e.children) {
        if (Evaluate(items, child, row)) return true;
      }
      return false;
    case Expression::kPredicate:
      break;
  }
  const bool is_negated = e.op == "!=" || e.op == "not in";
  return Positive(items, e, row) != is_negated;
}

// ------------------------------------------------------- random expressions

std::string Quoted(Rng& rng, const std::string& text) {
  const char quote = Below(rng, 2) == 0 ? '"' : '\'';
  std::string out(1, quote);
  for (const char c : text) {
    if (c == quote || c == '\\') {
      out += '\\';
      out += c;
    } else if (c == '\n' && Below(rng, 2) == 0) {
      out += "\\n";
    } else if (c == '\t' && Below(rng, 2) == 0) {
      out += "\\u0009";
    } else if (c == 'a' && Below(rng, 4) == 0) {
      out += "\\u0061";
    } else {
      out += c;
    }
  }
  return out + quote;
}

// An ISO 8601 text of `seconds`, in a random time zone.
std::string IsoText(Rng& rng, int64_t seconds) {
  const int64_t offset =
      Below(rng, 2) == 0 ? 0 : 60 * (Below(rng, 2879) - 1439);
  const std::time_t local = seconds + offset;
  std::tm parts;
  gmtime_r(&local, &parts);
  char text[80];
  std::snprintf(text, sizeof(text), "%04d-%02d-%02d%c%02d:%02d:%02d",
                parts.tm_year + 1900, parts.tm_mon + 1, parts.tm_mday,
                Below(rng, 2) == 0 ? 'T' : ' ', parts.tm_hour, parts.tm_min,
                parts.tm_sec);
  std::string out = text;
  if (offset != 0) {
    const int64_t minutes = std::abs(offset) / 60;
    std::snprintf(text, sizeof(text), "%c%02d:%02d", offset < 0 ? '-' : '+',
                  static_cast<int>(minutes / 60 % 100),
                  static_cast<int>(minutes % 60));
    return out + text;
  }
  if (parts.tm_hour == 0 && parts.tm_min == 0 && parts.tm_sec == 0 &&
      Below(rng, 2) == 0) {
    return out.substr(0, 10);
  }
  return out + (Below(rng, 2) == 0 ? "Z" : "");
}

Literal RandomLiteral(Rng& rng, const TestItems& items, int attribute) {
  Literal literal;
  const bool is_id = attribute == kId;
  if (is_id && items.schema.string_ids) {
    literal.string = items.num_rows > 0 && Below(rng, 5) != 0
                         ? Pick(rng, items.string_ids)
                         : testing::RandomWord(rng);
    literal.text = Quoted(rng, literal.string);
    return literal;
  }
  const AttributeKind kind =
      is_id ? AttributeKind::kInt : items.schema.attributes[attribute].kind;
  const ColumnType type =
      is_id ? ColumnType::kInt64 : items.schema.attributes[attribute].type;
  switch (kind) {
    case AttributeKind::kCategory:
    case AttributeKind::kTags:
      literal.string = Below(rng, 12) == 0 ? "" : testing::RandomWord(rng);
      literal.text = Quoted(rng, literal.string);
      return literal;
    case AttributeKind::kBool:
      literal.number = Below(rng, 2);
      literal.text = literal.number != 0 ? "true" : "false";
      return literal;
    case AttributeKind::kFloat: {
      static const std::vector<std::string> kOdd = {
          "0",
          "-0.0",
          "+.0",
          "1e-45",
          "-1e-45",
          "3.4028234e38",
          "-3.4028234e38",
          "0.1",
          "1.17549435e-38",
          "16777217",
          "1e-400",
          "340282346638528859811704183484516925440",
          "00.5",
          "5.",
          "-1E+0"};
      if (Below(rng, 2) == 0) {
        literal.text = Pick(rng, kOdd);
      } else {
        literal.text = std::to_string(Below(rng, 9) - 4);
        if (Below(rng, 2) == 0)
          literal.text +=
              Pick<std::string>(rng, {".25", ".5", ".", ".75e0", "e-1"});
      }
      literal.real =
          static_cast<float>(std::strtod(literal.text.c_str(), nullptr));
      return literal;
    }
    case AttributeKind::kTimestamp:
      literal.number = Below(rng, 4) == 0 ? testing::RandomNumber(rng, type)
                                          : 1700000000 + 43200 * Below(rng, 6);
      if (Below(rng, 2) == 0 && std::abs(literal.number / 2) < 30000000000) {
        literal.text = Quoted(rng, IsoText(rng, literal.number));
        return literal;
      }
      break;
    case AttributeKind::kInt:
      if (is_id && items.num_rows > 0 && Below(rng, 3) != 0) {
        literal.number = Pick(rng, items.ids);
      } else {
        // Also numbers that the column cannot hold.
        literal.number = testing::RandomNumber(
            rng, Below(rng, 3) == 0 ? ColumnType::kInt64 : type);
        if (Below(rng, 12) == 0) {
          literal.number = std::numeric_limits<int64_t>::min();
        }
        if (Below(rng, 12) == 0) literal.number = 1000 - Below(rng, 2) * 2000;
        if (Below(rng, 12) == 0) literal.number = -128;
      }
      break;
  }
  literal.text = std::to_string(literal.number);
  if (literal.number >= 0 && Below(rng, 8) == 0) {
    literal.text.insert(0, Below(rng, 2) == 0 ? "+" : "00");
  }
  return literal;
}

Expression RandomPredicate(Rng& rng, const TestItems& items) {
  Expression e;
  const auto num_attributes =
      static_cast<int64_t>(items.schema.attributes.size());
  e.attribute = static_cast<int>(Below(rng, num_attributes + 2)) - 1;
  if (e.attribute == num_attributes) e.attribute = kId;
  AttributeKind kind =
      items.schema.string_ids ? AttributeKind::kCategory : AttributeKind::kInt;
  if (e.attribute != kId) kind = items.schema.attributes[e.attribute].kind;
  std::vector<std::string> ops = {"==", "!=", "exists"};
  if (kind == AttributeKind::kBool) {
    ops.push_back("bare");
  } else {
    ops.insert(ops.end(), {"in", "in", "not in"});
    if (kind == AttributeKind::kTags) {
      ops.insert(ops.end(), {"any", "all"});
    } else if (kind != AttributeKind::kCategory) {
      ops.insert(ops.end(), {"<", "<=", ">", ">="});
    }
  }
  e.op = Pick(rng, ops);
  int64_t count = 1;
  if (e.op == "exists" || e.op == "bare") count = 0;
  if (e.op == "in" || e.op == "not in" || e.op == "any") count = Below(rng, 5);
  if (e.op == "all") count = Below(rng, 3);
  if (e.op == "in" && Below(rng, 30) == 0) count = 60;
  for (int64_t i = 0; i < count; ++i) {
    e.literals.push_back(RandomLiteral(rng, items, e.attribute));
  }
  return e;
}

Expression RandomExpression(Rng& rng, const TestItems& items, int64_t depth) {
  Expression e;
  if (depth == 0 || Below(rng, 3) == 0) return RandomPredicate(rng, items);
  const int64_t choice = Below(rng, 5);
  e.kind = choice < 2 ? Expression::kAnd
                      : (choice < 4 ? Expression::kOr : Expression::kNot);
  const int64_t count = e.kind == Expression::kNot ? 1 : 2 + Below(rng, 3);
  for (int64_t i = 0; i < count; ++i) {
    e.children.push_back(RandomExpression(rng, items, depth - 1));
  }
  return e;
}

// ----------------------------------------------------------------- printing

std::string Cased(Rng& rng, std::string word) {
  const int64_t style = Below(rng, 4);
  for (char& c : word) {
    if (style == 1 || (style == 2 && Below(rng, 2) == 0)) {
      c = static_cast<char>(std::toupper(c));
    }
  }
  return word;
}

std::string Space(Rng& rng) {
  return Below(rng, 3) == 0 ? std::string(Below(rng, 3), " \t\n"[Below(rng, 3)])
                            : "";
}

std::string Print(Rng& rng, const TestItems& items, const Expression& e,
                  int binding) {
  // How tight the parts bind: or 0, and 1, not 2, predicate 3.
  int own = 3;
  std::string text;
  if (e.kind == Expression::kAnd || e.kind == Expression::kOr) {
    own = e.kind == Expression::kAnd ? 1 : 0;
    for (size_t i = 0; i < e.children.size(); ++i) {
      if (i > 0) {
        const bool is_and = e.kind == Expression::kAnd;
        text += Below(rng, 4) == 0
                    ? Space(rng) + (is_and ? "&&" : "||") + Space(rng)
                    : " " + Space(rng) + Cased(rng, is_and ? "and" : "or") +
                          Space(rng) + " ";
      }
      text += Print(rng, items, e.children[i], own + 1);
    }
  } else if (e.kind == Expression::kNot) {
    own = 2;
    text = Below(rng, 3) == 0 ? "!" + Space(rng) : Cased(rng, "not") + " ";
    text += Print(rng, items, e.children[0], own);
  } else {
    const std::string name =
        e.attribute == kId ? "id" : items.schema.attributes[e.attribute].name;
    std::string list = "[" + Space(rng);
    for (size_t i = 0; i < e.literals.size(); ++i) {
      if (i > 0) list += Space(rng) + "," + Space(rng);
      list += e.literals[i].text;
    }
    list += Space(rng) + "]";
    const bool is_bool =
        e.attribute != kId &&
        items.schema.attributes[e.attribute].kind == AttributeKind::kBool;
    if (e.op == "exists") {
      text = Cased(rng, "exists") + Space(rng) + "(" + name + Space(rng) + ")";
    } else if (e.op == "any" || e.op == "all") {
      text = Cased(rng, "contains_" + e.op) + "(" + Space(rng) + name +
             Space(rng) + "," + list + Space(rng) + ")";
    } else if (e.op == "bare") {
      text = name;
    } else if (e.op == "in") {
      text = name + " " + Space(rng) + Cased(rng, "in") + Space(rng) + list;
    } else if (e.op == "not in") {
      text = name + " " + Cased(rng, "not") + " " + Space(rng) +
             Cased(rng, "in") + list;
    } else {
      text = name + Space(rng) + e.op + Space(rng) +
             (is_bool ? Cased(rng, e.literals[0].text) : e.literals[0].text);
    }
  }
  int64_t num_parens = own < binding ? 1 : 0;
  if (Below(rng, 8) == 0) num_parens += 1 + Below(rng, 2);
  for (; num_parens > 0; --num_parens) {
    text = "(" + Space(rng) + text + Space(rng) + ")";
  }
  return text;
}

// --------------------------------------------------------------- recogniser

// Says whether a text is a filter of the schema, straight from its characters
// and with the C library's numbers and times: nothing in common with the
// compiler.
class Recogniser {
 public:
  Recogniser(const FilterSchema& schema, const std::string& text)
      : schema_(schema), text_(text) {}

  bool Accepts() {
    Skip();
    if (AtEnd()) return true;
    return Or(0) && AtEnd();
  }

 private:
  static constexpr int kMaxDepth = 32;

  bool AtEnd() const { return at_ == text_.size(); }
  void Skip() {
    while (!AtEnd() && std::strchr(" \t\r\n", text_[at_]) != nullptr &&
           text_[at_] != '\0') {
      ++at_;
    }
  }
  bool Sign(const std::string& sign) {
    if (text_.compare(at_, sign.size(), sign) != 0) return false;
    at_ += sign.size();
    Skip();
    return true;
  }
  static bool IsNameByte(char c) {
    return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') ||
           (c >= 'A' && c <= 'Z') || c == '_';
  }
  // The word here, "" if there is none.
  std::string Peek() const {
    size_t end = at_;
    while (end < text_.size() && IsNameByte(text_[end])) ++end;
    std::string word = text_.substr(at_, end - at_);
    if (!word.empty() && word[0] >= '0' && word[0] <= '9') return "";
    return word;
  }
  static std::string Lower(std::string word) {
    for (char& c : word) {
      if (c >= 'A' && c <= 'Z') c = static_cast<char>(c + 32);
    }
    return word;
  }
  bool Word(const std::string& wanted) {
    const std::string word = Peek();
    if (Lower(word) != wanted) return false;
    at_ += word.size();
    Skip();
    return true;
  }

  bool Or(int depth) {
    do {
      if (!And(depth)) return false;
    } while (Sign("||") || Word("or"));
    return true;
  }
  bool And(int depth) {
    do {
      if (!Unary(depth)) return false;
    } while (Sign("&&") || Word("and"));
    return true;
  }
  bool Unary(int depth) {
    if (depth > kMaxDepth) return false;
    if (text_.compare(at_, 2, "!=") == 0) return false;
    if (Sign("!") || Word("not")) return Unary(depth + 1);
    if (Sign("(")) {
      return depth + 1 <= kMaxDepth && Or(depth + 1) && Sign(")");
    }
    return Predicate();
  }

  bool Name(AttributeKind* kind) {
    const std::string word = Peek();
    if (word == "id") {
      *kind =
          schema_.string_ids ? AttributeKind::kCategory : AttributeKind::kInt;
    } else {
      const auto found = std::find_if(
          schema_.attributes.begin(), schema_.attributes.end(),
          [&](const AttributeDef& def) { return def.name == word; });
      if (found == schema_.attributes.end()) return false;
      *kind = found->kind;
    }
    at_ += word.size();
    Skip();
    return true;
  }

  bool Predicate() {
    AttributeKind kind;
    if (Word("exists")) return Sign("(") && Name(&kind) && Sign(")");
    if (Word("contains_any") || Word("contains_all")) {
      return Sign("(") && Name(&kind) && kind == AttributeKind::kTags &&
             Sign(",") && List(kind) && Sign(")");
    }
    if (!Name(&kind)) return false;
    const bool is_string =
        kind == AttributeKind::kCategory || kind == AttributeKind::kTags;
    const bool is_bool = kind == AttributeKind::kBool;
    if (Sign("==") || Sign("!=")) return Value(kind);
    // "<>" must not pass for "<" and then ">".
    if (Sign("<=") || Sign(">=") || Sign("<") || Sign(">")) {
      return !is_string && !is_bool && Value(kind);
    }
    if (Word("in")) return !is_bool && List(kind);
    if (Word("not")) return Word("in") && !is_bool && List(kind);
    return is_bool;
  }

  bool List(AttributeKind kind) {
    if (!Sign("[")) return false;
    if (Sign("]")) return true;
    do {
      if (!Value(kind)) return false;
    } while (Sign(","));
    return Sign("]");
  }

  bool Value(AttributeKind kind) {
    switch (kind) {
      case AttributeKind::kBool:
        return Word("true") || Word("false");
      case AttributeKind::kCategory:
      case AttributeKind::kTags: {
        std::string ignored;
        return String(&ignored);
      }
      case AttributeKind::kFloat:
        return Number(true);
      case AttributeKind::kInt:
        return Number(false);
      case AttributeKind::kTimestamp: {
        std::string time;
        return Number(false) || (String(&time) && Time(time));
      }
    }
    return false;
  }

  bool Number(bool is_float) {
    size_t end = at_;
    while (end < text_.size() &&
           (IsNameByte(text_[end]) || text_[end] == '.' ||
            ((text_[end] == '+' || text_[end] == '-') &&
             (end == at_ || ((text_[end - 1] | 32) == 'e' &&
                             text_[at_] != 'e' && text_[at_] != 'E'))))) {
      ++end;
    }
    const std::string text = text_.substr(at_, end - at_);
    char* rest;
    if (is_float) {
      // What strtod reads to the end, but for its other notations.
      if (text.find_first_not_of("0123456789+-.eE") != std::string::npos) {
        return false;
      }
      const double value = std::strtod(text.c_str(), &rest);
      if (std::isinf(static_cast<float>(value))) return false;
    } else {
      errno = 0;
      (void)std::strtoll(text.c_str(), &rest, 10);
      if (errno == ERANGE) return false;
    }
    if (text.empty() || *rest != '\0') return false;
    at_ = end;
    Skip();
    return true;
  }

  // Decodes UTF-8 by its definition: the shortest form of a scalar value.
  static bool IsUtf8(const std::string& text) {
    for (size_t i = 0; i < text.size();) {
      const uint8_t lead = static_cast<uint8_t>(text[i]);
      const int length =
          lead < 0x80
              ? 1
              : (lead >> 5 == 6
                     ? 2
                     : (lead >> 4 == 14 ? 3 : (lead >> 3 == 30 ? 4 : 0)));
      if (length == 0 || i + length > text.size()) return false;
      uint32_t code = length == 1 ? lead : lead & (0x7F >> length);
      for (int j = 1; j < length; ++j) {
        const uint8_t next = static_cast<uint8_t>(text[i + j]);
        if (next >> 6 != 2) return false;
        code = code * 64 + (next & 63);
      }
      const uint32_t kFirst[] = {0, 0, 0x80, 0x800, 0x10000};
      if (code < kFirst[length] || code > 0x10FFFF) return false;
      if (code >= 0xD800 && code <= 0xDFFF) return false;
      i += length;
    }
    return true;
  }

  bool String(std::string* value) {
    if (AtEnd() || (text_[at_] != '"' && text_[at_] != '\'')) return false;
    const char quote = text_[at_];
    size_t end = at_ + 1;
    while (end < text_.size() && text_[end] != quote) {
      end += text_[end] == '\\' ? 2 : 1;
    }
    if (end >= text_.size()) return false;
    const std::string body = text_.substr(at_ + 1, end - at_ - 1);
    if (!IsUtf8(body)) return false;
    uint32_t high = 0;  // a high surrogate that waits for its low one
    for (size_t i = 0; i < body.size(); ++i) {
      if (high != 0 && body.compare(i, 2, "\\u") != 0) return false;
      if (body[i] != '\\') {
        *value += body[i];
        continue;
      }
      const char escape = body[++i];
      if (escape != 'u') {
        if (std::string("\\\"'/bfnrt").find(escape) == std::string::npos) {
          return false;
        }
        *value += escape;  // times have no use for the right one
        continue;
      }
      const std::string hex = body.substr(i + 1, 4);
      if (hex.size() < 4 || hex.find_first_not_of("0123456789abcdefABCDEF") !=
                                std::string::npos) {
        return false;
      }
      i += 4;
      const auto code =
          static_cast<uint32_t>(std::strtoul(hex.c_str(), nullptr, 16));
      const bool is_low = code >= 0xDC00 && code < 0xE000;
      if (is_low != (high != 0)) return false;
      high = code >= 0xD800 && code < 0xDC00 ? code : 0;
      *value += code < 128 ? static_cast<char>(code) : '?';
    }
    if (high != 0) return false;
    at_ = end + 1;
    Skip();
    return true;
  }

  static bool Time(const std::string& text) {
    std::string shape = text;
    for (char& c : shape) {
      if (c >= '0' && c <= '9') c = '0';
      if (c == ' ') c = 'T';
    }
    bool is_known = shape == "0000-00-00";
    for (const std::string clock : {"T00:00", "T00:00:00"}) {
      for (const std::string zone : {"", "Z", "+00:00", "-00:00"}) {
        is_known |= shape == "0000-00-00" + clock + zone;
      }
    }
    if (!is_known) return false;
    const auto number = [&](size_t at, size_t length) {
      return at < text.size() ? std::stoi(text.substr(at, length)) : 0;
    };
    std::tm parts = {};
    parts.tm_year = number(0, 4) - 1900;
    parts.tm_mon = number(5, 2) - 1;
    parts.tm_mday = number(8, 2);
    if (number(0, 4) == 0 || number(11, 2) > 23 || number(14, 2) > 59) {
      return false;
    }
    const bool has_seconds = text.size() > 16 && text[16] == ':';
    if (has_seconds && number(17, 2) > 59) return false;
    const size_t zone = has_seconds ? 19 : 16;
    if (number(zone + 1, 2) > 23 || number(zone + 4, 2) > 59) return false;
    const std::tm given = parts;
    timegm(&parts);  // moves a 30 February into March
    return parts.tm_mon == given.tm_mon && parts.tm_mday == given.tm_mday &&
           parts.tm_year == given.tm_year;
  }

  const FilterSchema& schema_;
  const std::string& text_;
  size_t at_ = 0;
};

// ---------------------------------------------------------------- bad texts

const std::vector<std::string>& Pieces() {
  static const std::vector<std::string> pieces = {"int8",
                                                  "free",
                                                  "cat8",
                                                  "tags8",
                                                  "price",
                                                  "added",
                                                  "id",
                                                  "nothing",
                                                  "==",
                                                  "!=",
                                                  "<",
                                                  "<=",
                                                  ">",
                                                  ">=",
                                                  "=",
                                                  "<>",
                                                  "in",
                                                  "not in",
                                                  "not",
                                                  "and",
                                                  "or",
                                                  "&&",
                                                  "||",
                                                  "&",
                                                  "!",
                                                  "(",
                                                  ")",
                                                  "[",
                                                  "]",
                                                  ",",
                                                  "1",
                                                  "-1",
                                                  "1.5",
                                                  "1e9",
                                                  "1e",
                                                  ".",
                                                  "9223372036854775808",
                                                  "true",
                                                  "'a'",
                                                  "\"b\"",
                                                  "'",
                                                  "\"",
                                                  "\\",
                                                  "'2024-01-31'",
                                                  "'2024-02-30'",
                                                  "exists",
                                                  "exists(free)",
                                                  "contains_any",
                                                  "contains_all(tags8, ['a'])",
                                                  "contains_any(int8, [1])",
                                                  "int8 == 1",
                                                  "int8 in [1, 2]",
                                                  "cat8 in []",
                                                  " ",
                                                  "\n",
                                                  "\t",
                                                  "#",
                                                  "\x01",
                                                  "\xC3\xA9",
                                                  "\xFF",
                                                  "nan",
                                                  "None",
                                                  "1 < int8",
                                                  "'\\ud83d'",
                                                  "'\\q'",
                                                  "IN",
                                                  "Not",
                                                  "x1",
                                                  "-",
                                                  "+",
                                                  "e5",
                                                  "1990.",
                                                  "'",
                                                  std::string(1, '\0')};
  return pieces;
}

std::string RandomBytes(Rng& rng) {
  std::string text(Below(rng, 40), ' ');
  for (char& c : text) {
    c = static_cast<char>(Below(rng, 3) == 0 ? Below(rng, 256)
                                             : 32 + Below(rng, 95));
  }
  return text;
}

std::string RandomTokens(Rng& rng) {
  std::string text;
  for (int64_t count = Below(rng, 14); count > 0; --count) {
    text += Pick(rng, Pieces());
    if (Below(rng, 3) != 0) text += " ";
  }
  return text;
}

std::string Spoil(Rng& rng, std::string text) {
  const auto size = [&] { return static_cast<int64_t>(text.size()); };
  for (int64_t changes = 1 + Below(rng, 3); changes > 0; --changes) {
    const int64_t at = Below(rng, size() + 1);
    switch (Below(rng, 7)) {
      case 0:
        text.insert(at, Pick(rng, Pieces()));
        break;
      case 1:
        text.insert(at, 1, static_cast<char>(Below(rng, 256)));
        break;
      case 2:
        if (at < size()) text.erase(at, 1 + Below(rng, 4));
        break;
      case 3:
        if (at < size()) text[at] = static_cast<char>(32 + Below(rng, 95));
        break;
      case 4:
        text.resize(at);
        break;
      case 5:
        text += " " + Pick(rng, Pieces());
        break;
      default:
        text = text.substr(at) + text.substr(0, at);
        break;
    }
  }
  return text;
}

// ------------------------------------------------------------------- checks

bool NamesPosition(const std::string& error, size_t length) {
  static const std::string kPrefix = "column ";
  if (error.compare(0, kPrefix.size(), kPrefix) != 0) return false;
  char* end;
  const long column = std::strtol(error.c_str() + kPrefix.size(), &end, 10);
  return column >= 1 && column <= static_cast<long>(length) + 1 &&
         std::string(end, 2) == ": " && std::strlen(end) > 8;
}

// Compiles; checks that all sides agree on whether it is a filter.
bool CheckText(const TestItems& items, const std::string& text,
               std::vector<int64_t>* program) {
  const std::string error =
      CompileFilter(text, items.schema, FilterLimits(), program);
  const bool expected = Recogniser(items.schema, text).Accepts();
  CHECK_THAT(error.empty() == expected)
      << "the compiler " << (error.empty() ? "accepts" : "refuses") << ": "
      << text << "\n"
      << error;
  if (error.empty()) return true;
  CHECK_THAT(program->empty());
  CHECK_THAT(NamesPosition(error, text.size())) << text << "\n" << error;
  // Error messages travel in protocol buffers: UTF-8 only, no control bytes.
  const bool is_clean = std::none_of(error.begin(), error.end(), [](char c) {
    return static_cast<uint8_t>(c) < 32;
  });
  CHECK_THAT(is_clean && error.size() < 1200) << error;
  return false;
}

void CheckMeaning(const TestItems& items, const Expression& expression,
                  const std::string& text, const std::vector<int64_t>& program,
                  FilterIsa isa) {
  const auto num_words = static_cast<int64_t>(program.size());
  std::vector<FilterInstruction> instructions;
  const std::string error = DecodeFilterProgram(program.data(), num_words,
                                                items.columns, &instructions);
  CHECK_THAT(error.empty()) << text << "\n" << error;
  FilterMasks masks(isa);
  int64_t bad;
  const std::string same =
      masks.Init(program.data(), 1, num_words, &items.columns, items.ids.data(),
                 nullptr, nullptr, &bad);
  CHECK_THAT(same.empty()) << text << "\n" << same;
  if (!error.empty() || !same.empty()) return;
  std::vector<uint64_t> bits((items.num_rows + 63) / 64);
  masks.Fill(0, 0, items.num_rows, bits.data());
  for (int64_t row = 0; row < items.num_rows; ++row) {
    const bool expected = Evaluate(items, expression, row);
    const bool reference =
        FilterPassesRow(instructions, items.columns, items.ids.data(), row);
    const bool fast = (bits[row / 64] >> (row % 64)) & 1;
    CHECK_THAT(reference == expected && fast == expected)
        << text << "\nrow " << row << ": expected " << expected << ", got "
        << reference << " and, by blocks, " << fast;
    if (reference != expected || fast != expected) return;
  }
}

void Fuzz(int64_t count, uint64_t seed) {
  constexpr int64_t kRoundsPerItems = 500;
  Rng rng(seed);
  TestItems items;
  int64_t num_filters = 0;
  int64_t num_others = 0;
  for (int64_t round = 0; round < count; ++round) {
    if (round % kRoundsPerItems == 0) {
      items =
          testing::MakeTestItems(rng, 1 + Below(rng, 90), Below(rng, 3) == 0);
    }
    const Expression expression = RandomExpression(rng, items, Below(rng, 4));
    const std::string text = Print(rng, items, expression, 0);
    std::vector<int64_t> program;
    if (round % 2 == 0) {
      const bool accepted = CheckText(items, text, &program);
      CHECK_THAT(accepted) << text;
      const auto isa = static_cast<FilterIsa>(
          Below(rng, static_cast<int64_t>(BestFilterIsa()) + 1));
      if (accepted) CheckMeaning(items, expression, text, program, isa);
    } else {
      const int64_t source = Below(rng, 6);
      const std::string other =
          source == 0 ? RandomBytes(rng)
                      : (source == 1 ? RandomTokens(rng) : Spoil(rng, text));
      (CheckText(items, other, &program) ? num_filters : num_others) += 1;
    }
    if (testing::Failures() > 20) return;
  }
  std::cout << count << " rounds; of the spoiled texts " << num_filters
            << " were filters still and " << num_others << " were not\n";
  // Both sides of the language must have been tried.
  CHECK_THAT(count < 1000 || (num_filters > 0 && num_others > count / 5));
}

}  // namespace
}  // namespace lintf

int main(int argc, char** argv) {
  const int64_t count = argc > 1 ? std::atoll(argv[1]) : 20000;
  const uint64_t seed = argc > 2 ? std::strtoull(argv[2], nullptr, 10) : 1;
  lintf::Fuzz(count, seed);
  return lintf::testing::Result();
}
