// SPDX-License-Identifier: Apache-2.0
// The language by example: which rows a filter lets through, and what it says
// to a filter that is wrong.
#include "custom_ops/core/filter_compiler.h"

#include <set>

#include "custom_ops/core/filter_eval.h"
#include "custom_ops/core/filter_test_data.h"
#include "custom_ops/core/filter_time.h"
#include "custom_ops/core/testing.h"

namespace lintf {
namespace {

using testing::TestItems;
using testing::TestValue;

constexpr float kInfinity = std::numeric_limits<float>::infinity();

// Rows of hand-made values; row 0 has none at all.
class Table {
 public:
  explicit Table(bool string_ids, int64_t num_rows = 6) {
    testing::Rng rng(7);
    items_ = testing::MakeTestItems(rng, num_rows, string_ids);
    for (size_t a = 0; a < items_.values.size(); ++a) {
      for (int64_t row = 0; row < num_rows; ++row) Set(a, row, TestValue());
    }
    for (int64_t row = 0; row < num_rows; ++row) {
      if (!string_ids) items_.ids[row] = 100 + row;
    }
  }

  void Ints(const std::string& name, const std::vector<int64_t>& values) {
    for (size_t i = 0; i < values.size(); ++i) {
      TestValue value;
      value.missing = false;
      value.number = values[i];
      Set(Find(name), static_cast<int64_t>(i) + 1, value);
    }
  }
  void Floats(const std::vector<float>& values) {
    for (size_t i = 0; i < values.size(); ++i) {
      TestValue value;
      value.missing = false;
      value.real = values[i];
      Set(Find("price"), static_cast<int64_t>(i) + 1, value);
    }
  }
  void Strings(const std::string& name,
               const std::vector<std::vector<std::string>>& values) {
    for (size_t i = 0; i < values.size(); ++i) {
      TestValue value;
      value.missing = values[i].empty();
      value.strings = values[i];
      Set(Find(name), static_cast<int64_t>(i) + 1, value);
    }
  }

  std::string Compile(const std::string& filter,
                      std::vector<int64_t>* program) const {
    return CompileFilter(filter, items_.schema, FilterLimits(), program);
  }

  // The rows that pass, as "135", or the error.
  std::string Rows(const std::string& filter) const {
    std::vector<int64_t> program;
    const std::string error = Compile(filter, &program);
    if (!error.empty()) return error;
    std::vector<FilterInstruction> instructions;
    const std::string refusal = DecodeFilterProgram(
        program.data(), static_cast<int64_t>(program.size()), items_.columns,
        &instructions);
    if (!refusal.empty()) return refusal;
    std::string rows;
    for (int64_t row = 0; row < items_.num_rows; ++row) {
      if (FilterPassesRow(instructions, items_.columns, items_.ids.data(),
                          row)) {
        rows += std::to_string(row);
      }
    }
    return rows;
  }

 private:
  size_t Find(const std::string& name) const {
    size_t a = 0;
    while (items_.schema.attributes[a].name != name) ++a;
    return a;
  }

  void Set(size_t a, int64_t row, const TestValue& value) {
    const AttributeDef& attribute = items_.schema.attributes[a];
    const int64_t size = attribute.width * ColumnTypeSize(attribute.type);
    std::vector<char>& storage = items_.storage[a];
    std::fill_n(storage.begin() + row * size, size, 0);
    testing::StoreRow(attribute, testing::TestFingerprint, value, row,
                      &storage);
  }

  TestItems items_;
};

void CheckRows(const Table& table, const std::string& filter,
               const std::string& expected) {
  const std::string rows = table.Rows(filter);
  CHECK_THAT(rows == expected)
      << filter << " -> " << rows << ", expected " << expected;
}

void CheckError(const Table& table, const std::string& filter,
                const std::string& expected) {
  std::vector<int64_t> program = {1};
  const std::string error = table.Compile(filter, &program);
  CHECK_THAT(error == expected)
      << "\n  filter:   " << filter.substr(0, 80) << "\n  error:    " << error
      << "\n  expected: " << expected;
  CHECK_THAT(program.empty()) << "no program comes with an error";
}

void TestStrings() {
  Table table(false);
  for (const char* name : {"cat8", "cat16", "cat32", "cat_hash"}) {
    table.Strings(name, {{"a"}, {"b"}, {"Comedy"}, {"unknown"}, {"it's"}});
    const std::string x(name);
    CheckRows(table, x + " == \"a\"", "1");
    CheckRows(table, x + " == 'a'", "1");
    CheckRows(table, x + " != 'a'", "02345");
    CheckRows(table, x + " in ['a', \"Comedy\", 'a']", "13");
    CheckRows(table, x + " in ['a', 'b']", "12");
    CheckRows(table, x + " not in ['a', 'Comedy']", "0245");
    CheckRows(table, x + " in []", "");
    CheckRows(table, x + " not in []", "012345");
    CheckRows(table, x + " == \"it's\"", "5");
    CheckRows(table, x + " == 'it\\'s'", "5");
    CheckRows(table, x + " == '\\u0061'", "1");
    CheckRows(table, x + " == ''", "");
    CheckRows(table, x + " != ''", "012345");
    CheckRows(table, x + " == 'nowhere'", "");
    CheckRows(table, x + " != 'nowhere'", "012345");
    CheckRows(table, x + " == 'A'", "");
    CheckRows(table, "exists(" + x + ")", "12345");
    CheckRows(table, "not exists(" + x + ")", "0");
    // Outside a vocabulary a value is only known to be there.
    CheckRows(table, x + " == 'unknown'", x == "cat_hash" ? "4" : "");
    CheckError(table, x + " < 'a'",
               "column " + std::to_string(x.size() + 2) +
                   ": expected `==`, `!=`, `in` or `not in`, found `<`; " + x +
                   " is a category");
  }
  table.Strings("cat8", {{"\xC3\xA9t\xC3\xA9"},
                         {"emoji \xF0\x9F\x98\x80"},
                         {"tab\tnew\n"},
                         {"back\\sl."},
                         {"say \"hi\""}});
  CheckRows(table, "cat8 == '\xC3\xA9t\xC3\xA9'", "1");
  CheckRows(table, "cat8 == '\\u00e9t\\u00E9'", "1");
  CheckRows(table, "cat8 == 'emoji \\ud83d\\ude00'", "2");
  CheckRows(table, "cat8 == 'tab\\tnew\\n'", "3");
  CheckRows(table, "cat8 == 'tab\tnew\n'", "3");
  CheckRows(table, "cat8 == 'back\\\\sl.'", "4");
  CheckRows(table, "cat8 == \"say \\\"hi\\\"\"", "5");
}

void TestTags() {
  Table table(false);
  for (const char* name : {"tags_bits8", "tags_bits16", "tags_bits32",
                           "tags_bits64", "tags8", "tags32", "tags_hash"}) {
    table.Strings(name, {{"a"}, {"a", "b"}, {"Drama", "b"}, {"unknown"}, {}});
    const std::string x(name);
    CheckRows(table, x + " == 'a'", "12");
    CheckRows(table, x + " != 'a'", "0345");
    CheckRows(table, x + " in ['a', 'Drama']", "123");
    CheckRows(table, x + " not in ['a', 'Drama']", "045");
    CheckRows(table, "contains_any(" + x + ", ['a', 'Drama'])", "123");
    CheckRows(table, "contains_any(" + x + ", [])", "");
    CheckRows(table, "contains_all(" + x + ", ['b', 'a', 'b'])", "2");
    CheckRows(table, "not contains_all(" + x + ", ['b', 'a'])", "01345");
    CheckRows(table, "contains_all(" + x + ", ['b'])", "23");
    CheckRows(table, "contains_all(" + x + ", [])", "1234");
    CheckRows(table, "contains_all(" + x + ", ['b', 'nowhere'])", "");
    CheckRows(table, "contains_all(" + x + ", ['b', ''])", "");
    CheckRows(table, "contains_any(" + x + ", ['b', 'nowhere'])", "23");
    CheckRows(table, "exists(" + x + ")", "1234");
    CheckError(table, x + " == 1",
               "column " + std::to_string(x.size() + 5) +
                   ": expected a string, found `1`; " + x + " is tags");
  }
  CheckError(table, "contains_any(cat8, ['a'])",
             "column 14: expected an attribute with tags, found `cat8`; cat8 "
             "is a category");
  CheckError(table, "contains_any('tags8', ['a'])",
             "column 14: expected an attribute's name, found `'tags8'`; names "
             "are written without quotes");
  CheckError(table, "contains_any(tags8, 'a')",
             "column 21: expected `[`, found `'a'`; lists are written "
             "[1, 2, 3]");
}

void TestInts() {
  Table table(false);
  table.Ints("int8", {-127, -1, 0, 5, 127});
  table.Ints("int16", {-32767, -1, 0, 5, 32767});
  table.Ints("int64", {std::numeric_limits<int64_t>::min() + 1, -1, 0, 5,
                       std::numeric_limits<int64_t>::max()});
  for (const char* name : {"int8", "int16", "int64"}) {
    const std::string x(name);
    CheckRows(table, x + " == 5", "4");
    CheckRows(table, x + " == +5", "4");
    CheckRows(table, x + " == 005", "4");
    CheckRows(table, x + "!=5", "01235");
    CheckRows(table, x + " < 0", "12");
    CheckRows(table, x + " <= 0", "123");
    CheckRows(table, x + " > -1", "345");
    CheckRows(table, x + ">=-1", "2345");
    CheckRows(table, x + " in [5, 0, 5]", "34");
    CheckRows(table, x + " in [-1, 0]", "23");
    CheckRows(table, x + " not in [5, -1]", "0135");
    CheckRows(table, "exists(" + x + ")", "12345");
    CheckRows(table, "not (" + x + " < 0)", "0345");
    CheckRows(table, x + " >= -9223372036854775808", "12345");
    CheckRows(table, x + " < -9223372036854775808", "");
    CheckRows(table, x + " == -9223372036854775808", "");
    CheckRows(table, x + " != -9223372036854775808", "012345");
    CheckRows(table, x + " > 9223372036854775807", "");
    CheckRows(table, x + " <= 9223372036854775807", "12345");
  }
  CheckRows(table, "int8 < 1000", "12345");
  CheckRows(table, "int8 > -1000", "12345");
  CheckRows(table, "int8 > -128", "12345");
  CheckRows(table, "int8 >= -128", "12345");
  CheckRows(table, "int8 <= -128", "");
  CheckRows(table, "int8 == -128", "");
  CheckRows(table, "int8 in [1000, 5, -128]", "4");
  CheckRows(table, "int8 not in [1000, -128]", "012345");
  CheckRows(table, "int64 == 9223372036854775807", "5");

  table.Ints("uint32", {0, 1, 5, 4294967293, 4294967294});
  CheckRows(table, "uint32 >= 0", "12345");
  CheckRows(table, "uint32 < 0", "");
  CheckRows(table, "uint32 > 5", "45");
  CheckRows(table, "uint32 < 99999999999", "12345");
  CheckRows(table, "uint32 == 4294967295", "");
  CheckRows(table, "uint32 in [4294967294, 0]", "15");
  CheckRows(table, "exists(uint32)", "12345");

  CheckError(table, "int8 == 5.0",
             "column 9: expected an int, found `5.0`; int8 is an int");
  CheckError(table, "int8 == '5'",
             "column 9: expected an int, found `'5'`; int8 is an int");
  CheckError(table, "int8 in [1, true]",
             "column 13: expected an int, found `true`; int8 is an int");
  CheckError(table, "int64 < 9223372036854775808",
             "column 9: `9223372036854775808` does not fit int64");
}

void TestFloats() {
  Table table(false);
  table.Floats({0.1f, -0.0f, 0.0f, kInfinity, -2.5f});
  CheckRows(table, "price == 0.1", "1");
  CheckRows(table, "price == .1e0", "1");
  CheckRows(table, "price == 0.10000000149011612", "1");
  CheckRows(table, "price == 1.e-1", "1");
  CheckRows(table, "price != 0.1", "02345");
  CheckRows(table, "price == 0", "23");
  CheckRows(table, "price == -0.0", "23");
  CheckRows(table, "price < 0", "5");
  CheckRows(table, "price <= -0.0", "235");
  CheckRows(table, "price > -0.0", "14");
  CheckRows(table, "price >= 0.0", "1234");
  CheckRows(table, "price > 3.4028234663852886e38", "4");
  CheckRows(table, "price >= 3.4e38", "4");
  CheckRows(table, "price < -2.4e0", "5");
  CheckRows(table, "price in [0, -2.5]", "235");
  CheckRows(table, "price not in [0, -2.5]", "014");
  CheckRows(table, "price in []", "");
  CheckRows(table, "exists(price)", "12345");
  CheckRows(table, "price == 1e-999", "23");
  CheckRows(table, "price == -0.00001e-999", "23");
  CheckRows(table, "price <= 100000000000000000000000", "1235");
  table.Floats({1e-45f, 1.17549435e-38f, -1e-45f, 0.0f, 16777216.0f});
  CheckRows(table, "price > 0", "125");
  CheckRows(table, "price < 0", "3");
  CheckRows(table, "price == 1e-45", "1");
  CheckRows(table, "price == 1.17549435e-38", "2");
  CheckRows(table, "price == 16777217", "5");
  CheckError(table, "price == 3.5e38",
             "column 10: `3.5e38` does not fit float32");
  CheckError(table, "price == 1e999",
             "column 10: `1e999` does not fit float32");
  CheckError(table, "price == nan",
             "column 10: expected a value, found `nan`; strings are written "
             "between quotes");
  CheckError(table, "price == 1e", "column 10: expected a number, found `1e`");
  CheckError(table, "price == 1.2.3",
             "column 10: expected a number, found `1.2.3`");
  CheckError(table, "price == -", "column 10: expected a number, found `-`");
  CheckError(table, "price == '1'",
             "column 10: expected a number, found `'1'`; price is a float");
}

void TestTimes() {
  Table table(false);
  table.Ints("added", {0, 1706659200, 1706702400, -62135596800, 1706702401});
  CheckRows(table, "added == '1970-01-01'", "1");
  CheckRows(table, "added == \"2024-01-31\"", "2");
  CheckRows(table, "added == '2024-01-31T12:00:00Z'", "3");
  CheckRows(table, "added == '2024-01-31 12:00'", "3");
  CheckRows(table, "added == '2024-01-31T13:30:00+01:30'", "3");
  CheckRows(table, "added == '2024-01-30T23:59:00-12:01'", "3");
  CheckRows(table, "added == 1706702400", "3");
  CheckRows(table, "added > '2024-01-31'", "35");
  CheckRows(table, "added in ['2024-01-31', 0]", "12");
  CheckRows(table, "added not in ['2024-01-31', 0]", "0345");
  CheckRows(table, "added == '0001-01-01'", "4");
  CheckRows(table, "added < '9999-12-31T23:59:59Z'", "12345");
  table.Ints("seen", {0, 1706659200, 1706702400, 4294967294, 1});
  CheckRows(table, "seen >= '1969-01-01'", "12345");
  CheckRows(table, "seen > '2024-01-31'", "34");
  CheckError(table, "added > '2023-02-29'",
             "column 9: the day must be 01 to 28 in that month, found "
             "`'2023-02-29'`");
  CheckError(table, "added > 1.5",
             "column 9: expected an ISO 8601 time between quotes or an int "
             "(seconds since 1970 UTC), found `1.5`; added is a timestamp");
  for (const char* text : {"",
                           "2024",
                           "2024-01",
                           "24-01-31",
                           "2024-1-31",
                           "2024-13-01",
                           "2024-00-01",
                           "2024-01-00",
                           "2024-01-32",
                           "2024-04-31",
                           "1900-02-29",
                           "0000-01-01",
                           "2024-01-31T",
                           "2024-01-31T12",
                           "2024-01-31T24:00",
                           "2024-01-31T12:60",
                           "2024-01-31T12:00:60",
                           "2024-01-31T12:00:00.5Z",
                           "2024-01-31T12:00:00z",
                           "2024-01-31T12:00Zx",
                           "2024-01-31T12:00+1",
                           "2024-01-31T12:00+24:00",
                           "2024-01-31T12:00+01:60",
                           "2024-01-31Z",
                           "2024-01-31T12:00+0100",
                           " 2024-01-31",
                           "2024-01-31 ",
                           "-2024-01-31",
                           "2024-01-31T-1:00"}) {
    int64_t seconds;
    CHECK_THAT(!ParseIsoTime(text, &seconds).empty()) << text;
  }
  int64_t seconds = 0;
  CHECK_THAT(ParseIsoTime("2000-02-29", &seconds).empty());
  CHECK_THAT(seconds == 951782400) << seconds;
}

void TestBools() {
  Table table(false);
  table.Ints("free", {0, 1, 0, 1, 1});
  CheckRows(table, "free", "245");
  CheckRows(table, "not free", "013");
  CheckRows(table, "!free", "013");
  CheckRows(table, "free == true", "245");
  CheckRows(table, "free == FALSE", "13");
  CheckRows(table, "free != true", "013");
  CheckRows(table, "free != false", "0245");
  CheckRows(table, "(free) and exists(free)", "245");
  CheckError(table, "free == 1",
             "column 9: expected `true` or `false`, found `1`; free is a "
             "bool");
  CheckError(table, "free in [true]",
             "column 6: expected `==`, `!=`, or the name alone, found `in`; "
             "free is a bool");
  CheckError(table, "int8",
             "column 1: expected a predicate, found only `int8`; compare it "
             "with a value, as in int8 == ...");
}

void TestIds() {
  const Table ints(false);
  CheckRows(ints, "id == 103", "3");
  CheckRows(ints, "id != 103", "01245");
  CheckRows(ints, "id in [105, 103, 103]", "35");
  CheckRows(ints, "id not in [105, 103, 7]", "0124");
  CheckRows(ints, "id >= 104", "45");
  CheckRows(ints, "id < 101", "0");
  CheckRows(ints, "id == -1", "");
  CheckRows(ints, "exists(id)", "012345");
  CheckError(ints, "id == 'item 1'",
             "column 7: expected an int, found `'item 1'`; id is the item's "
             "id, an int");
  const Table strings(true);
  CheckRows(strings, "id == 'item 3'", "3");
  CheckRows(strings, "id not in ['item 3', 'item 0', 'x']", "1245");
  CheckRows(strings, "id in ['item 3', 'item 0', 'x', '']", "03");
  CheckError(strings, "id == 3",
             "column 7: expected a string, found `3`; id is the item's id, a "
             "string");
  CheckError(strings, "id < '3'",
             "column 4: expected `==`, `!=`, `in` or `not in`, found `<`; id "
             "is the item's id, a string");
}

void TestOperators() {
  Table table(false);
  table.Ints("int8", {1, 2, 3, 4, 5});
  table.Ints("free", {0, 1, 0, 1, 1});
  CheckRows(table, "", "012345");
  CheckRows(table, " \t\r\n", "012345");
  CheckRows(table, "int8 > 1 and int8 < 4", "23");
  CheckRows(table, "int8 > 1 && int8 < 4", "23");
  CheckRows(table, "int8 > 1 AnD int8 < 4", "23");
  CheckRows(table, "int8 == 1 or int8 == 4", "14");
  CheckRows(table, "int8 == 1||int8 == 4", "14");
  // `and` binds tighter than `or`, `not` tighter than `and`.
  CheckRows(table, "int8 == 1 or int8 == 4 and free", "14");
  CheckRows(table, "(int8 == 1 or int8 == 4) and free", "4");
  CheckRows(table, "not int8 == 1 and free", "245");
  CheckRows(table, "not (int8 == 1 and free)", "012345");
  CheckRows(table, "not not free", "245");
  CheckRows(table, "!!!free", "013");
  CheckRows(table, "not int8 in [1, 2]", "0345");
  CheckRows(table, "not int8 not in [1, 2]", "12");
  CheckRows(table, "NOT(int8==1)", "02345");
  CheckRows(table, "((((int8==1))))", "1");
  CheckRows(table, "int8 IN[1,4]OR int8 NOT IN[1,2,3,4,5]", "014");
  // Constants fold away and the rest is still checked.
  CheckRows(table, "int8 in [] or free", "245");
  CheckRows(table, "int8 not in [] and free", "245");
  CheckRows(table, "int8 in [] and free", "");
  CheckRows(table, "int8 not in [] or free", "012345");
  CheckRows(table, "not (int8 in [])", "012345");
  CheckError(table, "int8 in [] and free == 1",
             "column 24: expected `true` or `false`, found `1`; free is a "
             "bool");
}

void TestErrors() {
  const Table table(false);
  CheckError(table, "int8 = 3",
             "column 6: expected `==`, found `=`; equality is written with "
             "two signs");
  CheckError(table, "int8 <> 3", "column 6: expected `!=`, found `<>`");
  CheckError(table, "int8 == 3 & free",
             "column 11: expected `&&` or `and`, found `&`");
  CheckError(table, "int8 == 3 | free",
             "column 11: expected `||` or `or`, found `|`");
  CheckError(table, "1 < int8",
             "column 1: expected an attribute's name, a function, `not` or "
             "`(`, found `1`; the attribute stands on the left: year >= 1990");
  CheckError(table, "int8 > 1 > 2",
             "column 10: expected `and`, `or` or the end of the filter, found "
             "`>`; comparisons do not chain, join two with `and`");
  CheckError(table, "int8 == 1 and",
             "column 14: expected an attribute's name, a function, `not` or "
             "`(`, found the end of the filter");
  CheckError(table, "(int8 == 1",
             "column 11: expected `and`, `or` or the `)` that closes the `(` "
             "of column 1, found the end of the filter");
  CheckError(table, "int8 == 1)",
             "column 10: expected the end of the filter, found `)` without "
             "its `(`");
  CheckError(table, "int8 == 1 int8 == 2",
             "column 11: expected `and`, `or` or the end of the filter, found "
             "`int8`");
  CheckError(table, "int8 in [1 2]",
             "column 12: expected `,` or `]`, found `2`");
  CheckError(table, "int8 in [1,]", "column 12: expected a value, found `]`");
  CheckError(table, "int8 in (1, 2)",
             "column 9: expected `[`, found `(`; lists are written [1, 2, 3]");
  CheckError(table, "int8 == [1]",
             "column 9: expected a value, found `[`; lists go with `in` and "
             "`not in`");
  CheckError(table, "int8 !in [1]",
             "column 6: expected `==`, `!=`, `<`, `<=`, `>`, `>=`, `in` or "
             "`not in` after `int8`, found `!`");
  CheckError(table, "int8 not 3",
             "column 10: expected `in` after `not`, found `3`");
  CheckError(table, "int8 == int16",
             "column 9: expected a value, found `int16`; strings are written "
             "between quotes");
  CheckError(table, "cat8 == \"a",
             "column 9: the string that starts here is not closed; expected "
             "another \"");
  CheckError(table, "cat8 == 'a\\",
             "column 9: the string that starts here is not closed; expected "
             "another '");
  CheckError(table, "cat8 == 'a\\q'",
             "column 11: expected one of the escapes \\\\ \\\" \\' \\/ \\b "
             "\\f \\n \\r \\t \\uXXXX, found `\\q`; a backslash itself is "
             "written \\\\");
  CheckError(table, "cat8 == '\\u12'",
             "column 10: expected four hex digits after \\u");
  CheckError(table, "cat8 == '\\ud83d'",
             "column 10: expected a pair of surrogates, found one alone");
  CheckError(table, "cat8 == '\\ude00\\ud83d'",
             "column 10: expected a pair of surrogates, found one alone");
  CheckError(table, "cat8 == '\xC3('",
             "column 10: expected UTF-8, found the byte `\\xc3`");
  // Overlong forms, surrogates, past U+10FFFF, cut short, out of place.
  for (const char* bytes :
       {"\xC0\x80", "\xC1\xBF", "\xE0\x80\x80", "\xE0\x9F\xBF", "\xED\xA0\x80",
        "\xF0\x8F\xBF\xBF", "\xF4\x90\x80\x80", "\xF5\x80\x80\x80", "\xC3",
        "\xE2\x82", "\xF0\x9F\x98", "\x80", "\xFF"}) {
    const std::string error =
        table.Rows("cat8 == 'a" + std::string(bytes) + "'");
    CHECK_THAT(error.find("column 11: expected UTF-8") == 0) << error;
  }
  for (const char* bytes :
       {"\xC2\x80", "\xDF\xBF", "\xE0\xA0\x80", "\xED\x9F\xBF", "\xEE\x80\x80",
        "\xEF\xBF\xBF", "\xF0\x90\x80\x80", "\xF4\x8F\xBF\xBF"}) {
    CheckRows(table, "cat8 == '" + std::string(bytes) + "'", "");
  }
  CheckError(table, "\xFF",
             "column 1: expected a name, a value or an operator, found "
             "`\\xff`");
  CheckError(table, "\xE2\x82\xAC == 1",
             "column 1: expected a name, a value or an operator, found "
             "`\xE2\x82\xAC`");
  CheckError(table, "cat == 'a'",
             "column 1: expected the name of an attribute, found `cat`; did "
             "you mean `cat8`? there are: id, cat8, cat16, cat32, cat_hash, "
             "tags_bits8, tags_bits16, tags_bits32, tags_bits64, tags8, "
             "tags16, tags32, tags_hash, int8, int16, int64, uint32, price, "
             "added, seen, free");
  const std::string nothing(1, '\0');
  CheckError(table, "free" + nothing,
             "column 5: expected a name, a value or an operator, found "
             "`\\x00`");
  // Names match whole and by case.
  CHECK_THAT(table.Rows("Free").find("did you mean `free`?") !=
             std::string::npos);
}

void TestLimits() {
  const Table table(false);
  const auto compile = [&](const std::string& text, FilterLimits limits) {
    FilterSchema schema = testing::TestSchema(false);
    std::vector<int64_t> program;
    return CompileFilter(text, schema, limits, &program);
  };
  FilterLimits limits;
  limits.max_length = 4;
  CHECK_THAT(compile("free", limits).empty());
  CHECK_THAT(compile("free ", limits) ==
             "column 5: the filter is too long: 5 bytes, at most 4 are "
             "allowed");
  limits = FilterLimits();
  limits.max_depth = 2;
  CHECK_THAT(compile("((free))", limits).empty());
  CHECK_THAT(compile("not (free)", limits).empty());
  const std::string too_deep =
      ": the filter is nested too deep: at most 2 levels of parentheses and "
      "`not` are allowed";
  CHECK_THAT(compile("(((free)))", limits) == "column 3" + too_deep);
  CHECK_THAT(compile("not ((free))", limits) == "column 6" + too_deep);
  CHECK_THAT(compile("not not not free", limits) == "column 9" + too_deep);
  limits = FilterLimits();
  limits.max_words = 6;
  CHECK_THAT(compile("int64 in [1, 2, 4, 9]", limits).empty());
  CHECK_THAT(compile("int64 in [1, 2, 2, 1, 4, 9]", limits).empty());
  CHECK_THAT(compile("int64 in [1, 2, 4, 6, 9]", limits) ==
             "column 1: the filter is too large: its program has 7 words, at "
             "most 6 are allowed (a value in a list takes one)");

  // No nesting reaches the thread's stack, whatever the limit says.
  limits = FilterLimits();
  limits.max_depth = int64_t{1} << 40;
  limits.max_length = 1 << 24;
  for (const char* piece :
       {"(", "not ", "!", "((int8 == 1) or ", "not (free and ", "int8 in ["}) {
    std::string text;
    while (text.size() < 1000000) text += piece;
    CHECK_THAT(!compile(text, limits).empty()) << piece;
  }
  // As deep as allowed, both ways: it compiles and its stack stays small.
  std::string text = "free";
  for (int i = 0; i < 99; ++i) {
    text = i % 2 == 0 ? "(int8 == 1 or int8 == 3 and " + text + ")"
                      : "(" + text + " and int8 != 4 or free)";
  }
  const std::string deep_error = compile(text, limits);
  CHECK_THAT(deep_error.empty()) << deep_error;
  std::string balanced = "free and int8 == 1";
  for (int i = 0; i < 9; ++i) {
    const char* joint = i % 2 == 0 ? ") or (" : ") and (";
    balanced = "(" + balanced + joint + balanced + ")";
  }
  const std::string balanced_error = compile(balanced, limits);
  CHECK_THAT(balanced_error.empty()) << balanced_error;
}

// What the code generator promises about size.
void TestPrograms() {
  const FilterSchema schema = testing::TestSchema(false);
  const auto compile = [&](const std::string& text) {
    std::vector<int64_t> program;
    const std::string error =
        CompileFilter(text, schema, FilterLimits(), &program);
    CHECK_THAT(error.empty()) << error;
    return program;
  };
  const auto header = [](int64_t words) {
    return (kFilterProgramVersion << 32) | words;
  };
  using Op = FilterOp;
  CHECK_THAT(compile("  ").empty());
  CHECK_THAT((compile("int16 in [7, 5, 6, 5]") ==
              std::vector<int64_t>{header(4),
                                   FilterHeaderWord(Op::kRange, 13, 2), 5, 7}));
  CHECK_THAT((compile("int16 in [9, 5]") ==
              std::vector<int64_t>{header(4),
                                   FilterHeaderWord(Op::kInSet, 13, 2), 5, 9}));
  CHECK_THAT(
      (compile("cat8 in ['Comedy', 'a']") ==
       std::vector<int64_t>{header(6), FilterHeaderWord(Op::kInTable, 0, 4),
                            (1 << 2) | (1 << 4), 0, 0, 0}));
  CHECK_THAT((compile("not (int16 != 5)") ==
              std::vector<int64_t>{header(4),
                                   FilterHeaderWord(Op::kRange, 13, 2), 5, 5}));
  CHECK_THAT(
      (compile("int16 in []") ==
       std::vector<int64_t>{header(2), FilterHeaderWord(Op::kFalse, 0, 0)}));
  CHECK_THAT(
      (compile("tags_bits8 in ['Comedy', 'a']") ==
       std::vector<int64_t>{header(3), FilterHeaderWord(Op::kBitsAny, 4, 1),
                            (1 << 1) | (1 << 3)}));
}

}  // namespace
}  // namespace lintf

int main() {
  lintf::TestStrings();
  lintf::TestTags();
  lintf::TestInts();
  lintf::TestFloats();
  lintf::TestTimes();
  lintf::TestBools();
  lintf::TestIds();
  lintf::TestOperators();
  lintf::TestErrors();
  lintf::TestLimits();
  lintf::TestPrograms();
  return lintf::testing::Result();
}
