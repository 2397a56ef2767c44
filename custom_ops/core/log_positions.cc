// SPDX-License-Identifier: Apache-2.0
#include "custom_ops/core/log_positions.h"

#include <map>

namespace lintf {
namespace {

std::string Row(int64_t row) { return "row " + std::to_string(row) + ": "; }

}  // namespace

LogAdvance::Result LogAdvance::Check(const LogPositions& positions,
                                     const int64_t* stored,
                                     int64_t num_partitions) {
  offsets_.clear();
  message_.clear();
  std::map<int64_t, int64_t> last;  // of each partition in the batch so far
  for (int64_t i = 0; i < positions.count; ++i) {
    const int64_t partition = positions.partition[i];
    const int64_t previous = positions.previous_offset[i];
    const int64_t offset = positions.offset[i];
    if (offset == kNoOffset) continue;
    if (partition < 0 || partition >= num_partitions) {
      message_ = Row(i) + "`log_partition` must be in [0, " +
                 std::to_string(num_partitions) +
                 "), the partitions of this index, got " +
                 std::to_string(partition);
      return Result::kInvalid;
    }
    if (previous < kNoOffset || offset <= previous) {
      message_ = Row(i) +
                 "`log_offset` must be greater than `log_previous_offset`, "
                 "which must be -1 or an offset, got " +
                 std::to_string(offset) + " after " + std::to_string(previous);
      return Result::kInvalid;
    }
    const auto [entry, is_first] = last.emplace(partition, offset);
    if (is_first) {
      if (previous != stored[partition]) {
        message_ = Row(i) + "partition " + std::to_string(partition) +
                   " of this index stands at offset " +
                   std::to_string(stored[partition]) +
                   ", but `log_previous_offset` is " +
                   std::to_string(previous) +
                   "; nothing was changed. Go on after the stored offset, "
                   "which index_stats gives as well.";
        return Result::kNotNext;
      }
      continue;
    }
    if (previous != entry->second) {
      message_ = Row(i) +
                 "`log_previous_offset` must be the offset of the row "
                 "before it in partition " +
                 std::to_string(partition) + ", " +
                 std::to_string(entry->second) + ", got " +
                 std::to_string(previous);
      return Result::kInvalid;
    }
    entry->second = offset;
  }
  offsets_.assign(last.begin(), last.end());
  return Result::kFine;
}

}  // namespace lintf
