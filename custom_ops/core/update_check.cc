// SPDX-License-Identifier: Apache-2.0
#include "custom_ops/core/update_check.h"

#include <algorithm>
#include <cmath>
#include <sstream>
#include <unordered_map>

#include "custom_ops/core/float_environment.h"
#include "custom_ops/core/id_map.h"
#include "custom_ops/core/vectors.h"

namespace lintf {
namespace {

// Half a step beyond the largest number of a narrow type: from here on a float
// is rounded to infinity.
constexpr float kFloat16Limit = 65520.0f;
constexpr float kBfloat16Limit = 0x1.FFp127f;

std::string Holds(const float* vector, int64_t place, const char* rest) {
  std::ostringstream text;
  text << "`embedding` holds " << vector[place] << " at dimension " << place
       << rest;
  return text.str();
}

}  // namespace

std::string ItemError(const float* vector, int64_t dim, bool normalize,
                      std::optional<ElementType> type) {
  // Whether a tiny number is 0 must not depend on the thread.
  const ScopedFloatEnvironment environment;
  const int64_t bad = FindNonFinite(vector, dim);
  if (bad >= 0) return Holds(vector, bad, "; all values must be finite");
  if (normalize) {
    if (std::all_of(vector, vector + dim, [](float x) { return x == 0.0f; })) {
      return "`embedding` must not be zero, because the metric is cosine";
    }
    return "";  // Of length 1 it always fits.
  }
  const bool is_half = type == ElementType::kFloat16;
  if (!is_half && type != ElementType::kBfloat16) return "";
  const float limit = is_half ? kFloat16Limit : kBfloat16Limit;
  for (int64_t d = 0; d < dim; ++d) {
    if (std::fabs(vector[d]) < limit) continue;
    return Holds(vector, d,
                 is_half
                     ? ", which does not fit float16; it ends at 65504"
                     : ", which does not fit bfloat16; it ends at 3.3895e38");
  }
  return "";
}

std::vector<int64_t> ItemGrowth(const RowUpdates& updates, const int64_t* shard,
                                const bool* found, int64_t num_shards) {
  std::vector<int64_t> growth(num_shards, 0);
  std::unordered_map<int64_t, bool> is_there;
  is_there.reserve(updates.count);
  for (int64_t i = 0; i < updates.count; ++i) {
    if (updates.ids[i] == kNoId) continue;
    bool& there = is_there.try_emplace(updates.ids[i], found[i]).first->second;
    const bool stays =
        !updates.remove[i] && (there || !updates.attributes_only);
    growth[shard[i]] += static_cast<int64_t>(stays) - (there ? 1 : 0);
    there = stays;
  }
  return growth;
}

}  // namespace lintf
