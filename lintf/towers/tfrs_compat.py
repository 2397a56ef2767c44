# SPDX-License-Identifier: Apache-2.0
"""Imports TensorFlow Recommenders, or says what stands in its way.

TFRS 0.7.7 is written against Keras 2. TensorFlow 2.16 and above give it that
only where the environment variable `TF_USE_LEGACY_KERAS=1` was set before
TensorFlow was imported, which turns `tf.keras` into Keras 2 for the whole
process. A program that trains calls `use_legacy_keras()` first.
"""

import importlib
import os
import sys
from types import ModuleType

_SWITCH = "TF_USE_LEGACY_KERAS"


class TfrsUnavailableError(ImportError):
    """TensorFlow Recommenders cannot be imported in this process."""


def use_legacy_keras() -> None:
    """Makes `tf.keras` Keras 2; must run before TensorFlow is imported.

    Raises:
      TfrsUnavailableError: TensorFlow is already imported, with Keras 3.
    """
    os.environ[_SWITCH] = "1"
    _check_keras()


def import_tfrs() -> ModuleType:
    """Returns the module `tensorflow_recommenders`.

    Raises:
      TfrsUnavailableError: it is not installed, TensorFlow was imported with
        Keras 3, or an installed ScaNN does not fit this TensorFlow. The message
        says what to do.
    """
    if os.environ.get(_SWITCH) != "1" and "tensorflow" not in sys.modules:
        raise TfrsUnavailableError(
            f"TensorFlow Recommenders needs {_SWITCH}=1 in the environment, "
            "and TensorFlow is not imported yet; set it, or call "
            "lintf.towers.use_legacy_keras() before TensorFlow is imported"
        )
    _check_keras()
    try:
        return importlib.import_module("tensorflow_recommenders")
    except ModuleNotFoundError as error:
        raise TfrsUnavailableError(
            f"training the towers needs the package {error.name!r}, which is "
            "not installed; install it with: "
            "pip install tensorflow-recommenders tf-keras"
        ) from error
    except Exception as error:
        # An installed ScaNN whose op library was built for another TensorFlow
        # fails with NotFoundError, where TFRS expects only ImportError.
        if "scann" not in str(error).lower():
            raise
        raise TfrsUnavailableError(
            "importing TensorFlow Recommenders failed because the installed "
            "scann was built for another TensorFlow version, and TFRS imports "
            "it when it is there; lintf does not need it: pip uninstall scann"
            f" (the error was: {str(error)[:200]})"
        ) from error


def _check_keras() -> None:
    """Raises where TensorFlow is imported already, with Keras 3."""
    tensorflow = sys.modules.get("tensorflow")
    if tensorflow is None:
        return
    # Keras 2 of TensorFlow 2.15 and before has no such function.
    version = getattr(tensorflow.keras, "version", lambda: "2")()
    if version.startswith("3."):
        raise TfrsUnavailableError(
            "TensorFlow Recommenders needs tf.keras to be Keras 2, but "
            f"TensorFlow was imported with Keras {version}; start Python with "
            f"{_SWITCH}=1 in the environment, or call "
            "lintf.towers.use_legacy_keras() before TensorFlow is imported"
        )
