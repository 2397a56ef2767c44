# SPDX-License-Identifier: Apache-2.0
"""What an ingester says about itself: Prometheus metrics, and a line."""

from __future__ import annotations

import collections
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from lintf.ingest.lane import Lane, State

_PREFIX = "lintf_ingest_"
_LABELS = ("replica", "version", "partition")


class LaneCollector:
    """Reads the lanes whenever Prometheus asks: nothing is counted twice.

    Register it with a `prometheus_client` registry.
    """

    def __init__(self, lanes: Callable[[], Sequence[Lane]]) -> None:
        self._lanes = lanes

    def collect(self) -> Iterator[Any]:
        """The metrics of all lanes there are now."""
        from prometheus_client import core

        lanes = self._lanes()
        names = [_names(lane) for lane in lanes]
        gauges: list[tuple[str, str, Callable[[Lane], float | None]]] = [
            (
                "lag_records",
                "Records of the log that are not applied.",
                lambda lane: lane.lag_records,
            ),
            (
                "lag_seconds",
                "Age of the oldest record that is not applied; 0 if none is.",
                lambda lane: lane.lag_seconds,
            ),
            (
                "applied_per_second",
                "Changes applied a second, over the last 10 seconds.",
                lambda lane: lane.applied_per_second,
            ),
            (
                "offset",
                "The last offset that the index holds.",
                lambda lane: lane.position,
            ),
            (
                "halted",
                "1 if the partition waits for a person to do something.",
                lambda lane: float(lane.state is State.HALTED),
            ),
            (
                "waiting",
                "1 if a call failed that will be tried again.",
                lambda lane: float(lane.state is State.WAITING),
            ),
        ]
        for name, text, read in gauges:
            gauge = core.GaugeMetricFamily(_PREFIX + name, text, labels=_LABELS)
            for lane, labels in zip(lanes, names, strict=True):
                value = read(lane)
                if value is not None:
                    gauge.add_metric(labels, value)
            yield gauge
        counters: list[tuple[str, str, str, Callable[[Lane], Any]]] = [
            (
                "applied",
                "Changes applied, by what became of the item.",
                "status",
                lambda lane: lane.applied,
            ),
            (
                "retries",
                "Failed calls, by why they failed.",
                "reason",
                lambda lane: lane.retries,
            ),
        ]
        for name, text, label, read_all in counters:
            counter = core.CounterMetricFamily(
                _PREFIX + name, text, labels=[*_LABELS, label]
            )
            for lane, labels in zip(lanes, names, strict=True):
                # Copied: a lane may count while it is read.
                for key, count in sorted(dict(read_all(lane)).items()):
                    counter.add_metric([*labels, key], count)
            yield counter
        for name, text, read in (
            (
                "dead_letters",
                "Records that went to the dead-letter file.",
                lambda lane: lane.dead_letters,
            ),
            (
                "requests",
                "Update requests that were answered.",
                lambda lane: lane.requests,
            ),
        ):
            counter = core.CounterMetricFamily(
                _PREFIX + name, text, labels=_LABELS
            )
            for lane, labels in zip(lanes, names, strict=True):
                counter.add_metric(labels, read(lane) or 0)
            yield counter


class Progress:
    """Makes the line that tells a person how it goes."""

    def __init__(
        self,
        lanes: Callable[[], Sequence[Lane]],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._lanes = lanes
        self._clock = clock
        self._last: tuple[float, int] | None = None

    def line(self) -> str:
        """The state now; speed is that since the last line."""
        lanes = self._lanes()
        applied = sum(sum(dict(lane.applied).values()) for lane in lanes)
        now = self._clock()
        speed = 0.0
        if self._last is not None and now > self._last[0]:
            # A version that goes takes its count along.
            speed = max(applied - self._last[1], 0) / (now - self._last[0])
        self._last = (now, applied)
        versions = {
            (lane.target.replica, lane.target.version) for lane in lanes
        }
        if not lanes:
            return "waiting for a server"
        states = collections.Counter(lane.state for lane in lanes)
        parts = [
            f"{applied:,} applied ({speed:,.0f}/s)",
            f"lag {_most([lane.lag_records for lane in lanes], ',d')} records, "
            f"{_most([lane.lag_seconds for lane in lanes], '.1f')} s",
            f"{len(versions)} version{'s' * (len(versions) != 1)}",
        ]
        dead = sum(lane.dead_letters for lane in lanes)
        if dead:
            parts.append(f"{dead:,} dead letter{'s' * (dead != 1)}")
        for state in (State.WAITING, State.HALTED):
            if states[state]:
                parts.append(f"{states[state]} {state.value}")
        return "; ".join(parts)


def serve(lanes: Callable[[], Sequence[Lane]], host: str, port: int) -> int:
    """Serves the metrics over HTTP; returns the port.

    Raises:
      OSError: the port is taken.
      ImportError: prometheus-client is not installed.
    """
    try:
        import prometheus_client
    except ImportError as error:
        raise ImportError(
            "metrics need prometheus-client: pip install 'lintf[ingest]'"
        ) from error

    registry = prometheus_client.CollectorRegistry()
    registry.register(LaneCollector(lanes))  # type: ignore[arg-type]
    try:
        server, _ = prometheus_client.start_http_server(port, host, registry)
    except OSError as error:
        raise OSError(
            f"the metrics can't be served at {host}:{port}: {error.strerror}; "
            "give another port, or 0 for a free one"
        ) from error
    return int(server.server_port)


def _names(lane: Lane) -> list[str]:
    target = lane.target
    return [target.replica, str(target.version), str(lane.partition)]


def _most(values: Sequence[float | None], form: str) -> str:
    known = [value for value in values if value is not None]
    return format(max(known), form) if known else "?"
