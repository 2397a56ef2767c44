# SPDX-License-Identifier: Apache-2.0
"""What a job tells its user when it cannot go on."""


class JobError(RuntimeError):
    """The job stopped; the message says why and what to do."""
