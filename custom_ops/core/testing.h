// SPDX-License-Identifier: Apache-2.0
// The few macros that the C++ tests need: each test is a plain program that
// prints what failed and exits with 1.
#ifndef LINTF_CUSTOM_OPS_CORE_TESTING_H_
#define LINTF_CUSTOM_OPS_CORE_TESTING_H_

#include <iostream>

namespace lintf::testing {

inline int& Failures() {
  static int failures = 0;
  return failures;
}

// The exit status of the test program; prints the tally.
inline int Result() {
  if (Failures() == 0) {
    std::cout << "all checks passed\n";
    return 0;
  }
  std::cout << Failures() << " checks failed\n";
  return 1;
}

}  // namespace lintf::testing

// Continues after a failure, so that one run shows them all. The message may
// be streamed: CHECK_THAT(a == b) << "at row " << row;
#define CHECK_THAT(condition)                                                 \
  if (condition) {                                                            \
  } else /* NOLINT */                                                         \
    (++::lintf::testing::Failures(), std::cerr << "\n"                        \
                                               << __FILE__ << ":" << __LINE__ \
                                               << ": " #condition             \
                                               << " is false. ")

#endif  // LINTF_CUSTOM_OPS_CORE_TESTING_H_
