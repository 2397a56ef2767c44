# SPDX-License-Identifier: Apache-2.0
"""The served model: an index and a query tower behind the signatures.

`ServedIndex` is what the export job saves. Its signatures are the contract
with clients: named, typed, with the batch as leading dimension everywhere.
"""

from __future__ import annotations

import dataclasses
import json
import os
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import tensorflow as tf

from lintf import ops
from lintf.index import columns, requests, towers
from lintf.index.batching import Batching, Tensors
from lintf.index.index import IndexState
from lintf.index.placement import place
from lintf.index.plan import (
    BY_EMBEDDING,
    Algorithm,
    Candidates,
    Plan,
    Variant,
    check_portable,
    check_variants,
)
from lintf.index.schema import IndexSchema
from lintf.index.search import (
    Found,
    NativeSearch,
    PortableSearch,
    batched_search,
)
from lintf.index.sharded import AnyIndex, ShardedIndex
from lintf.index.sharded_search import ShardedSearch
from lintf.index.signatures import ID, attribute_key
from lintf.index.updates import Updates, check_item_tower, id_spec

# What `ServedIndex` was made with, beside its index and towers.
SETTINGS_FILE = pathlib.PurePath("assets.extra", "lintf_serving.json")

# `index_stats` answers the same for every probe.
_MAX_PROBES = 64

# Inputs of the retrieve signatures beside the query tower's.
_RESERVED = frozenset(("filter", "filter_program"))


_Search = NativeSearch | PortableSearch | ShardedSearch


class ServedIndex(tf.Module):
    """An index with its query tower, ready to be saved and served.

    Attributes:
        index: The index.
        query_tower: Maps raw query features to embeddings, or None.
        k: Results a query.
    """

    def __init__(
        self,
        index: AnyIndex,
        query_tower: Any = None,
        *,
        k: int,
        algorithm: Algorithm = "auto",
        candidates: Candidates | None = None,
        budget: int | None = None,
        variants: Sequence[Variant] = (),
        costs: Sequence[float] = (),
        return_attributes: Sequence[str] = (),
        batching: Batching | None = None,
        portable: bool = False,
        max_request_rows: int = 1024,
        item_tower: Any = None,
        read_only: bool = False,
        max_update_rows: int = 10_000,
        build_id: str = "",
    ):
        """Puts signatures around an index.

        Args:
            index: The index to serve.
            query_tower: Called with a dict of tensors, returns
                `[batch, query_dim]` float32; has `feature_specs`, a dict of
                `tf.TensorSpec` with a leading None. Without it there are no
                signatures that take raw features, and `serving_default` is
                `retrieve_by_embedding`.
            k: Results a query, at least 1; may exceed the number of items.
            algorithm: As in a `Plan`, and so are the next two.
            candidates: As there.
            budget: As there.
            variants: Further retrieve signatures.
            costs: What "auto" decides by, from `ops.planner_costs`, or
                `ops.similarity_costs` with a learned similarity; empty for
                what is compiled in.
            return_attributes: Attributes that come back with the results.
            batching: Batches concurrent requests in the graph, or None.
            portable: Uses stock TensorFlow operations only. Filters then
                arrive as compiled programs, and searches are exact unless
                codes are all there is.
            max_request_rows: Most rows of one request; more is
                INVALID_ARGUMENT.
            item_tower: Like the query tower, of the items' raw features, for
                the signature `update`; None if embeddings are given. Its
                feature `id`, if any, is the item's id.
            read_only: Leaves out the signatures that change the index, which
                a portable one never has.
            max_update_rows: As `max_request_rows`, of updates.
            build_id: Names this build in `index_stats`.

        Raises:
            KeyError: A returned attribute is not in the schema.
            ValueError: Another argument is out of its range, or a tower does
                not fit the index.
        """
        super().__init__()
        for name, value in (
            ("max_request_rows", max_request_rows),
            ("max_update_rows", max_update_rows),
        ):
            if value < 1:
                raise ValueError(f"`{name}` must be at least 1, got {value}")
        schema = index.schema
        plan = Plan(k, algorithm, candidates=candidates, budget=budget)
        plan.check(schema)
        check_variants(variants)
        _check_costs(costs, schema)
        self._returned = [schema.attribute(n) for n in return_attributes]
        for attribute in self._returned:
            if not attribute.decodable:
                raise ValueError(
                    f"attribute {attribute.name!r} is stored as hashes and "
                    "cannot be returned; give it a vocabulary"
                )
        # The SavedModel holds what is tracked: all of the index, or only its
        # variables.
        self.__dict__["index"] = index
        self.state: Any = index
        if portable:
            check_portable(schema)
            if isinstance(index, ShardedIndex):
                raise ValueError(
                    "a portable index must be in one piece, got one of "
                    f"{index.sharding.count} shards"
                )
            self.state = IndexState(index)
        self.query_tower = query_tower
        # Lets the tower be used again without the code that made it.
        self.query_function = None
        self.k = k
        self._portable = portable
        self._build_id = build_id
        self._batching = batching
        self._max_rows = max_request_rows
        if batching is not None:
            self._max_rows = min(max_request_rows, batching.max_rows)
        names = [a.name for a in self._returned]

        def search(plan: Plan) -> _Search:
            if isinstance(index, ShardedIndex):
                return ShardedSearch(index, plan, names, costs)
            if portable:
                return PortableSearch(index, plan, names, self.state.projection)
            return NativeSearch(index, plan, names, costs)

        self._search = search(plan)
        self.__dict__["_variants"] = {
            v: search(v.plan_beside(plan, schema)) for v in variants
        }
        if query_tower is not None:
            towers.check(query_tower, "query", schema.query_dim, _RESERVED)
            self.query_function = towers.function(query_tower)
            fits = batching is not None and towers.captures_only_variables(
                self.query_function
            )
            self.__dict__["_tower_fits_in_batch"] = fits
        self.item_tower: Any = None
        self.item_function = None
        self._updates: Updates | None = None
        if not portable:
            self._take_updates(item_tower, read_only, max_update_rows)
        self.__dict__["_settings"] = {
            "k": k,
            "algorithm": algorithm,
            "candidates": candidates,
            "budget": budget,
            "variants": [dataclasses.asdict(v) for v in variants],
            "costs": [float(c) for c in costs],
            "return_attributes": list(return_attributes),
            "batching": batching and dataclasses.asdict(batching),
            "portable": portable,
            "max_request_rows": max_request_rows,
            "read_only": read_only,
            "max_update_rows": max_update_rows,
        }
        if isinstance(index, ShardedIndex):
            sharding = dataclasses.asdict(index.sharding)
            self._settings["shards"] = sharding

    def signatures(self) -> dict[str, Any]:
        """The concrete functions, by signature name."""
        filter_spec = self._filter_spec()
        embedding = {
            "query_embedding": tf.TensorSpec(
                [None, self.index.schema.query_dim], tf.float32
            )
        }
        retrieve = {("retrieve", "retrieve" + BY_EMBEDDING): self._search}
        for variant, search in self._variants.items():
            retrieve[variant.signatures] = search
        signatures = {
            "lookup": requests.concrete(self._lookup, self._id_spec()),
            "index_stats": requests.concrete(
                self._index_stats, {"probe": tf.TensorSpec([None], tf.int64)}
            ),
        }
        for (_, name), search in retrieve.items():
            signatures[name] = requests.concrete(
                self._retriever(
                    search,
                    lambda f: self._checked_queries(f["query_embedding"]),
                    embedding,
                ),
                embedding | filter_spec,
            )
        if self.query_tower is None:
            default = signatures["retrieve_by_embedding"]
        else:
            features = dict(self.query_tower.feature_specs)
            signatures["embed_query"] = requests.concrete(
                lambda **f: {
                    "query_embedding": self._embed(self._checked(f, features))
                },
                features,
            )
            for (name, _), search in retrieve.items():
                signatures[name] = requests.concrete(
                    self._retriever(
                        search,
                        self._embed,
                        features,
                        in_batch=self._tower_fits_in_batch,
                    ),
                    features | filter_spec,
                )
            default = signatures["retrieve"]
        signatures["serving_default"] = default
        if self._updates is not None:
            signatures |= self._updates.signatures()
        return signatures

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes the SavedModel to the directory `path`.

        Beside it lie this object's own settings, which `lintf.index.restore`
        makes it again from.
        """
        namespaces = [] if self._portable else ["Lintf"]
        tf.saved_model.save(
            self,
            os.fspath(path),
            signatures=self.signatures(),
            options=tf.saved_model.SaveOptions(namespace_whitelist=namespaces),
        )
        index = self.index
        place(path, index.sharding if isinstance(index, ShardedIndex) else None)
        settings = pathlib.Path(path, SETTINGS_FILE)
        settings.parent.mkdir(exist_ok=True)
        text = json.dumps(self._settings, indent=2, sort_keys=True) + "\n"
        settings.write_text(text, encoding="utf-8")

    def _take_updates(
        self, item_tower: Any, read_only: bool, max_rows: int
    ) -> None:
        if item_tower is not None:
            if not read_only:
                check_item_tower(item_tower, self.index.schema)
            # Kept in a read-only index, too: a snapshot may be made of it.
            self.item_tower = item_tower
            self.item_function = towers.function(item_tower)
        if not read_only:
            updates = Updates(self.index, item_tower, max_rows)
            self.__dict__["_updates"] = updates
            self.attribute_encoders = updates.encoders

    def _embed(self, features: Mapping[str, tf.Tensor]) -> tf.Tensor:
        return tf.cast(self.query_tower(dict(features)), tf.float32)

    def _checked_queries(self, queries: tf.Tensor) -> tf.Tensor:
        # Retrieve checks them too, but by then they may be in a batch with
        # other people's.
        return tf.debugging.check_numerics(
            queries, "`query_embedding` must be finite"
        )

    def _checked(
        self, inputs: Mapping[str, tf.Tensor], specs: Mapping[str, Any]
    ) -> Tensors:
        return requests.checked(inputs, specs, self._max_rows)

    def _filter_spec(self) -> dict[str, tf.TensorSpec]:
        if not self._portable:
            return {"filter": tf.TensorSpec([None], tf.string)}
        words = self.index.schema.limits.max_words
        return {"filter_program": tf.TensorSpec([None, words], tf.int64)}

    def _id_spec(self) -> dict[str, tf.TensorSpec]:
        return {ID: id_spec(self.index.schema)}

    def _retriever(
        self,
        search: _Search,
        embed: Callable[[Tensors], tf.Tensor],
        specs: Mapping[str, tf.TensorSpec],
        *,
        in_batch: bool = False,
    ) -> Callable[..., Tensors]:
        """The function behind a retrieve signature.

        Args:
            search: What finds.
            embed: Makes queries of the inputs.
            specs: Of the inputs beside the filter.
            in_batch: Whether requests are embedded together, if they are
                batched.
        """

        def retrieve(**inputs: tf.Tensor) -> Tensors:
            inputs = self._checked(inputs, {**specs, **self._filter_spec()})
            if self._portable:
                programs = inputs.pop("filter_program")
                return self._outputs(search(embed(inputs), programs))
            filters = inputs.pop("filter")
            programs = ops.compile_filter(filters, self.index.schema)
            if self._batching is None:
                return self._outputs(search(embed(inputs), programs))
            return self._outputs(
                self._batched(
                    search, embed, inputs, filters, programs, in_batch
                )
            )

        return retrieve

    def _batched(
        self,
        searcher: _Search,
        embed: Callable[[Tensors], tf.Tensor],
        inputs: Tensors,
        filters: tf.Tensor,
        programs: tf.Tensor,
        in_batch: bool,
    ) -> Found:
        """Runs the search in a batch with other requests'.

        What a client can get wrong is checked here, on its own request:
        shapes, finiteness and the filter. Programs have a length that depends
        on the request, which batches cannot have, so the batch carries the
        text and compiles it again.

        What makes a batch can only use resources of one device, that of the
        index: the texts of ids stay out of it, and so does a tower that holds
        more than variables (`in_batch` is false).
        """
        # An assertion on what was compiled: graph optimisation drops an
        # operation without side effects whose result nobody reads.
        checks = [
            tf.debugging.Assert(
                tf.reduce_all(programs[:, 0] >= 0), ["bad filter program"]
            )
        ]
        for name in sorted(inputs):
            if inputs[name].dtype.is_floating:
                checks.append(
                    tf.debugging.check_numerics(
                        inputs[name], f"`{name}` must be finite"
                    )
                )
        with tf.control_dependencies(checks):
            filters = tf.identity(filters)

        options = self._batching
        assert options is not None
        if not in_batch or isinstance(searcher, ShardedSearch):
            queries = tf.debugging.check_numerics(
                embed(inputs), "the query's embedding must be finite"
            )
            if isinstance(searcher, ShardedSearch):
                return searcher.batched(
                    queries, filters, options, self._max_rows
                )
            inputs, embed = {"query": queries}, lambda named: named["query"]

        def search(inputs: Tensors) -> Found:
            compiled = ops.compile_filter(
                inputs.pop("filter"), self.index.schema
            )
            return searcher(embed(inputs), compiled)

        return batched_search(
            search, {**inputs, "filter": filters}, options, self._max_rows
        )

    def _outputs(self, found: Found) -> Tensors:
        results = {
            "ids": self._id_output(found.ids),
            "scores": found.scores,
            "num_results": found.num_results,
        }
        if found.num_scored is not None:
            results["num_scored"] = found.num_scored
        for attribute, values in zip(self._returned, found.values, strict=True):
            key = attribute_key(attribute.name)
            results[key] = columns.decode_tensor(attribute, values)
        return results

    def _id_output(self, ids: tf.Tensor) -> tf.Tensor:
        if self.index.id_text is None:
            return ids
        text = self.index.id_text.lookup(ids)
        # The table's static shape is unknown; clients see that of the ids.
        return tf.ensure_shape(text, ids.shape)

    def _lookup(self, **inputs: tf.Tensor) -> Tensors:
        ids = self._checked(inputs, self._id_spec())["id"]
        if self.index.schema.id_dtype == "string":
            ids = columns.fingerprint_tensor(ids)
        found = self._search.lookup(ids)
        results = {"found": found.found}
        if found.embeddings is not None:
            results["embedding"] = found.embeddings
        for attribute, values in zip(
            self.index.schema.attributes, found.values, strict=True
        ):
            if attribute.decodable:
                key = attribute_key(attribute.name)
                results[key] = columns.decode_tensor(attribute, values)
        return results

    def _schema(self) -> IndexSchema:
        """What is saved: a portable index has no codes beside embeddings."""
        schema = self.index.schema
        if self._portable and self.index.embeddings is not None:
            return dataclasses.replace(schema, quantization=None)
        return schema

    def _index_stats(self, **inputs: tf.Tensor) -> Tensors:
        spec = {"probe": tf.TensorSpec([None], tf.int64)}
        probe = requests.checked(inputs, spec, _MAX_PROBES)
        batch = tf.shape(probe["probe"])[0]
        index = self.index
        scalars = {
            **self._search.counts(),
            "capacity": tf.constant(index.capacity, tf.int64),
            "index_bytes": tf.constant(self.state.index_bytes, tf.int64),
            "build_id": tf.constant(self._build_id),
            "schema": tf.constant(self._schema().to_json()),
        }
        stats = {name: tf.repeat(v, batch) for name, v in scalars.items()}
        offsets = self._search.log_offsets()
        vectors = {"log_offsets": offsets}
        if isinstance(self._search, ShardedSearch):
            vectors |= self._search.shard_counts()
        for name, vector in vectors.items():
            stats[name] = tf.tile(vector[tf.newaxis], [batch, 1])
        return stats


def _check_costs(costs: Sequence[float], schema: IndexSchema) -> None:
    expected = 5 if schema.similarity is None else 9
    if len(costs) not in (0, expected):
        raise ValueError(
            f"`costs` must be the {expected} numbers that "
            f"`ops.{'planner' if expected == 5 else 'similarity'}_costs` "
            f"measures for such an index, or empty, got {len(costs)}"
        )
