// SPDX-License-Identifier: Apache-2.0
// The index resource where the variables are in the host's memory.
#ifndef LINTF_CUSTOM_OPS_KERNELS_HOST_INDEX_RESOURCE_H_
#define LINTF_CUSTOM_OPS_KERNELS_HOST_INDEX_RESOURCE_H_

#include <cstdint>
#include <memory>
#include <mutex>
#include <shared_mutex>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "custom_ops/core/index_state.h"
#include "custom_ops/kernels/index_resource.h"
#include "tensorflow/core/framework/tensor.h"

namespace lintf {

// Owns the state, makes it on first use, and notices when it is out of date.
class HostIndexResource : public IndexResource {
 public:
  // The state of rows [0, num_rows) of the variable `ids`, whose lock the
  // caller holds (shared is enough). Searches that find the state ready share
  // it without waiting for each other; the first one makes it while the others
  // wait. FAILED_PRECONDITION if two rows have the same id.
  //
  // A state counts as out of date when the variable has another buffer (a
  // restore, an assignment) or when the variable `num_rows`, whose lock the
  // caller holds as well, is not what updates have made it. Writes in place
  // must call `Invalidate`, unless they keep the state up, as updates do.
  absl::Status GetState(const tensorflow::Tensor& ids,
                        const tensorflow::Tensor& num_rows,
                        std::shared_ptr<IndexState>* state);

  // An update of `state` has written its number of rows to the variable.
  void SetNumRows(const IndexState& state, int64_t num_rows);

  // Whether the buffer of `ids`, which the state was made from, was nobody
  // else's then, so that updates may write to it.
  bool OwnsIds() const;

  void Invalidate() override;

  // Memory that searches scan; the caller holds its variable's lock.
  struct Table {
    const void* data;
    int64_t bytes;
    bool operator==(const Table& other) const {
      return data == other.data && bytes == other.bytes;
    }
  };

  // Moves each table into large pages, once.
  void PrepareTables(const std::vector<Table>& tables);

  std::string DebugString() const override;
  int64_t MemoryUsed() const override;

 private:
  struct Entry {
    // Keeps the buffer alive, so that no other one can get its address.
    tensorflow::Tensor ids;
    bool owns_ids = false;
    int64_t num_rows = 0;  // of the variable, updates that run apart
    absl::Status status;
    std::shared_ptr<IndexState> state;
  };

  // True and the entry, if it is about these rows. Sets its `num_rows` to what
  // the variable says in any case.
  bool Find(const tensorflow::Tensor& ids, const tensorflow::Tensor& num_rows,
            Entry* entry) const;

  // Held while making a state; always taken before mu_.
  std::mutex build_mu_;
  // Guards what follows; never held for long.
  mutable std::shared_mutex mu_;
  bool valid_ = false;
  Entry entry_;
  static constexpr size_t kMaxTables = 1000;
  std::vector<Table> tables_;  // those that were prepared
};

}  // namespace lintf

#endif  // LINTF_CUSTOM_OPS_KERNELS_HOST_INDEX_RESOURCE_H_
