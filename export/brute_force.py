# SPDX-License-Identifier: Apache-2.0
"""The plain answer that a served index must give: numpy over all rows.

Written from what the columns are documented to hold, without lintf's
operations, so that it can disagree with them.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from lintf.index import columns
from lintf.index.schema import Attribute, IndexSchema

# Rows scored at once: bounds the memory beside the index itself.
_BLOCK = 1 << 16


@dataclasses.dataclass(frozen=True)
class Table:
    """An index as plain arrays.

    Attributes:
        schema: What it holds.
        ids: `[rows]` int64; fingerprints if ids are strings.
        embeddings: `[rows, dim]` float32.
        attributes: Stored columns `[rows]` or `[rows, width]` by name.
        texts: `[rows]` ids as text, if ids are strings.
    """

    schema: IndexSchema
    ids: np.ndarray
    embeddings: np.ndarray
    attributes: Mapping[str, np.ndarray]
    texts: np.ndarray | None = None


@dataclasses.dataclass(frozen=True)
class Filter:
    """A filter's text, and the rows that it lets through."""

    text: str
    passing: np.ndarray


def scores(table: Table, query: np.ndarray) -> np.ndarray:
    """Scores of all rows for one query, `[rows]` float64."""
    query = np.asarray(query, np.float64)
    metric = table.schema.metric
    if metric == "cosine":
        query = query / (np.linalg.norm(query) or 1.0)
    out = np.empty(len(table.ids))
    for begin in range(0, len(out), _BLOCK):
        block = table.embeddings[begin : begin + _BLOCK].astype(np.float64)
        if metric == "l2":
            out[begin : begin + _BLOCK] = -np.square(block - query).sum(axis=1)
        else:
            out[begin : begin + _BLOCK] = block @ query
    return out


def tolerance(table: Table, query: np.ndarray) -> float:
    """How far float32 sums of `dim` products may be from the exact score.

    `dim` roundings of half an epsilon each, of products no larger than the
    norms' product; the l2 score sums three such terms.
    """
    size = np.sqrt(np.square(table.embeddings, dtype=np.float64).sum(1).max())
    size = max(float(size), 1e-30) * max(float(np.linalg.norm(query)), 1e-30)
    if table.schema.metric == "cosine":
        size = 1.0
    if table.schema.metric == "l2":
        norms = np.square(table.embeddings, dtype=np.float64).sum(1).max()
        size = 2 * size + float(norms) + float(np.square(query).sum())
    return float((table.schema.dim + 8) * np.finfo(np.float32).eps * size)


def check_result(
    table: Table,
    query: np.ndarray,
    passing: np.ndarray,
    rows: np.ndarray,
    found: np.ndarray,
    num_results: int,
) -> str | None:
    """Compares one query's result with the plain answer.

    Args:
        table: The index.
        query: `[dim]`.
        passing: `[rows]` bool: what the filter lets through.
        rows: `[k]` rows of the returned ids, -1 where there is none.
        found: `[k]` returned scores.
        num_results: The returned number of results.

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
    exact = scores(table, query)
    close = tolerance(table, query)
    error = np.abs(exact[rows] - found)
    if error.max() > close:
        worst = int(error.argmax())
        return (
            f"result {worst} has the score {found[worst]:.7g}, brute force "
            f"gives {exact[rows[worst]]:.7g} (tolerance {close:.1g})"
        )
    left_out = passing.copy()
    left_out[rows] = False
    if left_out.any():
        best = float(exact[left_out].max())
        if best > float(exact[rows].min()) + 2 * close:
            return (
                f"an item of score {best:.7g} is missing; the lowest returned "
                f"is {exact[rows].min():.7g}"
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
