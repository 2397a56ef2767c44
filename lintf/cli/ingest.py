# SPDX-License-Identifier: Apache-2.0
"""Keeps served indexes at the end of a change log.

Reads the log and sends its changes to every version that the servers have,
each from the offset that it holds: nothing is kept here, so this may be killed
and started again at any time, and several may run at once. SIGTERM ends it once
the requests in flight are answered.

Examples:
  lintf ingest --source file:changes --server localhost:8500 --model_name films
  lintf ingest --source kafka:films --kafka_config kafka.properties \\
      --server host1:8500 --server host2:8500 --model_name films \\
      --metrics_port 9400
  lintf ingest --source file:changes --server localhost:8500 \\
      --model_name films --set_label current --model_config_file models.config
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import select
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from absl import flags

from lintf.cli import quiet, source_flags

if TYPE_CHECKING:
    from lintf.ingest.ingester import Ingester
    from lintf.ingest.records import Decoder
    from lintf.ingest.target import Replica

FLAGS = flags.FlagValues()  # type: ignore[no-untyped-call]

source_flags.define_source(FLAGS)
flags.DEFINE_list(
    "avro_schema",
    [],
    "The Avro schema (.avsc) of the log's values; JSON if not given. Values "
    "framed for a schema registry take a list of ID=FILE.",
    flag_values=FLAGS,
)
flags.DEFINE_multi_string(
    "server",
    ["localhost:8500"],
    "Address of a server; may be given several times.",
    flag_values=FLAGS,
)
flags.DEFINE_string(
    "model_name",
    "default",
    "Name of the model in requests.",
    flag_values=FLAGS,
)
flags.DEFINE_integer(
    "batch_rows",
    1000,
    "Most changes of a request; at most the export's update.max_request_rows.",
    lower_bound=1,
    flag_values=FLAGS,
)
flags.DEFINE_float(
    "max_latency_ms",
    200.0,
    "How long a change may wait for others to fill its request.",
    lower_bound=0.0,
    flag_values=FLAGS,
)
flags.DEFINE_float(
    "timeout_s",
    30.0,
    "Deadline of a request, in seconds.",
    lower_bound=0.001,
    flag_values=FLAGS,
)
flags.DEFINE_string(
    "dead_letter_file",
    "dead_letters.jsonl",
    "File that records which no index can apply are appended to.",
    flag_values=FLAGS,
)
flags.DEFINE_integer(
    "metrics_port",
    None,
    "Port of the Prometheus endpoint; 0 takes a free one; none if not given.",
    lower_bound=0,
    upper_bound=65535,
    flag_values=FLAGS,
)
flags.DEFINE_string(
    "metrics_host",
    "127.0.0.1",
    "Address of the Prometheus endpoint; 0.0.0.0 for every interface.",
    flag_values=FLAGS,
)
flags.DEFINE_boolean(
    "until_caught_up",
    False,
    "End once everything that was in the log at the start is applied; with "
    "status 1 if a partition halts.",
    flag_values=FLAGS,
)
flags.DEFINE_string(
    "set_label",
    "",
    "Version label that names each server's newest version, once that has "
    "caught up. The server must keep the version before (a version policy of "
    "`latest { num_versions: 2 }`).",
    flag_values=FLAGS,
)
flags.DEFINE_string(
    "model_config_file",
    "",
    "The servers' ModelServerConfig text proto, which --set_label sends with "
    "the label in it.",
    flag_values=FLAGS,
)
flags.DEFINE_float(
    "label_max_lag_s",
    5.0,
    "How old the end of the log may be that a version has reached, for "
    "--set_label.",
    lower_bound=0.0,
    flag_values=FLAGS,
)
flags.DEFINE_boolean(
    "tls", False, "Speak TLS with the servers.", flag_values=FLAGS
)
flags.DEFINE_string(
    "tls_ca_file",
    None,
    "PEM file of the authorities that a server's certificate may be from; "
    "those that gRPC knows if not given. Implies --tls.",
    flag_values=FLAGS,
)
flags.DEFINE_string(
    "tls_cert_file",
    None,
    "PEM file of the client's certificate, if servers ask for one.",
    flag_values=FLAGS,
)
flags.DEFINE_string(
    "tls_key_file",
    None,
    "PEM file of the key to --tls_cert_file.",
    flag_values=FLAGS,
)
flags.DEFINE_string(
    "token_file",
    None,
    "File with the bearer token that the servers ask for.",
    flag_values=FLAGS,
)
flags.DEFINE_float(
    "progress_s",
    10.0,
    "Seconds between two lines of progress; 1 on a terminal; 0 for none.",
    lower_bound=0.0,
    flag_values=FLAGS,
)

_CLEAR_LINE = "\r\033[K"


def _check_flags() -> None:
    source_flags.check_source(FLAGS)
    if bool(FLAGS.set_label) != bool(FLAGS.model_config_file):
        raise ValueError(
            "--set_label and --model_config_file must be given together: a "
            "label is set by sending the server's whole config."
        )
    if not all(FLAGS.server):
        raise ValueError("--server must be an address such as localhost:8500.")
    if not FLAGS.model_name:
        raise ValueError("--model_name must be the name of the served model.")


def _decoder() -> Decoder:
    from lintf.ingest import records

    if not FLAGS.avro_schema:
        return records.JsonDecoder()
    if len(FLAGS.avro_schema) == 1 and "=" not in FLAGS.avro_schema[0]:
        return records.AvroDecoder(_read_json(FLAGS.avro_schema[0]))
    schemas = {}
    for text in FLAGS.avro_schema:
        number, equals, path = text.partition("=")
        if not equals or not number.isdigit():
            raise ValueError(
                "--avro_schema must be one FILE, or ID=FILE with commas "
                f"between them, got {text!r}."
            )
        schemas[int(number)] = _read_json(path)
    return records.RegistryAvroDecoder(schemas)


def _read_json(path: str) -> Any:
    try:
        with open(path, encoding="utf-8") as file:
            return json.load(file)
    except (OSError, ValueError) as error:
        raise ValueError(
            f"the Avro schema {path} can't be read: {error}"
        ) from error


def _replicas() -> list[Replica]:
    from lintf.ingest.replica import GrpcReplica
    from lintf.serving import access, client, model_config

    credentials = token = read_config = None
    if FLAGS.tls or FLAGS.tls_ca_file or FLAGS.tls_cert_file:
        credentials = client.tls_credentials(
            FLAGS.tls_ca_file, FLAGS.tls_cert_file, FLAGS.tls_key_file
        )
    if FLAGS.token_file:
        token = access.read_token_file(FLAGS.token_file)
    if FLAGS.set_label:
        path = FLAGS.model_config_file

        def read() -> Any:
            # Again each time: someone may have edited it.
            return model_config.read_config_file(path)

        read()
        read_config = read
    return [
        GrpcReplica(
            address,
            FLAGS.model_name,
            credentials=credentials,
            token=token,
            timeout_s=FLAGS.timeout_s,
            reload_config=read_config,
        )
        for address in dict.fromkeys(FLAGS.server)
    ]


def _options() -> Any:
    from lintf.ingest.ingester import IngesterOptions
    from lintf.ingest.lane import LaneOptions

    return IngesterOptions(
        LaneOptions(
            batch_rows=FLAGS.batch_rows,
            max_latency_s=FLAGS.max_latency_ms / 1e3,
        ),
        label=FLAGS.set_label,
        label_lag_s=FLAGS.label_max_lag_s,
        until_caught_up=FLAGS.until_caught_up,
    )


@contextlib.contextmanager
def _log_to_stderr() -> Iterator[None]:
    handler = logging.StreamHandler(sys.stderr)
    start = _CLEAR_LINE if sys.stderr.isatty() else ""
    handler.setFormatter(
        logging.Formatter(f"{start}%(asctime)s %(levelname)s %(message)s")
    )
    logger = logging.getLogger("lintf.ingest")
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    try:
        yield
    finally:
        logger.removeHandler(handler)


def _show(line: str) -> None:
    if sys.stderr.isatty():
        print(_CLEAR_LINE + line, end="", file=sys.stderr, flush=True)
    else:
        print(line, file=sys.stderr, flush=True)


def _make_ingester(stack: contextlib.ExitStack) -> Ingester:
    """The ingester of the flags; what it uses is closed with the stack."""
    from lintf.ingest import metrics
    from lintf.ingest.dead_letters import DeadLetters
    from lintf.ingest.ingester import Ingester

    decoder = _decoder()
    replicas = _replicas()
    for replica in replicas:
        stack.callback(replica.close)
    source = stack.enter_context(source_flags.open_source(FLAGS))
    letters = DeadLetters(FLAGS.dead_letter_file)
    stack.callback(letters.close)
    ingester = Ingester(source, replicas, decoder, letters, _options())
    if FLAGS.metrics_port is not None:
        port = metrics.serve(
            ingester.lanes, FLAGS.metrics_host, FLAGS.metrics_port
        )
        print(
            f"Metrics at http://{FLAGS.metrics_host}:{port}/metrics",
            flush=True,
        )
    return ingester


def _run(ingester: Ingester) -> int:
    """Runs until it has caught up or a signal comes; the exit status.

    The signals wake the main thread through a pipe: a handler that took a lock
    which the main thread holds would wait for ever.
    """
    from lintf.ingest import metrics

    progress = metrics.Progress(ingester.lanes)
    seconds = FLAGS.progress_s
    if seconds and sys.stderr.isatty():
        seconds = min(seconds, 1.0)
    signals = (signal.SIGTERM, signal.SIGINT)
    woken, wake = os.pipe()
    os.set_blocking(wake, False)
    for number in signals:
        signal.signal(number, lambda *_: None)
    signal.set_wakeup_fd(wake)
    outcome: list[Any] = []

    def run() -> None:
        try:
            outcome.append(ingester.run())
        except BaseException as error:
            outcome.append(error)
        os.write(wake, b"\0")

    thread = threading.Thread(target=run, name="ingester")
    thread.start()
    while not select.select([woken], [], [], seconds or None)[0]:
        _show(progress.line())
    # The same signal again ends the process at once.
    signal.set_wakeup_fd(-1)
    for number in signals:
        signal.signal(number, signal.SIG_DFL)
    ingester.stop()
    thread.join()
    if seconds:
        _show(progress.line())
        if sys.stderr.isatty():
            print(file=sys.stderr)
    if isinstance(outcome[0], BaseException):
        raise outcome[0]
    return int(outcome[0])


def main(argv: Sequence[str]) -> int:
    """Feeds the servers; returns the exit status."""
    del argv  # All flags.
    try:
        _check_flags()
    except ValueError as error:
        print(f"lintf ingest: {error}", file=sys.stderr)
        return 2
    quiet.import_tensorflow()
    from lintf.ingest.source import SourceError

    try:
        with _log_to_stderr(), contextlib.ExitStack() as stack:
            return _run(_make_ingester(stack))
    except (SourceError, ValueError, OSError, ImportError) as error:
        print(f"lintf ingest: {error}", file=sys.stderr)
        return 1
