# SPDX-License-Identifier: Apache-2.0
"""All models of a server: finding the one a request names, and reloading."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from typing import Any

import grpc

from lintf.serving import errors, model_config
from lintf.serving.errors import ServingError
from lintf.serving.servable import Servable
from lintf.serving.versions import LoadPolicy, VersionedModel


class Models:
    """The models that a server serves, by name. Thread-safe."""

    def __init__(
        self,
        load: Callable[[str], Servable],
        policy: LoadPolicy,
        *,
        allow_labels_for_unavailable: bool = False,
    ) -> None:
        """Makes an empty set; `reload` fills it.

        Args:
          load: loads and warms up a version directory, or raises ServingError.
          policy: how versions are loaded.
          allow_labels_for_unavailable: whether a label may name a version that
            is not loaded yet.
        """
        self._load = load
        self._policy = policy
        self._allow_labels_for_unavailable = allow_labels_for_unavailable
        self._lock = threading.Lock()
        self._models: dict[str, VersionedModel[Servable]] = {}
        self._labels: dict[str, dict[str, int]] = {}
        # Reloads wait for models to load, so they have a lock of their own.
        self._reload_lock = threading.Lock()

    @contextlib.contextmanager
    def acquire(self, model_spec: Any) -> Iterator[tuple[int, Servable]]:
        """Holds the version that a `ModelSpec` names while a request runs.

        Yields:
          The version's number and the servable.

        Raises:
          ServingError: as the real server would answer.
        """
        name = model_spec.name
        if not name:
            raise errors.empty_model_name()
        with contextlib.ExitStack() as stack:
            choice = model_spec.WhichOneof("version_choice")
            if choice == "version_label":
                held = self._hold_label(stack, name, model_spec.version_label)
            elif choice == "version":
                held = self._hold(stack, name, model_spec.version.value)
            else:
                held = self._hold(stack, name, None)
            yield held

    def _hold(
        self, stack: contextlib.ExitStack, name: str, version: int | None
    ) -> tuple[int, Servable]:
        with self._lock:
            model = self._models.get(name)
        if model is None:
            raise errors.servable_not_found(name, version)
        return stack.enter_context(model.acquire(version))

    def _hold_label(
        self, stack: contextlib.ExitStack, name: str, label: str
    ) -> tuple[int, Servable]:
        version = self._version_of_label(name, label)
        while True:
            try:
                return self._hold(stack, name, version)
            except ServingError:
                # The label may have moved, and its old version gone, since.
                moved = self._version_of_label(name, label)
                if moved == version:
                    raise
                version = moved

    def _version_of_label(self, name: str, label: str) -> int:
        with self._lock:
            version = self._labels.get(name, {}).get(label)
        if version is None:
            raise errors.unknown_label(label)
        return version

    def statuses(self, name: str) -> list[tuple[int, int, ServingError | None]]:
        """The versions of a model, newest first: number, state, error."""
        with self._lock:
            model = self._models.get(name)
        return [] if model is None else model.statuses()

    def available(self) -> dict[str, list[int]]:
        """The versions that requests can use now, by model."""
        with self._lock:
            models = dict(self._models)
        return {
            name: [v for v, _, _ in model.statuses() if model.is_available(v)]
            for name, model in models.items()
        }

    def reload(self, config: Any) -> None:
        """Serves what a `ModelServerConfig` says, and nothing else.

        Returns once every model that is new has a version available.

        Raises:
          ServingError: the config is not valid, in which case nothing has
            changed, or a new model did not load.
        """
        model_config.check(config)
        configs = {m.name: m for m in config.model_config_list.config}
        with self._reload_lock:
            labels = {
                name: self._checked_labels(model)
                for name, model in configs.items()
            }
            added, removed = self._apply(configs, labels)
            for model in added:
                model.start()
            failures = [
                (model.name, error)
                for model in added
                if (error := model.wait_until_settled()) is not None
            ]
            for model in removed:
                model.stop()
        if failures:
            raise _not_available(failures)

    def _apply(
        self, configs: dict[str, Any], labels: dict[str, dict[str, int]]
    ) -> tuple[list[VersionedModel[Servable]], list[VersionedModel[Servable]]]:
        added = []
        with self._lock:
            self._labels = labels
            removed = [
                self._models.pop(name)
                for name in list(self._models)
                if name not in configs
            ]
            for name, config in configs.items():
                if name in self._models:
                    self._models[name].reconfigure(
                        config.base_path, config.model_version_policy
                    )
                    continue
                self._models[name] = VersionedModel(
                    name,
                    config.base_path,
                    config.model_version_policy,
                    self._load,
                    self._policy,
                )
                added.append(self._models[name])
        return added, removed

    def _checked_labels(self, config: Any) -> dict[str, int]:
        """The labels of one model; each must name a version that serves."""
        with self._lock:
            model = self._models.get(config.name)
            current = self._labels.get(config.name, {})
        for label, version in config.version_labels.items():
            if model is not None and model.is_available(version):
                continue
            moves = current.get(label, version) != version
            if moves or not self._allow_labels_for_unavailable:
                raise errors.label_not_available(config.name, version)
        return dict(config.version_labels)

    def stop(self) -> None:
        """Unloads everything once the requests in progress have ended."""
        for model in self._all():
            model.stop()

    def abort(self) -> None:
        """Ends every wait and cancels the requests in progress."""
        for model in self._all():
            model.abort()

    def _all(self) -> list[VersionedModel[Servable]]:
        with self._lock:
            return list(self._models.values())


def _not_available(failures: list[tuple[str, ServingError]]) -> ServingError:
    details = ", ".join(
        f"{{{{name: {name}}} due to error: {error}}}"
        for name, error in failures
    )
    return ServingError(
        grpc.StatusCode.UNKNOWN,
        f"{len(failures)} servable(s) did not become available: {{{details}}}",
    )
