# SPDX-License-Identifier: Apache-2.0
"""Learned similarities: what replaces the towers' inner product."""
