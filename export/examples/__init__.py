# SPDX-License-Identifier: Apache-2.0
"""Small programs that make the files of the example configs."""
