# SPDX-License-Identifier: Apache-2.0
"""Measurements: one runner, a file a workload, peers behind one interface."""
