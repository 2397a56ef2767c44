# SPDX-License-Identifier: Apache-2.0
"""Finds data files inside installed packages without importing these."""

import importlib.machinery
import importlib.util
import pathlib


class MissingDataError(ModuleNotFoundError):
    """The package (or system package) that carries a data set is absent."""


def package_file(package: str, path: str, install: str) -> pathlib.Path:
    """Returns the path of a file that an installed package carries.

    The package is located, never imported: `recbole` and `bokeh` would pull in
    far more than a data set needs.

    Args:
      package: import name of the package, without dots.
      path: path of the file below the package's folder, with `/`.
      install: the command that installs the package; quoted in the error.

    Returns:
      The file's path.

    Raises:
      MissingDataError: the package is not installed, or lacks the file.

    Example:
      >>> package_file("json", "decoder.py", "pip install json").name
      'decoder.py'
    """
    spec = importlib.util.find_spec(package)
    if spec is None:
        raise MissingDataError(
            f"this data set needs the package {package!r}, which is not "
            f"installed; install it with: {install}",
            name=package,
        )
    for root in _folders(spec):
        found = root / path
        if found.is_file():
            return found
    raise MissingDataError(
        f"the installed package {package!r} must carry the file {path!r}, but "
        f"does not (another version?); install it again with: {install}",
        name=package,
    )


def _folders(spec: importlib.machinery.ModuleSpec) -> list[pathlib.Path]:
    """Lists the folders of a package, namespace packages included."""
    return [
        pathlib.Path(root) for root in spec.submodule_search_locations or ()
    ]
