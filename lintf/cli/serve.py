# SPDX-License-Identifier: Apache-2.0
"""Serves SavedModels on TF Serving's gRPC API, for development.

Directories named by a number under --model_base_path are versions: the largest
is served, a new one is loaded and swapped in without a failed request, and
deleting it goes back to the one before. The flags have the names and meanings
of tensorflow_model_server, which is what to run in production.

Examples:
  lintf serve --model_base_path models/films --model_name films
  lintf serve --model_config_file serving_configs/models.config --port 0
  lintf serve --model_base_path models/films --ssl_config_file ssl.config \\
      --update_token_file token
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from absl import flags

from lintf.cli import quiet

if TYPE_CHECKING:
    from lintf.serving.server import Server

FLAGS = flags.FlagValues()  # type: ignore[no-untyped-call]

flags.DEFINE_string(
    "host",
    "127.0.0.1",
    "Address to listen on; 0.0.0.0 for every interface.",
    flag_values=FLAGS,
)
flags.DEFINE_integer(
    "port",
    8500,
    "Port to listen on; 0 takes a free one.",
    lower_bound=0,
    upper_bound=65535,
    flag_values=FLAGS,
)
flags.DEFINE_string(
    "model_base_path",
    "",
    "Directory of the model's version directories.",
    flag_values=FLAGS,
)
flags.DEFINE_string(
    "model_name",
    "default",
    "Name of the model in requests.",
    flag_values=FLAGS,
)
flags.DEFINE_string(
    "model_config_file",
    "",
    "ModelServerConfig text proto with several models, version policies and "
    "labels; instead of --model_base_path and --model_name.",
    flag_values=FLAGS,
)
flags.DEFINE_float(
    "file_system_poll_wait_seconds",
    1.0,
    "Seconds between two looks for new versions; 0 looks once, a negative "
    "number never.",
    flag_values=FLAGS,
)
flags.DEFINE_integer(
    "max_num_load_retries",
    5,
    "How often a failed load is tried again.",
    lower_bound=0,
    flag_values=FLAGS,
)
flags.DEFINE_integer(
    "load_retry_interval_micros",
    60_000_000,
    "Microseconds between two tries.",
    lower_bound=0,
    flag_values=FLAGS,
)
flags.DEFINE_boolean(
    "enable_model_warmup",
    True,
    "Run the recorded requests of a version before it serves.",
    flag_values=FLAGS,
)
flags.DEFINE_boolean(
    "allow_version_labels_for_unavailable_models",
    False,
    "Let a label name a version that is not loaded yet: labels in a config "
    "file at start need it.",
    flag_values=FLAGS,
)
flags.DEFINE_integer(
    "grpc_max_threads",
    max(16, 4 * (os.cpu_count() or 1)),
    "Requests that run at once; more wait.",
    lower_bound=1,
    flag_values=FLAGS,
)
flags.DEFINE_alias("max_threads", "grpc_max_threads", flag_values=FLAGS)
flags.DEFINE_string(
    "ssl_config_file",
    "",
    "SSLConfig text proto with PEM texts: server_key, server_cert, custom_ca, "
    "client_verify. Empty serves plain text.",
    flag_values=FLAGS,
)
flags.DEFINE_string(
    "update_token_file",
    "",
    "File with the token that calls which change an index, and config "
    "reloads, must carry as metadata `authorization: Bearer TOKEN`. Empty "
    "asks for none.",
    flag_values=FLAGS,
)
flags.DEFINE_boolean(
    "read_only",
    False,
    "Refuse the signatures that change an index.",
    flag_values=FLAGS,
)
flags.DEFINE_float(
    "grace_seconds",
    10.0,
    "Seconds that requests in progress have to end at shutdown.",
    lower_bound=0.0,
    flag_values=FLAGS,
)


class _UsageError(ValueError):
    """The flags do not say what to serve."""


def _read_config() -> Any:
    """The ModelServerConfig that the flags ask for; ValueError says why not."""
    # Importing TensorFlow takes seconds: what can be checked is checked first.
    base_path, config_file = FLAGS.model_base_path, FLAGS.model_config_file
    if bool(base_path) == bool(config_file):
        raise _UsageError(
            "exactly one of --model_base_path and --model_config_file must "
            f"be given, got {'both' if base_path else 'none'}."
        )
    if base_path and not os.path.isdir(base_path):
        raise ValueError(
            f"--model_base_path {base_path} must be a directory with a "
            "version directory in it, such as "
            f"{os.path.join(base_path, '1')}; `lintf build-index` writes one."
        )
    quiet.import_tensorflow()
    from lintf.serving import model_config

    if base_path:
        return model_config.single_model(FLAGS.model_name, base_path)
    return model_config.read_config_file(config_file)


def _load_ops() -> None:
    """Registers lintf's ops, which all but portable SavedModels need."""
    try:
        from lintf import ops  # noqa: F401
    except ImportError as error:
        # Portable models work, and the others say which op they miss.
        print(
            f"lintf serve: without lintf's ops only portable models load: "
            f"{error}",
            file=sys.stderr,
        )


def _make_server(config: Any) -> Server:
    import tensorflow as tf

    from lintf.serving import access
    from lintf.serving.server import Server, ServerOptions
    from lintf.serving.versions import LoadPolicy

    token, credentials = None, None
    if FLAGS.update_token_file:
        token = access.read_token_file(FLAGS.update_token_file)
    if FLAGS.ssl_config_file:
        credentials = access.read_ssl_config_file(FLAGS.ssl_config_file)
    elif token is not None:
        print(
            "lintf serve: without --ssl_config_file the token travels in plain "
            "text, where others on the network can read it.",
            file=sys.stderr,
        )
    # Python's loader calls itself deprecated at every load.
    tf.get_logger().setLevel("ERROR")
    return Server(
        config,
        ServerOptions(
            host=FLAGS.host,
            port=FLAGS.port,
            max_threads=FLAGS.grpc_max_threads,
            load_policy=LoadPolicy(
                poll_wait_s=FLAGS.file_system_poll_wait_seconds,
                max_retries=FLAGS.max_num_load_retries,
                retry_interval_s=FLAGS.load_retry_interval_micros / 1e6,
            ),
            enable_warmup=FLAGS.enable_model_warmup,
            allow_labels_for_unavailable=(
                FLAGS.allow_version_labels_for_unavailable_models
            ),
            access=access.Access(token, FLAGS.read_only),
            credentials=credentials,
        ),
    )


def _start(server: Server) -> None:
    server.start()
    models = ", ".join(
        f"{name} version {' and '.join(map(str, versions))}"
        for name, versions in server.models.available().items()
    )
    print(
        f"Serving {models} at {server.target} (gRPC). This is a development "
        "server: use tensorflow_model_server in production.",
        flush=True,
    )


def _serve(server: Server) -> None:
    """Serves until SIGTERM or SIGINT; raises what `Server.start` does.

    The signals wake the main thread through a pipe. An exception raised by
    their handlers could come up anywhere, and get lost where none may pass.
    """
    signals = (signal.SIGTERM, signal.SIGINT)
    woken, wake = os.pipe()
    os.set_blocking(wake, False)
    for number in signals:
        signal.signal(number, lambda *_: None)
    signal.set_wakeup_fd(wake)
    failures: list[BaseException] = []

    def start() -> None:
        try:
            _start(server)
        except BaseException as error:
            failures.append(error)
            os.write(wake, b"\0")

    starting = threading.Thread(target=start, name="start", daemon=True)
    starting.start()
    os.read(woken, 1)
    # The same signal again ends the process at once.
    signal.set_wakeup_fd(-1)
    for number in signals:
        signal.signal(number, signal.SIG_DFL)
    if failures:
        raise failures[0]
    print("Stopping.", flush=True)
    if starting.is_alive():
        server.models.abort()
        starting.join()
    server.stop(FLAGS.grace_seconds)


def main(argv: Sequence[str]) -> int:
    """Serves until it is told to stop; returns the exit status."""
    del argv  # All flags.
    try:
        config = _read_config()
        _load_ops()
        from lintf.serving.errors import ServingError

        server = _make_server(config)
    except (ValueError, OSError, ImportError) as error:
        print(f"lintf serve: {error}", file=sys.stderr)
        return 2 if isinstance(error, _UsageError) else 1
    try:
        _serve(server)
    except (ServingError, OSError) as error:
        text = error.message if isinstance(error, ServingError) else error
        print(f"lintf serve: {text}", file=sys.stderr)
        server.stop(0.0)
        return 1
    return 0
