# SPDX-License-Identifier: Apache-2.0
"""What was measured, against what was to be reached: JSON and Markdown."""

from __future__ import annotations

import dataclasses
import json
import pathlib
from collections.abc import Sequence
from typing import Any

# The bars are for an H100, whose memory copies 3.0 TB/s.
H100_COPY_BANDWIDTH = 3.0e12


def bandwidth_of_bars(card: dict[str, Any]) -> float:
    """The bandwidth that scales the bars: on an H100 they are as they are.

    >>> bandwidth_of_bars({"name": "NVIDIA H100 80GB", "copy_bandwidth": 2e12})
    3000000000000.0
    """
    if "H100" in card["name"]:
        return H100_COPY_BANDWIDTH
    return card["copy_bandwidth"]


@dataclasses.dataclass
class Row:
    """One line of the table.

    Attributes:
      case: What was done.
      value: What came of it; None if it failed.
      unit: "ms", "GB", "QPS", or "x" for a ratio.
      bar: What the value must reach; None if nothing is asked.
      at_least: Whether more is better.
      bytes: What the search must read and write at least; 0 if that is not
        the limit.
      seconds: The time it took on the card.
      wall: And for a caller who waits.
      peers: Seconds by name.
      note: Whatever else there is to say.
      error: Why there is no value.
    """

    case: str
    value: float | None = None
    unit: str = "ms"
    bar: float | None = None
    at_least: bool = False
    bytes: int = 0
    seconds: float = 0.0
    wall: float = 0.0
    peers: dict[str, float] = dataclasses.field(default_factory=dict)
    note: str = ""
    error: str = ""

    def scaled_bar(self, bandwidth: float) -> float | None:
        """The bar for a card of another bandwidth, in bytes a second.

        Times grow as the bandwidth shrinks, and so rates shrink; bars of
        memory and of ratios stay.

        >>> Row("scan", bar=2.0).scaled_bar(1.5e12)
        4.0
        """
        if self.bar is None or self.unit not in ("ms", "QPS"):
            return self.bar
        slower = H100_COPY_BANDWIDTH / bandwidth
        return self.bar * slower if self.unit == "ms" else self.bar / slower

    def verdict(self, bandwidth: float) -> str:
        """Whether the bar is reached.

        >>> Row("scan", value=2.0, bar=2.0).verdict(3.0e12)
        'yes'
        >>> Row("loop", value=2.0, unit="QPS", bar=3.0, at_least=True).verdict(
        ...     3.0e12
        ... )
        'NO'
        """
        if self.error or self.value is None:
            return "FAILED"
        bar = self.scaled_bar(bandwidth)
        if bar is None:
            return ""
        good = self.value >= bar if self.at_least else self.value <= bar
        return "yes" if good else "NO"

    def fraction(self, bandwidth: float) -> float | None:
        """The part of the copy bandwidth that its bytes came with."""
        if not self.bytes or not self.seconds:
            return None
        return self.bytes / self.seconds / bandwidth


def number(value: float | None) -> str:
    """Writes a number with three digits.

    >>> number(0.01234), number(1234.5), number(None)
    ('0.0123', '1234', '')
    """
    if value is None:
        return ""
    if abs(value) >= 100:
        return f"{value:.0f}"
    if abs(value) >= 10:
        return f"{value:.1f}"
    return f"{value:.3g}"


def markdown(rows: Sequence[Row], card: dict[str, Any]) -> str:
    """Returns the table, and what it was measured on."""
    bandwidth = card["copy_bandwidth"]
    for_bars = bandwidth_of_bars(card)
    lines = [
        f"Card: {card['name']}; copies {bandwidth / 1e12:.2f} TB/s. "
        "Medians; `waited` is what a caller sees who waits for the results; "
        "the bars are an H100's, scaled by the bandwidth for another card.",
        "",
        "| case | ours | bar | reached | of bandwidth | waited ms | peers | "
        "note |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for row in rows:
        bar = row.scaled_bar(for_bars)
        sign = ">=" if row.at_least else "<="
        fraction = row.fraction(bandwidth)
        peers = ", ".join(
            f"{name} {number(seconds * 1e3)} ms"
            + (f" ({seconds / row.seconds:.1f}x)" if row.seconds else "")
            for name, seconds in row.peers.items()
        )
        cells = [
            row.case,
            f"{number(row.value)} {row.unit}" if row.value is not None else "",
            f"{sign} {number(bar)} {row.unit}" if bar is not None else "",
            row.verdict(for_bars),
            f"{fraction:.0%}" if fraction is not None else "",
            number(row.wall * 1e3) if row.wall else "",
            peers,
            row.error.splitlines()[-1] if row.error else row.note,
        ]
        cells = [cell.replace("|", "/") for cell in cells]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def write(
    folder: pathlib.Path, rows: Sequence[Row], card: dict[str, Any]
) -> None:
    """Writes gpu.json and gpu.md."""
    folder.mkdir(parents=True, exist_ok=True)
    bandwidth = card["copy_bandwidth"]
    data = {
        "card": card,
        "rows": [
            {
                **dataclasses.asdict(row),
                "reached": row.verdict(bandwidth_of_bars(card)),
                "of_bandwidth": row.fraction(bandwidth),
            }
            for row in rows
        ],
    }
    text = json.dumps(data, indent=1) + "\n"
    (folder / "gpu.json").write_text(text, encoding="utf-8")
    (folder / "gpu.md").write_text(markdown(rows, card), encoding="utf-8")
