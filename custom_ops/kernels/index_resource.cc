// SPDX-License-Identifier: Apache-2.0
#include "custom_ops/kernels/index_resource.h"

#include <algorithm>
#include <cstdint>
#include <memory>
#include <mutex>
#include <shared_mutex>
#include <string>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "custom_ops/core/huge_pages.h"
#include "custom_ops/core/id_map.h"
#include "custom_ops/core/mask_source.h"
#include "tensorflow/core/framework/tensor.h"

namespace lintf {
namespace {

absl::Status Build(const int64_t* ids, int64_t num_rows, IndexState* state) {
  const IdMap::Summary summary = state->row_of_id.Build(ids, num_rows);
  if (summary.duplicates > 0) {
    return absl::FailedPreconditionError(absl::StrCat(
        "each row of the index must have an id of its own, but ",
        summary.duplicates, " of ", num_rows, " rows repeat one: id ",
        summary.duplicate_id, " is in rows ", summary.first_row, " and ",
        summary.second_row, ". Build the index from items with unique ids."));
  }
  state->live_rows = summary.live_rows;
  if (summary.live_rows == num_rows) return absl::OkStatus();
  state->live.assign((num_rows + kRowsPerWord - 1) / kRowsPerWord, 0);
  for (int64_t row = 0; row < num_rows; ++row) {
    if (ids[row] == kNoId) continue;
    state->live[row / kRowsPerWord] |= uint64_t{1} << (row % kRowsPerWord);
  }
  return absl::OkStatus();
}

}  // namespace

bool IndexResource::Find(const tensorflow::Tensor& ids, int64_t num_rows,
                         Entry* entry) const {
  std::shared_lock<std::shared_mutex> lock(mu_);
  if (!valid_ || entry_.ids.data() != ids.data() ||
      entry_.num_rows != num_rows) {
    return false;
  }
  entry->status = entry_.status;
  entry->state = entry_.state;
  return true;
}

absl::Status IndexResource::GetState(const tensorflow::Tensor& ids,
                                     int64_t num_rows,
                                     std::shared_ptr<const IndexState>* state) {
  Entry entry;
  if (Find(ids, num_rows, &entry)) {
    *state = entry.state;
    return entry.status;
  }
  std::lock_guard<std::mutex> build_lock(build_mu_);
  // Another thread may have made it while this one waited.
  if (Find(ids, num_rows, &entry)) {
    *state = entry.state;
    return entry.status;
  }
  auto built = std::make_shared<IndexState>();
  entry.ids = ids;
  entry.num_rows = num_rows;
  entry.status = Build(ids.flat<int64_t>().data(), num_rows, built.get());
  if (entry.status.ok()) entry.state = std::move(built);
  *state = entry.state;
  const absl::Status status = entry.status;
  std::unique_lock<std::shared_mutex> lock(mu_);
  entry_ = std::move(entry);
  valid_ = true;
  return status;
}

void IndexResource::PrepareTables(const std::vector<Table>& tables) {
  std::vector<Table> fresh;
  {
    std::shared_lock<std::shared_mutex> lock(mu_);
    for (const Table& table : tables) {
      if (std::find(tables_.begin(), tables_.end(), table) == tables_.end()) {
        fresh.push_back(table);
      }
    }
  }
  if (fresh.empty()) return;
  // Others may search meanwhile, and find the pages moved or not.
  for (const Table& table : fresh) PreferHugePages(table.data, table.bytes);
  std::unique_lock<std::shared_mutex> lock(mu_);
  // Tables that were replaced stay listed; too many of them are forgotten.
  if (tables_.size() > kMaxTables) tables_.clear();
  tables_.insert(tables_.end(), fresh.begin(), fresh.end());
}

void IndexResource::Invalidate() {
  std::unique_lock<std::shared_mutex> lock(mu_);
  valid_ = false;
  entry_ = Entry();
}

std::string IndexResource::DebugString() const {
  std::shared_lock<std::shared_mutex> lock(mu_);
  if (!valid_) return "lintf index, not in use yet";
  return absl::StrCat("lintf index of ", entry_.num_rows, " rows");
}

int64_t IndexResource::MemoryUsed() const {
  std::shared_lock<std::shared_mutex> lock(mu_);
  if (entry_.state == nullptr) return 0;
  return entry_.state->row_of_id.MemoryUsed() +
         static_cast<int64_t>(entry_.state->live.capacity() * sizeof(uint64_t));
}

}  // namespace lintf
