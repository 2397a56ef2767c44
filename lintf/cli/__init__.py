# SPDX-License-Identifier: Apache-2.0
"""The `lintf` command line, a module for each command."""
