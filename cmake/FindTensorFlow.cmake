# SPDX-License-Identifier: Apache-2.0
#
# Finds the pip-installed TensorFlow of the interpreter Python_EXECUTABLE.
#
# Sets TensorFlow_DIR and TensorFlow_VERSION, and makes the target
# TensorFlow::headers: include directory and the definitions that the wheel was
# compiled with. There is no target to link: an op library takes TensorFlow's
# symbols from the process that loads it.

execute_process(
  COMMAND "${Python_EXECUTABLE}"
          "${CMAKE_CURRENT_LIST_DIR}/../tools/find_tensorflow.py"
  OUTPUT_VARIABLE _tensorflow_found
  ERROR_VARIABLE _tensorflow_error
  OUTPUT_STRIP_TRAILING_WHITESPACE ERROR_STRIP_TRAILING_WHITESPACE
  RESULT_VARIABLE _tensorflow_result)
# A semicolon would split the message where it is passed on.
string(REPLACE ";" "," _tensorflow_error "${_tensorflow_error}")
set(TensorFlow_DIR "")
if(_tensorflow_result EQUAL 0)
  string(REPLACE "\n" ";" _tensorflow_found "${_tensorflow_found}")
  list(GET _tensorflow_found 0 TensorFlow_DIR)
  list(GET _tensorflow_found 1 TensorFlow_VERSION)
endif()

include(FindPackageHandleStandardArgs)
find_package_handle_standard_args(
  TensorFlow
  REQUIRED_VARS TensorFlow_DIR
  VERSION_VAR TensorFlow_VERSION
  REASON_FAILURE_MESSAGE "${_tensorflow_error}")

if(TensorFlow_FOUND AND NOT TARGET TensorFlow::headers)
  add_library(TensorFlow::headers INTERFACE IMPORTED)
  # An imported target's include directories are system ones (-isystem), so
  # that this project's warnings are not those of TensorFlow's headers.
  set_target_properties(
    TensorFlow::headers
    PROPERTIES
      INTERFACE_INCLUDE_DIRECTORIES "${TensorFlow_DIR}/include"
      INTERFACE_COMPILE_DEFINITIONS
      "_GLIBCXX_USE_CXX11_ABI=1;EIGEN_MAX_ALIGN_BYTES=64;NDEBUG"
      INTERFACE_COMPILE_FEATURES cxx_std_17)
endif()
