// SPDX-License-Identifier: Apache-2.0
#include "custom_ops/kernels/host_index_resource.h"

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <memory>
#include <mutex>
#include <shared_mutex>
#include <string>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "custom_ops/core/huge_pages.h"
#include "custom_ops/core/index_state.h"
#include "custom_ops/core/racy_copy.h"
#include "tensorflow/core/framework/tensor.h"

namespace lintf {
bool HostIndexResource::Find(const tensorflow::Tensor& ids,
                             const tensorflow::Tensor& num_rows,
                             Entry* entry) const {
  std::shared_lock<std::shared_mutex> lock(mu_);
  LoadRacy(&entry->num_rows, num_rows.data(), sizeof(entry->num_rows));
  if (!valid_ || entry_.ids.data() != ids.data()) return false;
  // Updates write first the state, then the variable, then entry_, which is
  // why this reads them in the opposite order.
  std::atomic_thread_fence(std::memory_order_acquire);
  const int64_t most =
      entry_.state == nullptr ? entry_.num_rows : entry_.state->num_rows();
  if (entry->num_rows < entry_.num_rows || entry->num_rows > most) return false;
  entry->status = entry_.status;
  entry->state = entry_.state;
  return true;
}

absl::Status HostIndexResource::GetState(const tensorflow::Tensor& ids,
                                         const tensorflow::Tensor& num_rows,
                                         std::shared_ptr<IndexState>* state) {
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
  entry.owns_ids = ids.RefCountIsOne();
  entry.ids = ids;
  auto built = std::make_shared<IndexState>(ids.flat<int64_t>().data(),
                                            entry.num_rows, ids.NumElements());
  entry.status = CheckIds(built->summary(), entry.num_rows);
  if (entry.status.ok()) entry.state = std::move(built);
  *state = entry.state;
  const absl::Status status = entry.status;
  std::unique_lock<std::shared_mutex> lock(mu_);
  entry_ = std::move(entry);
  valid_ = true;
  return status;
}

void HostIndexResource::SetNumRows(const IndexState& state, int64_t num_rows) {
  std::unique_lock<std::shared_mutex> lock(mu_);
  if (entry_.state.get() == &state) entry_.num_rows = num_rows;
}

bool HostIndexResource::OwnsIds() const {
  std::shared_lock<std::shared_mutex> lock(mu_);
  return valid_ && entry_.owns_ids;
}

void HostIndexResource::PrepareTables(const std::vector<Table>& tables) {
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

void HostIndexResource::Invalidate() {
  std::unique_lock<std::shared_mutex> lock(mu_);
  valid_ = false;
  entry_ = Entry();
}

std::string HostIndexResource::DebugString() const {
  std::shared_lock<std::shared_mutex> lock(mu_);
  if (!valid_) return "lintf index, not in use yet";
  const int64_t rows =
      entry_.state == nullptr ? entry_.num_rows : entry_.state->num_rows();
  return absl::StrCat("lintf index of ", rows, " rows");
}

int64_t HostIndexResource::MemoryUsed() const {
  std::shared_lock<std::shared_mutex> lock(mu_);
  if (entry_.state == nullptr) return 0;
  return entry_.state->MemoryUsed();
}

}  // namespace lintf
