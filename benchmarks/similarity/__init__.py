# SPDX-License-Identifier: Apache-2.0
"""What learned similarities gain on MovieLens-100K, and what they cost."""
