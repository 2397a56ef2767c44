# SPDX-License-Identifier: Apache-2.0
"""The servers of the serving tests, for the commands that talk to one."""

from tests.serving.conftest import (  # noqa: F401
    server,
    server_kind,
    toy_base_path,
    toy_versions,
)
