# SPDX-License-Identifier: Apache-2.0
"""The plain answer that a served index must give: numpy over all rows.

Written from what the columns are documented to hold, without lintf's
operations, so that it can disagree with them.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from lintf.index import columns, oporp, storage
from lintf.index.schema import Attribute, IndexSchema
from lintf.similarity import reference, rounding

# Rows scored at once: bounds the memory beside the index itself.
_BLOCK = 1 << 16
# Numbers that are held for each of them.
_BLOCK_WIDTH = 128


@dataclasses.dataclass(frozen=True)
class Table:
    """An index as plain arrays.

    Attributes:
        schema: What it holds.
        ids: `[rows]` int64; fingerprints if ids are strings.
        embeddings: `[rows, dim]` float32, decoded; None if the index has
            codes alone.
        attributes: Stored columns `[rows]` or `[rows, width]` by name.
        texts: `[rows]` ids as text, if ids are strings.
        codes: `[rows, words]` int64, row by row, if there are any.
        weights: Of the schema's similarity by name, if it has one.
    """

    schema: IndexSchema
    ids: np.ndarray
    embeddings: np.ndarray | None
    attributes: Mapping[str, np.ndarray]
    texts: np.ndarray | None = None
    codes: np.ndarray | None = None
    weights: Mapping[str, np.ndarray] | None = None

    @functools.cached_property
    def projection(self) -> np.ndarray:
        """`[coded_dim, bits]` float64: vectors times this are samples."""
        assert self.schema.quantization is not None
        dim = self.schema.coded_dim
        matrix = oporp.projection(self.schema.quantization, dim)
        return matrix.astype(np.float64)

    @functools.cached_property
    def largest(self) -> tuple[float, float]:
        """The greatest 1-norm and the greatest 2-norm of an embedding."""
        assert self.embeddings is not None
        ones, twos = 0.0, 0.0
        for begin in range(0, len(self.embeddings), _BLOCK):
            block = self.embeddings[begin : begin + _BLOCK].astype(np.float64)
            ones = max(ones, float(np.abs(block).sum(axis=1).max()))
            twos = max(twos, float(np.linalg.norm(block, axis=1).max()))
        return ones, twos


def joined(tables: Sequence[Table]) -> Table:
    """The tables of several shards as one, one after another."""
    if len(tables) == 1:
        return tables[0]

    def parts(name: str) -> Any:
        values = [getattr(table, name) for table in tables]
        return None if values[0] is None else np.concatenate(values)

    return Table(
        tables[0].schema,
        parts("ids"),
        parts("embeddings"),
        {
            name: np.concatenate([t.attributes[name] for t in tables])
            for name in tables[0].attributes
        },
        parts("texts"),
        parts("codes"),
        tables[0].weights,
    )


@dataclasses.dataclass(frozen=True)
class Filter:
    """A filter's text, and the rows that it lets through."""

    text: str
    passing: np.ndarray


def scores(table: Table, query: np.ndarray) -> np.ndarray:
    """Scores of all rows for one query, `[rows]` float64."""
    if table.schema.similarity is not None:
        return _learned(table, query, reference.scores)
    query = _prepared(table, query)
    score = _code_scorer(table, query)
    if table.embeddings is not None:
        score = _scorer(table.embeddings, query, table.schema.metric)
    out = np.empty(len(table.ids))
    for begin in range(0, len(out), _BLOCK):
        here = slice(begin, begin + _BLOCK)
        out[here] = score(here)
    return out


def tolerance(table: Table, query: np.ndarray) -> float:
    """How far a right score may be from the exact one.

    Of embeddings: `dim` roundings of half an epsilon each, of products no
    larger than the norms' product (the l2 score sums three such terms), and
    what rounding the query costs, if they are int8. Of codes alone: the bits
    of the query's code that rounding may change, or the rounding of tables. Of
    a learned similarity: the bounds of `lintf.similarity.rounding`.
    """
    if table.schema.similarity is not None:
        bounds = _learned(table, query, rounding.error_bounds)
        return float(bounds.max(initial=0.0))
    query = _prepared(table, query)
    if table.embeddings is None:
        return _code_tolerance(table, query)
    ones, twos = table.largest
    norm = float(np.linalg.norm(query))
    size = max(twos, 1e-30) * max(norm, 1e-30)
    off = storage.query_error_bound(query, table.schema.dtype)
    of_query = off * ones
    if table.schema.metric == "l2":
        size = 2 * size + twos**2 + norm**2
        of_query = 2 * off * (ones + np.abs(query).sum())
        of_query += table.schema.dim * off**2
    eps = float(np.finfo(np.float32).eps)
    return float((table.schema.dim + 8) * eps * size + of_query)


def _learned(
    table: Table, query: np.ndarray, of: Callable[..., np.ndarray]
) -> np.ndarray:
    """A number for each row, from the similarity, in bounded memory."""
    spec = table.schema.similarity
    assert spec is not None and table.embeddings is not None
    numbers = spec.pairs * max(spec.hidden, 1) + spec.gate_hidden
    step = max(1, _BLOCK * _BLOCK_WIDTH // numbers)
    out = np.empty(len(table.ids))
    for begin in range(0, len(out), step):
        rows = table.embeddings[begin : begin + step]
        values = of(spec, table.weights, query[np.newaxis], rows)
        out[begin : begin + step] = values[0]
    return out


def _prepared(table: Table, query: np.ndarray) -> np.ndarray:
    query = np.asarray(query, np.float64)
    if table.schema.metric == "cosine":
        query = query / (np.linalg.norm(query) or 1.0)
    return query


def _scorer(
    embeddings: np.ndarray, query: np.ndarray, metric: str
) -> Callable[[slice], np.ndarray]:
    def score(rows: slice) -> np.ndarray:
        block = embeddings[rows].astype(np.float64)
        if metric == "l2":
            return -np.square(block - query).sum(axis=1)
        return block @ query

    return score


def _code_scorer(
    table: Table, query: np.ndarray
) -> Callable[[slice], np.ndarray]:
    def score(rows: slice) -> np.ndarray:
        assert table.codes is not None
        assert table.schema.quantization is not None
        signs = 2.0 * oporp.unpack(table.codes[rows]) - 1.0
        samples = query @ table.projection
        if table.schema.quantization.scoring == "asymmetric":
            return signs @ samples
        matched_less_other = signs @ np.where(samples >= 0, 1.0, -1.0)
        return (matched_less_other + len(samples)) / 2

    return score


def _code_tolerance(table: Table, query: np.ndarray) -> float:
    assert table.schema.quantization is not None
    samples = query @ table.projection
    off = np.abs(query) @ np.abs(table.projection)
    off *= table.schema.dim * np.finfo(np.float32).eps
    if table.schema.quantization.scoring == "symmetric":
        return float((np.abs(samples) <= off).sum())
    # A table has the sums for four bits, as multiples of a 63rd of the
    # greatest of them.
    step = 2 * np.abs(samples).reshape(-1, 4).sum(axis=1).max() / 63
    return float(len(samples) / 4 * step / 2 * 1.001 + off.sum())


def code_mismatch(
    table: Table, rows: np.ndarray, vectors: np.ndarray, error: np.ndarray
) -> int | None:
    """A row whose code is not that of its vector.

    Args:
        table: The index.
        rows: Which of them.
        vectors: `[n, dim]` of these rows.
        error: `[n, dim]` how far each may be from what the codes were made
            of.

    Returns:
        The row's place in `rows`, or None if all are right.
    """
    assert table.codes is not None
    coded = table.schema.coded_dim
    vectors = vectors[:, :coded].astype(np.float64)
    error = error[:, :coded]
    samples = vectors @ table.projection
    eps = coded * float(np.finfo(np.float32).eps)
    off = (error + eps * np.abs(vectors)) @ np.abs(table.projection)
    bits = oporp.unpack(table.codes[rows])
    wrong = (np.abs(samples) > off) & (bits != (samples >= 0))
    if not wrong.any():
        return None
    return int(np.argmax(wrong.any(axis=1)))


def check_result(
    table: Table,
    query: np.ndarray,
    passing: np.ndarray,
    rows: np.ndarray,
    found: np.ndarray,
    num_results: int,
    *,
    exact: bool = True,
) -> str | None:
    """Compares one query's result with the plain answer.

    Args:
        table: The index.
        query: `[query_dim]`.
        passing: `[rows]` bool: what the filter lets through.
        rows: `[k]` rows of the returned ids, -1 where there is none.
        found: `[k]` returned scores.
        num_results: The returned number of results.
        exact: Whether nothing better may have been left out.

    Returns:
        What is wrong, or None.
    """
    k = len(rows)
    expected = min(k, int(passing.sum()))
    if num_results != expected:
        return f"expected {expected} results, got {num_results}"
    rest = found[num_results:]
    if (rows[num_results:] != -1).any() or not np.isneginf(rest).all():
        return "unused slots must hold no item and the score -inf"
    rows, found = rows[:num_results], found[:num_results]
    if (rows < 0).any():
        return "a returned id is not in the index"
    if not passing[rows].all():
        return f"row {int(rows[~passing[rows]][0])} does not pass the filter"
    if len(set(rows.tolist())) != len(rows):
        return "an item was returned twice"
    if not expected:
        return None
    if (np.diff(found) > 0).any():
        return "the scores must not ascend"
    right = scores(table, query)
    close = tolerance(table, query)
    error = np.abs(right[rows] - found)
    if error.max() > close:
        worst = int(error.argmax())
        return (
            f"result {worst} has the score {found[worst]:.7g}, brute force "
            f"gives {right[rows[worst]]:.7g} (tolerance {close:.1g})"
        )
    left_out = passing.copy()
    left_out[rows] = False
    if exact and left_out.any():
        best = float(right[left_out].max())
        if best > float(right[rows].min()) + 2 * close:
            return (
                f"an item of score {best:.7g} is missing; the lowest returned "
                f"is {right[rows].min():.7g}"
            )
    return None


def random_filters(
    table: Table, count: int, random: np.random.Generator
) -> list[Filter]:
    """Filters whose passing rows are known by construction.

    Each attribute that can be decoded gets clauses from values that occur in
    it; filters are one clause, its negation, or two joined.
    """
    everything = np.ones(len(table.ids), bool)
    clauses: list[Filter] = []
    for attribute in table.schema.attributes:
        if attribute.decodable:
            clauses += _clauses(
                attribute, table.attributes[attribute.name], random
            )
    clauses += _id_clauses(table, random)
    filters = [Filter("", everything)]
    while clauses and len(filters) < count:
        first, second = (
            clauses[i] for i in random.integers(len(clauses), size=2)
        )
        filters += [
            first,
            Filter(f"not ({first.text})", ~first.passing),
            Filter(
                f"{first.text} and {second.text}",
                first.passing & second.passing,
            ),
            Filter(
                f"{first.text} or not ({second.text})",
                first.passing | ~second.passing,
            ),
        ]
    return filters[:count]


def _clauses(
    attribute: Attribute, column: np.ndarray, random: np.random.Generator
) -> list[Filter]:
    name = attribute.name
    if attribute.kind in ("category", "tags"):
        return _text_clauses(attribute, column, random)
    missing = columns.missing_value(attribute)
    known = (
        np.isfinite(column) if column.dtype.kind == "f" else (column != missing)
    )
    filters = [Filter(f"exists({name})", known)]
    values = column[known]
    if not values.size:
        return filters
    value = values[random.integers(values.size)]
    if attribute.kind == "bool":
        text = "true" if value else "false"
        return [
            *filters,
            Filter(f"{name} == {text}", known & (column == value)),
        ]
    text = _number(value)
    # A comparison with NaN is False, as it is to be.
    return [
        *filters,
        Filter(f"{name} >= {text}", known & (column >= value)),
        Filter(f"{name} < {text}", known & (column < value)),
        Filter(f"{name} != {text}", ~(known & (column == value))),
    ]


def _text_clauses(
    attribute: Attribute, column: np.ndarray, random: np.random.Generator
) -> list[Filter]:
    name = attribute.name
    usable = [
        i for i, word in enumerate(attribute.vocabulary) if _quotable(word)
    ]
    stored = column != 0
    known = stored if column.ndim == 1 else stored.any(axis=1)
    filters = [Filter(f"exists({name})", known)]
    if not usable:
        return filters
    picked = [usable[i] for i in random.integers(len(usable), size=2)]
    words = ", ".join(f'"{attribute.vocabulary[i]}"' for i in picked)
    holds = [_holds(attribute, column, i) for i in picked]
    first = f'"{attribute.vocabulary[picked[0]]}"'
    if attribute.kind == "category":
        return [
            *filters,
            Filter(f"{name} == {first}", holds[0]),
            Filter(f"{name} != {first}", ~holds[0]),
            Filter(f"{name} in [{words}]", holds[0] | holds[1]),
            Filter(f"{name} not in [{words}]", ~(holds[0] | holds[1])),
        ]
    return [
        *filters,
        Filter(f"contains_any({name}, [{words}])", holds[0] | holds[1]),
        Filter(f"contains_all({name}, [{words}])", holds[0] & holds[1]),
    ]


def _holds(attribute: Attribute, column: np.ndarray, word: int) -> np.ndarray:
    """Rows that hold value number `word` of the vocabulary."""
    if attribute.encoding == "bits":
        bit = np.array(1 << (word + 1), column.dtype)
        return (column & bit) != 0
    same = column == word + 2
    return same if same.ndim == 1 else same.any(axis=1)


def _id_clauses(table: Table, random: np.random.Generator) -> list[Filter]:
    rows = random.integers(len(table.ids), size=min(50, len(table.ids)))
    if table.texts is None:
        texts = [str(i) for i in table.ids[rows].tolist()]
    else:
        rows = rows[[_quotable(t) for t in table.texts[rows]]]
        texts = [f'"{t}"' for t in table.texts[rows]]
    if not texts:
        return []
    inside = np.isin(table.ids, table.ids[rows])
    listed = ", ".join(texts)
    return [
        Filter(f"id in [{listed}]", inside),
        Filter(f"id not in [{listed}]", ~inside),
    ]


def all_but(table: Table, row: int) -> str:
    """The filter that leaves one item out; "" if its id cannot be written."""
    if table.texts is None:
        return f"id not in [{int(table.ids[row])}]"
    text = table.texts[row]
    return f'id not in ["{text}"]' if _quotable(text) else ""


def _number(value: Any) -> str:
    if isinstance(value, np.floating):
        # The shortest text that gives this float32 again.
        return np.format_float_positional(value, trim="0")
    return str(int(value))


def _quotable(word: str) -> bool:
    return word.isprintable() and '"' not in word and "\\" not in word


RowsOf = Callable[[np.ndarray], np.ndarray]


def row_finder(ids: np.ndarray) -> RowsOf:
    """A function from ids to rows; -1 for the id -1 and for unknown ids."""
    order = np.argsort(ids, kind="stable")
    ordered = ids[order]

    def rows(wanted: np.ndarray) -> np.ndarray:
        places = np.searchsorted(ordered, wanted)
        places = np.minimum(places, len(ordered) - 1)
        hit = (ordered[places] == wanted) & (wanted != -1)
        return np.where(hit, order[places], -1)

    return rows
