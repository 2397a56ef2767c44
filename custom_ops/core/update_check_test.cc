// SPDX-License-Identifier: Apache-2.0
#include "custom_ops/core/update_check.h"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <map>
#include <memory>
#include <optional>
#include <random>
#include <string>
#include <vector>

#include "custom_ops/core/id_map.h"
#include "custom_ops/core/index_state.h"
#include "custom_ops/core/testing.h"

namespace lintf {
namespace {

std::string Error(const std::vector<float>& vector, bool normalize,
                  std::optional<ElementType> type) {
  return ItemError(vector.data(), static_cast<int64_t>(vector.size()),
                   normalize, type);
}

void TestItemErrors() {
  const float infinity = std::numeric_limits<float>::infinity();
  const float tiny = std::numeric_limits<float>::denorm_min();
  CHECK_THAT(Error({1, -2}, false, ElementType::kFloat32).empty());
  CHECK_THAT(Error({1, infinity}, false, ElementType::kInt8) ==
             "`embedding` holds inf at dimension 1; all values must be finite");
  CHECK_THAT(!Error({std::nanf(""), 1}, true, std::nullopt).empty());
  CHECK_THAT(Error({0, 0}, false, ElementType::kFloat32).empty());
  CHECK_THAT(Error({0, -0.0f}, true, ElementType::kFloat32).find("zero") !=
             std::string::npos);
  CHECK_THAT(Error({0, tiny}, true, ElementType::kFloat32).empty());
  CHECK_THAT(Error({65519}, false, ElementType::kFloat16).empty());
  CHECK_THAT(Error({0, 65520}, false, ElementType::kFloat16) ==
             "`embedding` holds 65520 at dimension 1, which does not fit "
             "float16; it ends at 65504");
  CHECK_THAT(Error({-65520}, false, ElementType::kBfloat16).empty());
  CHECK_THAT(!Error({-3.4e38f}, false, ElementType::kBfloat16).empty());
  // Scaled to length 1 they fit.
  CHECK_THAT(Error({3.4e38f}, true, ElementType::kFloat16).empty());
  CHECK_THAT(Error({3.4e38f}, false, std::nullopt).empty());
}

// The growth of all shards must be what the plan of one index needs.
void TestGrowthIsThatOfThePlan() {
  std::mt19937 random(7);
  for (int round = 0; round < 200; ++round) {
    const int64_t num_shards = 1 + random() % 4;
    const int64_t count = random() % 12;
    std::vector<int64_t> stored;
    for (int64_t id = 0; id < 6; ++id) {
      if (random() % 2 == 0) stored.push_back(id);
    }
    std::vector<int64_t> ids, shard;
    const std::unique_ptr<bool[]> remove(new bool[count]);
    const std::unique_ptr<bool[]> found(new bool[count]);
    for (int64_t i = 0; i < count; ++i) {
      const int64_t id = static_cast<int64_t>(random() % 7) - 1;
      ids.push_back(id);
      shard.push_back(id < 0 ? 0 : id % num_shards);
      remove[i] = random() % 2 == 0;
      found[i] = false;
      for (const int64_t other : stored) found[i] = found[i] || other == id;
    }
    RowUpdates updates;
    updates.count = count;
    updates.ids = ids.data();
    updates.remove = remove.get();
    updates.attributes_only = random() % 4 == 0;
    const std::vector<int64_t> growth =
        ItemGrowth(updates, shard.data(), found.get(), num_shards);
    for (int64_t s = 0; s < num_shards; ++s) {
      // An index of this shard alone, without any room.
      std::vector<int64_t> here;
      for (const int64_t id : stored) {
        if (id % num_shards == s) here.push_back(id);
      }
      const int64_t size = static_cast<int64_t>(here.size());
      const IndexState state(here.data(), size, size);
      std::vector<int64_t> own(ids);
      for (int64_t i = 0; i < count; ++i) {
        if (shard[i] != s) own[i] = kNoId;
      }
      RowUpdates part = updates;
      part.ids = own.data();
      const UpdatePlan plan(part, state);
      CHECK_THAT(std::max<int64_t>(growth[s], 0) == plan.missing_room())
          << "round " << round << " shard " << s << ": " << growth[s];
    }
  }
}

}  // namespace
}  // namespace lintf

int main() {
  lintf::TestItemErrors();
  lintf::TestGrowthIsThatOfThePlan();
  return lintf::testing::Result();
}
