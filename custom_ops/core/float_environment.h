// SPDX-License-Identifier: Apache-2.0
// The floating-point mode that results are defined in.
#ifndef LINTF_CUSTOM_OPS_CORE_FLOAT_ENVIRONMENT_H_
#define LINTF_CUSTOM_OPS_CORE_FLOAT_ENVIRONMENT_H_

#ifdef __SSE2__
#include <xmmintrin.h>
#endif

namespace lintf {

// While alive, this thread rounds to nearest, keeps subnormals and does not
// trap. TensorFlow's threads flush subnormals to zero and a caller's may not:
// without this a result could depend on which thread computed it.
class ScopedFloatEnvironment {
 public:
#ifdef __SSE2__
  ScopedFloatEnvironment() : saved_(_mm_getcsr()) { _mm_setcsr(kDefault); }
  ~ScopedFloatEnvironment() { _mm_setcsr(saved_); }
#else
  ScopedFloatEnvironment() = default;
#endif
  ScopedFloatEnvironment(const ScopedFloatEnvironment&) = delete;
  ScopedFloatEnvironment& operator=(const ScopedFloatEnvironment&) = delete;

#ifdef __SSE2__
 private:
  static constexpr unsigned int kDefault = 0x1F80;  // all exceptions masked
  unsigned int saved_;
#endif
};

}  // namespace lintf

#endif  // LINTF_CUSTOM_OPS_CORE_FLOAT_ENVIRONMENT_H_
