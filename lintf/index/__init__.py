# SPDX-License-Identifier: Apache-2.0
"""The index: its schema, its columns, its state and its signatures."""
