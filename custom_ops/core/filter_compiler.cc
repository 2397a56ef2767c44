// SPDX-License-Identifier: Apache-2.0
// The filter language. lintf/filters/LANGUAGE.md says the same to users.
//
//   filter     = [ or ]                       blank text: no filter
//   or         = and { ("or" | "||") and }
//   and        = not { ("and" | "&&") not }
//   not        = { "not" | "!" } primary
//   primary    = "(" or ")" | function | predicate
//   function   = ("contains_any" | "contains_all") "(" NAME "," list ")"
//              | "exists" "(" NAME ")"
//   predicate  = NAME [ comparison literal | ["not"] "in" list ]
//   comparison = "==" | "!=" | "<" | "<=" | ">" | ">="
//   list       = "[" [ literal { "," literal } ] "]"
//   literal    = STRING | INT | FLOAT | "true" | "false"
//
//   NAME   = [A-Za-z_][A-Za-z0-9_]*, not a word of the language; case counts
//   INT    = [+-]?[0-9]+
//   FLOAT  = [+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?, not an INT
//   STRING = UTF-8 between " or between ', with the escapes \\ \" \' \/ \b \f
//            \n \r \t and \uXXXX (surrogate pairs as in JSON)
//
// The words of the language (and or not in true false contains_any
// contains_all exists) are recognised in any mix of cases. Spaces, tabs and
// line ends separate and mean nothing else. A number or a name ends where its
// characters end, and two words need something between them.
//
// Types. x is an attribute of the kind, or the item's `id`.
//   category   x == "a", x != "a", x in ["a", "b"], x not in [...]
//   tags       the same, true if at least one tag matches (== and in) or none
//              does (!= and not in); contains_any(x, [...]), the same as in;
//              contains_all(x, [...])
//   int        comparisons and lists of INT
//   float      comparisons and lists of INT or FLOAT, rounded to float32 (by
//              way of float64) first, as stored values are
//   timestamp  comparisons and lists of INT (seconds since 1970 UTC) or ISO
//              8601 strings (filter_time.h)
//   bool       x == true, x != false, or just x, which is x == true
//   id         int64: as int; string: as category
//   exists(x)  any kind
//
// Meaning. A missing value matches no positive predicate and every negated one
// (`!=`, `not in`, and what stands under an odd number of `not`). `in []` and
// `contains_any(x, [])` match no row, `not in []` every row, and
// `contains_all(x, [])` the rows that have any tag. "" stands for a missing
// string: it matches no row. So does a string outside the vocabulary, or a
// number that the column cannot hold; the opposites match every row.
// Comparisons with values outside a column's range are exact, not clipped:
// x < 1000 on an int8 column is true wherever there is a value.
//
// The program: leaves as in filter_program.h. Lists are sorted and without
// repeats; a list of neighbours becomes a range, a list on a uint8 column a
// table. Constant parts are folded away.
#include "custom_ops/core/filter_compiler.h"

#include <algorithm>
#include <array>
#include <utility>

#include "custom_ops/core/filter_lexer.h"
#include "custom_ops/core/filter_literals.h"
#include "custom_ops/core/filter_parser.h"
#include "custom_ops/core/filter_program.h"
#include "custom_ops/core/filter_time.h"

namespace lintf {
namespace {

using Token = FilterToken;
using Type = FilterTokenType;

constexpr std::string_view kIdName = "id";

// A part of the program under construction.
struct Code {
  enum Value : uint8_t { kFalse, kTrue, kWords };
  Value value = kFalse;
  bool ends_with_not = false;
  int64_t stack = 0;           // masks on the stack at once
  std::vector<int64_t> words;  // kWords only
};

Code Constant(bool value) {
  Code code;
  code.value = value ? Code::kTrue : Code::kFalse;
  return code;
}

Code Leaf(FilterOp op, int column, std::vector<int64_t> payload) {
  Code code;
  code.value = Code::kWords;
  code.stack = 1;
  code.words = std::move(payload);
  const int64_t count = static_cast<int64_t>(code.words.size());
  code.words.insert(code.words.begin(), FilterHeaderWord(op, column, count));
  return code;
}

Code Not(Code code) {
  if (code.value != Code::kWords) return Constant(code.value == Code::kFalse);
  if (code.ends_with_not) {
    code.words.pop_back();
  } else {
    code.words.push_back(FilterHeaderWord(FilterOp::kNot, 0, 0));
  }
  code.ends_with_not = !code.ends_with_not;
  return code;
}

Code Join(bool is_and, std::vector<Code> parts) {
  const Code::Value absorbing = is_and ? Code::kFalse : Code::kTrue;
  const Code::Value neutral = is_and ? Code::kTrue : Code::kFalse;
  std::vector<Code*> kept;
  for (Code& part : parts) {
    if (part.value == absorbing) return Constant(!is_and);
    if (part.value != neutral) kept.push_back(&part);
  }
  if (kept.empty()) return Constant(is_and);
  if (kept.size() == 1) return std::move(*kept[0]);
  // Whoever needs most of the stack goes first, while the stack is empty:
  // then the stack grows with the logarithm of the filter's size at most.
  std::stable_sort(kept.begin(), kept.end(), [](const Code* a, const Code* b) {
    return a->stack > b->stack;
  });
  Code code;
  code.value = Code::kWords;
  const FilterOp op = is_and ? FilterOp::kAnd : FilterOp::kOr;
  for (size_t i = 0; i < kept.size(); ++i) {
    code.stack = std::max(code.stack, kept[i]->stack + (i > 0 ? 1 : 0));
    code.words.insert(code.words.end(), kept[i]->words.begin(),
                      kept[i]->words.end());
    if (i > 0) code.words.push_back(FilterHeaderWord(op, 0, 0));
  }
  return code;
}

std::string_view KindName(AttributeKind kind) {
  switch (kind) {
    case AttributeKind::kCategory:
      return "a category";
    case AttributeKind::kTags:
      return "tags";
    case AttributeKind::kInt:
      return "an int";
    case AttributeKind::kFloat:
      return "a float";
    case AttributeKind::kTimestamp:
      return "a timestamp";
    case AttributeKind::kBool:
      return "a bool";
  }
  return "";
}

// Insertions, deletions and replacements from `a` to `b`.
int64_t EditDistance(std::string_view a, std::string_view b) {
  std::vector<int64_t> row(b.size() + 1);
  for (size_t j = 0; j <= b.size(); ++j) row[j] = static_cast<int64_t>(j);
  for (size_t i = 1; i <= a.size(); ++i) {
    int64_t diagonal = row[0];
    row[0] = static_cast<int64_t>(i);
    for (size_t j = 1; j <= b.size(); ++j) {
      const int64_t replaced = diagonal + (a[i - 1] == b[j - 1] ? 0 : 1);
      diagonal = row[j];
      row[j] = std::min({replaced, row[j] + 1, row[j - 1] + 1});
    }
  }
  return row[b.size()];
}

// What a predicate reads: an attribute, or the item's id.
struct Target {
  int column = kIdColumn;
  const AttributeDef* attribute = nullptr;  // null: the id
  AttributeKind kind = AttributeKind::kInt;
  AttributeEncoding encoding = AttributeEncoding::kNumber;
  ColumnType type = ColumnType::kInt64;
  IntRange values{0, 0};  // kNumber, not float: what is not "missing"
  std::string_view name;

  bool is_id() const { return attribute == nullptr; }
};

class Compiler {
 public:
  Compiler(const FilterSchema& schema, const FilterTree& tree)
      : schema_(schema), tree_(tree) {}

  // False: error() says why.
  bool Compile(int64_t index, Code* code) {
    const FilterNode& node = tree_.nodes[index];
    switch (node.type) {
      case FilterNodeType::kNot:
        if (!Compile(node.children[0], code)) return false;
        *code = Not(std::move(*code));
        return true;
      case FilterNodeType::kAnd:
      case FilterNodeType::kOr: {
        std::vector<Code> parts(node.children.size());
        for (size_t i = 0; i < parts.size(); ++i) {
          if (!Compile(node.children[i], &parts[i])) return false;
        }
        *code = Join(node.type == FilterNodeType::kAnd, std::move(parts));
        return true;
      }
      default:
        return CompilePredicate(node, code);
    }
  }

  const std::string& error() const { return error_; }

 private:
  bool Fail(const Token& at, std::string_view message) {
    error_ = FilterErrorAt(at.offset, message);
    return false;
  }

  // "expected WHAT, found TOKEN; NAME is KIND"
  bool Expected(const Token& found, const Target& target,
                std::string_view what) {
    std::string message = "expected ";
    message.append(what);
    message += ", found " + DescribeToken(found) + "; ";
    message.append(target.name);
    message += target.is_id()
                   ? (schema_.string_ids ? " is the item's id, a string"
                                         : " is the item's id, an int")
                   : " is " + std::string(KindName(target.kind));
    return Fail(found, message);
  }

  bool FindTarget(const Token& name, Target* target) {
    target->name = name.text;
    if (name.text == kIdName) {
      target->kind =
          schema_.string_ids ? AttributeKind::kCategory : AttributeKind::kInt;
      target->encoding = schema_.string_ids ? AttributeEncoding::kHash
                                            : AttributeEncoding::kNumber;
      target->values = ColumnRange(ColumnType::kInt64);
      return true;
    }
    for (size_t i = 0; i < schema_.attributes.size(); ++i) {
      const AttributeDef& attribute = schema_.attributes[i];
      if (attribute.name != name.text) continue;
      target->column = static_cast<int>(i);
      target->attribute = &attribute;
      target->kind = attribute.kind;
      target->encoding = attribute.encoding;
      target->type = attribute.type;
      target->values = ColumnRange(attribute.type);
      if (IsSignedColumn(attribute.type)) {
        ++target->values.lo;
      } else {
        --target->values.hi;
      }
      return true;
    }
    return Fail(name, UnknownName(name.text));
  }

  std::string UnknownName(std::string_view name) const {
    constexpr size_t kMaxListed = 30;
    constexpr size_t kMaxCompared = 64;  // bytes of a name
    std::string message =
        "expected the name of an attribute, found " + QuoteForError(name);
    int64_t best_distance = static_cast<int64_t>(name.size()) / 3 + 2;
    std::string_view best;
    const auto consider = [&](std::string_view known) {
      if (name.size() > kMaxCompared || known.size() > kMaxCompared) return;
      const int64_t distance = EditDistance(name, known);
      if (distance >= best_distance) return;
      best_distance = distance;
      best = known;
    };
    std::string listed(kIdName);
    consider(kIdName);
    for (size_t i = 0; i < schema_.attributes.size(); ++i) {
      const std::string& known = schema_.attributes[i].name;
      consider(known);
      if (i < kMaxListed) listed += ", " + known;
    }
    if (schema_.attributes.size() > kMaxListed) {
      listed += " and " +
                std::to_string(schema_.attributes.size() - kMaxListed) +
                " more";
    }
    if (!best.empty()) message += "; did you mean " + QuoteForError(best) + "?";
    return message + (best.empty() ? "; " : " ") + "there are: " + listed;
  }

  bool CompilePredicate(const FilterNode& node, Code* code) {
    Target target;
    if (!FindTarget(node.name, &target)) return false;
    switch (node.type) {
      case FilterNodeType::kExists:
        *code = Exists(target);
        return true;
      case FilterNodeType::kContainsAny:
      case FilterNodeType::kContainsAll:
        if (target.kind != AttributeKind::kTags) {
          return Expected(node.name, target, "an attribute with tags");
        }
        break;
      case FilterNodeType::kBare:
        if (target.kind != AttributeKind::kBool) {
          const Token& name = node.name;
          return Fail(name, "expected a predicate, found only " +
                                QuoteForError(name.text) +
                                "; compare it with a value, as in " +
                                std::string(name.text) + " == ...");
        }
        *code = Leaf(FilterOp::kRange, target.column, {1, 1});
        return true;
      default:
        if (!CheckOperator(node, target)) return false;
    }
    switch (target.kind) {
      case AttributeKind::kCategory:
      case AttributeKind::kTags:
        return CompileStrings(node, target, code);
      case AttributeKind::kFloat:
        return CompileFloats(node, target, code);
      case AttributeKind::kBool:
        return CompileBool(node, target, code);
      case AttributeKind::kInt:
      case AttributeKind::kTimestamp:
        return CompileInts(node, target, code);
    }
    return false;
  }

  bool CheckOperator(const FilterNode& node, const Target& target) {
    const Type op = node.op.type;
    const bool is_order = op >= Type::kLess && op <= Type::kGreaterEqual;
    const bool is_list = op == Type::kIn || op == Type::kNot;
    switch (target.kind) {
      case AttributeKind::kCategory:
      case AttributeKind::kTags:
        if (!is_order) return true;
        return Expected(node.op, target, "`==`, `!=`, `in` or `not in`");
      case AttributeKind::kBool:
        if (!is_order && !is_list) return true;
        return Expected(node.op, target, "`==`, `!=`, or the name alone");
      default:
        return true;
    }
  }

  // Matches wherever the row has a value.
  Code Exists(const Target& target) const {
    if (target.is_id()) return Constant(true);
    const IntRange range = ColumnRange(target.type);
    switch (target.encoding) {
      case AttributeEncoding::kBits:
        return Leaf(FilterOp::kBitsAny, target.column,
                    {target.type == ColumnType::kUint64 ? -1 : range.hi});
      case AttributeEncoding::kVocabulary:
        return Leaf(FilterOp::kRange, target.column, {1, range.hi});
      case AttributeEncoding::kHash: {
        std::vector<Code> sides;
        sides.push_back(Leaf(FilterOp::kRange, target.column, {range.lo, -1}));
        sides.push_back(Leaf(FilterOp::kRange, target.column, {1, range.hi}));
        return Join(/*is_and=*/false, std::move(sides));
      }
      case AttributeEncoding::kNumber:
        break;
    }
    if (target.type == ColumnType::kFloat) {
      return Leaf(FilterOp::kFloatRange, target.column,
                  {kMinusInfinityBits, kPlusInfinityBits});
    }
    return Leaf(FilterOp::kRange, target.column,
                {target.values.lo, target.values.hi});
  }

  // Rows with any of `values` (those that the column can hold).
  static Code AnyOf(const Target& target, std::vector<int64_t> values) {
    std::sort(values.begin(), values.end());
    values.erase(std::unique(values.begin(), values.end()), values.end());
    if (values.empty()) return Constant(false);
    const int64_t count = static_cast<int64_t>(values.size());
    // In unsigned arithmetic: the values may be at both ends of int64.
    const uint64_t span = static_cast<uint64_t>(values.back()) -
                          static_cast<uint64_t>(values.front());
    if (span == static_cast<uint64_t>(count - 1)) {
      return Leaf(FilterOp::kRange, target.column,
                  {values.front(), values.back()});
    }
    if (target.type != ColumnType::kUint8) {
      return Leaf(FilterOp::kInSet, target.column, std::move(values));
    }
    std::array<uint64_t, 4> table{};
    for (const int64_t value : values) {
      table[value / 64] |= uint64_t{1} << (value % 64);
    }
    return Leaf(FilterOp::kInTable, target.column,
                {table.begin(), table.end()});
  }

  // Negates the code of a negated predicate.
  static Code Finish(const FilterNode& node, Code code) {
    const bool is_negated =
        node.type == FilterNodeType::kNotIn || node.op.type == Type::kNotEqual;
    return is_negated ? Not(std::move(code)) : code;
  }

  bool CompileStrings(const FilterNode& node, const Target& target,
                      Code* code) {
    // The stored values of those strings that some row may hold.
    std::vector<int64_t> values;
    bool all_known = true;
    for (const Token& literal : node.literals) {
      if (literal.type != Type::kString) {
        return Expected(literal, target, "a string");
      }
      int64_t value;
      if (StoredString(StringValue(literal), target, &value)) {
        values.push_back(value);
      } else {
        all_known = false;
      }
    }
    const bool needs_all = node.type == FilterNodeType::kContainsAll;
    if (needs_all && !all_known) {
      *code = Constant(false);
    } else if (needs_all && values.empty()) {
      *code = Exists(target);
    } else if (target.encoding == AttributeEncoding::kBits) {
      int64_t bits = 0;
      for (const int64_t bit : values) bits |= int64_t{1} << bit;
      const FilterOp op = needs_all ? FilterOp::kBitsAll : FilterOp::kBitsAny;
      *code = bits == 0 ? Constant(false) : Leaf(op, target.column, {bits});
    } else if (needs_all) {
      std::vector<Code> parts;
      std::sort(values.begin(), values.end());
      values.erase(std::unique(values.begin(), values.end()), values.end());
      for (const int64_t value : values) {
        parts.push_back(AnyOf(target, {value}));
      }
      *code = Join(/*is_and=*/true, std::move(parts));
    } else {
      *code = AnyOf(target, std::move(values));
    }
    *code = Finish(node, std::move(*code));
    return true;
  }

  // The code, fingerprint or bit of a string; false if no row can hold it.
  bool StoredString(const std::string& text, const Target& target,
                    int64_t* value) const {
    if (text.empty()) return false;
    if (target.encoding == AttributeEncoding::kHash) {
      *value = StoredFingerprint(schema_.fingerprint, text);
      return true;
    }
    const auto& vocabulary = target.attribute->vocabulary;
    const auto found = vocabulary.find(text);
    if (found == vocabulary.end()) return false;
    // A vocabulary too large for its column cannot have been stored.
    if (target.encoding == AttributeEncoding::kBits) {
      *value = found->second + kFirstVocabularyBit;
      return *value < 8 * ColumnTypeSize(target.type);
    }
    *value = found->second + kFirstVocabularyCode;
    return *value <= ColumnRange(target.type).hi;
  }

  bool CompileBool(const FilterNode& node, const Target& target, Code* code) {
    const Token& literal = node.literals[0];
    if (literal.type != Type::kTrue && literal.type != Type::kFalse) {
      return Expected(literal, target, "`true` or `false`");
    }
    const int64_t value = literal.type == Type::kTrue ? 1 : 0;
    *code = Finish(node, Leaf(FilterOp::kRange, target.column, {value, value}));
    return true;
  }

  bool IntValue(const Token& literal, const Target& target, int64_t* value) {
    const bool is_time = target.kind == AttributeKind::kTimestamp;
    std::string error;
    if (is_time && literal.type == Type::kString) {
      error = ParseIsoTime(StringValue(literal), value);
      if (!error.empty()) error += ", found " + QuoteForError(literal.text);
    } else if (literal.type == Type::kInt) {
      error = ParseIntLiteral(literal.text, value);
    } else {
      return Expected(literal, target,
                      is_time ? "an ISO 8601 time between quotes or an int "
                                "(seconds since 1970 UTC)"
                              : "an int");
    }
    return error.empty() || Fail(literal, error);
  }

  bool CompileInts(const FilterNode& node, const Target& target, Code* code) {
    std::vector<int64_t> values(node.literals.size());
    for (size_t i = 0; i < values.size(); ++i) {
      if (!IntValue(node.literals[i], target, &values[i])) return false;
    }
    const IntRange range = target.values;
    const Type op = node.op.type;
    if (op >= Type::kLess && op <= Type::kGreaterEqual) {
      const int64_t value = values[0];
      IntRange wanted = range;
      bool is_empty = false;
      if (op == Type::kLess) {
        is_empty = value <= range.lo;
        wanted.hi = is_empty ? 0 : std::min(range.hi, value - 1);
      } else if (op == Type::kLessEqual) {
        is_empty = value < range.lo;
        wanted.hi = std::min(range.hi, value);
      } else if (op == Type::kGreater) {
        is_empty = value >= range.hi;
        wanted.lo = is_empty ? 0 : std::max(range.lo, value + 1);
      } else {
        is_empty = value > range.hi;
        wanted.lo = std::max(range.lo, value);
      }
      *code = is_empty ? Constant(false)
                       : Leaf(FilterOp::kRange, target.column,
                              {wanted.lo, wanted.hi});
      return true;
    }
    const auto is_impossible = [&](int64_t value) {
      // No item has id -1: it marks rows without an item.
      return value < range.lo || value > range.hi ||
             (target.is_id() && value == -1);
    };
    values.erase(std::remove_if(values.begin(), values.end(), is_impossible),
                 values.end());
    *code = Finish(node, AnyOf(target, std::move(values)));
    return true;
  }

  bool CompileFloats(const FilterNode& node, const Target& target, Code* code) {
    constexpr int32_t kMin = FloatKey(kMinusInfinityBits);
    constexpr int32_t kMax = FloatKey(kPlusInfinityBits);
    constexpr int32_t kMinusZero = FloatKey(kMinusZeroBits);
    constexpr int32_t kPlusZero = FloatKey(0);
    const auto leaf = [&](int32_t lo, int32_t hi) {
      return Leaf(FilterOp::kFloatRange, target.column,
                  {int64_t{FloatBitsOfKey(lo)}, int64_t{FloatBitsOfKey(hi)}});
    };
    std::vector<int32_t> keys;
    for (const Token& literal : node.literals) {
      if (literal.type != Type::kInt && literal.type != Type::kFloat) {
        return Expected(literal, target, "a number");
      }
      uint32_t bits;
      const std::string error = ParseFloatLiteral(literal.text, &bits);
      if (!error.empty()) return Fail(literal, error);
      const int32_t key = FloatKey(bits);
      keys.push_back(key == kMinusZero ? kPlusZero : key);
    }
    // The two zeros are equal and have neighbouring keys.
    const auto first = [&](int32_t key) {
      return key == kPlusZero ? kMinusZero : key;
    };
    switch (node.op.type) {
      case Type::kLess:
        *code = leaf(kMin, first(keys[0]) - 1);
        return true;
      case Type::kLessEqual:
        *code = leaf(kMin, keys[0]);
        return true;
      case Type::kGreater:
        *code = leaf(keys[0] + 1, kMax);
        return true;
      case Type::kGreaterEqual:
        *code = leaf(first(keys[0]), kMax);
        return true;
      default:
        break;
    }
    std::sort(keys.begin(), keys.end());
    keys.erase(std::unique(keys.begin(), keys.end()), keys.end());
    std::vector<Code> parts;
    for (const int32_t key : keys) parts.push_back(leaf(first(key), key));
    *code = Finish(node, Join(/*is_and=*/false, std::move(parts)));
    return true;
  }

  const FilterSchema& schema_;
  const FilterTree& tree_;
  std::string error_;
};

}  // namespace

std::string CompileFilter(std::string_view text, const FilterSchema& schema,
                          const FilterLimits& limits,
                          std::vector<int64_t>* program) {
  program->clear();
  const int64_t length = static_cast<int64_t>(text.size());
  if (length > limits.max_length) {
    return FilterErrorAt(limits.max_length,
                         "the filter is too long: " + std::to_string(length) +
                             " bytes, at most " +
                             std::to_string(limits.max_length) +
                             " are allowed");
  }
  FilterTree tree;
  std::string error = ParseFilter(text, limits.max_depth, &tree);
  if (!error.empty() || tree.root < 0) return error;
  Compiler compiler(schema, tree);
  Code code;
  if (!compiler.Compile(tree.root, &code)) return compiler.error();
  if (code.value != Code::kWords) {
    const bool is_true = code.value == Code::kTrue;
    code = Leaf(is_true ? FilterOp::kTrue : FilterOp::kFalse, 0, {});
  }
  const int64_t num_words = static_cast<int64_t>(code.words.size()) + 1;
  if (num_words > limits.max_words) {
    return FilterErrorAt(0, "the filter is too large: its program has " +
                                std::to_string(num_words) + " words, at most " +
                                std::to_string(limits.max_words) +
                                " are allowed (a value in a list takes one)");
  }
  if (code.stack > kMaxFilterStack) {
    return FilterErrorAt(0,
                         "the filter is nested too deep: it needs a stack "
                         "of " +
                             std::to_string(code.stack) + ", at most " +
                             std::to_string(kMaxFilterStack) + " are allowed");
  }
  program->reserve(num_words);
  program->push_back((kFilterProgramVersion << 32) | num_words);
  program->insert(program->end(), code.words.begin(), code.words.end());
  return "";
}

}  // namespace lintf
