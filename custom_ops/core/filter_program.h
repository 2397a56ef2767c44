// SPDX-License-Identifier: Apache-2.0
// The compiled form of a filter: a postfix program of int64 words.
//
// Word 0 holds the number of words in use, itself included, in its low 32
// bits and the format version in its high 32 bits; a program whose first word
// is 0 is "no filter": every row passes. Words after the used ones are
// padding and must be 0. Then follow instructions: one header word each, and
// `count` payload words. Leaves push one mask (a bit a row), kAnd and kOr pop
// two and push one, kNot pops one and pushes one. At the end the stack holds
// exactly one mask.
//
// Header word: bits 0-7 opcode, bits 8-23 column, bits 24-31 zero, bits 32-63
// number of payload words. Instructions that read no column have column 0.
//
// A column may hold several values a row (tags): a leaf matches the row if it
// matches at least one of them.
//
// The three-valued world of missing values is compiled away: no leaf matches
// the value that stands for "missing" unless a filter asks for it, and
// negation is plain complement. So a missing attribute matches no positive
// predicate and every negated one.
#ifndef LINTF_CUSTOM_OPS_CORE_FILTER_PROGRAM_H_
#define LINTF_CUSTOM_OPS_CORE_FILTER_PROGRAM_H_

#include <cstdint>
#include <string>
#include <vector>

#include "custom_ops/core/column.h"

namespace lintf {

enum class FilterOp : uint8_t {
  // Every row, no row. The payload is ignored but must be 0: it lets a graph
  // swap a leaf for a constant without moving what follows.
  kTrue = 1,
  kFalse = 2,
  // Payload lo, hi, both in the range of the column's type: lo <= value <= hi
  // on an integer column other than uint64. lo > hi matches nothing.
  kRange = 3,
  // Payload lo, hi: float32 bit patterns in the low 32 bits of each word, the
  // high ones 0, neither a NaN. lo <= value <= hi; a NaN value matches
  // nothing. Compare the patterns as FloatKey (filter_literals.h) orders them
  // and not by floating-point instructions: x > 0 starts at the smallest
  // denormal, which threads that treat denormals as zero cannot tell from 0.
  // A bound of either zero means both.
  kFloatRange = 4,
  // Payload: values in ascending order, repeats allowed, in the range of the
  // column's type; an integer column other than uint64. Value among them.
  kInSet = 5,
  // Payload: 4 words, a bit for each value of a uint8 column.
  kInTable = 6,
  // Payload: one word, the bits. (value & bits) != 0 on an unsigned column of
  // width 1.
  kBitsAny = 7,
  // Payload: one word. (value & bits) == bits.
  kBitsAll = 8,
  kAnd = 16,
  kOr = 17,
  kNot = 18,
};

inline constexpr int64_t kFilterProgramVersion = 1;
// Stands for the item id in place of an attribute's column; kRange and kInSet
// only.
inline constexpr int kIdColumn = 0xFFFF;
// Masks that a program may have on its stack at once.
inline constexpr int kMaxFilterStack = 64;
// Levels of kAnd, kOr and kNot that alternate; a chain of one of them is one
// level, however long.
inline constexpr int kMaxFilterLevels = 256;

constexpr int64_t FilterHeaderWord(FilterOp op, int column, int64_t count) {
  return static_cast<int64_t>(op) | (static_cast<int64_t>(column) << 8) |
         (count << 32);
}

// One decoded instruction; `payload` points into the program.
struct FilterInstruction {
  FilterOp op;
  int column;
  int64_t count;
  const int64_t* payload;
};

// Decodes and checks a program of `num_words` words against the columns it
// will read. On success fills `instructions` (empty means no filter) and
// returns an empty string; otherwise returns what is wrong. Programs may come
// from a client: nothing about the words is trusted.
std::string DecodeFilterProgram(const int64_t* words, int64_t num_words,
                                const std::vector<Column>& columns,
                                std::vector<FilterInstruction>* instructions);

}  // namespace lintf

#endif  // LINTF_CUSTOM_OPS_CORE_FILTER_PROGRAM_H_
