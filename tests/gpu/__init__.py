# SPDX-License-Identifier: Apache-2.0
"""Builds and checks the GPU code, with or without a GPU, without TensorFlow."""
