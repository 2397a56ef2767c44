# SPDX-License-Identifier: Apache-2.0
"""How fast the GPU code is: the paper's shapes, bars, and torch's way."""
