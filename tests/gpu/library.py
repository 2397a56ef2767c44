# SPDX-License-Identifier: Apache-2.0
"""custom_ops/core/gpu_c_api.h for Python, by ctypes.

Arrays may be numpy's (the emulator's device memory, and the CPU functions'),
torch's or cupy's: whatever tells its address.
"""

from __future__ import annotations

import ctypes
import os
import pathlib
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

# Values are positions, as in the headers' enums.
ELEMENT_TYPES = ("float32", "bfloat16", "float16", "int8")
COLUMN_TYPES = (
    "int8",
    "int16",
    "int64",
    "uint8",
    "uint16",
    "uint32",
    "uint64",
    "float32",
)
METRICS = ("inner_product", "l2")
PRECISIONS = ("full", "storage")
ORDERS = ("auto", "all", "listed")
ALGORITHMS = ("auto", "masked", "prefiltered", "quantized")
LEARNED_ALGORITHMS = ("auto", "exact", "bounded", "two_stage")
_ALL_ALGORITHMS = ALGORITHMS + LEARNED_ALGORITHMS[1:]
COMPONENTS = ("inner_product", "weighted", "hadamard")
GATES = ("none", "softmax", "silu_softmax", "relu", "sigmoid")
CANDIDATES = ("averaged", "components", "codes")
SCORINGS = ("symmetric", "asymmetric")
CODE_ORDERS = ("best_first", "ascending_row")

_int = ctypes.c_int64
_pointer = ctypes.c_void_p


class CallStruct(ctypes.Structure):
    """LintfCall."""

    _fields_ = [
        ("stream", _pointer),
        ("workspace", _pointer),
        ("workspace_bytes", _int),
        ("scratch_bytes", _int),
        ("needed_bytes", _int),
        ("error", ctypes.c_char * 1024),
    ]


class ColumnStruct(ctypes.Structure):
    """LintfColumn."""

    _fields_ = [("type", _int), ("data", _pointer), ("width", _int)]


class SimilarityStruct(ctypes.Structure):
    """LintfSimilarity."""

    _fields_ = [
        ("query_components", _int),
        ("item_components", _int),
        ("component_dim", _int),
        ("component", _int),
        ("hidden", _int),
        ("temperature", ctypes.c_double),
        ("gate", _int),
        ("gate_hidden", _int),
        ("weights", ctypes.POINTER(_pointer)),
        ("candidates", _int),
        ("budget", _int),
    ]


class SearchStruct(ctypes.Structure):
    """LintfSearch."""

    _fields_ = [
        ("queries", _pointer),
        ("num_queries", _int),
        ("items", _pointer),
        ("element_type", _int),
        ("scales", _pointer),
        ("num_rows", _int),
        ("dim", _int),
        ("metric", _int),
        ("k", _int),
        ("segment_rows", _int),
        ("precision", _int),
        ("order", _int),
        ("algorithm", _int),
        ("mask_words", _pointer),
        ("mask_stride", _int),
        ("num_masks", _int),
        ("passes_all", _pointer),
        ("mask_of_query", _pointer),
        ("programs", _pointer),
        ("words_per_program", _int),
        ("columns", ctypes.POINTER(ColumnStruct)),
        ("num_columns", _int),
        ("ids", _pointer),
        ("live", _pointer),
        ("samples", _pointer),
        ("codes", _pointer),
        ("code_words", _int),
        ("scoring", _int),
        ("shortlist", _int),
        ("similarity", ctypes.POINTER(SimilarityStruct)),
    ]


class ResultsStruct(ctypes.Structure):
    """LintfResults."""

    _fields_ = [
        ("scores", _pointer),
        ("rows", _pointer),
        ("counts", _pointer),
        ("result_ids", _pointer),
        ("num_scored", _pointer),
    ]


class TablesStruct(ctypes.Structure):
    """LintfTables."""

    _fields_ = [
        ("ids", _pointer),
        ("items", _pointer),
        ("element_type", _int),
        ("scales", _pointer),
        ("dim", _int),
        ("codes", _pointer),
        ("code_words", _int),
        ("columns", ctypes.POINTER(ColumnStruct)),
        ("num_columns", _int),
    ]


class ContentsStruct(ctypes.Structure):
    """LintfContents."""

    _fields_ = [
        ("count", _int),
        ("rows", _pointer),
        ("ids", _pointer),
        ("places", _pointer),
        ("items", _pointer),
        ("scales", _pointer),
        ("codes", _pointer),
        ("columns", ctypes.POINTER(_pointer)),
        ("num_columns", _int),
    ]


def address(array: Any) -> int | None:
    """Returns where the values of an array are; None of None.

    Raises:
      ValueError: The values are not one after another, row by row.
      TypeError: The array does not tell its address.
    """
    if array is None:
        return None
    if isinstance(array, np.ndarray):
        if not array.flags.c_contiguous:
            raise ValueError("arrays must be contiguous; make a copy")
        return array.ctypes.data
    if hasattr(array, "data_ptr"):  # torch
        if not array.is_contiguous():
            raise ValueError("arrays must be contiguous; make a copy")
        return array.data_ptr()
    if hasattr(array, "data") and hasattr(array.data, "ptr"):  # cupy
        if not array.flags.c_contiguous:
            raise ValueError("arrays must be contiguous; make a copy")
        return array.data.ptr
    raise TypeError(f"an array must tell its address, got {type(array)}")


def _columns(columns: Sequence[tuple[str, Any]]) -> ctypes.Array:
    """Describes columns: (type, array [rows] or [rows, width]) each."""
    structs = (ColumnStruct * max(len(columns), 1))()
    for struct, (type_name, data) in zip(structs, columns, strict=False):
        struct.type = COLUMN_TYPES.index(type_name)
        struct.data = address(data)
        struct.width = data.shape[1] if len(data.shape) == 2 else 1
    return structs


class Similarity:
    """A learned similarity; keeps its weights alive.

    Args:
      weights: float32, where the search's arrays are, in the order of
        `SimilaritySpec.weight_shapes()`.
      query_components: Of a query vector; this and what follows is as
        `SimilaritySpec` has it.
      item_components: Of an item vector.
      component_dim: Length of a component.
      component: One of COMPONENTS.
      hidden: Units of the joint MLP.
      temperature: Of the logits.
      gate: One of GATES.
      gate_hidden: Units of the pair gate.
      candidates: One of CANDIDATES.
      budget: How many candidates.
    """

    def __init__(
        self,
        weights: Sequence[Any] = (),
        *,
        query_components: int = 1,
        item_components: int = 1,
        component_dim: int = 32,
        component: str = "inner_product",
        hidden: int = 0,
        temperature: float = 1.0,
        gate: str = "none",
        gate_hidden: int = 0,
        candidates: str = "averaged",
        budget: int = 0,
    ):
        pointers = (_pointer * max(len(weights), 1))()
        for place, weight in enumerate(weights):
            pointers[place] = address(weight)
        pairs = query_components * item_components if gate != "none" else 0
        self.item_dim = item_components * component_dim + pairs
        self.struct = SimilarityStruct(
            query_components,
            item_components,
            component_dim,
            COMPONENTS.index(component),
            hidden,
            temperature,
            GATES.index(gate),
            gate_hidden,
            pointers,
            CANDIDATES.index(candidates),
            budget,
        )
        self._kept = (list(weights), pointers)


class Search:
    """The arguments of one search; keeps their arrays alive.

    Args:
      queries: float32 [num_queries, dim].
      num_rows: Rows of the index.
      k: Results of a query.
      items: [num_rows, dim], of `element_type`; None searches codes alone.
      element_type: One of ELEMENT_TYPES.
      scales: float32 [num_rows], for int8.
      metric: One of METRICS.
      segment_rows: Rows searched at once; 0 is the default.
      precision: One of PRECISIONS.
      order: One of ORDERS.
      algorithm: One of ALGORITHMS; of LEARNED_ALGORITHMS for a similarity.
      masks: 64-bit words [num_masks, stride]; a bit a row.
      passes_all: Whether each mask passes all rows, whatever its words.
      mask_of_query: The mask of each query; 0 if not given.
      programs: int64 [num_queries, words], host memory, of programs.pack().
      columns: (type, array) of each column that programs may read.
      ids: int64 [num_rows].
      live: A bit a row in 64-bit words; ANDed to the programs' masks.
      samples: float32 [num_queries, 64 * code_words].
      codes: 64-bit words, in the layout of sign_oporp.h.
      code_words: Words of a code.
      scoring: One of SCORINGS.
      shortlist: Rows kept for rescoring.
      similarity: What to score by, if not by the metric; queries are its query
        vectors then, and items its item vectors.
    """

    def __init__(
        self,
        queries: Any,
        num_rows: int,
        k: int,
        *,
        items: Any = None,
        element_type: str = "float32",
        scales: Any = None,
        metric: str = "inner_product",
        segment_rows: int = 0,
        precision: str = "full",
        order: str = "auto",
        algorithm: str = "masked",
        masks: Any = None,
        passes_all: Sequence[bool] | None = None,
        mask_of_query: Sequence[int] | None = None,
        programs: np.ndarray | None = None,
        columns: Sequence[tuple[str, Any]] = (),
        ids: Any = None,
        live: Any = None,
        samples: Any = None,
        codes: Any = None,
        code_words: int = 0,
        scoring: str = "symmetric",
        shortlist: int = 0,
        similarity: Similarity | None = None,
    ):
        self.k = k
        self.num_queries = queries.shape[0]
        # Host memory, copied so that it stays as it is.
        host_passes = _host(passes_all, np.uint8)
        host_masks = _host(mask_of_query, np.int32)
        host_programs = _host(programs, np.int64)
        column_structs = _columns(columns)
        struct = SearchStruct()
        struct.queries = address(queries)
        struct.num_queries, struct.dim = queries.shape
        struct.items = address(items)
        struct.element_type = ELEMENT_TYPES.index(element_type)
        struct.scales = address(scales)
        struct.num_rows = num_rows
        struct.metric = METRICS.index(metric)
        struct.k = k
        struct.segment_rows = segment_rows
        struct.precision = PRECISIONS.index(precision)
        struct.order = ORDERS.index(order)
        struct.algorithm = _ALL_ALGORITHMS.index(algorithm)
        struct.mask_words = address(masks)
        if masks is not None:
            struct.num_masks, struct.mask_stride = masks.shape
        struct.passes_all = address(host_passes)
        struct.mask_of_query = address(host_masks)
        struct.programs = address(host_programs)
        if host_programs is not None:
            if host_programs.shape[0] != self.num_queries:
                raise ValueError(
                    f"there must be a program for each of the "
                    f"{self.num_queries} queries, got {host_programs.shape[0]}"
                )
            struct.words_per_program = host_programs.shape[1]
        struct.columns = column_structs
        struct.num_columns = len(columns)
        struct.ids = address(ids)
        struct.live = address(live)
        struct.samples = address(samples)
        struct.codes = address(codes)
        struct.code_words = code_words
        struct.scoring = SCORINGS.index(scoring)
        struct.shortlist = shortlist
        if similarity is not None:
            struct.dim = similarity.item_dim
            struct.similarity = ctypes.pointer(similarity.struct)
        self.struct = struct
        self._kept = (
            similarity,
            queries,
            items,
            scales,
            masks,
            [data for _, data in columns],
            ids,
            live,
            samples,
            codes,
            host_passes,
            host_masks,
            host_programs,
            column_structs,
        )


def _host(values: Any, dtype: Any) -> np.ndarray | None:
    if values is None:
        return None
    return np.array(values, dtype, order="C", ndmin=1)


class HostDevice:
    """Device memory that is numpy's: for the emulator."""

    name = "emulator"
    stream = None

    def put(self, array: np.ndarray) -> np.ndarray:
        """Returns a copy on the device."""
        return np.array(array, order="C")

    def empty(self, shape: Sequence[int], dtype: str) -> np.ndarray:
        """Returns an array whose bytes are 0xCD."""
        array = np.empty(shape, dtype)
        array.view(np.uint8).reshape(-1)[:] = 0xCD
        return array

    def get(self, array: np.ndarray, dtype: str) -> np.ndarray:
        """Returns a copy in host memory, once all work is done."""
        return array.view(dtype).copy()

    def synchronize(self) -> None:
        """Waits for all work."""


class TorchDevice:
    """Device memory and the current stream of torch."""

    name = "torch"
    # torch has no arithmetic of these, but memory is memory.
    _SAME_SIZE = {"uint64": "int64", "uint32": "int32", "uint16": "int16"}

    def __init__(self) -> None:
        import torch

        self._torch = torch

    @property
    def stream(self) -> int:
        """The stream of the calls, a cudaStream_t."""
        return self._torch.cuda.current_stream().cuda_stream

    def put(self, array: np.ndarray) -> Any:
        """Returns a copy on the device."""
        array = np.ascontiguousarray(array)
        name = array.dtype.name
        array = array.view(self._SAME_SIZE.get(name, name))
        return self._torch.from_numpy(array.copy()).cuda()

    def empty(self, shape: Sequence[int], dtype: str) -> Any:
        """Returns an array whose bytes are 0xCD."""
        dtype = self._SAME_SIZE.get(dtype, dtype)
        size = int(np.prod(shape)) * np.dtype(dtype).itemsize
        if size == 0:
            return self._torch.empty(
                tuple(shape), dtype=getattr(self._torch, dtype), device="cuda"
            )
        flat = self._torch.full(
            (size,), 0xCD, dtype=self._torch.uint8, device="cuda"
        )
        return flat.view(getattr(self._torch, dtype)).reshape(tuple(shape))

    def get(self, array: Any, dtype: str) -> np.ndarray:
        """Returns a copy in host memory, once all work is done."""
        self.synchronize()
        return array.cpu().numpy().view(dtype)

    def synchronize(self) -> None:
        """Waits for all work."""
        self._torch.cuda.synchronize()


class LibraryError(RuntimeError):
    """What the library says went wrong."""


class Library:
    """The functions of the built library, on one device.

    Args:
      path: The shared library.
      device: HostDevice for an emulated one, TorchDevice.
      workspace_bytes: Scratch memory at the start; it grows on demand.
      scratch_bytes: About how much of it a slice of a search takes; 0 is the
        library's default.
    """

    def __init__(
        self,
        path: pathlib.Path,
        device: HostDevice | TorchDevice,
        workspace_bytes: int = 1 << 20,
        scratch_bytes: int = 0,
    ):
        self.device = device
        self._library = ctypes.CDLL(str(path))
        self._scratch_bytes = scratch_bytes
        self._workspace: Any = None
        self._workspace_bytes = 0
        self._grow(workspace_bytes)

    @property
    def workspace_bytes(self) -> int:
        """Bytes of scratch memory that are held."""
        return self._workspace_bytes

    def release(self) -> None:
        """Gives the scratch memory back, once all work is done."""
        self.device.synchronize()
        self._workspace = None
        self._grow(1 << 20)

    def _grow(self, size: int) -> None:
        self.device.synchronize()
        self._workspace = None
        # numpy's memory is aligned to 16 bytes, and 256 are asked for.
        self._workspace = self.device.empty([size + 256], "uint8")
        self._workspace_bytes = size

    def _call(self) -> CallStruct:
        call = CallStruct()
        call.stream = self.device.stream
        begin = address(self._workspace) or 0
        call.workspace = (begin + 255) // 256 * 256
        call.workspace_bytes = self._workspace_bytes
        call.scratch_bytes = self._scratch_bytes
        return call

    def run(self, name: str, *arguments: Any) -> None:
        """Calls a function of the library, with a workspace that suffices.

        Raises:
          LibraryError: It failed.
        """
        self.prepare(name, *arguments)

    def prepare(self, name: str, *arguments: Any) -> Callable[[], None]:
        """Calls a function once; returns one that calls it again, quickly.

        What is returned must not be used after a call that makes the workspace
        grow.
        """
        function = getattr(self._library, name)
        function.restype = ctypes.c_int
        converted = [_convert(argument) for argument in arguments]
        while True:
            call = self._call()
            reference = ctypes.byref(call)
            if function(reference, *converted) == 0:
                break
            if call.needed_bytes <= self._workspace_bytes:
                raise LibraryError(call.error.decode())
            self._grow(max(call.needed_bytes, self._workspace_bytes * 3 // 2))

        def again() -> None:
            if function(reference, *converted) != 0:
                raise LibraryError(call.error.decode())

        # What the references lead to lives as long as the function.
        again.kept = (call, arguments, self._workspace)  # type: ignore
        return again

    # ---- Searches.

    def results(
        self, search: Search, ids: bool = False, scored: bool = False
    ) -> dict[str, Any]:
        """Returns arrays for the results of a search, on the device."""
        shape = [search.num_queries, search.k]
        arrays = {
            "scores": self.device.empty(shape, "float32"),
            "rows": self.device.empty(shape, "int64"),
            "counts": self.device.empty([search.num_queries], "int32"),
        }
        if ids:
            arrays["result_ids"] = self.device.empty(shape, "int64")
        if scored:
            arrays["num_scored"] = self.device.empty(
                [search.num_queries], "int64"
            )
        return arrays

    def search(
        self, search: Search, name: str = "lintf_gpu_masked_knn"
    ) -> dict[str, np.ndarray]:
        """Searches; returns the results in host memory."""
        arrays = self.results(search)
        self.run(name, search.struct, results_struct(arrays))
        return self.fetch(arrays)

    def fetch(self, arrays: dict[str, Any]) -> dict[str, np.ndarray]:
        """Returns results in host memory."""
        dtypes = {"scores": "float32", "counts": "int32"}
        return {
            name: self.device.get(array, dtypes.get(name, "int64"))
            for name, array in arrays.items()
        }

    def search_on_cpu(
        self,
        search: Search,
        threads: int = 0,
        ids: bool = False,
        scored: bool = False,
    ) -> dict[str, np.ndarray]:
        """lintf_cpu_retrieve; all arrays of the search are numpy's.

        Args:
          search: The search.
          threads: How many to use; 0 is one for each core.
          ids: Whether to return ids too.
          scored: Whether to return `num_scored` too.
        """
        shape = (search.num_queries, search.k)
        arrays = {
            "scores": np.empty(shape, np.float32),
            "rows": np.empty(shape, np.int64),
            "counts": np.empty(search.num_queries, np.int32),
        }
        if ids:
            arrays["result_ids"] = np.empty(shape, np.int64)
        if scored:
            arrays["num_scored"] = np.empty(search.num_queries, np.int64)
        self.run(
            "lintf_cpu_retrieve",
            search.struct,
            threads or os.cpu_count() or 1,
            results_struct(arrays),
        )
        return arrays

    def filter_masks(self, search: Search, where: str) -> dict[str, Any]:
        """The masks of a search's programs, by the "gpu" or the "cpu".

        Returns:
          words, uint64 [num_masks, stride]; mask_of_query; passes_all.
        """
        stride = (search.struct.num_rows + 63) // 64
        count = search.num_queries
        on_gpu = where == "gpu"
        device = self.device if on_gpu else HostDevice()
        words = device.empty([count, stride], "uint64")
        mask_of_query = np.zeros(count, np.int32)
        passes_all = np.zeros(count, np.uint8)
        num_masks = np.zeros(1, np.int64)
        self.run(
            f"lintf_{where}_filter_masks",
            search.struct,
            stride,
            words,
            mask_of_query,
            passes_all,
            num_masks,
        )
        used = int(num_masks[0])
        return {
            "words": device.get(words, "uint64")[:used],
            "mask_of_query": mask_of_query,
            "passes_all": passes_all[:used].astype(bool),
        }

    def project(
        self, vectors: np.ndarray, bins: int, repeats: int, seed: int
    ) -> np.ndarray:
        """Sign-OPORP samples [count, bins * repeats] of vectors, on the CPU."""
        vectors = np.ascontiguousarray(vectors, np.float32)
        samples = np.empty([len(vectors), bins * repeats], np.float32)
        self.run(
            "lintf_cpu_project",
            vectors.shape[1],
            bins,
            repeats,
            seed,
            vectors,
            len(vectors),
            samples,
        )
        return samples


def results_struct(arrays: dict[str, Any]) -> ResultsStruct:
    """Describes arrays of results."""
    struct = ResultsStruct()
    for name, array in arrays.items():
        setattr(struct, name, address(array))
    return struct


def tables_struct(
    *,
    ids: Any = None,
    items: Any = None,
    element_type: str = "float32",
    scales: Any = None,
    dim: int = 0,
    codes: Any = None,
    code_words: int = 0,
    columns: Sequence[tuple[str, Any]] = (),
) -> TablesStruct:
    """Describes the tables of an index; the caller keeps the arrays alive."""
    structs = _columns(columns)
    return TablesStruct(
        address(ids),
        address(items),
        ELEMENT_TYPES.index(element_type),
        address(scales),
        dim,
        address(codes),
        code_words,
        structs,
        len(columns),
    )


def contents_struct(
    rows: np.ndarray,
    ids: np.ndarray,
    *,
    places: np.ndarray | None = None,
    items: np.ndarray | None = None,
    scales: np.ndarray | None = None,
    codes: np.ndarray | None = None,
    columns: Sequence[np.ndarray] = (),
) -> ContentsStruct:
    """Describes new rows, in host memory that the caller keeps alive."""
    pointers = (_pointer * max(len(columns), 1))()
    for place, column in enumerate(columns):
        pointers[place] = address(column)
    return ContentsStruct(
        len(rows),
        address(rows),
        address(ids),
        address(places),
        address(items),
        address(scales),
        address(codes),
        pointers,
        len(columns),
    )


def _convert(argument: Any) -> Any:
    """Makes a ctypes argument of one."""
    if isinstance(argument, ctypes.Structure):
        return ctypes.byref(argument)
    if isinstance(argument, int):
        # uint64 too: the bits are the same.
        return ctypes.c_int64(argument)
    return ctypes.c_void_p(address(argument))


def interleave_codes(codes: np.ndarray) -> np.ndarray:
    """Lays codes, uint64 [rows, words], out as sign_oporp.h says.

    Returns:
      uint64 [ceil(rows / 64), words, 64]; places past the rows are 0.
    """
    rows, words = codes.shape
    blocks = (rows + 63) // 64
    padded = np.zeros([blocks * 64, words], np.uint64)
    padded[:rows] = codes
    return np.ascontiguousarray(
        padded.reshape(blocks, 64, words).transpose(0, 2, 1)
    )


def pack_masks(passes: np.ndarray) -> np.ndarray:
    """Packs bools [masks, rows] into uint64 words [masks, ceil(rows / 64)]."""
    masks, rows = passes.shape
    words = (rows + 63) // 64
    padded = np.zeros([masks, words * 64], bool)
    padded[:, :rows] = passes
    return np.packbits(padded, axis=1, bitorder="little").view(np.uint64)


def to_bfloat16(values: np.ndarray) -> np.ndarray:
    """Rounds finite float32 to bfloat16, to nearest even; uint16 patterns."""
    bits = np.ascontiguousarray(values, np.float32).view(np.uint32)
    rounded = bits + np.uint32(0x7FFF) + ((bits >> 16) & 1)
    return (rounded >> 16).astype(np.uint16)


def from_bfloat16(patterns: np.ndarray) -> np.ndarray:
    """Returns float32 of bfloat16 patterns, exactly."""
    return (patterns.astype(np.uint32) << 16).view(np.float32)
