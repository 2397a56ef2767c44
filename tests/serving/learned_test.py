# SPDX-License-Identifier: Apache-2.0
"""An index with a learned similarity behind a real server."""

import grpc
import numpy as np
import pytest

from lintf.index.index import Index
from lintf.index.plan import Variant
from lintf.index.schema import IndexSchema, infer_attribute
from lintf.index.served import Batching, ServedIndex
from lintf.serving.changes import Change
from lintf.serving.client import Client
from lintf.similarity import reference
from lintf.similarity.spec import SimilaritySpec
from tests.references.similarities import drawn
from tests.serving.conftest import publish

ROWS, K = 80, 5
SPEC = SimilaritySpec(4, 2, 8, gate="silu_softmax", gate_hidden=5)


def _save(path, weights, vectors, portable):
    schema = IndexSchema(
        dim=SPEC.item_dim,
        attributes=(infer_attribute("year", "int", []),),
        similarity=SPEC,
    )
    index = Index(schema, ROWS + 2 * (not portable))
    index.set_similarity_weights(weights)
    index.append(range(ROWS), vectors, {"year": range(1950, 1950 + ROWS)})
    served = ServedIndex(
        index,
        k=K,
        algorithm="bounded",
        variants=[Variant("fast", K, "two_stage", budget=20)],
        return_attributes=["year"],
        batching=None if portable else Batching(),
        portable=portable,
    )
    served.save(path)


@pytest.mark.parametrize("portable", [False, True])
def test_a_client_searches_by_a_learned_similarity(server, tmp_path, portable):
    weights, queries, vectors = drawn(SPEC, 3, ROWS, 6)
    name = f"learned-{'portable' if portable else 'native'}"
    _save(tmp_path / "v", weights, vectors, portable)
    publish(tmp_path / "v", tmp_path / name, 1)
    server.add_model(name, str(tmp_path / name))
    right = reference.scores(SPEC, weights, queries, vectors)
    with Client(server.target, name) as client:
        found = client.retrieve_by_embedding(queries, "year >= 1970")
        passing = np.where(np.arange(ROWS) >= 20, right, -np.inf)
        best = np.argsort(-passing, axis=1)[:, :K]
        assert found.ids.tolist() == best.tolist()
        np.testing.assert_allclose(
            found.scores, np.take_along_axis(right, best, 1), rtol=1e-4
        )
        assert found.attributes["year"].tolist() == (1950 + best).tolist()
        assert found.num_scored.dtype == np.int64
        assert (found.num_scored >= K).all()
        assert (found.num_scored <= (ROWS if portable else 60)).all()
        fast = client.retrieve_by_embedding(
            queries, signature="fast_by_embedding"
        )
        if not portable:
            assert (fast.num_scored <= 20).all()
        np.testing.assert_allclose(
            fast.scores, np.take_along_axis(right, fast.ids, 1), rtol=1e-4
        )
        assert client.stats().schema.similarity == SPEC
        with pytest.raises(ValueError, match="query_embedding"):
            client.retrieve_by_embedding(vectors[:1])
        with pytest.raises(grpc.RpcError) as refused:
            client.retrieve_by_embedding(queries[:1] * np.nan)
        assert refused.value.code() == grpc.StatusCode.INVALID_ARGUMENT
        if portable:
            return
        assert client.stats().searches == {
            "bounded": 3,
            "exact": 0,
            "two_stage": 3,
        }
        # A copy of the best item, but for a year that no filter lets through.
        top = int(best[0, 0])
        change = Change(500, embedding=vectors[top], attributes={"year": 1900})
        assert client.update([change]).tolist() == [1]
        found = client.retrieve_by_embedding(queries[:1], "year < 1950")
        assert found.ids[0, :1].tolist() == [500]
        assert found.num_results.tolist() == found.num_scored.tolist() == [1]
        np.testing.assert_allclose(found.scores[0, 0], right[0, top], rtol=1e-4)
        assert client.update([Change(500, delete=True)]).tolist() == [3]
        found = client.retrieve_by_embedding(queries[:1], "year < 1950")
        assert found.num_results.tolist() == [0]
