# SPDX-License-Identifier: Apache-2.0
"""The build backend: scikit-build-core, and TensorFlow only where it lacks.

The op library is compiled against TensorFlow's headers. Naming TensorFlow in
`build-system.requires` would make every `pip install .` fetch its 573 MB a
second time, into the isolated build environment. So it is a build requirement
only where the environment that is installed into does not have it already.
"""

from __future__ import annotations

from typing import Any

import find_tensorflow
from scikit_build_core import build as _backend
from scikit_build_core.build import *  # noqa: F403


def _tensorflow() -> list[str]:
    """Returns the requirement to add, none where TensorFlow is installed."""
    found = find_tensorflow.find()
    if found is not None:
        # A wrong version is left for the build to report: the environment's
        # owner has to decide about it.
        return []
    return [find_tensorflow.requirement()]


def get_requires_for_build_wheel(
    config_settings: dict[str, Any] | None = None,
) -> list[str]:
    """Returns what a wheel's build needs (PEP 517)."""
    requires = _backend.get_requires_for_build_wheel(config_settings)
    return list(requires) + _tensorflow()


def get_requires_for_build_editable(
    config_settings: dict[str, Any] | None = None,
) -> list[str]:
    """Returns what an editable install's build needs (PEP 660)."""
    requires = _backend.get_requires_for_build_editable(config_settings)
    return list(requires) + _tensorflow()
