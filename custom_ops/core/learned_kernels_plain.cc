// SPDX-License-Identifier: Apache-2.0
// Kernels of learned similarities in plain C++, for CPUs without the other
// instruction sets.
#include <cmath>
#include <cstdint>
#include <cstring>

#include "custom_ops/core/item_encoding.h"
#include "custom_ops/core/learned_kernels.h"
#include "custom_ops/core/plain_fma.h"

#define LINTF_SIMD_ENTRY
#define LINTF_SIMD inline

namespace lintf {
namespace {

constexpr int kLanes = 8;
constexpr int kTileVectors = 1;
constexpr int kMaxOutputs = 2;
constexpr SimilarityCosts kCosts = {12.0f, 6.0f, 60.0f, 0.25f};

// Loops over it are left to the compiler.
struct Vec {
  float lanes[kLanes];
};

template <typename Function>
inline Vec Map(const Function& function) {
  Vec result;
  for (int i = 0; i < kLanes; ++i) result.lanes[i] = function(i);
  return result;
}

inline Vec Load(const float* p) {
  Vec v;
  std::memcpy(v.lanes, p, sizeof(v.lanes));
  return v;
}
inline void Store(float* p, const Vec& v) {
  std::memcpy(p, v.lanes, sizeof(v.lanes));
}
inline Vec Set1Float(float x) {
  return Map([x](int) { return x; });
}
inline Vec Set1(const float* p) { return Set1Float(*p); }
inline Vec Zero() { return Set1Float(0.0f); }
inline Vec Add(const Vec& a, const Vec& b) {
  return Map([&](int i) { return a.lanes[i] + b.lanes[i]; });
}
inline Vec Sub(const Vec& a, const Vec& b) {
  return Map([&](int i) { return a.lanes[i] - b.lanes[i]; });
}
inline Vec Mul(const Vec& a, const Vec& b) {
  return Map([&](int i) { return a.lanes[i] * b.lanes[i]; });
}
inline Vec Div(const Vec& a, const Vec& b) {
  return Map([&](int i) { return a.lanes[i] / b.lanes[i]; });
}
inline Vec Fma(const Vec& a, const Vec& b, const Vec& c) {
  return Map(
      [&](int i) { return PlainFma(a.lanes[i], b.lanes[i], c.lanes[i]); });
}
inline Vec MaxOf(const Vec& a, const Vec& b) {
  return Map(
      [&](int i) { return a.lanes[i] > b.lanes[i] ? a.lanes[i] : b.lanes[i]; });
}
inline Vec Magnitude(const Vec& v) {
  return Map([&](int i) { return std::fabs(v.lanes[i]); });
}
inline Vec ZeroBelow(const Vec& x, const Vec& least, const Vec& v) {
  return Map(
      [&](int i) { return x.lanes[i] < least.lanes[i] ? 0.0f : v.lanes[i]; });
}
inline Vec IfNegative(const Vec& x, const Vec& a, const Vec& b) {
  return Map([&](int i) {
    return std::signbit(x.lanes[i]) ? a.lanes[i] : b.lanes[i];
  });
}
inline Vec TimesPower(const Vec& p, const Vec& t) {
  return Map([&](int i) {
    uint32_t bits;
    std::memcpy(&bits, &t.lanes[i], sizeof(bits));
    bits = (bits << 23) + 0x3F800000u;
    float power;
    std::memcpy(&power, &bits, sizeof(power));
    return p.lanes[i] * power;
  });
}
inline uint32_t NotLessEqual(const Vec& a, const Vec& b) {
  uint32_t bits = 0;
  for (int i = 0; i < kLanes; ++i) {
    bits |= static_cast<uint32_t>(!(a.lanes[i] <= b.lanes[i])) << i;
  }
  return bits;
}

inline void CopyTail(const char* row, int64_t n, char* out) {
  std::memset(out, 0, 4 * kLanes);
  std::memcpy(out, row, n);
}
inline uint16_t Half(const char* p, int i) {
  uint16_t bits;
  std::memcpy(&bits, p + 2 * i, sizeof(bits));
  return bits;
}
inline Vec LoadHalves(const char* p) {
  return Map([p](int i) { return DecodeFloat16(Half(p, i)); });
}
inline Vec LoadBfloats(const char* p) {
  return Map([p](int i) { return DecodeBfloat16(Half(p, i)); });
}
template <bool kHalves>
inline void LoadTransposed(const char* const* rows, int64_t at, Vec* out) {
  static_assert(!kHalves);
  for (int r = 0; r < kLanes; ++r) {
    float row[kLanes];
    std::memcpy(row, rows[r] + at, sizeof(row));
    for (int i = 0; i < kLanes; ++i) out[i].lanes[r] = row[i];
  }
}

}  // namespace
}  // namespace lintf

#include "custom_ops/core/learned_kernels_simd.h"

namespace lintf {

const LearnedKernels* PlainLearnedKernels() { return &kLearnedKernels; }

}  // namespace lintf
