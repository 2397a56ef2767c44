# SPDX-License-Identifier: Apache-2.0
"""The filter language in plain Python, over Python values.

Written from lintf/filters/LANGUAGE.md and from nothing else: no columns, no
codes, no programs. Two implementations that agree on many random filters are
both right about what the page says.
"""

from __future__ import annotations

import datetime
import functools
import math
import operator
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from lintf.index.schema import IndexSchema

# A row is {"id": ..., attribute: value or None}. Tags are lists of strings,
# timestamps are seconds; the rest is what it looks like.
Row = Mapping[str, Any]
Predicate = Callable[[Row], bool]

_WORDS = "and or not in true false contains_any contains_all exists".split()
_TOKEN = re.compile(
    r"""
    (?P<space>[ \t\r\n]+)
    | (?P<string>"(?:[^"\\]|\\.)*"|'(?:[^'\\]|\\.)*')
    | (?P<number>[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?)
      (?![A-Za-z0-9_.])
    | (?P<name>[A-Za-z_][A-Za-z0-9_]*)
    | (?P<sign>==|!=|<=|>=|&&|\|\||[<>!()\[\],])
    """,
    re.VERBOSE | re.DOTALL,
)
_ESCAPE = re.compile(r"\\(u[0-9a-fA-F]{4}|.)", re.DOTALL)
_SIMPLE_ESCAPES = {
    **{c: c for c in "\\\"'/"},
    "b": "\b",
    "f": "\f",
    "n": "\n",
    "r": "\r",
    "t": "\t",
}
_TIME = re.compile(
    r"([0-9]{4}-[0-9]{2}-[0-9]{2})"
    r"(?:[T ]([0-9]{2}:[0-9]{2}(?::[0-9]{2})?)(Z|[+-][0-9]{2}:[0-9]{2})?)?"
)
_COMPARISONS = {
    "==": operator.eq,
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}


class FilterError(ValueError):
    """The text is not a filter of the schema."""


def passes(text: str | bytes, row: Row, schema: IndexSchema) -> bool:
    """Whether `row` passes the filter.

    Raises:
        FilterError: The text is not a filter of the schema.
    """
    return parse(text, schema)(row)


@functools.lru_cache(maxsize=256)
def parse(text: str | bytes, schema: IndexSchema) -> Predicate:
    """The filter as a function of a row.

    Raises:
        FilterError: The text is not a filter of the schema.
    """
    if isinstance(text, bytes):
        try:
            text = text.decode()
        except UnicodeDecodeError as error:
            raise FilterError(str(error)) from error
    if len(text.encode(errors="surrogatepass")) > schema.limits.max_length:
        raise FilterError("too long")
    tokens = _tokens(text)
    if len(tokens) == 1:
        return lambda row: True
    return _Parser(tokens, schema).run()


def _tokens(text: str) -> list[tuple[str, str]]:
    tokens = []
    at = 0
    while at < len(text):
        match = _TOKEN.match(text, at)
        if match is None:
            raise FilterError(f"unexpected {text[at : at + 10]!r} at {at}")
        kind, word = str(match.lastgroup), match.group()
        at = match.end()
        if kind == "name" and word.lower() in _WORDS:
            kind, word = "word", word.lower()
        if kind == "sign" and word in ("&&", "||"):
            kind, word = "word", {"&&": "and", "||": "or"}[word]
        if kind != "space":
            tokens.append((kind, word))
    tokens.append(("end", ""))
    return tokens


def _unquote(literal: str) -> str:
    def replace(match: re.Match[str]) -> str:
        escape = match.group(1)
        if len(escape) == 5:
            return chr(int(escape[1:], 16))
        if escape not in _SIMPLE_ESCAPES:
            raise FilterError(f"no such escape: \\{escape}")
        return _SIMPLE_ESCAPES[escape]

    body = literal[1:-1]
    # Surrogates must come from escapes, in pairs; UTF-16 joins them.
    if any("\ud800" <= c <= "\udfff" for c in body):
        raise FilterError("a lone surrogate")
    try:
        joined = _ESCAPE.sub(replace, body).encode("utf-16", "surrogatepass")
        return joined.decode("utf-16")
    except UnicodeDecodeError as error:
        raise FilterError("a lone surrogate") from error


def _seconds(text: str) -> int:
    match = _TIME.fullmatch(text)
    if match is None:
        raise FilterError(f"not a time: {text!r}")
    date, clock, zone = match.groups()
    offset = 0
    if zone and zone != "Z":
        hours, minutes = int(zone[1:3]), int(zone[4:])
        if hours > 23 or minutes > 59:
            raise FilterError(f"no such offset: {zone}")
        offset = (-1 if zone[0] == "-" else 1) * 60 * (60 * hours + minutes)
    try:
        moment = datetime.datetime.fromisoformat(f"{date}T{clock or '00:00'}")
    except ValueError as error:
        raise FilterError(str(error)) from error
    epoch = datetime.datetime(1970, 1, 1)
    return (moment - epoch) // datetime.timedelta(seconds=1) - offset


class _Attribute:
    """Reads the values and the literals of one attribute."""

    def __init__(self, name: str, schema: IndexSchema) -> None:
        self.name = name
        self.known: frozenset[str] | None = None
        if name == "id":
            self.kind = "category" if schema.id_dtype == "string" else "int"
            return
        try:
            attribute = schema.attribute(name)
        except KeyError as error:
            raise FilterError(str(error)) from error
        self.kind = attribute.kind
        if attribute.encoding in ("vocabulary", "bits"):
            self.known = frozenset(attribute.vocabulary)

    def values(self, row: Row) -> Sequence[Any]:
        """What the row has: nothing, one value, or for tags any number."""
        value = row.get(self.name)
        if value is None:
            return ()
        if self.kind == "tags":
            return [tag for tag in value if tag]
        if self.kind == "float":
            return () if math.isnan(value) else (np.float32(value),)
        if self.kind == "category" and value == "":
            return ()
        return (value,)

    def literal(self, kind: str, text: str) -> Any:
        """The value of a literal; None if no row can have it."""
        if self.kind in ("category", "tags"):
            if kind != "string":
                raise FilterError(f"{self.name} takes strings, found {text}")
            value = _unquote(text)
            is_known = self.known is None or value in self.known
            return value if value and is_known else None
        if self.kind == "bool":
            if (kind, text) not in (("word", "true"), ("word", "false")):
                raise FilterError(f"{self.name} takes bools, found {text}")
            return text == "true"
        if self.kind == "timestamp" and kind == "string":
            return _seconds(_unquote(text))
        if kind != "number":
            raise FilterError(f"{self.name} takes numbers, found {text}")
        if self.kind == "float":
            with np.errstate(over="ignore"):
                value = np.float32(float(text))
            if math.isinf(value):
                raise FilterError(f"{text} does not fit float32")
            return value
        if not re.fullmatch("[+-]?[0-9]+", text):
            raise FilterError(f"{self.name} takes ints, found {text}")
        # int() refuses thousands of digits by itself.
        digits = text.lstrip("+-").lstrip("0") or "0"
        value = int(digits) if len(digits) < 30 else 1 << 100
        value = -value if text.startswith("-") else value
        if not -(1 << 63) <= value < 1 << 63:
            raise FilterError(f"{text} does not fit int64")
        return value


class _Parser:
    def __init__(
        self, tokens: list[tuple[str, str]], schema: IndexSchema
    ) -> None:
        self._tokens = tokens
        self._schema = schema
        self._at = 0

    def run(self) -> Predicate:
        predicate = self._or(0)
        self._expect("end")
        return predicate

    def _take(self, kind: str, word: str | None = None) -> str | None:
        token_kind, token = self._tokens[self._at]
        if token_kind != kind or (word is not None and token != word):
            return None
        self._at += 1
        return token

    def _expect(self, kind: str, word: str | None = None) -> str:
        token = self._take(kind, word)
        if token is None:
            found = self._tokens[self._at]
            raise FilterError(f"expected {word or kind}, found {found}")
        return token

    def _or(self, depth: int) -> Predicate:
        parts = [self._and(depth)]
        while self._take("word", "or"):
            parts.append(self._and(depth))
        return lambda row: any(part(row) for part in parts)

    def _and(self, depth: int) -> Predicate:
        parts = [self._not(depth)]
        while self._take("word", "and"):
            parts.append(self._not(depth))
        return lambda row: all(part(row) for part in parts)

    def _not(self, depth: int) -> Predicate:
        if self._take("word", "not") or self._take("sign", "!"):
            self._check(depth + 1)
            part = self._not(depth + 1)
            return lambda row: not part(row)
        if self._take("sign", "("):
            self._check(depth + 1)
            part = self._or(depth + 1)
            self._expect("sign", ")")
            return part
        return self._predicate()

    def _check(self, depth: int) -> None:
        if depth > self._schema.limits.max_depth:
            raise FilterError("nested too deep")

    def _attribute(self) -> _Attribute:
        return _Attribute(self._expect("name"), self._schema)

    def _literal(self, attribute: _Attribute) -> Any:
        kind, text = self._tokens[self._at]
        self._at += 1
        return attribute.literal(kind, text)

    def _list(self, attribute: _Attribute) -> list[Any]:
        self._expect("sign", "[")
        values: list[Any] = []
        if self._take("sign", "]"):
            return values
        values.append(self._literal(attribute))
        while self._take("sign", ","):
            values.append(self._literal(attribute))
        self._expect("sign", "]")
        return values

    def _predicate(self) -> Predicate:
        for function in ("exists", "contains_any", "contains_all"):
            if self._take("word", function):
                return self._function(function)
        attribute = self._attribute()
        if self._take("word", "in"):
            return self._among(attribute)
        if self._take("word", "not"):
            self._expect("word", "in")
            among = self._among(attribute)
            return lambda row: not among(row)
        for sign in ("==", "!=", "<=", ">=", "<", ">"):
            if self._take("sign", sign):
                return self._comparison(attribute, sign)
        if attribute.kind != "bool":
            raise FilterError(f"{attribute.name} alone is no predicate")
        return lambda row: any(attribute.values(row))

    def _function(self, function: str) -> Predicate:
        self._expect("sign", "(")
        attribute = self._attribute()
        if function == "exists":
            self._expect("sign", ")")
            return lambda row: bool(len(attribute.values(row)))
        if attribute.kind != "tags":
            raise FilterError(f"{attribute.name} is not tags")
        self._expect("sign", ",")
        wanted = set(self._list(attribute))
        self._expect("sign", ")")
        if function == "contains_any":
            return lambda row: bool(wanted & set(attribute.values(row)))
        return lambda row: (
            bool(attribute.values(row)) and wanted <= set(attribute.values(row))
        )

    def _among(self, attribute: _Attribute) -> Predicate:
        if attribute.kind == "bool":
            raise FilterError(f"{attribute.name} is a bool")
        wanted = self._list(attribute)
        return lambda row: any(v in wanted for v in attribute.values(row))

    def _comparison(self, attribute: _Attribute, sign: str) -> Predicate:
        has_order = attribute.kind in ("int", "float", "timestamp")
        if sign not in ("==", "!=") and not has_order:
            raise FilterError(f"{attribute.name} has no order")
        wanted = self._literal(attribute)
        compare = _COMPARISONS["==" if sign == "!=" else sign]

        def holds(row: Row) -> bool:
            return any(compare(v, wanted) for v in attribute.values(row))

        if sign == "!=":
            return lambda row: not holds(row)
        return holds
