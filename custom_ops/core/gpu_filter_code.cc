// SPDX-License-Identifier: Apache-2.0
#include "custom_ops/core/gpu_filter_code.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "custom_ops/core/filter_batch.h"
#include "custom_ops/core/filter_literals.h"
#include "custom_ops/core/gpu_masks.h"

namespace lintf::gpu {
namespace {

// Up to here values are compared one by one.
constexpr int64_t kFewValues = 8;
// A bitmap is worth this many bits for each value, or this many in all.
constexpr uint64_t kBitmapBitsOfValue = 512;
constexpr uint64_t kSmallBitmapBits = 2048;

enum class NodeType : uint8_t { kConstant, kLeaf, kRows, kAll, kAny };

struct Leaf {
  Column column;
  FilterStepOp op = FilterStepOp::kEqual;
  uint64_t a = 0;
  uint64_t b = 0;
  std::vector<uint64_t> payload;
};

struct Node {
  NodeType type = NodeType::kConstant;
  bool negate = false;
  bool value = false;             // kConstant
  std::vector<int32_t> children;  // kAll (and), kAny (or)
  Leaf leaf;                      // kLeaf
  std::vector<uint64_t> rows;     // kRows
  double cost = 0;
  int stack = 1;  // what it takes to push it
};

bool IsChain(const Node& node) {
  return node.type == NodeType::kAll || node.type == NodeType::kAny;
}

bool IsWide(const Node& node) {
  return node.type == NodeType::kLeaf && node.leaf.column.width > 1;
}

// Sets the kind of test for `values`, which ascend and differ.
void MakeSet(const std::vector<uint64_t>& values, Leaf* leaf) {
  const bool is_wide = ColumnTypeSize(leaf->column.type) == 8;
  const int64_t count = static_cast<int64_t>(values.size());
  const auto choose = [&](FilterStepOp op, FilterStepOp op64) {
    leaf->op = is_wide ? op64 : op;
  };
  leaf->a = values[0];
  leaf->b = values.back() - values[0];
  if (count == 1) {
    choose(FilterStepOp::kEqual, FilterStepOp::kEqual64);
  } else if (leaf->b == static_cast<uint64_t>(count - 1)) {
    choose(FilterStepOp::kRange, FilterStepOp::kRange64);
  } else if (count <= kFewValues) {
    choose(FilterStepOp::kValues, FilterStepOp::kValues64);
    leaf->a = static_cast<uint64_t>(count);
    leaf->payload = values;
  } else if (ColumnTypeSize(leaf->column.type) <= 2 ||
             leaf->b < kSmallBitmapBits ||
             leaf->b / kBitmapBitsOfValue < static_cast<uint64_t>(count)) {
    choose(FilterStepOp::kBitmap, FilterStepOp::kBitmap64);
    leaf->payload.assign(leaf->b / 64 + 1, 0);
    for (const uint64_t value : values) {
      const uint64_t bit = value - leaf->a;
      leaf->payload[bit / 64] |= uint64_t{1} << (bit % 64);
    }
  } else {
    choose(FilterStepOp::kSearch, FilterStepOp::kSearch64);
    leaf->a = static_cast<uint64_t>(count);
    leaf->payload = values;
  }
}

// What comes first is what costs little to read, and turns away most.
double LeafCost(const Leaf& leaf) {
  double cost = 8.0 * static_cast<double>(ColumnTypeSize(leaf.column.type) *
                                          leaf.column.width);
  switch (leaf.op) {
    case FilterStepOp::kEqual:
    case FilterStepOp::kEqual64:
      break;
    case FilterStepOp::kValues:
    case FilterStepOp::kValues64:
      cost += 1;
      break;
    case FilterStepOp::kSearch:
    case FilterStepOp::kSearch64:
      cost += 4;
      break;
    default:
      cost += 2;
  }
  return cost;
}

bool AreSame(const Leaf& a, const Leaf& b) {
  return a.column.data == b.column.data && a.column.width == b.column.width &&
         a.column.type == b.column.type && a.op == b.op && a.a == b.a &&
         a.b == b.b && a.payload == b.payload;
}

uint64_t HashOf(const Leaf& leaf) {
  uint64_t hash = 0;
  const auto mix = [&](uint64_t value) {
    hash = (hash ^ value) * 0x9E3779B97F4A7C15u;
    hash ^= hash >> 32;
  };
  mix(reinterpret_cast<uintptr_t>(leaf.column.data));
  mix(static_cast<uint64_t>(leaf.op));
  mix(leaf.a);
  mix(leaf.b);
  for (const uint64_t value : leaf.payload) mix(value);
  return hash;
}

// The distinct leaves of a group of masks, each with its slot: its place here.
class SlotTable {
 public:
  explicit SlotTable(const std::vector<Node>& nodes) : nodes_(nodes) {
    std::fill_n(slot_of_bucket_, kBuckets, -1);
  }

  // The slots of `leaves`; false, and nothing is added, if there is no room.
  bool Add(const std::vector<int32_t>& leaves) {
    const size_t before = leaves_.size();
    for (const int32_t leaf : leaves) {
      if (Find(leaf)) continue;
      for (; leaves_.size() > before; leaves_.pop_back()) {
        slot_of_bucket_[bucket_of_slot_[leaves_.size() - 1]] = -1;
      }
      return false;
    }
    return true;
  }

  // Sets the slot of a leaf; false if it would be one too many.
  bool Find(int32_t leaf) {
    const Leaf& wanted = nodes_[leaf].leaf;
    uint64_t bucket = HashOf(wanted) % kBuckets;
    for (; slot_of_bucket_[bucket] >= 0; bucket = (bucket + 1) % kBuckets) {
      found_ = slot_of_bucket_[bucket];
      if (AreSame(nodes_[leaves_[found_]].leaf, wanted)) return true;
    }
    if (leaves_.size() == kMaxFilterSlots) return false;
    found_ = static_cast<int>(leaves_.size());
    slot_of_bucket_[bucket] = found_;
    bucket_of_slot_[found_] = bucket;
    leaves_.push_back(leaf);
    return true;
  }

  int SlotOf(int32_t leaf) {
    Find(leaf);
    return found_;
  }

  // By slot.
  const std::vector<int32_t>& leaves() const { return leaves_; }

 private:
  static constexpr uint64_t kBuckets = 4 * kMaxFilterSlots;

  const std::vector<Node>& nodes_;
  std::vector<int32_t> leaves_;
  int slot_of_bucket_[kBuckets];  // -1: none
  uint64_t bucket_of_slot_[kMaxFilterSlots];
  int found_ = -1;
};

}  // namespace

struct FilterCodeBuilder::Impl {
  const std::vector<Column> columns;
  const int64_t* const ids;
  const IdResolver* const resolver;
  std::vector<Node> nodes;
  std::vector<int32_t> roots;  // of the masks
  std::vector<bool> passes_all;
  bool reads_ids = false;

  int32_t AddNode(Node node) {
    nodes.push_back(std::move(node));
    return static_cast<int32_t>(nodes.size()) - 1;
  }

  int32_t AddConstant(bool value) {
    Node node;
    node.value = value;
    return AddNode(std::move(node));
  }

  int32_t AddRows(const FilterInstruction& instruction) {
    const bool is_set = instruction.op == FilterOp::kInSet;
    Node node;
    node.type = NodeType::kRows;
    for (int64_t i = 0; i < (is_set ? instruction.count : 1); ++i) {
      const int64_t row = resolver->RowOf(instruction.payload[i]);
      if (row >= 0 && row < kMaxSegmentRows) {
        node.rows.push_back(static_cast<uint64_t>(row));
      }
    }
    std::sort(node.rows.begin(), node.rows.end());
    return AddNode(std::move(node));
  }

  int32_t AddLeaf(const FilterInstruction& instruction) {
    const int64_t* const payload = instruction.payload;
    Node node;
    node.type = NodeType::kLeaf;
    Leaf& leaf = node.leaf;
    leaf.column = {ColumnType::kInt64, ids, 1};
    if (instruction.column != kIdColumn) {
      leaf.column = columns[instruction.column];
    } else {
      const bool is_point =
          instruction.op == FilterOp::kInSet || payload[0] == payload[1];
      if (resolver != nullptr && is_point) return AddRows(instruction);
      reads_ids = true;
    }
    const bool is_wide = ColumnTypeSize(leaf.column.type) == 8;
    const auto choose = [&](FilterStepOp op, FilterStepOp op64) {
      leaf.op = is_wide ? op64 : op;
    };
    switch (instruction.op) {
      case FilterOp::kRange:
        if (payload[0] > payload[1]) return AddConstant(false);
        leaf.a = static_cast<uint64_t>(payload[0]);
        leaf.b = static_cast<uint64_t>(payload[1]) - leaf.a;
        if (leaf.b == 0) {
          choose(FilterStepOp::kEqual, FilterStepOp::kEqual64);
        } else {
          choose(FilterStepOp::kRange, FilterStepOp::kRange64);
        }
        break;
      case FilterOp::kFloatRange: {
        int32_t lo = FloatKey(static_cast<uint32_t>(payload[0]));
        int32_t hi = FloatKey(static_cast<uint32_t>(payload[1]));
        if (lo == FloatKey(0)) lo = FloatKey(kMinusZeroBits);
        if (hi == FloatKey(kMinusZeroBits)) hi = FloatKey(0);
        if (lo > hi) return AddConstant(false);
        leaf.op = FilterStepOp::kFloatRange;
        leaf.a = static_cast<uint32_t>(lo);
        leaf.b = static_cast<uint32_t>(hi) - static_cast<uint32_t>(lo);
        break;
      }
      case FilterOp::kInSet: {
        if (instruction.count == 0) return AddConstant(false);
        std::vector<uint64_t> values(payload, payload + instruction.count);
        values.erase(std::unique(values.begin(), values.end()), values.end());
        MakeSet(values, &leaf);
        break;
      }
      case FilterOp::kInTable:
        leaf.op = FilterStepOp::kBitmap;
        leaf.b = 255;
        leaf.payload.assign(payload, payload + 4);
        break;
      case FilterOp::kBitsAny:
        choose(FilterStepOp::kBitsAny, FilterStepOp::kBitsAny64);
        leaf.a = static_cast<uint64_t>(payload[0]);
        break;
      default:
        choose(FilterStepOp::kBitsAll, FilterStepOp::kBitsAll64);
        leaf.a = static_cast<uint64_t>(payload[0]);
        break;
    }
    node.cost = LeafCost(leaf);
    return AddNode(std::move(node));
  }

  int32_t Combine(NodeType type, int32_t left, int32_t right) {
    const bool absorbing = type == NodeType::kAny;
    for (const auto& [one, other] :
         {std::pair{left, right}, std::pair{right, left}}) {
      if (nodes[one].type != NodeType::kConstant) continue;
      return nodes[one].value == absorbing ? one : other;
    }
    // A chain of one operator is one node, or levels would not be bounded.
    const auto is_chain = [&](int32_t index) {
      return nodes[index].type == type && !nodes[index].negate;
    };
    if (!is_chain(left) && is_chain(right)) std::swap(left, right);
    if (!is_chain(left)) {
      Node node;
      node.type = type;
      node.children = {left, right};
      return AddNode(std::move(node));
    }
    std::vector<int32_t>& children = nodes[left].children;
    if (is_chain(right)) {
      const std::vector<int32_t>& more = nodes[right].children;
      children.insert(children.end(), more.begin(), more.end());
    } else {
      children.push_back(right);
    }
    return left;
  }

  // Orders the children: the cheapest first, or those that take most of the
  // stack, and sets how much of it each node takes. Recursion no deeper than
  // kMaxFilterLevels, as below.
  void Order(int32_t index, bool by_stack) {
    Node& node = nodes[index];
    if (!IsChain(node)) return;
    node.cost = 0;
    for (const int32_t child : node.children) {
      Order(child, by_stack);
      node.cost += nodes[child].cost;
    }
    std::stable_sort(
        node.children.begin(), node.children.end(), [&](int32_t a, int32_t b) {
          if (by_stack && nodes[a].stack != nodes[b].stack) {
            return nodes[a].stack > nodes[b].stack;
          }
          // A negated leaf turns away little.
          const double cost_a = nodes[a].cost + 4 * nodes[a].negate;
          const double cost_b = nodes[b].cost + 4 * nodes[b].negate;
          return cost_a < cost_b;
        });
    node.stack = nodes[node.children[0]].stack;
    for (size_t i = 1; i < node.children.size(); ++i) {
      const Node& child = nodes[node.children[i]];
      const bool is_pushed = IsChain(child) || IsWide(child);
      node.stack = std::max(node.stack, child.stack + (is_pushed ? 1 : 0));
    }
  }

  // Appends the leaves below a node.
  void ListLeaves(int32_t index, std::vector<int32_t>* leaves) const {
    const Node& node = nodes[index];
    if (node.type == NodeType::kLeaf) leaves->push_back(index);
    for (const int32_t child : node.children) ListLeaves(child, leaves);
  }
};

namespace {

// Writes the steps of groups of masks.
class Writer {
 public:
  Writer(const std::vector<Node>& nodes, FilterCode* code)
      : nodes_(nodes), code_(*code) {}

  // Leaf by leaf.
  void WriteMask(int32_t mask, int32_t root) {
    Push(root);
    Output(mask, root);
  }

  void End() { code_.steps.emplace_back(); }

  // Column by column, in the order in which they come: the leaf of each slot.
  void WriteSlots(const std::vector<int32_t>& leaves) {
    std::vector<std::vector<int>> by_column;
    for (size_t slot = 0; slot < leaves.size(); ++slot) {
      const Column& column = nodes_[leaves[slot]].leaf.column;
      const auto is_same = [&](const std::vector<int>& slots) {
        const Column& other = nodes_[leaves[slots[0]]].leaf.column;
        return other.data == column.data && other.width == column.width &&
               other.type == column.type;
      };
      auto place = std::find_if(by_column.begin(), by_column.end(), is_same);
      if (place == by_column.end()) {
        place = by_column.emplace(place);
      }
      place->push_back(static_cast<int>(slot));
    }
    for (const std::vector<int>& slots : by_column) {
      const Column& column = nodes_[leaves[slots[0]]].leaf.column;
      std::vector<uint64_t> payloads;
      for (const int slot : slots) {
        payloads.push_back(AddPayload(nodes_[leaves[slot]].leaf.payload));
      }
      for (int64_t value = 0; value < column.width; ++value) {
        Load(column, value);
        for (size_t i = 0; i < slots.size(); ++i) {
          FilterStep step = LeafStep(nodes_[leaves[slots[i]]].leaf);
          step.c = payloads[i];
          step.merge = value == 0 ? FilterMerge::kStore : FilterMerge::kStoreOr;
          step.number = static_cast<uint32_t>(slots[i]);
          code_.steps.push_back(step);
        }
      }
    }
    Forget();
  }

  // A mask whose leaves are in slots.
  void WriteFromSlots(int32_t mask, int32_t root, SlotTable* slots) {
    slots_ = slots;
    Push(root);
    Output(mask, root);
    slots_ = nullptr;
  }

 private:
  void Output(int32_t mask, int32_t root) {
    FilterStep& last = code_.steps.back();
    if (last.op == FilterStepOp::kSlots && last.merge == FilterMerge::kPush) {
      last.merge = FilterMerge::kOutput;
      last.number = static_cast<uint32_t>(mask);
    } else {
      FilterStep step;
      step.op = FilterStepOp::kOutput;
      step.number = static_cast<uint32_t>(mask);
      code_.steps.push_back(step);
    }
    code_.stack = std::max(code_.stack, nodes_[root].stack);
    Forget();
  }

  void Forget() { loaded_ = {}; }

  void Load(const Column& column, int64_t value) {
    const char* const data = static_cast<const char*>(column.data) +
                             value * ColumnTypeSize(column.type);
    // A column of no rows may have no data: then nothing is known of it.
    if (data != nullptr && loaded_.data == data &&
        loaded_.type == column.type && loaded_.width == column.width) {
      return;
    }
    loaded_ = {column.type, data, column.width};
    FilterStep step;
    step.op = FilterStepOp::kLoad;
    step.type = static_cast<uint8_t>(column.type);
    step.number = static_cast<uint32_t>(column.width);
    step.a = reinterpret_cast<uintptr_t>(data);
    constexpr uint64_t kVectorBytes = 16;
    step.negate = column.width > 1 || step.a % kVectorBytes != 0 ? 1 : 0;
    code_.steps.push_back(step);
  }

  uint64_t AddPayload(const std::vector<uint64_t>& payload) {
    const uint64_t at = code_.payload.size();
    code_.payload.insert(code_.payload.end(), payload.begin(), payload.end());
    return at;
  }

  static FilterStep LeafStep(const Leaf& leaf) {
    FilterStep step;
    step.op = leaf.op;
    step.a = leaf.a;
    step.b = leaf.b;
    return step;
  }

  void Push(int32_t root) { Write(root, false, FilterMerge::kPush); }

  // The mask of a node, of its opposite if `flip`.
  void Write(int32_t index, bool flip, FilterMerge merge) {
    const Node& node = nodes_[index];
    const bool negate = node.negate != flip;
    switch (node.type) {
      case NodeType::kConstant: {
        FilterStep step;
        step.op = FilterStepOp::kConstant;
        step.merge = merge;
        step.negate = (node.value != flip) ? 0 : 1;
        code_.steps.push_back(step);
        break;
      }
      case NodeType::kRows: {
        FilterStep step;
        step.op = FilterStepOp::kRows;
        step.merge = merge;
        step.negate = negate ? 1 : 0;
        step.a = node.rows.size();
        step.c = AddPayload(node.rows);
        code_.steps.push_back(step);
        break;
      }
      case NodeType::kLeaf:
        if (slots_ != nullptr) {
          AddSlots({{index, negate}}, false, merge);
        } else {
          WriteLeaf(node.leaf, negate, merge);
        }
        break;
      case NodeType::kAll:
      case NodeType::kAny:
        WriteChain(node, negate, merge);
        break;
    }
  }

  void WriteLeaf(const Leaf& leaf, bool negate, FilterMerge merge) {
    FilterStep step = LeafStep(leaf);
    step.c = AddPayload(leaf.payload);
    step.negate = negate ? 1 : 0;
    if (leaf.column.width == 1) {
      Load(leaf.column, 0);
      step.merge = merge;
      code_.steps.push_back(step);
      return;
    }
    // Not any of the values: each of them not.
    for (int64_t value = 0; value < leaf.column.width; ++value) {
      Load(leaf.column, value);
      step.merge = value == 0 ? FilterMerge::kPush
                              : (negate ? FilterMerge::kAnd : FilterMerge::kOr);
      code_.steps.push_back(step);
    }
    Pop(merge);
  }

  void Pop(FilterMerge merge) {
    if (merge == FilterMerge::kPush) return;
    FilterStep step;
    step.op = FilterStepOp::kPop;
    step.merge = merge;
    code_.steps.push_back(step);
  }

  void WriteChain(const Node& node, bool negate, FilterMerge merge) {
    const bool is_any = (node.type == NodeType::kAny) != negate;
    const FilterMerge own = is_any ? FilterMerge::kOr : FilterMerge::kAnd;
    FilterMerge next = FilterMerge::kPush;
    if (slots_ != nullptr) {
      // Chains first: they take most of the stack.
      std::vector<std::pair<int32_t, bool>> leaves;
      for (const int32_t child : node.children) {
        if (nodes_[child].type == NodeType::kLeaf) {
          leaves.emplace_back(child, nodes_[child].negate != negate);
          continue;
        }
        Write(child, negate, next);
        next = own;
      }
      for (size_t i = 0; i < leaves.size(); i += kFilterStepSlots) {
        const size_t end =
            std::min(leaves.size(), i + size_t{kFilterStepSlots});
        AddSlots({leaves.begin() + i, leaves.begin() + end}, is_any, next);
        next = own;
      }
      Pop(merge);
      return;
    }
    std::vector<size_t> skips;
    for (const int32_t child : node.children) {
      if (next != FilterMerge::kPush) {
        skips.push_back(code_.steps.size());
        FilterStep step;
        step.op = FilterStepOp::kSkip;
        step.type = is_any ? 1 : 0;
        code_.steps.push_back(step);
      }
      Write(child, negate, next);
      next = own;
    }
    for (const size_t skip : skips) {
      code_.steps[skip].number = static_cast<uint32_t>(code_.steps.size());
    }
    // What was skipped may have been a load.
    Forget();
    Pop(merge);
  }

  void AddSlots(const std::vector<std::pair<int32_t, bool>>& leaves,
                bool is_any, FilterMerge merge) {
    // What any of them passes is what not all of their opposites do.
    FilterStep step;
    step.op = FilterStepOp::kSlots;
    step.merge = merge;
    step.negate = is_any ? 1 : 0;
    step.type = static_cast<uint8_t>(leaves.size());
    for (size_t i = 0; i < leaves.size(); ++i) {
      const uint64_t slot =
          static_cast<uint64_t>(slots_->SlotOf(leaves[i].first)) |
          (leaves[i].second != is_any ? kNegatedSlot : 0);
      (i < 8 ? step.a : step.b) |= slot << (8 * (i % 8));
    }
    code_.steps.push_back(step);
  }

  const std::vector<Node>& nodes_;
  FilterCode& code_;
  Column loaded_;
  SlotTable* slots_ = nullptr;
};

}  // namespace

FilterCodeBuilder::FilterCodeBuilder(const std::vector<Column>& columns,
                                     const int64_t* ids,
                                     const IdResolver* resolver)
    : impl_(new Impl{columns, ids, resolver, {}, {}, {}, false}) {}

FilterCodeBuilder::~FilterCodeBuilder() = default;

std::string FilterCodeBuilder::Add(
    const std::vector<FilterInstruction>& instructions) {
  Impl& impl = *impl_;
  impl.reads_ids = false;
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
        stack.push_back(impl.AddConstant(instruction.op == FilterOp::kTrue));
        break;
      case FilterOp::kNot: {
        Node& node = impl.nodes[stack.back()];
        bool& flag =
            node.type == NodeType::kConstant ? node.value : node.negate;
        flag = !flag;
        break;
      }
      case FilterOp::kAnd:
      case FilterOp::kOr: {
        const int32_t right = pop();
        const int32_t left = pop();
        stack.push_back(impl.Combine(
            instruction.op == FilterOp::kAnd ? NodeType::kAll : NodeType::kAny,
            left, right));
        break;
      }
      default:
        stack.push_back(impl.AddLeaf(instruction));
    }
  }
  const int32_t root = stack.empty() ? impl.AddConstant(true) : stack.back();
  impl.Order(root, false);
  if (impl.nodes[root].stack > kShallowFilterStack) impl.Order(root, true);
  impl.roots.push_back(root);
  const Node& node = impl.nodes[root];
  impl.passes_all.push_back(node.type == NodeType::kConstant && node.value);
  return impl.ids == nullptr && impl.reads_ids ? kFilterNeedsIds : "";
}

const std::vector<bool>& FilterCodeBuilder::passes_all() const {
  return impl_->passes_all;
}

FilterCode FilterCodeBuilder::Build() const {
  const Impl& impl = *impl_;
  const int32_t num_masks = static_cast<int32_t>(impl.roots.size());
  FilterCode code;
  Writer writer(impl.nodes, &code);
  std::vector<int32_t> leaves;
  for (int32_t first = 0; first < num_masks;) {
    // As many masks as have slots for their leaves.
    SlotTable slots(impl.nodes);
    int32_t end = first;
    for (; end < num_masks; ++end) {
      leaves.clear();
      impl.ListLeaves(impl.roots[end], &leaves);
      if (!slots.Add(leaves)) break;
    }
    if (end - first <= 1) {
      writer.WriteMask(first, impl.roots[first]);
      ++first;
      continue;
    }
    code.slots = std::max(code.slots, static_cast<int>(slots.leaves().size()));
    writer.WriteSlots(slots.leaves());
    for (; first < end; ++first) {
      writer.WriteFromSlots(first, impl.roots[first], &slots);
    }
  }
  writer.End();
  return code;
}

}  // namespace lintf::gpu
