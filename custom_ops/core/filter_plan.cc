// SPDX-License-Identifier: Apache-2.0
#include "custom_ops/core/filter_plan.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <utility>

#include "custom_ops/core/filter_literals.h"

namespace lintf {
namespace {

// Up to here comparing a vector with each value of a set beats looking each
// row up; by bytes of a value.
int64_t SmallSetSize(int64_t value_bytes) {
  return value_bytes == 2 ? 32 : (value_bytes == 4 ? 16 : 8);
}

constexpr uint64_t LowBits(int64_t count) {
  return count >= 64 ? ~uint64_t{0} : (uint64_t{1} << count) - 1;
}

// Bits of 64 rows from the bits of their 64 * width values; one more word
// behind those may be read.
uint64_t AnyOfRow(const uint64_t* values, int64_t width) {
  uint64_t any = 0;
  for (int64_t w = 0; w < width; ++w) any |= values[w];
  if (any == 0) return 0;
  const char* bytes = reinterpret_cast<const char*>(values);
  const auto bits_at = [&](int64_t begin, int64_t count) {
    uint64_t word;
    std::memcpy(&word, bytes + begin / 8, sizeof(word));
    return (word >> (begin % 8)) & LowBits(count);
  };
  // As many bits are sure to lie in the 8 bytes from that of the first on.
  constexpr int64_t kReach = 57;
  uint64_t rows = 0;
  if (width <= kReach) {
    for (int64_t i = 0; i < 64; ++i) {
      rows |= static_cast<uint64_t>(bits_at(i * width, width) != 0) << i;
    }
    return rows;
  }
  for (int64_t i = 0; i < 64; ++i) {
    uint64_t found = 0;
    for (int64_t done = 0; done < width; done += kReach) {
      found |= bits_at(i * width + done, std::min(width - done, kReach));
    }
    rows |= static_cast<uint64_t>(found != 0) << i;
  }
  return rows;
}

// The words of a leaf that fit behind one another in memory whole, and the
// rest by way of a padded copy.
void RunKernel(const FilterLeaf& leaf, FilterKernel kernel, const char* data,
               int64_t num_values, const uint64_t* need, uint64_t* out) {
  const int64_t full = num_values / 64;
  const int64_t rest = num_values % 64;
  if (full > 0) kernel(leaf, data, full, need, out);
  if (rest == 0) return;
  alignas(64) char padded[64 * 8] = {};
  std::memcpy(padded, data + full * 64 * leaf.value_bytes,
              rest * leaf.value_bytes);
  kernel(leaf, padded, 1, need == nullptr ? nullptr : need + full, out + full);
}

// The same for a column with several values a row.
void RunWideKernel(const FilterLeaf& leaf, FilterKernel kernel,
                   const char* data, int64_t width, int64_t num_rows,
                   const uint64_t* need, uint64_t* out) {
  constexpr int64_t kUsualWidth = 64;
  std::array<uint64_t, kUsualWidth + 1> on_stack;
  std::vector<uint64_t> on_heap;
  uint64_t* values = on_stack.data();
  if (width > kUsualWidth) {
    on_heap.resize(width + 1);
    values = on_heap.data();
  }
  values[width] = 0;
  for (int64_t row = 0; row < num_rows; row += 64) {
    const int64_t w = row / 64;
    if (need != nullptr && need[w] == 0) {
      out[w] = 0;
      continue;
    }
    const int64_t num_values = std::min<int64_t>(64, num_rows - row) * width;
    if (num_values < 64 * width) std::fill(values, values + width, 0);
    RunKernel(leaf, kernel, data + row * width * leaf.value_bytes, num_values,
              nullptr, values);
    out[w] = AnyOfRow(values, width);
  }
}

void MakeBigSet(FilterLeaf* leaf) {
  // 64 bits a value, as long as the sieve stays in the first-level cache.
  int log_bits = 12;
  while (log_bits < 18 && (int64_t{1} << log_bits) <
                              64 * static_cast<int64_t>(leaf->values.size())) {
    ++log_bits;
  }
  leaf->kind = FilterLeafKind::kBigSet;
  leaf->sieve_shift = 64 - log_bits;
  leaf->sieve.assign((int64_t{1} << log_bits) / 64, 0);
  for (const int64_t value : leaf->values) {
    const uint64_t hash =
        SieveHash(static_cast<uint64_t>(value), leaf->sieve_shift);
    leaf->sieve[hash / 64] |= uint64_t{1} << (hash % 64);
  }
}

// Chooses how to test for the values of `leaf->values`, which ascend.
void MakeSet(FilterLeaf* leaf) {
  const int64_t count = static_cast<int64_t>(leaf->values.size());
  if (leaf->value_bytes > 1 && count <= SmallSetSize(leaf->value_bytes)) {
    leaf->kind = FilterLeafKind::kSmallSet;
    return;
  }
  if (leaf->value_bytes > 2) {
    MakeBigSet(leaf);
    return;
  }
  const bool is_byte = leaf->value_bytes == 1;
  leaf->kind = is_byte ? FilterLeafKind::kTable8 : FilterLeafKind::kTable16;
  std::vector<int64_t> table(is_byte ? 4 : 1024, 0);
  for (const int64_t value : leaf->values) {
    const uint64_t bits =
        static_cast<uint64_t>(value) & LowBits(8 * leaf->value_bytes);
    table[bits / 64] |= static_cast<int64_t>(uint64_t{1} << (bits % 64));
  }
  leaf->values = std::move(table);
  if (is_byte) leaf->nibbles = NibbleTable(leaf->values);
}

double LeafCost(const FilterLeaf& leaf, int64_t width) {
  double cost = static_cast<double>(leaf.value_bytes);
  if (leaf.kind == FilterLeafKind::kSmallSet) {
    cost *= 0.5 * static_cast<double>(leaf.values.size());
  } else if (leaf.kind == FilterLeafKind::kTable16) {
    cost += 10;
  } else if (leaf.kind == FilterLeafKind::kBigSet) {
    cost += 30;
  }
  return width == 1 ? cost : cost * static_cast<double>(width) + 10;
}

}  // namespace

FilterPlan::FilterPlan(const std::vector<FilterInstruction>& instructions,
                       const std::vector<Column>& columns, const int64_t* ids,
                       const IdResolver* resolver, FilterIsa isa) {
  std::vector<int32_t> stack;
  const auto pop = [&] {
    const int32_t top = stack.back();
    stack.pop_back();
    return top;
  };
  for (const FilterInstruction& instruction : instructions) {
    switch (instruction.op) {
      case FilterOp::kTrue:
      case FilterOp::kFalse:
        stack.push_back(AddConstant(instruction.op == FilterOp::kTrue));
        break;
      case FilterOp::kNot:
        stack.push_back(Negate(pop()));
        break;
      case FilterOp::kAnd:
      case FilterOp::kOr: {
        const int32_t right = pop();
        const int32_t left = pop();
        stack.push_back(Combine(
            instruction.op == FilterOp::kAnd ? NodeType::kAll : NodeType::kAny,
            left, right));
        break;
      }
      default:
        stack.push_back(AddLeaf(instruction, columns, ids, resolver, isa));
    }
  }
  root_ = stack.empty() ? AddConstant(true) : stack.back();
  SortByCost(root_);
}

bool FilterPlan::PassesAll() const {
  const Node& root = nodes_[root_];
  return root.type == NodeType::kConstant && root.value;
}

int32_t FilterPlan::AddConstant(bool value) {
  Node node;
  node.value = value;
  nodes_.push_back(std::move(node));
  return static_cast<int32_t>(nodes_.size()) - 1;
}

int32_t FilterPlan::AddRows(const FilterInstruction& instruction,
                            const IdResolver& resolver) {
  const bool is_set = instruction.op == FilterOp::kInSet;
  Node node;
  node.type = NodeType::kRows;
  for (int64_t i = 0; i < (is_set ? instruction.count : 1); ++i) {
    const int64_t row = resolver.RowOf(instruction.payload[i]);
    if (row >= 0) node.rows.push_back(row);
  }
  std::sort(node.rows.begin(), node.rows.end());
  nodes_.push_back(std::move(node));
  return static_cast<int32_t>(nodes_.size()) - 1;
}

int32_t FilterPlan::AddLeaf(const FilterInstruction& instruction,
                            const std::vector<Column>& columns,
                            const int64_t* ids, const IdResolver* resolver,
                            FilterIsa isa) {
  const int64_t* payload = instruction.payload;
  Column column{ColumnType::kInt64, ids, 1};
  if (instruction.column != kIdColumn) {
    column = columns[instruction.column];
  } else {
    const bool is_point =
        instruction.op == FilterOp::kInSet || payload[0] == payload[1];
    if (resolver != nullptr && is_point) return AddRows(instruction, *resolver);
    reads_ids_ = true;
  }

  Node node;
  node.type = NodeType::kLeaf;
  node.data = static_cast<const char*>(column.data);
  node.width = column.width;
  FilterLeaf& leaf = node.leaf;
  leaf.value_bytes = ColumnTypeSize(column.type);
  switch (instruction.op) {
    case FilterOp::kRange:
      if (payload[0] > payload[1]) return AddConstant(false);
      leaf.kind = FilterLeafKind::kRange;
      leaf.lo = static_cast<uint64_t>(payload[0]);
      leaf.span = static_cast<uint64_t>(payload[1]) - leaf.lo;
      break;
    case FilterOp::kFloatRange: {
      int32_t lo = FloatKey(static_cast<uint32_t>(payload[0]));
      int32_t hi = FloatKey(static_cast<uint32_t>(payload[1]));
      if (lo == FloatKey(0)) lo = FloatKey(kMinusZeroBits);
      if (hi == FloatKey(kMinusZeroBits)) hi = FloatKey(0);
      if (lo > hi) return AddConstant(false);
      leaf.kind = FilterLeafKind::kFloatRange;
      leaf.lo = static_cast<uint32_t>(lo);
      leaf.span = static_cast<uint32_t>(hi) - static_cast<uint32_t>(lo);
      break;
    }
    case FilterOp::kInSet:
      if (instruction.count == 0) return AddConstant(false);
      leaf.values.assign(payload, payload + instruction.count);
      leaf.values.erase(std::unique(leaf.values.begin(), leaf.values.end()),
                        leaf.values.end());
      MakeSet(&leaf);
      break;
    case FilterOp::kInTable:
      leaf.kind = FilterLeafKind::kTable8;
      leaf.values.assign(payload, payload + 4);
      leaf.nibbles = NibbleTable(leaf.values);
      break;
    default:
      leaf.kind = instruction.op == FilterOp::kBitsAny
                      ? FilterLeafKind::kBitsAny
                      : FilterLeafKind::kBitsAll;
      leaf.lo = static_cast<uint64_t>(payload[0]);
      break;
  }
  node.kernel = ChooseFilterKernel(leaf, isa);
  node.cost = LeafCost(leaf, node.width);
  nodes_.push_back(std::move(node));
  return static_cast<int32_t>(nodes_.size()) - 1;
}

int32_t FilterPlan::Negate(int32_t index) {
  Node& node = nodes_[index];
  if (node.type == NodeType::kConstant) {
    node.value = !node.value;
  } else {
    node.negate = !node.negate;
  }
  return index;
}

int32_t FilterPlan::Combine(NodeType type, int32_t left, int32_t right) {
  const bool absorbing = type == NodeType::kAny;
  for (const auto& [one, other] :
       {std::pair{left, right}, std::pair{right, left}}) {
    if (nodes_[one].type != NodeType::kConstant) continue;
    return nodes_[one].value == absorbing ? one : other;
  }
  // A chain of one operator becomes one node: append to the left one.
  const auto is_chain = [&](int32_t index) {
    return nodes_[index].type == type && !nodes_[index].negate;
  };
  if (!is_chain(left)) {
    if (is_chain(right)) {
      std::swap(left, right);
    } else {
      Node node;
      node.type = type;
      node.children = {left, right};
      nodes_.push_back(std::move(node));
      return static_cast<int32_t>(nodes_.size()) - 1;
    }
  }
  std::vector<int32_t>& children = nodes_[left].children;
  if (is_chain(right)) {
    const std::vector<int32_t>& more = nodes_[right].children;
    children.insert(children.end(), more.begin(), more.end());
  } else {
    children.push_back(right);
  }
  return left;
}

// Recursion no deeper than kMaxFilterLevels, as in EvaluateNode.
void FilterPlan::SortByCost(int32_t index) {
  Node& node = nodes_[index];
  for (const int32_t child : node.children) {
    SortByCost(child);
    node.cost += nodes_[child].cost;
  }
  std::stable_sort(
      node.children.begin(), node.children.end(),
      [this](int32_t a, int32_t b) { return nodes_[a].cost < nodes_[b].cost; });
}

void FilterPlan::Evaluate(int64_t begin, int64_t num_rows, const uint64_t* need,
                          uint64_t* out) const {
  EvaluateNode(root_, begin, num_rows, need, out);
}

void FilterPlan::EvaluateNode(int32_t index, int64_t begin, int64_t num_rows,
                              const uint64_t* need, uint64_t* out) const {
  const Node& node = nodes_[index];
  const int64_t num_words = (num_rows + 63) / 64;
  switch (node.type) {
    case NodeType::kConstant:
      std::fill(out, out + num_words, node.value ? ~uint64_t{0} : 0);
      break;
    case NodeType::kRows: {
      std::fill(out, out + num_words, 0);
      auto row = std::lower_bound(node.rows.begin(), node.rows.end(), begin);
      for (; row != node.rows.end() && *row < begin + num_rows; ++row) {
        const int64_t bit = *row - begin;
        out[bit / 64] |= uint64_t{1} << (bit % 64);
      }
      break;
    }
    case NodeType::kLeaf: {
      const char* data = node.data + begin * node.width * node.leaf.value_bytes;
      if (node.width == 1) {
        RunKernel(node.leaf, node.kernel, data, num_rows, need, out);
      } else {
        RunWideKernel(node.leaf, node.kernel, data, node.width, num_rows, need,
                      out);
      }
      break;
    }
    case NodeType::kAll:
    case NodeType::kAny:
      EvaluateChain(node, begin, num_rows, need, out);
      break;
  }
  if (node.negate) {
    for (int64_t w = 0; w < num_words; ++w) out[w] = ~out[w];
  }
}

// Each part is asked only for the rows that the parts before it left open: in
// `and` those that still pass, in `or` those that do not yet.
void FilterPlan::EvaluateChain(const Node& node, int64_t begin,
                               int64_t num_rows, const uint64_t* need,
                               uint64_t* out) const {
  const int64_t num_words = (num_rows + 63) / 64;
  const uint64_t flip = node.type == NodeType::kAny ? ~uint64_t{0} : 0;
  EvaluateNode(node.children[0], begin, num_rows, need, out);
  for (size_t i = 1; i < node.children.size(); ++i) {
    std::array<uint64_t, kBlockWords> open;
    std::array<uint64_t, kBlockWords> part;
    uint64_t any_open = 0;
    for (int64_t w = 0; w < num_words; ++w) {
      open[w] = (out[w] ^ flip) & (need == nullptr ? ~uint64_t{0} : need[w]);
      any_open |= open[w];
    }
    if (any_open == 0) return;
    EvaluateNode(node.children[i], begin, num_rows, open.data(), part.data());
    if (node.type == NodeType::kAll) {
      for (int64_t w = 0; w < num_words; ++w) out[w] &= part[w];
    } else {
      for (int64_t w = 0; w < num_words; ++w) out[w] |= part[w];
    }
  }
}

}  // namespace lintf
