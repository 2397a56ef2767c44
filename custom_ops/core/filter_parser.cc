// SPDX-License-Identifier: Apache-2.0
#include "custom_ops/core/filter_parser.h"

#include <algorithm>
#include <utility>

namespace lintf {
namespace {

using Type = FilterTokenType;

bool IsComparison(Type type) {
  return type >= Type::kEqual && type <= Type::kGreaterEqual;
}

bool IsLiteral(Type type) {
  return type >= Type::kString && type <= Type::kFalse;
}

// Recursive descent with one token of lookahead. Every method returns false
// after setting error_.
class Parser {
 public:
  Parser(std::string_view text, int64_t max_depth, FilterTree* tree)
      : lexer_(text),
        max_depth_(std::clamp<int64_t>(max_depth, 0, kMaxFilterTextDepth)),
        tree_(tree) {}

  std::string Run() {
    tree_->nodes.clear();
    tree_->root = -1;
    if (!Advance()) return error_;
    if (token_.type == Type::kEnd) return "";
    if (!ParseOr(0, &tree_->root)) return error_;
    if (token_.type != Type::kEnd) {
      if (token_.type == Type::kCloseParen) {
        Fail("expected the end of the filter, found `)` without its `(`");
      } else {
        Expected("`and`, `or` or the end of the filter");
      }
      return error_;
    }
    return "";
  }

 private:
  bool Advance() {
    error_ = lexer_.Next(&token_);
    return error_.empty();
  }

  bool Fail(std::string_view message) {
    error_ = FilterErrorAt(token_.offset, message);
    return false;
  }

  bool Expected(const std::string& what, const std::string& hint = "") {
    return Fail("expected " + what + ", found " + DescribeToken(token_) +
                (hint.empty() ? "" : "; " + hint));
  }

  bool Take(Type type, const std::string& what) {
    if (token_.type != type) return Expected(what);
    return Advance();
  }

  int64_t Add(FilterNode node) {
    tree_->nodes.push_back(std::move(node));
    return static_cast<int64_t>(tree_->nodes.size()) - 1;
  }

  bool CheckDepth(int64_t depth) {
    if (depth <= max_depth_) return true;
    return Fail("the filter is nested too deep: at most " +
                std::to_string(max_depth_) +
                " levels of parentheses and `not` are allowed");
  }

  bool ParseOr(int64_t depth, int64_t* node) {
    return ParseChain(FilterNodeType::kOr, Type::kOr, &Parser::ParseAnd, depth,
                      node);
  }

  bool ParseAnd(int64_t depth, int64_t* node) {
    return ParseChain(FilterNodeType::kAnd, Type::kAnd, &Parser::ParseNot,
                      depth, node);
  }

  bool ParseChain(FilterNodeType type, Type separator,
                  bool (Parser::*operand)(int64_t, int64_t*), int64_t depth,
                  int64_t* node) {
    if (!(this->*operand)(depth, node)) return false;
    if (token_.type != separator) return true;
    FilterNode chain;
    chain.type = type;
    chain.children.push_back(*node);
    while (token_.type == separator) {
      if (!Advance() || !(this->*operand)(depth, node)) return false;
      chain.children.push_back(*node);
    }
    *node = Add(std::move(chain));
    return true;
  }

  bool ParseNot(int64_t depth, int64_t* node) {
    // A run of `not` is a loop, not a recursion; it counts as nesting all the
    // same, so that the limit means one thing.
    int64_t num_nots = 0;
    while (token_.type == Type::kNot) {
      ++num_nots;
      if (!CheckDepth(depth + num_nots) || !Advance()) return false;
    }
    if (!ParsePrimary(depth + num_nots, node)) return false;
    for (; num_nots > 0; --num_nots) {
      FilterNode negation;
      negation.type = FilterNodeType::kNot;
      negation.children.push_back(*node);
      *node = Add(std::move(negation));
    }
    return true;
  }

  bool ParsePrimary(int64_t depth, int64_t* node) {
    switch (token_.type) {
      case Type::kOpenParen: {
        if (!CheckDepth(depth + 1)) return false;
        const int64_t open = token_.offset;
        if (!Advance() || !ParseOr(depth + 1, node)) return false;
        if (token_.type != Type::kCloseParen) {
          return Expected(
              "`and`, `or` or the `)` that closes the `(` of "
              "column " +
              std::to_string(open + 1));
        }
        return Advance();
      }
      case Type::kContainsAny:
        return ParseContains(FilterNodeType::kContainsAny, node);
      case Type::kContainsAll:
        return ParseContains(FilterNodeType::kContainsAll, node);
      case Type::kExists:
        return ParseExists(node);
      case Type::kName:
        return ParsePredicate(node);
      default:
        return Expected("an attribute's name, a function, `not` or `(`",
                        IsLiteral(token_.type)
                            ? "the attribute stands on the left: year >= 1990"
                            : "");
    }
  }

  bool ParsePredicate(int64_t* node) {
    FilterNode predicate;
    predicate.name = token_;
    if (!Advance()) return false;
    if (IsComparison(token_.type)) {
      predicate.type = FilterNodeType::kCompare;
      predicate.op = token_;
      if (!Advance() || !ParseLiteral(&predicate)) return false;
      if (IsComparison(token_.type)) {
        return Expected("`and`, `or` or the end of the filter",
                        "comparisons do not chain, join two with `and`");
      }
    } else if (token_.type == Type::kIn) {
      predicate.type = FilterNodeType::kIn;
      predicate.op = token_;
      if (!Advance() || !ParseList(&predicate)) return false;
    } else if (token_.type == Type::kNot && token_.text != "!") {
      predicate.type = FilterNodeType::kNotIn;
      predicate.op = token_;
      if (!Advance()) return false;
      if (token_.type != Type::kIn) return Expected("`in` after `not`");
      if (!Advance() || !ParseList(&predicate)) return false;
    } else if (token_.type == Type::kName || token_.type == Type::kNot ||
               IsLiteral(token_.type) || token_.type == Type::kOpenBracket ||
               token_.type == Type::kOpenParen) {
      return Expected(
          "`==`, `!=`, `<`, `<=`, `>`, `>=`, `in` or `not in` after " +
              QuoteForError(predicate.name.text),
          token_.type == Type::kOpenParen
              ? "the functions are contains_any, contains_all and exists"
              : (token_.text == "is" || token_.text == "IS"
                     ? "exists(name) tells whether there is a value"
                     : ""));
    } else {
      predicate.type = FilterNodeType::kBare;
      predicate.op = predicate.name;
    }
    *node = Add(std::move(predicate));
    return true;
  }

  bool ParseContains(FilterNodeType type, int64_t* node) {
    FilterNode predicate;
    predicate.type = type;
    predicate.op = token_;
    if (!Advance() || !Take(Type::kOpenParen, "`(`")) return false;
    if (!TakeName(&predicate) || !Take(Type::kComma, "`,`") ||
        !ParseList(&predicate) || !Take(Type::kCloseParen, "`)`")) {
      return false;
    }
    *node = Add(std::move(predicate));
    return true;
  }

  bool ParseExists(int64_t* node) {
    FilterNode predicate;
    predicate.type = FilterNodeType::kExists;
    predicate.op = token_;
    if (!Advance() || !Take(Type::kOpenParen, "`(`") || !TakeName(&predicate) ||
        !Take(Type::kCloseParen, "`)`")) {
      return false;
    }
    *node = Add(std::move(predicate));
    return true;
  }

  bool TakeName(FilterNode* predicate) {
    if (token_.type != Type::kName) {
      return Expected("an attribute's name",
                      token_.type == Type::kString
                          ? "names are written without quotes"
                          : "");
    }
    predicate->name = token_;
    return Advance();
  }

  bool ParseLiteral(FilterNode* predicate) {
    if (!IsLiteral(token_.type)) {
      return Expected("a value", token_.type == Type::kName
                                     ? "strings are written between quotes"
                                     : (token_.type == Type::kOpenBracket
                                            ? "lists go with `in` and `not in`"
                                            : ""));
    }
    predicate->literals.push_back(std::move(token_));
    return Advance();
  }

  bool ParseList(FilterNode* predicate) {
    if (token_.type != Type::kOpenBracket) {
      return Expected("`[`", "lists are written [1, 2, 3]");
    }
    if (!Advance()) return false;
    if (token_.type == Type::kCloseBracket) return Advance();
    while (true) {
      if (!ParseLiteral(predicate)) return false;
      if (token_.type == Type::kCloseBracket) return Advance();
      if (token_.type != Type::kComma) return Expected("`,` or `]`");
      if (!Advance()) return false;
    }
  }

  FilterLexer lexer_;
  const int64_t max_depth_;
  FilterTree* const tree_;
  FilterToken token_;
  std::string error_;
};

}  // namespace

std::string ParseFilter(std::string_view text, int64_t max_depth,
                        FilterTree* tree) {
  return Parser(text, max_depth, tree).Run();
}

}  // namespace lintf
