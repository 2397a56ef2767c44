# SPDX-License-Identifier: Apache-2.0
r"""Checks a written index against plain numpy, in a process of its own.

    python -m export.verify MODEL_DIR [--job JOB_FILE]

Loads the SavedModel as a server would, and compares: what every signature
returns with a brute-force answer over the stored variables, with and without
filters; the warm-up file's requests; and, given the job's file, everything
stored with the items that the job read. Exits with 1 on the first mismatch.
"""

from __future__ import annotations

import json
import pathlib
import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow as tf
from absl import app, flags

from export import brute_force, queries, recall, towers, warmup
from export.brute_force import Table
from export.config import JobConfig, LogConfig, SavedTower
from export.items import ItemBatch, Items
from export.mismatch import MismatchError, expect
from export.parse import to_dataclass
from export.publish import read_build
from export.verify_updates import check_signatures, check_updates
from lintf import ops
from lintf.index import columns, storage
from lintf.index.index import code_rows
from lintf.index.plan import BY_EMBEDDING
from lintf.index.schema import Attribute, IndexSchema
from lintf.index.shards import shard_of

_QUERIES = 24
_LOOKUPS = 64
# For the recall: it is asked again with queries of this process.
_RECALL_QUERIES = 64
# Results of a query whose attributes are compared.
_RETURNED = 100
# Codes of so many blocks of so many rows are made again.
_CODE_BLOCKS, _BLOCK = 64, 1 << 10
# Batches of this many items have their embeddings computed again.
_TOWER_BATCHES = 4


class Verifier:
    """A loaded SavedModel beside its variables as arrays."""

    def __init__(self, model: pathlib.Path) -> None:
        self._path = model
        self._defs = warmup.signatures(model)
        self._model = tf.saved_model.load(str(model))
        self._signatures = self._model.signatures
        stats = self._call("index_stats", probe=np.zeros(1, np.int64))
        self._stats = {name: value[0] for name, value in stats.items()}
        self.schema = IndexSchema.from_json(self._stats["schema"])
        tables = _read_tables(model, self.schema)
        self.table = brute_force.joined(tables)
        # The first row of each shard.
        self._first_rows = np.cumsum([0, *(len(t.ids) for t in tables[:-1])])
        self._build = read_build(model)
        self._reports = self._build.get("recall", [])
        self._rows_of = brute_force.row_finder(self.table.ids)
        self._portable = "filter_program" in (
            self._defs["retrieve_by_embedding"].inputs
        )
        self._retrieval = sorted(
            name.removesuffix(BY_EMBEDDING)
            for name, signature in self._defs.items()
            if warmup.is_retrieval(signature)
            and "query_embedding" in signature.inputs
            and name.endswith(BY_EMBEDDING)
        )

    def check(self, job: Mapping[str, Any] | None = None) -> list[str]:
        """Makes all checks; returns what was checked.

        Args:
            job: The job's file, if the items are to be read again.

        Raises:
            MismatchError: The first thing that is wrong.
        """
        done = [self._check_signatures(), self._check_stats()]
        if job is not None:
            done.append(self._check_items(job))
        done += [
            self._check_codes(),
            self._check_lookup(),
            *(self._check_retrieval(name) for name in self._retrieval),
            *(
                self._check_recall(r, job)
                for r in self._build.get("recall", ())
            ),
            self._check_tower(),
            self._check_warmup(),
            # Last, because it changes what was loaded.
            self._check_updates(job),
        ]
        return [text for text in done if text]

    def _call(self, signature: str, **inputs: Any) -> dict[str, np.ndarray]:
        tensors = {
            name: tf.constant(
                value,
                tf.dtypes.as_dtype(self._defs[signature].inputs[name].dtype),
            )
            for name, value in inputs.items()
        }
        outputs = self._signatures[signature](**tensors)
        return {name: value.numpy() for name, value in outputs.items()}

    def _check_signatures(self) -> str:
        wanted = {
            "serving_default",
            "retrieve_by_embedding",
            "lookup",
            "index_stats",
        }
        expect(
            wanted <= set(self._defs),
            f"the signatures {sorted(wanted)} must be there, got "
            f"{sorted(self._defs)}",
        )
        check_signatures(self._defs, self._build)
        for name, signature in self._defs.items():
            for key, info in [
                *signature.inputs.items(),
                *signature.outputs.items(),
            ]:
                shape = info.tensor_shape
                expect(
                    not shape.unknown_rank and len(shape.dim) >= 1,
                    f"{name}: {key} must have a known rank and a batch "
                    "dimension",
                )
        return f"{len(self._defs)} signatures"

    def _check_stats(self) -> str:
        stats, rows = self._stats, len(self.table.ids)
        for name in ("num_rows", "live_rows"):
            expect(
                int(stats[name]) == rows,
                f"index_stats: {name} must be {rows}, got {stats[name]}",
            )
        build = self._build.get("build_id")
        if build is not None:
            expect(
                stats["build_id"].decode() == build,
                f"index_stats: the build id must be {build}, got "
                f"{stats['build_id']!r}",
            )
        # A snapshot's record has offsets of its own.
        wanted = self._build.get("log_offsets")
        log = self._build.get("config", {}).get("log")
        if wanted is None and log is not None:
            wanted = list(to_dataclass(LogConfig, log).initial_offsets())
        if wanted is not None:
            got = stats["log_offsets"].tolist()
            expect(
                got == wanted,
                f"index_stats: the log's offsets must be {wanted}, got {got}",
            )
        return f"{rows:,} rows"

    def _check_updates(self, job: Mapping[str, Any] | None) -> str:
        features, row = None, 0
        if job is not None and job["item_tower"] is not None:
            tower = towers.load(to_dataclass(SavedTower, job["item_tower"]))
            items = Items(to_dataclass(JobConfig, job["config"]))
            items.take_features(tower.feature_specs)
            first = next(iter(items.batches(1)))
            features = first.features
            # The first item need not be in the first shard.
            nothing = [0] * len(self._first_rows)
            row = int(self._next_rows(self._ids(first), nothing)[0])
        return check_updates(self._call, self.table, self._defs, features, row)

    def _check_items(self, job: Mapping[str, Any]) -> str:
        """Compares everything stored with the items, read again."""
        config = to_dataclass(JobConfig, job["config"])
        items = Items(config)
        tower = None
        if job["item_tower"] is not None:
            tower = towers.load(to_dataclass(SavedTower, job["item_tower"]))
            items.take_features(tower.feature_specs)
        batch_size = config.fill.batch_size
        total = -(-len(self.table.ids) // batch_size)
        computed = set(np.linspace(0, total - 1, _TOWER_BATCHES, dtype=int))
        rows = 0
        in_shards = [0] * len(self._first_rows)
        for step, batch in enumerate(items.batches(batch_size)):
            ids = self._ids(batch)
            here = self._next_rows(ids, in_shards)
            rows += len(batch)
            self._same(self.table.ids[here], ids, "id", here)
            for attribute in self.schema.attributes:
                given = columns.encode(
                    attribute, batch.attributes[attribute.name]
                )
                self._same(
                    self.table.attributes[attribute.name][here],
                    given,
                    f"attribute {attribute.name!r}",
                    here,
                )
            if tower is None:
                vectors = batch.embeddings
            elif step in computed:
                vectors = tower(batch.features).numpy()
            else:
                continue
            self._check_vectors(np.asarray(vectors), here)
        expect(
            rows == len(self.table.ids),
            f"the index must hold {rows} items, holds {len(self.table.ids)}",
        )
        return "ids, attributes and embeddings of all items read again"

    def _ids(self, batch: ItemBatch) -> np.ndarray:
        """The ids of items as the index stores them: `[n]` int64."""
        ids: Any = batch.ids
        if self.schema.id_dtype == "string":
            ids = columns.fingerprints(ids)
        return np.asarray(ids, np.int64)

    def _next_rows(self, ids: np.ndarray, in_shards: list[int]) -> np.ndarray:
        """Where the next items must be.

        Args:
            ids: `[n]` int64 of the items.
            in_shards: Items before these in each shard; is updated.
        """
        rows = np.empty(len(ids), np.int64)
        numbers = shard_of(ids, len(self._first_rows)).numpy()
        for shard, first in enumerate(self._first_rows):
            here = np.flatnonzero(numbers == shard)
            rows[here] = first + in_shards[shard] + np.arange(len(here))
            in_shards[shard] += len(here)
        # Where there are too few, the items are not those of the index.
        return np.minimum(rows, len(self.table.ids) - 1)

    def _check_vectors(self, vectors: np.ndarray, here: np.ndarray) -> None:
        vectors = vectors.astype(np.float64)
        if self.schema.metric == "cosine":
            vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
        shape = (len(self.table.ids[here]), self.schema.dim)
        expect(
            shape == vectors.shape,
            f"embeddings must be {vectors.shape} here, got {shape}",
        )
        scale = np.abs(vectors).max(axis=1, keepdims=True, initial=1e-30)
        # A tower may round differently from one process to the next.
        off = np.broadcast_to(1e-5 * scale, shape)
        if self.table.codes is not None:
            self._check_row_codes(vectors, off, here)
        if self.table.embeddings is None:
            return
        off = off + storage.error_bound(vectors, self.schema.dtype)
        wrong = np.abs(self.table.embeddings[here] - vectors) > off
        if wrong.any():
            row = int(np.argmax(wrong.any(axis=1)))
            raise MismatchError(
                f"row {here[row]}: the stored embedding is not that of the item"
            )

    def _check_codes(self) -> str:
        """The codes must be those of the stored embeddings."""
        embeddings = self.table.embeddings
        if self.table.codes is None or embeddings is None:
            return ""
        for begin in _spread(len(embeddings), _CODE_BLOCKS):
            here = np.arange(begin, min(begin + _BLOCK, len(embeddings)))
            vectors = embeddings[here]
            # Twice: the bound is one of what was given, not of what is stored.
            off = 2 * storage.error_bound(vectors, self.schema.dtype)
            self._check_row_codes(vectors, off, here)
        return "codes"

    def _check_row_codes(
        self, vectors: np.ndarray, off: np.ndarray, here: np.ndarray
    ) -> None:
        row = brute_force.code_mismatch(self.table, here, vectors, off)
        if row is not None:
            raise MismatchError(
                f"row {here[row]}: the stored code is not that of the item"
            )

    def _same(
        self,
        stored: np.ndarray,
        given: np.ndarray,
        what: str,
        here: np.ndarray,
    ) -> None:
        equal = stored.shape == given.shape and np.array_equal(
            stored, given, equal_nan=stored.dtype.kind == "f"
        )
        if equal:
            return
        row = here[0]
        if stored.shape == given.shape:
            differ = (stored != given).reshape(len(stored), -1).any(axis=1)
            row = here[np.argmax(differ)]
        raise MismatchError(f"row {row}: the stored {what} is not the item's")

    def _check_lookup(self) -> str:
        table = self.table
        rows = _spread(len(table.ids), _LOOKUPS)
        ids: Any = table.ids[rows]
        unknown: Any = self._unknown_id()
        if table.texts is not None:
            ids, unknown = table.texts[rows], "no such item"
        found = self._call("lookup", id=[*ids, unknown])
        expect(
            bool(found["found"][:-1].all() and not found["found"][-1]),
            "lookup must find the items that are there, and only these",
        )
        expect(
            ("embedding" in found) == (table.embeddings is not None),
            "lookup must return the embedding if one is stored, and only then",
        )
        if table.embeddings is not None:
            self._same(
                found["embedding"][:-1],
                table.embeddings[rows],
                "embedding that lookup returns",
                rows,
            )
        for attribute in self.schema.attributes:
            if attribute.decodable:
                self._check_decoded(
                    attribute.name, found[f"attribute_{attribute.name}"], rows
                )
        return f"lookup of {len(rows)} items"

    def _check_decoded(
        self, name: str, values: np.ndarray, rows: np.ndarray
    ) -> None:
        attribute = self.schema.attribute(name)
        stored = columns.decode(attribute, self.table.attributes[name][rows])
        for row, value, expected in zip(rows, values, stored, strict=False):
            expect(
                _same_value(attribute, value, expected),
                f"row {row}: attribute {name!r} must be {expected!r}, got "
                f"{value!r}",
            )

    def _unknown_id(self) -> int:
        candidates = -np.arange(2, len(self.table.ids) + 3)
        return int(candidates[self._rows_of(candidates) == -1][0])

    def _check_retrieval(self, signature: str) -> str:
        random = np.random.default_rng(0)
        filters = brute_force.random_filters(self.table, _QUERIES, random)
        while len(filters) < _QUERIES:
            filters.append(filters[0])
        asked = self._queries(random)
        before = self._searches()
        found = self._retrieve(asked, [f.text for f in filters], signature)
        counted = self._searches() - before
        expect(
            self._portable or counted == _QUERIES,
            f"index_stats must count the {_QUERIES} searches of {signature}, "
            f"counted {counted}",
        )
        exact = not self._may_approximate(signature)
        self._check_scored(found, filters, signature)
        for i, one in enumerate(filters):
            wrong = brute_force.check_result(
                self.table,
                asked[i],
                one.passing,
                self._rows(found["ids"][i]),
                found["scores"][i],
                int(found["num_results"][i]),
                exact=exact,
            )
            expect(
                wrong is None,
                f"{signature}{BY_EMBEDDING}, filter {one.text!r}: {wrong}",
            )
        self._check_returned(found)
        return (
            f"{_QUERIES} searches of {signature}, {len(filters)} filters, by "
            "brute force"
        )

    def _searches(self) -> int:
        """How many queries the index has answered so far."""
        stats = self._call("index_stats", probe=np.zeros(1, np.int64))
        return sum(
            int(value[0])
            for name, value in stats.items()
            if name.startswith("searches_")
        )

    def _may_approximate(self, signature: str) -> bool:
        """Whether a better item may be missing: the search has two stages."""
        learned = self.schema.similarity is not None
        if learned and self._portable:
            return False
        if not learned and (
            self.table.codes is None or self.table.embeddings is None
        ):
            return False
        algorithm = self._algorithm(signature)
        return algorithm in ("auto", "two_stage" if learned else "quantized")

    def _algorithm(self, signature: str) -> str:
        config = self._build.get("config", {}).get("retrieve", {})
        named = {v["name"]: v for v in config.get("variants", ())}
        search = config if signature == "retrieve" else named.get(signature, {})
        return str(search.get("algorithm", "auto"))

    def _check_scored(
        self,
        found: Mapping[str, np.ndarray],
        filters: Sequence[brute_force.Filter],
        signature: str,
    ) -> None:
        """With a learned similarity the work that was done is told."""
        learned = self.schema.similarity is not None
        expect(
            ("num_scored" in found) == learned,
            f"{signature}: num_scored must be there with a learned similarity, "
            "and only then",
        )
        if not learned or self._portable:
            return
        for one, scored, results in zip(
            filters, found["num_scored"], found["num_results"], strict=True
        ):
            passing = int(one.passing.sum())
            least = results
            if self._algorithm(signature) == "exact":
                least = passing
            expect(
                least <= scored <= passing,
                f"{signature}{BY_EMBEDDING}, filter {one.text!r}: num_scored "
                f"must be from {least} to {passing}, got {scored}",
            )

    def _check_recall(
        self, report: Mapping[str, Any], job: Mapping[str, Any] | None
    ) -> str:
        """Asks again, with other queries than the job did.

        Without embeddings there is nothing to compare with here; that codes
        are searched as they should be has been checked.
        """
        if self.table.embeddings is None:
            return ""
        signature, k = report["signature"], report["k"]
        asked = self._recall_queries(job)
        if asked is None:
            return ""
        filters = [""] * len(asked.vectors)
        exact = np.full((len(filters), k), -1)
        for i, own in enumerate(asked.own):
            right = brute_force.scores(self.table, asked.vectors[i])
            if own >= 0:
                filters[i] = brute_force.all_but(self.table, own)
                right[own] = -np.inf
            best = np.argsort(-right, kind="stable")[: k + 1]
            best = best[best != own][:k]
            exact[i, : len(best)] = best
        found = self._retrieve(asked.vectors, filters, signature)
        rows = np.array([self._rows(ids) for ids in found["ids"]])
        shares = recall.shares(exact, rows)
        # The job asked other queries: what chance may do is no mismatch.
        chance = 3 * float(np.std(shares)) / np.sqrt(max(len(shares), 1))
        got = recall.mean(shares)
        expect(
            got >= report["floor"] - chance,
            f"{signature}: the recall must be at least {report['floor']:g}, "
            f"got {got:.4f} on {len(shares)} queries",
        )
        return f"recall@{k} of {signature} {got:.3f}"

    def _recall_queries(
        self, job: Mapping[str, Any] | None
    ) -> queries.QuerySet | None:
        """As the job's, but for the seed; None if they can't be had."""
        codes, count = self.schema.quantization, _RECALL_QUERIES
        seed = 1 if codes is None else codes.seed + 1
        if job is not None and "embed_query" in self._defs:
            config = to_dataclass(JobConfig, job["config"])
            known = self._defs["embed_query"].inputs
            specs = {
                name: tf.TensorSpec(tf.TensorShape(info.tensor_shape))
                for name, info in known.items()
            }
            file = config.retrieve.recall_features
            features: dict[str, np.ndarray] | None
            if self.schema.similarity is not None and file is not None:
                features = queries.features_from_file(
                    file.path, specs, count, seed
                )
            else:
                features = queries.recipe_features(config, specs, count, seed)
            if features is not None:
                embedded = self._call("embed_query", **features)
                return queries.of_tower(embedded["query_embedding"])
        if self.schema.similarity is not None:
            # An item's vector is no query's.
            return None
        assert self.table.embeddings is not None
        rows = queries.sample(len(self.table.ids), count, seed)
        rows = rows[[bool(brute_force.all_but(self.table, r)) for r in rows]]
        return queries.of_items(self.table.embeddings[rows], rows)

    def _queries(self, random: np.random.Generator) -> np.ndarray:
        """Random directions, and items' own embeddings a little off."""
        dim = self.schema.query_dim
        noise = random.standard_normal((_QUERIES, dim)).astype(np.float32)
        if self.table.embeddings is None or self.schema.similarity is not None:
            return noise
        rows = random.integers(len(self.table.ids), size=_QUERIES)
        near = self.table.embeddings[rows]
        spread = np.abs(near).mean() or 1.0
        near = near + np.float32(0.1 * spread) * noise
        odd = np.arange(_QUERIES)[:, np.newaxis] % 2 == 1
        return np.where(odd, near, noise * np.float32(spread))

    def _check_returned(self, found: Mapping[str, np.ndarray]) -> None:
        for name, values in found.items():
            if not name.startswith("attribute_"):
                continue
            for i, ids in enumerate(found["ids"]):
                rows = self._rows(ids[:_RETURNED])
                rows = rows[rows >= 0]
                self._check_decoded(
                    name.removeprefix("attribute_"), values[i], rows
                )

    def _retrieve(
        self,
        embeddings: np.ndarray,
        filters: Sequence[str],
        signature: str = "retrieve",
    ) -> dict[str, np.ndarray]:
        return self._call(
            signature + BY_EMBEDDING,
            query_embedding=embeddings,
            **self._filter_inputs(filters),
        )

    def _filter_inputs(self, filters: Sequence[str]) -> dict[str, Any]:
        if not self._portable:
            return {"filter": list(filters)}
        programs = ops.compile_filter(
            tf.constant(list(filters)),
            schema=self.schema,
            pad_words=self.schema.limits.max_words,
        )
        return {"filter_program": programs.numpy()}

    def _rows(self, ids: np.ndarray) -> np.ndarray:
        if self.schema.id_dtype == "int64":
            return self._rows_of(ids)
        prints = columns.fingerprints([i.decode() for i in ids])
        return np.where(ids == b"", -1, self._rows_of(prints))

    def _check_tower(self) -> str:
        """Raw features must give what their embedding gives."""
        if "embed_query" not in self._defs:
            return ""
        features = warmup.example_inputs(self._defs["embed_query"], 3)
        query = self._call("embed_query", **features)["query_embedding"]
        expect(
            query.shape == (3, self.schema.query_dim)
            and np.isfinite(query).all(),
            f"embed_query must return [3, {self.schema.query_dim}] finite "
            f"numbers, got {query.shape}",
        )
        filters = [
            f.text
            for f in brute_force.random_filters(
                self.table, 3, np.random.default_rng(1)
            )
        ]
        filters += [""] * (3 - len(filters))
        inputs = {**features, **self._filter_inputs(filters)}
        whole = self._call("serving_default", **inputs)
        apart = self._retrieve(query, filters)
        expect(
            np.array_equal(whole["num_results"], apart["num_results"]),
            "serving_default and retrieve_by_embedding must find as many",
        )
        size = max(brute_force.tolerance(self.table, q) for q in query)
        close = np.isclose(
            whole["scores"], apart["scores"], rtol=1e-5, atol=size
        )
        expect(
            bool(close.all()),
            "serving_default and retrieve_by_embedding must give the same "
            "scores",
        )
        return "query tower"

    def _check_warmup(self) -> str:
        if not (self._path / warmup.FILE).is_file():
            raise MismatchError("there are no warm-up requests")
        records = warmup.read_warmup(self._path)
        covered = {signature for signature, _ in records}
        expect(
            covered == set(warmup.read_signatures(self._defs)),
            f"warm-up requests must cover {sorted(self._defs)}, cover "
            f"{sorted(covered)}",
        )
        for signature, inputs in records:
            self._call(signature, **inputs)
        return f"{len(records)} warm-up requests"


def main(argv: Sequence[str]) -> int:
    """Verifies the directory that the command line names."""
    if len(argv) != 2:
        raise app.UsageError("expected one argument: the SavedModel directory")
    job = None
    if flags.FLAGS.job:
        job = json.loads(pathlib.Path(flags.FLAGS.job).read_text("utf-8"))
    try:
        done = Verifier(pathlib.Path(argv[1])).check(job)
    except MismatchError as error:
        print(f"MISMATCH: {error}", file=sys.stderr)
        return 1
    except (tf.errors.OpError, OSError, ValueError, KeyError) as error:
        print(f"MISMATCH: the index cannot be used: {error}", file=sys.stderr)
        return 1
    print("Verified: " + "; ".join(done))
    return 0


def _read_tables(model: pathlib.Path, schema: IndexSchema) -> list[Table]:
    """Reads the variables from the checkpoint, without the model.

    Returns:
        What each shard holds; of an index in one piece, all.
    """
    reader = tf.train.load_checkpoint(str(model / "variables" / "variables"))
    names = reader.get_variable_to_shape_map()
    found = [re.search(r"/shards/([0-9]+)/ids/", name) for name in names]
    numbers = sorted(int(match[1]) for match in found if match)
    folders = [f"shards/{number}/" for number in numbers]
    return [
        _read_table(reader, names, folder, schema) for folder in folders or [""]
    ]


def _read_table(
    reader: Any, names: Iterable[str], folder: str, schema: IndexSchema
) -> Table:
    def read(path: str) -> np.ndarray:
        # The served module holds the index as `index` or `state`; a tower's
        # variable of that name would lie deeper.
        found = sorted((n for n in names if n.endswith("/" + path)), key=len)
        if not found:
            raise MismatchError(f"the checkpoint holds no {path!r}")
        return np.asarray(reader.get_tensor(found[0]))

    def values(name: str) -> np.ndarray:
        return read(f"{folder}{name}/.ATTRIBUTES/VARIABLE_VALUE")

    def variable(name: str) -> np.ndarray:
        return values(name)[:rows]

    rows = int(values("num_rows"))
    ids = variable("ids")
    texts = None
    if schema.id_dtype == "string":
        texts = _texts(
            ids,
            read("id_text/.ATTRIBUTES/table-keys"),
            read("id_text/.ATTRIBUTES/table-values"),
        )
    embeddings = None
    if schema.dtype != "none":
        scales = variable("scales") if schema.dtype == "int8" else None
        embeddings = storage.decode(variable("embeddings"), scales)
    codes = None
    if schema.quantization is not None:
        codes = code_rows(values("codes"), rows)
    weights = None
    if schema.similarity is not None:
        # One set, whatever the shards.
        weights = {
            name: read(f"similarity/{name}/.ATTRIBUTES/VARIABLE_VALUE")
            for name in schema.similarity.weight_shapes()
        }
    return Table(
        schema,
        ids,
        embeddings,
        {a.name: variable(f"attributes/{a.name}") for a in schema.attributes},
        texts,
        codes,
        weights,
    )


def _texts(
    ids: np.ndarray, prints: np.ndarray, stored: np.ndarray
) -> np.ndarray:
    """The text of each id, from a table of fingerprints and texts."""
    order = np.argsort(prints)
    places = np.searchsorted(prints[order], ids)
    places = order[np.minimum(places, len(prints) - 1)]
    expect(
        np.array_equal(prints[places], ids),
        "every string id must have its text in the index",
    )
    return np.array([text.decode() for text in stored[places]], object)


def _spread(total: int, count: int) -> np.ndarray:
    return np.unique(np.linspace(0, total - 1, count, dtype=np.int64))


def _same_value(attribute: Attribute, value: Any, expected: Any) -> bool:
    """Whether a decoded output is what the column holds, in Python terms."""
    if attribute.kind == "tags":
        words = [w.decode() for w in value.tolist() if w]
        return words == sorted(expected)
    if attribute.kind == "category":
        return bool(value.decode() == (expected or ""))
    if expected is None:
        missing = -1 if attribute.kind == "bool" else np.iinfo(np.int64).min
        return bool(value != value or value == missing)
    return bool(value == expected)


if __name__ == "__main__":
    flags.DEFINE_string(
        "job", None, "The job.json of the build: read the items again."
    )
    app.run(lambda argv: sys.exit(main(argv)))
