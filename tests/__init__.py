# SPDX-License-Identifier: Apache-2.0
"""Tests of lintf; a package, so that tests can import shared helpers."""
