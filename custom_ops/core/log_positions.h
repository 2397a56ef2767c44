// SPDX-License-Identifier: Apache-2.0
// Which changes of the log an index holds. Every change that comes from the
// log says which one it follows, so that neither a lost answer nor a repeated
// delivery, a restart or a second sender can lose or repeat one.
#ifndef LINTF_CUSTOM_OPS_CORE_LOG_POSITIONS_H_
#define LINTF_CUSTOM_OPS_CORE_LOG_POSITIONS_H_

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

namespace lintf {

// The offset of a change that is not from the log, and of no change at all.
inline constexpr int64_t kNoOffset = -1;

// Where the changes of a batch stand in the log; each [count].
struct LogPositions {
  int64_t count = 0;
  const int64_t* partition = nullptr;
  const int64_t* previous_offset = nullptr;
  const int64_t* offset = nullptr;  // kNoOffset: not from the log
};

// What a batch does to the offsets of an index.
class LogAdvance {
 public:
  enum class Result : uint8_t {
    kFine,
    kInvalid,  // no index would take it
    kNotNext,  // it does not follow what this index holds
  };

  // Checks the batch against the stored offsets of `num_partitions`.
  Result Check(const LogPositions& positions, const int64_t* stored,
               int64_t num_partitions);

  // What is wrong, if something is.
  const std::string& message() const { return message_; }

  // The new offset of each partition that moves on, in order of partitions.
  const std::vector<std::pair<int64_t, int64_t>>& offsets() const {
    return offsets_;
  }

 private:
  std::string message_;
  std::vector<std::pair<int64_t, int64_t>> offsets_;
};

}  // namespace lintf

#endif  // LINTF_CUSTOM_OPS_CORE_LOG_POSITIONS_H_
