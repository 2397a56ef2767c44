# SPDX-License-Identifier: Apache-2.0
"""Live updates through a real server: the client and raw Predict."""

import threading
import time

import grpc
import hypothesis
import numpy as np
import pytest
from hypothesis import stateful
from hypothesis import strategies as st

from lintf.index.index import Index
from lintf.index.schema import Attribute, IndexSchema
from lintf.index.served import ServedIndex
from lintf.index.signatures import DELETED, INSERTED, NOT_FOUND, REPLACED
from lintf.serving import tensors
from lintf.serving.changes import Change
from lintf.serving.client import Client
from tests.references import filter_cases
from tests.references.index_model import History, IndexModel, ModelError
from tests.serving.conftest import publish
from tests.serving.servers import fails_with

DIM = 6
ATTRIBUTES = (
    Attribute("year", "int", "number", "int16"),
    Attribute("genres", "tags", "bits", "uint8", 1, ("Drama", "War")),
)

CODE = grpc.StatusCode


def _serve(server, tmp_path, name, schema, capacity, **options):
    """Serves an empty index; returns a client of it."""
    partitions = options.pop("partitions", 1)
    index = Index(schema, capacity, log_partitions=partitions)
    ServedIndex(index, k=options.pop("k", 10), **options).save(tmp_path / "v")
    publish(tmp_path / "v", tmp_path / name, 1)
    server.add_model(name, str(tmp_path / name))
    return Client(server.target, name, timeout_s=60)


def _vectors(count, seed=0):
    rng = np.random.default_rng(seed)
    return rng.standard_normal((count, DIM)).astype(np.float32)


def _ids(result, query=0):
    return result.ids[query, : result.num_results[query]].tolist()


FILMS = [
    Change(i, embedding=v, attributes={"year": 1990 + i})
    for i, v in enumerate(_vectors(3))
]


@pytest.fixture(scope="module")
def films_model(tmp_path_factory):
    """A SavedModel of 30 rows and two partitions, without items."""
    path = tmp_path_factory.mktemp("films") / "v"
    schema = IndexSchema(dim=DIM, attributes=ATTRIBUTES)
    index = Index(schema, 30, log_partitions=2)
    ServedIndex(index, k=10, max_update_rows=50).save(path)
    return path


def _films(server, films_model, base_path, name):
    publish(films_model, base_path / name, 1)
    server.add_model(name, str(base_path / name))
    client = Client(server.target, name, timeout_s=60)
    assert client.update(FILMS).tolist() == [INSERTED] * 3
    return client


@pytest.fixture
def films(server, films_model, tmp_path):
    """A client of an index with 3 items."""
    name = f"films-{tmp_path.name}"
    with _films(server, films_model, tmp_path, name) as client:
        yield client


@pytest.fixture(scope="module")
def same_films(server, films_model, tmp_path_factory):
    """As `films`, for tests that change nothing."""
    path = tmp_path_factory.mktemp("same")
    with _films(server, films_model, path, "same-films") as client:
        yield client


def _raw(server, client, signature, changes, **replaced):
    """Sends changes with some inputs replaced, or left out where None."""
    inputs = client.change_encoder().inputs(signature, changes)
    inputs.update(replaced)
    given = {n: v for n, v in inputs.items() if v is not None}
    return server.predict(client._model, signature, **given)


def test_upsert_retrieve_filter_delete(films):
    query = np.ones([DIM], np.float32)
    new = Change(
        7, embedding=9 * query, attributes={"year": 2024, "genres": ["War"]}
    )
    assert films.update([new]).tolist() == [INSERTED]
    assert _ids(films.retrieve_by_embedding(query))[0] == 7
    found = films.retrieve_by_embedding(query, 'genres == "War"')
    assert _ids(found) == [7]
    changed = Change(7, embedding=-9 * query, attributes={"year": 1950})
    assert films.update([changed]).tolist() == [REPLACED]
    assert _ids(films.retrieve_by_embedding(query))[-1] == 7
    assert _ids(films.retrieve_by_embedding(query, 'genres == "War"')) == []
    assert _ids(films.retrieve_by_embedding(query, "year < 1960")) == [7]
    status = films.update(
        [
            Change(7, attributes={"genres": ["Drama", "unheard of"]}),
            Change(8, attributes={"year": 1}),
        ]
    )
    assert status.tolist() == [REPLACED, NOT_FOUND]
    looked = films.lookup([7])
    assert looked.attributes_of(0) == {"year": None, "genres": ["Drama"]}
    np.testing.assert_array_equal(looked.embedding[0], -9 * query)
    assert films.update([Change(7, delete=True)]).tolist() == [DELETED]
    assert not films.lookup([7]).found[0]
    assert 7 not in _ids(films.retrieve_by_embedding(query))


def test_requests_of_all_kinds_keep_their_order(films):
    changes = [
        Change(5, embedding=_vectors(1)[0], attributes={"year": 1}),
        Change(5, attributes={"year": 2}),
        Change(5, delete=True),
        Change(6, delete=True),
        Change(5, embedding=_vectors(1)[0], attributes={"year": 3}),
        Change(5, attributes={"year": 4}),
    ]
    assert films.update(changes).tolist() == [1, 2, 3, 0, 1, 2]
    assert films.lookup([5]).attributes_of(0)["year"] == 4
    assert films.update([]).tolist() == []
    # One wrong change, and none is sent.
    with pytest.raises(ValueError, match="change 1: .*'year'.*40000"):
        films.update(
            [Change(5, delete=True), Change(1, attributes={"year": 40000})]
        )
    assert films.lookup([5]).found[0]


def test_log_positions(films):
    def change(id, partition, previous, offset):
        return Change(id, True, None, None, None, partition, previous, offset)

    films.update(
        [change(None, 0, -1, 4), change(1, 1, -1, 0), change(0, 0, 4, 5)]
    )
    stats = films.stats()
    assert stats.log_offsets == (5, 0)
    assert stats.live_rows == 1
    # Lost answers and redelivery: the same request again.
    with fails_with(CODE.FAILED_PRECONDITION, "5", whole=False):
        films.update([change(0, 0, 4, 5)])
    # Gaps.
    for batch in (
        [change(2, 0, 6, 7)],
        [change(2, 1, 0, 1), change(2, 0, 4, 5)],
    ):
        with fails_with(CODE.FAILED_PRECONDITION):
            films.update(batch)
    # A request that contradicts itself, and a partition that is not there.
    for batch in (
        [change(2, 1, 0, 1), change(2, 1, 0, 2)],
        [change(2, 2, -1, 0)],
    ):
        with fails_with(CODE.INVALID_ARGUMENT, "partition", whole=False):
            films.update(batch)
    assert films.stats().log_offsets == (5, 0)
    assert films.lookup([2]).found[0]


def test_a_full_index_changes_nothing(films):
    more = [Change(100 + i, embedding=v) for i, v in enumerate(_vectors(27))]
    films.update(more)
    log = dict(partition=0, previous_offset=-1, offset=3)
    for batch in (
        [Change(5, embedding=_vectors(1)[0], **log)],
        [
            Change(0, embedding=-_vectors(1)[0], **log),
            Change(5, embedding=_vectors(1)[0]),
        ],
    ):
        with fails_with(CODE.RESOURCE_EXHAUSTED, "full", whole=False):
            films.update(batch)
        assert films.stats().log_offsets == (-1, -1)
        np.testing.assert_array_equal(
            films.lookup([0]).embedding[0], _vectors(3)[0]
        )
    # Replacing needs no room, and a delete makes some.
    films.update([Change(0, embedding=_vectors(1)[0])])
    films.update([Change(1, delete=True), Change(5, embedding=_vectors(1)[0])])
    assert films.stats().live_rows == 30


@pytest.mark.parametrize(
    ("replaced", "text"),
    [
        ({"embedding": np.zeros([2, DIM + 1], "f")}, "embedding"),
        ({"embedding": np.zeros([3, DIM], "f")}, "`embedding` must have as"),
        ({"embedding": np.zeros([2], "f")}, "embedding"),
        ({"id": np.zeros([2, 1], "int64")}, "id"),
        ({"delete": np.zeros([1], bool)}, "`delete` must have as many rows"),
        ({"log_offset": np.zeros([1], "int64")}, "log_offset"),
        ({"attribute_year": np.zeros([3], "int64")}, "attribute_year"),
        ({"attribute_genres": np.full([2, 2], b"")}, "attribute_genres"),
        ({"id": np.int64([1, -1])}, "row 1"),
        ({"attribute_year": np.int64([1, 40000])}, "year"),
        ({"embedding": np.full([2, DIM], np.nan, "f")}, "row 0"),
        ({"embedding": np.full([2, DIM], np.inf, "f")}, "row 0"),
        ({"log_offset": np.int64([-1, -2])}, "row 1"),
        (
            {"log_partition": np.int64([7, 7]), "log_offset": np.int64([1, 2])},
            "partition",
        ),
        ({"embedding": np.zeros([2, DIM], "float64")}, ""),
        ({"id": np.array(["a", "b"])}, ""),
        ({"attribute_year": np.zeros([2], "int32")}, ""),
        ({"embedding": None}, ""),
        ({"attribute_year": None}, ""),
        ({"surprise": np.zeros([2], "f")}, ""),
    ],
)
def test_wrong_requests_change_nothing(server, same_films, replaced, text):
    changes = [Change(0, embedding=[1] * DIM), Change(9, embedding=[2] * DIM)]
    with fails_with(CODE.INVALID_ARGUMENT, text, whole=False):
        _raw(server, same_films, "update_by_embedding", changes, **replaced)
    assert same_films.stats().live_rows == 3
    assert same_films.stats().log_offsets == (-1, -1)
    np.testing.assert_array_equal(
        same_films.lookup([0]).embedding[0], _vectors(3)[0]
    )


def test_sizes_of_requests(server, films):
    rows = [Change(0, embedding=v) for v in _vectors(51)]
    response = _raw(server, films, "update", rows[:50])
    status = tensors.to_array(response.outputs["status"])
    assert status.tolist() == [REPLACED] * 50
    with fails_with(CODE.INVALID_ARGUMENT, "50 rows", whole=False):
        _raw(server, films, "update", rows)
    _raw(server, films, "update", [])
    _raw(server, films, "update_attributes", [])


def test_ten_thousand_rows_in_one_request(server, tmp_path):
    schema = IndexSchema(dim=DIM, id_dtype="string", attributes=ATTRIBUTES)
    count = 10_000
    with _serve(server, tmp_path, "large", schema, count) as client:
        vectors = _vectors(count)
        changes = [
            Change(
                f"id {i}",
                embedding=v,
                attributes={"year": i % 99, "genres": ["War", f"tag {i}"]},
            )
            for i, v in enumerate(vectors)
        ]
        status = client.update(changes, batch_rows=count)
        assert status.tolist() == [INSERTED] * count
        ids = [f"id {i}" for i in range(0, count, 11)]
        np.testing.assert_array_equal(
            client.lookup(ids).embedding, vectors[::11]
        )
        found = client.retrieve_by_embedding(vectors[5], "year == 98")
        scores = vectors[98::99] @ vectors[5]
        best = np.argsort(-scores)[:10] * 99 + 98
        assert _ids(found) == [f"id {i}" for i in best]


def test_a_read_only_index(server, tmp_path):
    schema = IndexSchema(dim=DIM)
    with _serve(server, tmp_path, "fixed", schema, 5, read_only=True) as client:
        with pytest.raises(ValueError, match="read-only"):
            client.update([Change(1, delete=True)])
        assert client.stats().live_rows == 0


SCHEMAS = [
    filter_cases.random_schema(
        np.random.default_rng(seed), dim=DIM, string_ids=bool(seed % 2)
    )
    for seed in range(4)
]
CAPACITY = 14


class Histories(stateful.RuleBasedStateMachine):
    """Random changes and questions, answered by an index and a model."""

    # By schema, made by the fixture below: histories go on one after another.
    clients: dict = {}

    @stateful.initialize(
        number=st.integers(0, len(SCHEMAS) - 1), seed=st.integers(0, 2**32)
    )
    def begin(self, number, seed):
        self.schema = SCHEMAS[number]
        self.client = self.clients[number]
        self.rng = np.random.default_rng(seed)
        self.history = History(self.rng, self.schema, 20)
        self.model = IndexModel(self.schema, CAPACITY, 2)
        self.client.update([Change(i, delete=True) for i in self.history.ids])
        self.model.offsets = list(self.client.stats().log_offsets)

    @stateful.rule(
        size=st.integers(0, 10),
        from_log=st.booleans(),
        kind=st.sampled_from(["rows", "rows", "attributes", "late", "early"]),
    )
    def update(self, size, from_log, kind):
        offsets = list(self.model.offsets) if from_log else []
        if offsets and kind in ("late", "early"):
            offsets[int(self.rng.integers(2))] += 1 if kind == "early" else -1
        changes = self.history.batch(
            size,
            [max(o, -1) for o in offsets],
            attributes_only=kind == "attributes",
        )
        # One request, so that the model's batch is the index's.
        encoder = self.client.change_encoder()
        runs = list(encoder.runs(changes, 100))
        assert len(runs) == (1 if changes else 0)
        try:
            expected = self.model.apply(changes)
        except ModelError as error:
            with fails_with(CODE[error.code]):
                self.client.update(changes)
        else:
            assert self.client.update(changes).tolist() == expected

    @stateful.rule(queries=st.integers(1, 4))
    def retrieve(self, queries):
        rows = [item.row for item in self.model.items.values()]
        filters = [""] + [
            filter_cases.random_filter(self.rng, self.schema, rows)
            for _ in range(queries)
        ]
        vectors = np.stack([self.history.vector() for _ in filters])
        found = self.client.retrieve_by_embedding(vectors, filters)
        for query, text in enumerate(filters):
            ids = _ids(found, query)
            assert sorted(ids) == self.model.passing(text), text
            stored = [self.model.items[i].embedding for i in ids]
            scores = np.reshape(stored, [-1, DIM]) @ vectors[query]
            got = found.scores[query, : len(ids)]
            np.testing.assert_allclose(got, scores, atol=1e-5)
            assert (np.diff(got) <= 0).all()

    @stateful.invariant()
    def same(self):
        stats = self.client.stats()
        assert list(stats.log_offsets) == self.model.offsets
        assert stats.live_rows == len(self.model.items)
        found = self.client.lookup(self.history.ids)
        for place, id in enumerate(self.history.ids):
            item = self.model.items.get(id)
            assert found.found[place] == (item is not None)
            if item is not None:
                np.testing.assert_array_equal(
                    found.embedding[place], item.embedding
                )


@pytest.mark.parametrize(
    "steps",
    [
        (25, 12),
        pytest.param((400, 50), marks=pytest.mark.slow),
    ],
)
def test_histories(server, tmp_path, steps):
    examples, length = steps
    clients = {}
    for number, schema in enumerate(SCHEMAS):
        clients[number] = _serve(
            server,
            tmp_path / str(number),
            f"histories-{number}",
            schema,
            CAPACITY,
            k=CAPACITY,
            partitions=2,
        )
    Histories.clients = clients
    try:
        stateful.run_state_machine_as_test(
            Histories,
            settings=hypothesis.settings(
                max_examples=examples,
                stateful_step_count=length,
                deadline=None,
                derandomize=True,
                suppress_health_check=list(hypothesis.HealthCheck),
            ),
        )
    finally:
        Histories.clients = {}
        for client in clients.values():
            client.close()


# Rows whose parts all tell one number: the id modulo `ROWS`, the embedding,
# and the attributes.
ROWS, MARKS = 300, 50


def _marked(row, mark):
    """The item of a row at a mark; old and new parts of it never agree."""
    vector = np.full(DIM, 1, np.float32)
    vector[0], vector[1] = row, mark
    return Change(
        row,
        embedding=vector,
        attributes={
            "mark": mark,
            "name": f"mark {mark}",
            "tags": [f"t{mark % 7}", f"u{mark % 5}"],
        },
    )


MARKED = IndexSchema(
    dim=DIM,
    attributes=(
        Attribute("mark", "int", "number", "int16"),
        Attribute(
            "name",
            "category",
            "vocabulary",
            "uint8",
            1,
            tuple(f"mark {m}" for m in range(MARKS)),
        ),
        Attribute(
            "tags",
            "tags",
            "vocabulary",
            "uint8",
            2,
            tuple(f"t{m}" for m in range(7)) + tuple(f"u{m}" for m in range(5)),
        ),
    ),
)


@pytest.mark.parametrize(
    "seconds", [4, pytest.param(180, marks=pytest.mark.slow)]
)
def test_no_search_sees_half_a_row(server, tmp_path, seconds):
    """Writers rewrite rows; readers check that what they get fits together."""
    client = _serve(
        server,
        tmp_path,
        "torn",
        MARKED,
        ROWS,
        k=20,
        return_attributes=["mark", "name", "tags"],
    )
    client.update([_marked(row, row % MARKS) for row in range(ROWS)])
    # Never deleted and always the best by far: in every answer that fits.
    lasting = Change(
        ROWS - 1,
        embedding=np.full(DIM, 1e6, np.float32),
        attributes={"mark": 7, "name": "mark 7", "tags": ["t0", "u2"]},
    )
    client.update([lasting])
    stop, failures, counts = threading.Event(), [], {"read": 0, "written": 0}

    def write(seed):
        rng = np.random.default_rng(seed)
        # Each writer has rows of its own; together all but the last one.
        own = np.arange(seed, ROWS - 1, 2)
        while not stop.is_set():
            rows = rng.choice(own, 30)
            marks = rng.integers(0, MARKS, 30)
            changes = [
                Change(int(row), delete=True)
                if rng.integers(6) == 0
                else _marked(int(row), int(mark))
                for row, mark in zip(rows, marks, strict=True)
            ]
            client.update(changes)
            # What has returned is what a search finds.
            last = {c.id: c for c in changes}
            ids = list(last)
            found = client.lookup(ids)
            for place, id in enumerate(ids):
                assert found.found[place] == (not last[id].delete)
                if not last[id].delete:
                    assert found.embedding[place].tolist() == (
                        last[id].embedding.tolist()
                    )
            counts["written"] += len(changes)

    def read(seed):
        rng = np.random.default_rng(1000 + seed)
        while not stop.is_set():
            mark = int(rng.integers(MARKS))
            filters = [
                f"mark == {mark}",
                f'name == "mark {mark}"',
                f'contains_all(tags, ["t{mark % 7}", "u{mark % 5}"])',
                "mark == 7",
                "",
            ]
            query = rng.standard_normal(DIM).astype(np.float32)
            # The last row is first whenever it may be.
            query[2:] = np.abs(query[2:]) + 3
            found = client.retrieve_by_embedding(
                np.tile(query, [len(filters), 1]), filters
            )
            for position, text in enumerate(filters):
                rows = list(found.rows(position))
                for row in rows:
                    own = row["mark"]
                    tags = [f"t{own % 7}", f"u{own % 5}"]
                    assert row["name"] == f"mark {own}", row
                    assert sorted(row["tags"]) == tags, row
                    if position < 2:
                        assert own == mark, (text, row)
                    if position == 2:
                        assert (own - mark) % 35 == 0, (text, row)
                    change = _marked(row["id"], own)
                    if row["id"] == ROWS - 1:
                        change = lasting
                    score = float(np.dot(change.embedding, query))
                    assert row["score"] == pytest.approx(
                        score, rel=1e-5, abs=1e-4
                    ), row
                ids = [row["id"] for row in rows]
                assert len(set(ids)) == len(ids), ids
                if position >= 3:
                    assert ids[0] == ROWS - 1
            counts["read"] += len(filters)

    def guarded(work, seed):
        try:
            work(seed)
        except Exception as error:
            failures.append(error)
            stop.set()

    threads = [
        threading.Thread(target=guarded, args=(work, seed))
        for work in (write, read)
        for seed in range(2)
    ]
    for thread in threads:
        thread.start()
    # Nothing is waited for but the end of the test's time.
    end = time.monotonic() + seconds
    while time.monotonic() < end and not stop.wait(0.1):
        pass
    stop.set()
    for thread in threads:
        thread.join()
    client.close()
    if failures:
        raise failures[0]
    assert counts["read"] and counts["written"]
