# SPDX-License-Identifier: Apache-2.0
"""The card that is measured: data made on it, and its clock.

TorchCard is a GPU; HostCard runs the same cases on the emulator, so that they
are known to work before a GPU is at hand. Its times mean nothing.
"""

from __future__ import annotations

import dataclasses
import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from tests.gpu import library as lib

_CHUNK = 1 << 24


@dataclasses.dataclass(frozen=True)
class Timing:
    """Medians over many runs of one call, in seconds.

    Attributes:
      gpu: From the first to the last kernel, by the card's own clock.
      wall: From the call to its results, for the caller who waits.
      runs: How many there were.
    """

    gpu: float
    wall: float
    runs: int


class HostCard:
    """The emulator in the place of a card."""

    name = "emulator"

    def __init__(self, free_bytes: int = 1 << 30):
        self.device = lib.HostDevice()
        self._free_bytes = free_bytes
        self._random = np.random.default_rng(0)

    def free_bytes(self) -> int:
        """Memory that is free."""
        return self._free_bytes

    def copy_bandwidth(self) -> float:
        """Bytes that a copy reads and writes in a second."""
        return 1e9

    def normal(self, shape: tuple[int, int], element_type: str) -> Any:
        """Draws normal numbers as stored rows; int8 has them times 40."""
        values = self._random.standard_normal(shape).astype(np.float32)
        if element_type == "bfloat16":
            return lib.to_bfloat16(values)
        if element_type == "int8":
            return np.clip(np.rint(values * 40), -127, 127).astype(np.int8)
        return values.astype(element_type)

    def integers(self, high: int, count: int, dtype: str) -> Any:
        """Draws integers below `high`; 0 draws all 64 bits."""
        if high == 0:
            return self._random.integers(
                -(1 << 63), (1 << 63) - 1, count, np.int64
            )
        return self._random.integers(0, high, count).astype(dtype)

    def sequence(self, count: int) -> Any:
        """0, 1, 2, ... as int64."""
        return np.arange(count)

    def set_row(self, table: Any, row: int, values: np.ndarray) -> None:
        """Writes one row of a float table."""
        if table.dtype == np.uint16:
            table[row] = lib.to_bfloat16(values)
        else:
            table[row] = values.astype(table.dtype)

    def spectrum(self, rows: int, dim: int, mixing: np.ndarray) -> Any:
        """Unit rows, of normal ones times `mixing` [dim, dim]; float16."""
        values = self._random.standard_normal([rows, dim]) @ mixing
        values /= np.linalg.norm(values, axis=1, keepdims=True)
        return values.astype(np.float16)

    def encode(self, items: Any, projection: np.ndarray) -> Any:
        """Codes of rows, laid out as sign_oporp.h says.

        Args:
          items: float16 [rows, dim].
          projection: float32 [dim, bits]: the samples of the unit vectors.
        """
        bits = items.astype(np.float32) @ projection >= 0
        packed = np.packbits(bits, axis=1, bitorder="little")
        return lib.interleave_codes(packed.view(np.uint64))

    def time(self, call: Callable[[], None], **_: Any) -> Timing:
        """Runs a call once."""
        begin = time.perf_counter()
        call()
        seconds = time.perf_counter() - begin
        return Timing(seconds, seconds, 1)


class TorchCard:
    """A GPU, by torch."""

    def __init__(self) -> None:
        import torch

        self._torch = torch
        self.device = lib.TorchDevice()
        self.name = torch.cuda.get_device_name()
        torch.manual_seed(int(time.time()))
        # Several times the second cache.
        self._flush = torch.empty(256 << 20, dtype=torch.uint8, device="cuda")

    def free_bytes(self) -> int:
        """Memory that is free, torch's own cache included."""
        self._torch.cuda.synchronize()
        self._torch.cuda.empty_cache()
        return self._torch.cuda.mem_get_info()[0]

    def copy_bandwidth(self) -> float:
        """Bytes that a copy reads and writes in a second."""
        torch = self._torch
        source = torch.ones(1 << 28, dtype=torch.int32, device="cuda")
        target = torch.empty_like(source)
        seconds = self.time(lambda: target.copy_(source), seconds=0.5).gpu
        return 2 * source.numel() * 4 / seconds

    def normal(self, shape: tuple[int, int], element_type: str) -> Any:
        """Draws normal numbers as stored rows; int8 has them times 40."""
        torch = self._torch
        table = torch.empty(
            shape, dtype=getattr(torch, element_type), device="cuda"
        )
        for begin in range(0, shape[0], _CHUNK):
            part = table[begin : begin + _CHUNK]
            if element_type == "int8":
                values = torch.randn(part.shape, device="cuda").mul_(40)
                part.copy_(values.round_().clamp_(-127, 127))
            else:
                part.normal_()
        return table

    def integers(self, high: int, count: int, dtype: str) -> Any:
        """Draws integers below `high`; 0 draws all 64 bits."""
        torch = self._torch
        dtype = lib.TorchDevice._SAME_SIZE.get(dtype, dtype)
        table = torch.empty(count, dtype=getattr(torch, dtype), device="cuda")
        if high == 0:
            return table.random_(-(1 << 63), None)
        return table.random_(0, high)

    def sequence(self, count: int) -> Any:
        """0, 1, 2, ... as int64."""
        return self._torch.arange(count, device="cuda")

    def set_row(self, table: Any, row: int, values: np.ndarray) -> None:
        """Writes one row of a float table."""
        table[row].copy_(self._torch.from_numpy(values))

    def spectrum(self, rows: int, dim: int, mixing: np.ndarray) -> Any:
        """Unit rows, of normal ones times `mixing` [dim, dim]; float16."""
        torch = self._torch
        table = torch.empty([rows, dim], dtype=torch.float16, device="cuda")
        matrix = torch.from_numpy(mixing.astype(np.float32)).cuda()
        for begin in range(0, rows, 1 << 20):
            part = table[begin : begin + (1 << 20)]
            values = torch.randn(part.shape, device="cuda") @ matrix
            part.copy_(torch.nn.functional.normalize(values))
        return table

    def encode(self, items: Any, projection: np.ndarray) -> Any:
        """Codes of rows, laid out as sign_oporp.h says."""
        torch = self._torch
        rows, words = len(items), projection.shape[1] // 64
        blocks = (rows + 63) // 64
        codes = torch.zeros(
            [blocks, words, 64], dtype=torch.int64, device="cuda"
        )
        matrix = torch.from_numpy(projection).cuda()
        places = torch.arange(64, device="cuda")
        step = 1 << 17
        for begin in range(0, rows, step):
            part = items[begin : begin + step].float() @ matrix >= 0
            count = len(part)
            padded = torch.zeros(
                [(count + 63) // 64 * 64, words],
                dtype=torch.int64,
                device="cuda",
            )
            for word in range(words):
                bits = part[:, 64 * word : 64 * word + 64].long()
                padded[:count, word] = (bits << places).sum(dim=1)
            first = begin // 64
            shaped = padded.view(-1, 64, words).transpose(1, 2)
            codes[first : first + len(shaped)] = shaped
        return codes

    def time(
        self,
        call: Callable[[], Any],
        seconds: float = 1.0,
        max_runs: int = 200,
        flush: bool = True,
    ) -> Timing:
        """Times a call that queues work, with the second cache flushed.

        Args:
          call: Queues the work.
          seconds: About how long to go on.
          max_runs: Runs at most.
          flush: Whether to overwrite the cache before each run.
        """
        torch = self._torch
        for _ in range(3):
            call()
        torch.cuda.synchronize()
        begin = time.perf_counter()
        call()
        torch.cuda.synchronize()
        once = time.perf_counter() - begin
        runs = int(min(max_runs, max(5, seconds / 2 / max(once, 1e-6))))
        gpu = []
        for _ in range(runs):
            events = [torch.cuda.Event(enable_timing=True) for _ in range(2)]
            if flush:
                self._flush.fill_(1)
            events[0].record()
            call()
            events[1].record()
            gpu.append(events)
        torch.cuda.synchronize()
        wall = []
        for _ in range(runs):
            if flush:
                self._flush.fill_(1)
                torch.cuda.synchronize()
            begin = time.perf_counter()
            call()
            torch.cuda.synchronize()
            wall.append(time.perf_counter() - begin)
        return Timing(
            statistics.median(a.elapsed_time(b) * 1e-3 for a, b in gpu),
            statistics.median(wall),
            runs,
        )


Card = HostCard | TorchCard
