# SPDX-License-Identifier: Apache-2.0
# The build writes _build_info.py beside the op library.

TENSORFLOW_VERSION: str
CUDA: bool
