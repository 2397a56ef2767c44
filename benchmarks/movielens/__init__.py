# SPDX-License-Identifier: Apache-2.0
"""Retrieval quality on MovieLens-100K, leave-one-out, through the server."""
