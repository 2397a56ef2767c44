# SPDX-License-Identifier: Apache-2.0
"""What an index holds: ids, embeddings and filterable attributes.

The schema is fixed when the index is built and travels inside the SavedModel
(`index_stats` returns it as JSON), so that a client can compile filters and
decode attributes without any other file.
"""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Iterable
from typing import Any

from lintf.similarity.spec import SimilaritySpec

# Format 1 has float32 embeddings and no codes; it still loads.
FORMAT_VERSION = 2
# Of an index with a learned similarity, so that a lintf that knows none
# refuses it by its number.
SIMILARITY_FORMAT = 3
FORMATS = (1, 2, 3)

KINDS = ("category", "tags", "int", "float", "timestamp", "bool")
ENCODINGS = ("number", "vocabulary", "hash", "bits")
METRICS = ("inner_product", "cosine", "l2")
ID_DTYPES = ("int64", "string")
# Of the stored embeddings; "none" stores their codes alone.
DTYPES = ("float32", "bfloat16", "float16", "int8", "none")
SCORINGS = ("symmetric", "asymmetric")

# Sums over longer rows of bytes would not fit 32 bits.
MAX_INT8_DIM = 65536

# A code is stored in words of this many bits.
WORD_BITS = 64
# Scores of longer codes would not fit the 16 bits that they are selected by.
MAX_CODE_BITS = 4096

# Codes of the "vocabulary" encoding: see custom_ops/core/filter_schema.h.
MISSING_CODE = 0
OTHER_CODE = 1
FIRST_CODE = 2
# Bits of the "bits" encoding.
OTHER_BIT = 0
FIRST_BIT = 1

# Beyond this many distinct values a vocabulary is heavier than 8-byte hashes.
MAX_VOCABULARY = 1 << 20

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*\Z")
_RESERVED = frozenset(
    "id and or not in true false exists contains_any contains_all".split()
)

# The dtypes that each encoding may be stored in, cheapest first.
_DTYPES = {
    ("category", "vocabulary"): ("uint8", "uint16", "uint32"),
    ("category", "hash"): ("int64",),
    ("tags", "vocabulary"): ("uint8", "uint16", "uint32"),
    ("tags", "hash"): ("int64",),
    ("tags", "bits"): ("uint8", "uint16", "uint32", "uint64"),
    ("int", "number"): ("int64", "int16", "int8", "uint32"),
    ("timestamp", "number"): ("int64", "uint32"),
    ("float", "number"): ("float32",),
    ("bool", "number"): ("int8",),
}

_BITS_OF = {"uint8": 8, "uint16": 16, "uint32": 32, "uint64": 64}


@dataclasses.dataclass(frozen=True)
class FilterLimits:
    """What one filter may cost, so that no request can exhaust a server.

    Attributes:
        max_length: Bytes of the filter's text.
        max_depth: Nesting of parentheses and `not`.
        max_words: int64 words of the compiled program; an `id in [...]` list
            takes one word an id.
    """

    max_length: int = 1 << 18
    max_depth: int = 32
    max_words: int = 1 << 14

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if not isinstance(value, int) or value < 1:
                raise ValueError(
                    f"`{field.name}` must be a positive integer, got {value!r}"
                )


@dataclasses.dataclass(frozen=True)
class Attribute:
    """One filterable attribute and how its column stores it.

    Attributes:
        name: An identifier, used in filters; "id" and the filter language's
            keywords are taken.
        kind: One of `KINDS`.
        encoding: One of `ENCODINGS`. Numbers, times and booleans use
            "number"; a category "vocabulary" (codes) or "hash" (64-bit
            fingerprints); tags also "bits" (one bit a value).
        dtype: The column's dtype, e.g. "uint8".
        width: Values a row: 1, but for tags stored as codes or hashes the
            most tags that one item may have.
        vocabulary: The known values of the encodings "vocabulary" and "bits".
            A value outside it is stored as "other".
    """

    name: str
    kind: str
    encoding: str = "number"
    dtype: str = "int64"
    width: int = 1
    vocabulary: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        check_attribute_name(self.name)
        if self.kind not in KINDS:
            raise ValueError(
                f"attribute {self.name!r}: `kind` must be one of "
                f"{', '.join(KINDS)}, got {self.kind!r}"
            )
        dtypes = _DTYPES.get((self.kind, self.encoding))
        if dtypes is None:
            allowed = [e for k, e in _DTYPES if k == self.kind]
            raise ValueError(
                f"attribute {self.name!r}: a {self.kind} can be encoded as "
                f"{' or '.join(allowed)}, got {self.encoding!r}"
            )
        if self.dtype not in dtypes:
            raise ValueError(
                f"attribute {self.name!r}: a {self.kind} encoded as "
                f"{self.encoding} is stored as {' or '.join(dtypes)}, got "
                f"{self.dtype!r}"
            )
        self._check_vocabulary()
        list_of_codes = self.kind == "tags" and self.encoding != "bits"
        if self.width < 1 or (self.width != 1 and not list_of_codes):
            raise ValueError(
                f"attribute {self.name!r}: `width` must be 1, or at least 1 "
                f"for tags stored as codes, got {self.width}"
            )

    def _check_vocabulary(self) -> None:
        words = self.vocabulary
        if self.encoding not in ("vocabulary", "bits"):
            if words:
                raise ValueError(
                    f"attribute {self.name!r}: encoding {self.encoding!r} "
                    f"takes no vocabulary, got {len(words)} values"
                )
            return
        if len(set(words)) != len(words) or "" in words:
            raise ValueError(
                f"attribute {self.name!r}: the vocabulary must hold distinct "
                'values, none of them ""'
            )
        if self.encoding == "bits":
            room = _BITS_OF[self.dtype] - FIRST_BIT
        else:
            room = (1 << _BITS_OF[self.dtype]) - FIRST_CODE
        if len(words) > room:
            raise ValueError(
                f"attribute {self.name!r}: {self.dtype} has room for {room} "
                f"values, got a vocabulary of {len(words)}; take a wider dtype"
            )

    @property
    def decodable(self) -> bool:
        """Whether stored values can be turned back into what was given."""
        return self.encoding != "hash"


@dataclasses.dataclass(frozen=True)
class Quantization:
    """The 1-bit codes of an index: Sign-OPORP (arXiv 2302.03505).

    A code has `bins * repeats` bits. One repeat permutes the coordinates,
    gives each a random sign and sums them into `bins` bins; the signs of the
    sums are its bits.

    Attributes:
        bins: Bits of one repeat, 1 to `dim`. Few bins (`dim / 16` to
            `dim / 8`) make long codes good; `dim` of them are the signs of
            the coordinates, which a second repeat would only copy.
        repeats: How many repeats; `bins * repeats` is a multiple of 64.
        seed: Of the permutations and signs; not negative.
        scoring: "symmetric" counts the bits that the item's code shares with
            the query's; "asymmetric" keeps the query in full, which finds
            more at the same length.
        shortlist: Rows that are kept by their codes to be scored in full;
            at least `k` are.

    >>> Quantization(bins=16, repeats=32).bits
    512
    """

    bins: int
    repeats: int
    seed: int = 0
    scoring: str = "asymmetric"
    shortlist: int = 1000

    def __post_init__(self) -> None:
        for name, least in (
            ("bins", 1),
            ("repeats", 1),
            ("seed", 0),
            ("shortlist", 1),
        ):
            value = getattr(self, name)
            if not is_int(value) or value < least:
                raise ValueError(
                    f"quantization: `{name}` must be an integer of at least "
                    f"{least}, got {value!r}"
                )
        if self.seed >= 1 << 63:
            raise ValueError(
                f"quantization: `seed` must fit int64, got {self.seed}"
            )
        if self.bits % WORD_BITS:
            raise ValueError(
                "quantization: `bins` * `repeats` must be a multiple of "
                f"{WORD_BITS}, because codes are stored in words of "
                f"{WORD_BITS} bits, got {self.bins} * {self.repeats} = "
                f"{self.bits}"
            )
        if self.bits > MAX_CODE_BITS:
            raise ValueError(
                f"quantization: `bins` * `repeats` must be at most "
                f"{MAX_CODE_BITS}, got {self.bins} * {self.repeats} = "
                f"{self.bits}"
            )
        if self.scoring not in SCORINGS:
            raise ValueError(
                f"quantization: `scoring` must be one of "
                f"{', '.join(SCORINGS)}, got {self.scoring!r}"
            )

    @property
    def bits(self) -> int:
        """Bits of a code."""
        return self.bins * self.repeats

    @property
    def words(self) -> int:
        """64-bit words of a code."""
        return self.bits // WORD_BITS

    def check_dim(self, dim: int) -> None:
        """Raises ValueError unless vectors of length `dim` have such codes."""
        if self.bins > dim:
            raise ValueError(
                f"quantization: `bins` must be at most {dim}, the length of "
                f"the embeddings, got {self.bins}; use fewer bins and more "
                "repeats"
            )
        if self.bins == dim and self.repeats > 1:
            raise ValueError(
                f"quantization: {self.repeats} repeats of {dim} bins on "
                f"embeddings of length {dim} are the same signs "
                f"{self.repeats} times over; use fewer bins (`dim / 8` or "
                "less) for a longer code"
            )


@dataclasses.dataclass(frozen=True)
class IndexSchema:
    """The ids, the embeddings and the attributes of an index.

    Attributes:
        dim: Length of the embeddings; with a similarity those are its item
            vectors.
        metric: "inner_product", "cosine" (embeddings are normalised on the
            way in, queries when they arrive) or "l2" (the score is minus the
            squared distance).
        id_dtype: "int64" or "string"; -1 and "" are reserved for "no item".
        attributes: The filterable attributes, in column order.
        limits: What a filter may cost.
        dtype: Of the stored embeddings: "float32"; "bfloat16" and "float16"
            (rounded); "int8" (with a scale for each row); "none": their codes
            are all that is stored.
        quantization: The codes, or None if there are none. With a similarity
            they are those of the item components alone.
        format_version: Of the SavedModel's state; `SIMILARITY_FORMAT` with a
            similarity, whatever is given.
        similarity: What scores items in place of the metric, which is
            "inner_product" then; None if the metric does.
    """

    dim: int
    metric: str = "inner_product"
    id_dtype: str = "int64"
    attributes: tuple[Attribute, ...] = ()
    limits: FilterLimits = FilterLimits()
    dtype: str = "float32"
    quantization: Quantization | None = None
    format_version: int = FORMAT_VERSION
    similarity: SimilaritySpec | None = None

    def __post_init__(self) -> None:
        if self.similarity is not None:
            if self.format_version == FORMAT_VERSION:
                object.__setattr__(self, "format_version", SIMILARITY_FORMAT)
        elif self.format_version == SIMILARITY_FORMAT:
            object.__setattr__(self, "format_version", FORMAT_VERSION)
        if self.format_version not in FORMATS:
            raise ValueError(
                f"this lintf reads the index formats "
                f"{', '.join(map(str, FORMATS))}, got format "
                f"{self.format_version}; export the index again with this "
                "version, or use the version of lintf that wrote it"
            )
        if not is_int(self.dim) or self.dim < 1:
            raise ValueError(
                f"`dim` must be a positive integer, got {self.dim!r}"
            )
        for name, value, allowed in (
            ("metric", self.metric, METRICS),
            ("id_dtype", self.id_dtype, ID_DTYPES),
            ("dtype", self.dtype, DTYPES),
        ):
            if value not in allowed:
                raise ValueError(
                    f"`{name}` must be one of {', '.join(allowed)}, "
                    f"got {value!r}"
                )
        names = [a.name for a in self.attributes]
        twice = sorted({n for n in names if names.count(n) > 1})
        if twice:
            raise ValueError(
                f"attribute names must be distinct, got {', '.join(twice)} "
                "more than once"
            )
        if self.similarity is not None:
            self._check_similarity(self.similarity)
        if self.quantization is not None:
            self.quantization.check_dim(self.coded_dim)
        elif self.dtype == "none":
            raise ValueError(
                '`dtype` "none" stores codes alone, so there must be a '
                "`quantization`; give one, or store the embeddings"
            )
        if self.dtype == "int8" and self.dim > MAX_INT8_DIM:
            raise ValueError(
                f"`dim` must be at most {MAX_INT8_DIM} for dtype int8, whose "
                f"sums are kept in 32 bits, got {self.dim}"
            )
        plain = self.dtype == "float32" and self.quantization is None
        if self.format_version == 1 and not plain:
            raise ValueError(
                "index format 1 has float32 embeddings and no codes, got "
                f"dtype {self.dtype!r} and {self.quantization}"
            )

    def _check_similarity(self, similarity: SimilaritySpec) -> None:
        if self.format_version == 1:
            raise ValueError(
                "index format 1 has no similarity; leave `format_version` out"
            )
        if self.metric != "inner_product":
            raise ValueError(
                '`metric` must be "inner_product" with a learned similarity, '
                f"which takes its place, got {self.metric!r}"
            )
        if self.dim != similarity.item_dim:
            raise ValueError(
                f"`dim` must be {similarity.item_dim}, the length of the "
                f"similarity's item vectors, got {self.dim}"
            )
        if self.dtype == "none":
            raise ValueError(
                "an index with a learned similarity must store its item "
                'vectors, which scores are made of, got `dtype` "none"; '
                "choose another one"
            )

    @property
    def query_dim(self) -> int:
        """Length of a query's embedding."""
        if self.similarity is None:
            return self.dim
        return self.similarity.query_dim

    @property
    def coded_dim(self) -> int:
        """How many of an embedding's numbers codes are made of: the first.

        A similarity's components, without the item's gate.
        """
        if self.similarity is None:
            return self.dim
        return self.similarity.components_dim

    def attribute(self, name: str) -> Attribute:
        """The attribute called `name`.

        Raises:
            KeyError: There is none; the message lists those there are.
        """
        for attribute in self.attributes:
            if attribute.name == name:
                return attribute
        known = ", ".join(a.name for a in self.attributes) or "none"
        raise KeyError(f"no attribute {name!r}; the index has: {known}")

    def to_json(self) -> str:
        """The schema as JSON text, the same for equal schemas."""
        data = dataclasses.asdict(self)
        if self.format_version == 1:
            del data["dtype"], data["quantization"]
        if self.similarity is None:
            # As it was before there were any.
            del data["similarity"]
        return json.dumps(data, sort_keys=True)

    @classmethod
    def from_json(cls, text: str | bytes) -> IndexSchema:
        """The schema that `to_json` wrote.

        >>> schema = IndexSchema(dim=4, attributes=(Attribute("year", "int"),))
        >>> IndexSchema.from_json(schema.to_json()) == schema
        True
        """
        data: dict[str, Any] = json.loads(text)
        if data.get("format_version") not in FORMATS:
            # Fields may differ between formats: say which, not what is odd.
            return cls(dim=1, format_version=data.get("format_version", -1))
        attributes = tuple(
            Attribute(**{**a, "vocabulary": tuple(a["vocabulary"])})
            for a in data.pop("attributes")
        )
        limits = FilterLimits(**data.pop("limits"))
        codes = data.pop("quantization", None)
        similarity = data.pop("similarity", None)
        return cls(
            attributes=attributes,
            limits=limits,
            quantization=codes and Quantization(**codes),
            similarity=similarity and SimilaritySpec(**similarity),
            **data,
        )


def is_int(value: object) -> bool:
    """Whether `value` is an integer, which True and False are not."""
    return isinstance(value, int) and not isinstance(value, bool)


def check_attribute_name(name: str) -> None:
    """Raises ValueError unless `name` can name an attribute."""
    if not isinstance(name, str) or not _NAME.match(name):
        raise ValueError(
            "an attribute name must be letters, digits and _, not starting "
            f"with a digit, got {name!r}"
        )
    if name.lower() in _RESERVED:
        raise ValueError(
            f"{name!r} cannot name an attribute: it has a meaning of its own "
            "in filters; choose another name"
        )


def infer_attribute(
    name: str,
    kind: str,
    values: Iterable[Any],
    *,
    encoding: str | None = None,
    dtype: str | None = None,
    width: int | None = None,
) -> Attribute:
    """Chooses the cheapest way to store an attribute with these values.

    Args:
        name: The attribute's name.
        kind: One of `KINDS`.
        values: One value a row: a string or None (category), a sequence of
            strings or None (tags); not read for the numeric kinds.
        encoding: Forces "vocabulary", "hash" or "bits".
        dtype: Forces the column's dtype.
        width: Tags stored as codes: room for this many a row; by default the
            most that occur.

    >>> infer_attribute("genre", "tags", [["Drama", "War"], None]).encoding
    'bits'
    """
    if kind not in ("category", "tags"):
        default = {"float": "float32", "bool": "int8"}.get(kind, "int64")
        return Attribute(name, kind, "number", dtype or default)
    distinct: set[str] = set()
    most = 1
    for value in values:
        if kind == "category":
            distinct.add(value or "")
        elif value is not None:
            distinct.update(value)
            most = max(most, len(set(value) - {""}))
    distinct.discard("")
    vocabulary = tuple(sorted(distinct))
    if encoding is None:
        if kind == "tags" and len(vocabulary) < 64:
            encoding = "bits"
        elif len(vocabulary) <= MAX_VOCABULARY:
            encoding = "vocabulary"
        else:
            encoding = "hash"
    if encoding == "hash":
        vocabulary = ()
    if dtype is None:
        dtype = _cheapest_dtype(kind, encoding, len(vocabulary))
    codes = kind == "tags" and encoding != "bits"
    return Attribute(
        name,
        kind,
        encoding,
        dtype,
        (width or most) if codes else 1,
        vocabulary,
    )


def _cheapest_dtype(kind: str, encoding: str, size: int) -> str:
    for dtype in _DTYPES.get((kind, encoding), ()):
        if encoding == "hash":
            return dtype
        bits = _BITS_OF[dtype]
        room = bits - FIRST_BIT if encoding == "bits" else 2**bits - FIRST_CODE
        if size <= room:
            return dtype
    raise ValueError(
        f"{size} distinct values do not fit a {kind} encoded as {encoding}; "
        "use another encoding"
    )
