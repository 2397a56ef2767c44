# SPDX-License-Identifier: Apache-2.0
"""The export job: items and towers in, a servable index out."""
