# SPDX-License-Identifier: Apache-2.0
"""Which models a server serves: flags or a models.config file, checked."""

from __future__ import annotations

import os
from typing import Any

import grpc
from google.protobuf import text_format
from tensorflow_serving.config import model_server_config_pb2

from lintf.serving.errors import ServingError


def single_model(name: str, base_path: str) -> Any:
    """A `ModelServerConfig` with one model.

    Args:
      name: the model's name in requests.
      base_path: the directory of its version directories. Unlike in a config
        file it may be relative, as people type it.
    """
    config = model_server_config_pb2.ModelServerConfig()
    config.model_config_list.config.add(
        name=name,
        base_path=os.path.abspath(base_path),
        model_platform="tensorflow",
    )
    return config


def read_config_file(path: str) -> Any:
    """Reads a `ModelServerConfig` text proto.

    Raises:
      ValueError: the file is missing or does not parse; the text names it.
    """
    try:
        with open(path, encoding="utf-8") as file:
            return text_format.Parse(
                file.read(), model_server_config_pb2.ModelServerConfig()
            )
    except OSError as error:
        raise ValueError(
            f"The model config file {path} can't be read: {error.strerror}."
        ) from error
    except text_format.ParseError as error:
        raise ValueError(
            f"The model config file {path} must be a ModelServerConfig text "
            f"proto, but line:column {error}"
        ) from error


def _invalid(message: str) -> ServingError:
    return ServingError(grpc.StatusCode.INVALID_ARGUMENT, message)


def check(config: Any) -> None:
    """Refuses what the real server refuses in a config.

    Raises:
      ServingError: a model has no name, is listed twice, has a relative
        base_path or is not a TensorFlow model.
    """
    if config.WhichOneof("config") != "model_config_list":
        raise ServingError(
            grpc.StatusCode.FAILED_PRECONDITION,
            "The config must hold a model_config_list, got "
            f"{config.WhichOneof('config') or 'an empty config'}.",
        )
    seen = set()
    for model in config.model_config_list.config:
        if not model.name:
            raise _invalid("Every model in the config must have a name.")
        if model.name in seen:
            raise _invalid(
                f"Illegal to list model {model.name} multiple times in config "
                "list"
            )
        seen.add(model.name)
        if not os.path.isabs(model.base_path):
            raise _invalid(
                f"Expected model {model.name} to have an absolute path or "
                f"URI; got base_path()={model.base_path}"
            )
        if model.model_platform not in ("", "tensorflow"):
            raise _invalid(
                f"Model {model.name} must have model_platform 'tensorflow', "
                f"got '{model.model_platform}'."
            )


def select_versions(policy: Any, found: dict[int, str]) -> dict[int, str]:
    """Which of the versions found a `ServableVersionPolicy` asks for.

    Args:
      policy: the policy; an unset one means the latest version.
      found: paths by version number.

    Returns:
      The versions to serve, with their paths.
    """
    choice = policy.WhichOneof("policy_choice")
    if choice == "all":
        return dict(found)
    if choice == "specific":
        wanted = set(policy.specific.versions)
        return {v: path for v, path in found.items() if v in wanted}
    latest = sorted(found, reverse=True)
    return {v: found[v] for v in latest[: max(policy.latest.num_versions, 1)]}
