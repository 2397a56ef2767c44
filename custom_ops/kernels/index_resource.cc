// SPDX-License-Identifier: Apache-2.0
#include "custom_ops/kernels/index_resource.h"

#include <cstdint>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "custom_ops/core/id_map.h"

namespace lintf {

absl::Status CheckIds(const IdMap::Summary& ids, int64_t num_rows) {
  if (ids.duplicates == 0) return absl::OkStatus();
  return absl::FailedPreconditionError(absl::StrCat(
      "each row of the index must have an id of its own, but ", ids.duplicates,
      " of ", num_rows, " rows repeat one: id ", ids.duplicate_id,
      " is in rows ", ids.first_row, " and ", ids.second_row,
      ". Build the index from items with unique ids."));
}

}  // namespace lintf
