# SPDX-License-Identifier: Apache-2.0
"""Filters: the language, its in-graph builder, and a stock interpreter."""
