# SPDX-License-Identifier: Apache-2.0
"""Servers and models shared by the serving tests."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.serving import servers, toy_models

# Failed loads end soon, and new versions are found soon.
FLAGS = (
    "--file_system_poll_wait_seconds=1",
    "--max_num_load_retries=1",
    "--load_retry_interval_micros=100000",
    "--grpc_max_threads=64",
    "--allow_version_labels_for_unavailable_models=true",
)


@pytest.fixture(scope="session")
def toy_versions(tmp_path_factory: pytest.TempPathFactory) -> dict[int, Path]:
    """Finished SavedModels of the toy index, by version; read only."""
    root = tmp_path_factory.mktemp("toy")
    return {
        version: Path(toy_models.export(str(root / f"v{version}"), version))
        for version in (1, 2, 3)
    }


@pytest.fixture(scope="session")
def toy_base_path(
    tmp_path_factory: pytest.TempPathFactory, toy_versions: dict[int, Path]
) -> Path:
    """A model directory that has version 1 and never changes."""
    base_path = tmp_path_factory.mktemp("models") / "toy"
    shutil.copytree(toy_versions[1], base_path / "1")
    return base_path


@pytest.fixture(scope="session", params=servers.KINDS)
def server_kind(request: pytest.FixtureRequest) -> str:
    """Each kind of server in turn."""
    return request.param


@pytest.fixture(scope="session")
def server(
    server_kind: str, toy_base_path: Path
) -> Iterator[servers.RunningServer]:
    """A server that serves version 1 of the toy model as "toy".

    Tests add models of their own with `server.add_model`.
    """
    flags = ["--model_name=toy", f"--model_base_path={toy_base_path}"]
    with servers.running(server_kind, *flags, *FLAGS) as running:
        running.add_model("toy", str(toy_base_path))
        yield running


def publish(source: Path, base_path: Path, version: int) -> None:
    """Puts a version in place the way an export job must: by a rename."""
    base_path.mkdir(parents=True, exist_ok=True)
    partial = base_path / f"partial-{version}"
    shutil.copytree(source, partial)
    partial.rename(base_path / str(version))
