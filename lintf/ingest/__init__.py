# SPDX-License-Identifier: Apache-2.0
"""From a change log to served indexes.

`source` is the interface of a log, `file_log` and `kafka` are logs, `records`
reads their values, `target` is a served version, `lane` feeds one partition to
one version, and `ingester` runs the lanes.
"""
