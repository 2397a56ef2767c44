# SPDX-License-Identifier: Apache-2.0
r"""Builds an index from a config and publishes it for a model server.

    python -m export.build_index \
        --config export/configs/movielens_100k.yaml \
        --output_dir build/models/movielens

Killed at any point, the same command goes on where it stopped. A version
appears whole or not at all, and an existing one is never overwritten.
"""

from __future__ import annotations

import os
import pathlib
import sys
from collections.abc import Callable, Sequence
from typing import Any

from absl import flags

from export.config import JobConfig, load_config
from export.errors import JobError
from export.parse import ConfigError


def _make_flags() -> Any:
    """The command line's flags, at their defaults."""
    values: Any = flags.FlagValues()  # type: ignore[no-untyped-call]

    def define(kind: Any, name: str, default: Any, text: str) -> None:
        kind(name, default, text, flag_values=values)

    text, number = flags.DEFINE_string, flags.DEFINE_integer
    define(
        text,
        "config",
        None,
        "The YAML file that says what to build; see export/README.md.",
    )
    define(
        text,
        "output_dir",
        None,
        "The model's base path; versions are its numbered children.",
    )
    define(
        number,
        "version",
        None,
        "The version to publish; by default the next free number.",
    )
    define(
        text,
        "work_dir",
        None,
        "Checkpoints, trained towers and TensorBoard files; by default "
        "OUTPUT_DIR/../.NAME.work.",
    )
    define(number, "seed", None, "Replaces towers.seed of the config.")
    define(
        flags.DEFINE_multi_string,
        "set",
        [],
        "Replaces a value of the config, as in --set retrieve.k=50; may be "
        "repeated.",
    )
    flags.DEFINE_enum(
        "ops",
        "native",
        ["native", "portable"],
        "portable: stock TensorFlow operations only, for any model server; "
        "slower, and filters travel compiled.",
        flag_values=values,
    )
    return values


def run(
    config: JobConfig,
    output_dir: str | os.PathLike[str],
    *,
    work_dir: str | os.PathLike[str] | None = None,
    version: int | None = None,
    ops: str = "native",
    on_event: Callable[[str], None] = lambda event: None,
) -> pathlib.Path:
    """Builds an index and publishes it.

    Args:
        config: From `export.config.load_config`.
        output_dir: The model's base path; versions are its children.
        work_dir: What an unfinished job needs to go on lies here; by default a
            hidden sibling of `output_dir`.
        version: The version's number; None takes the next free one.
        ops: "native" or "portable".
        on_event: Told the steps as they are done.

    Returns:
        The directory of the version. If this very build is published already,
        that one.

    Raises:
        ValueError: The config or the items cannot be used (`ConfigError`,
            `ItemsError`).
        JobError: The job cannot go on, or what it wrote failed its check.
    """
    if version is not None and version < 0:
        raise ConfigError(f"--version: expected 0 or more, got {version}")
    if ops not in ("native", "portable"):
        raise ConfigError(f"--ops: expected native or portable, got {ops!r}")
    if config.trains:
        # TensorFlow Recommenders needs Keras 2, which is chosen as TensorFlow
        # is imported; so this comes before the imports below.
        from lintf.towers import use_legacy_keras

        use_legacy_keras()
    from export.job import Request, run_job

    base = pathlib.Path(os.path.abspath(output_dir))
    if base.name.isdigit():
        raise ConfigError(
            f"--output_dir {base} is a number, as versions are; give the "
            "model's base path, whose children the versions are"
        )
    request: dict[str, Any] = {
        "config": config,
        "output_dir": base,
        "work_dir": pathlib.Path(
            os.path.abspath(work_dir or default_work_dir(base))
        ),
        "version": version,
        "ops": ops,
        "on_event": on_event,
    }
    return run_job(Request(**request))


def default_work_dir(output_dir: pathlib.Path) -> pathlib.Path:
    """Where a job keeps its state: a hidden sibling of the base path."""
    return output_dir.parent / f".{output_dir.name}.work"


def main(argv: Sequence[str]) -> int:
    """Runs the job that the command line describes.

    Args:
        argv: The program's name, then flags.

    Returns:
        The exit status: 0; after a message on stderr, 2 for wrong flags or a
        wrong config, else 1.
    """
    parsed = _make_flags()
    if {"--help", "-help", "-h", "--helpfull"} & set(argv[1:]):
        print(__doc__)
        print(parsed.get_help())
        return 0
    try:
        rest = parsed(list(argv))
        values = parsed.flag_values_dict()
        if len(rest) > 1:
            raise flags.IllegalFlagValueError(
                f"expected flags only, got {rest[1]!r}"
            )
        for name in ("config", "output_dir"):
            if not values[name]:
                raise flags.IllegalFlagValueError(f"--{name} is required")
    except flags.Error as error:
        print(f"build-index: {error}; see --help", file=sys.stderr)
        return 2
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    try:
        config = load_config(values["config"], values["set"], values["seed"])
        run(
            config,
            values["output_dir"],
            work_dir=values["work_dir"],
            version=values["version"],
            ops=values["ops"],
        )
    except ConfigError as error:
        print(f"build-index: {error}", file=sys.stderr)
        return 2
    except (ValueError, JobError, ImportError) as error:
        print(f"build-index: {error}", file=sys.stderr)
        return 1
    except Exception as error:
        if not _out_of_memory(error):
            raise
        first = str(error).strip().split("\n")[0] or "no memory is left"
        print(
            f"build-index: out of memory: {first}; lower index.capacity, "
            "retrieve.k or fill.batch_size, or use a larger machine",
            file=sys.stderr,
        )
        return 1
    return 0


def _out_of_memory(error: Exception) -> bool:
    if isinstance(error, MemoryError):
        return True
    # What raises it has imported TensorFlow; wrong flags need not wait for it.
    tensorflow = sys.modules.get("tensorflow")
    return tensorflow is not None and isinstance(
        error, tensorflow.errors.ResourceExhaustedError
    )


if __name__ == "__main__":
    sys.exit(main(sys.argv))
