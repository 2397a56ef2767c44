# SPDX-License-Identifier: Apache-2.0
r"""What a search by Mixture of Logits costs beside one by inner product.

    python -m benchmarks.similarity.cost

One query at a time on one thread, calls of the served signature: 8 x 4
components of 32 numbers (an item vector of 160 with its gate) against 128-d
embeddings, in turns. The vectors are synthetic: for time, and for what
`bounded` scores; recall on trained models is in `recall.py`.
"""

from __future__ import annotations

import functools
import json
import pathlib
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import tensorflow as tf
from absl import app, flags

from benchmarks import machine, synthetic
from benchmarks.engines import Cost
from benchmarks.engines.lintf_engine import make_index
from benchmarks.similarity import plots
from benchmarks.timing import measure
from lintf import Index, IndexSchema, ServedIndex
from lintf.index.plan import Variant
from lintf.index.schema import Quantization
from lintf.similarity.spec import SimilaritySpec

_RESULTS = pathlib.Path(__file__).parents[1] / "results"
_K = 100
_DIM = 128
_SPEC = SimilaritySpec(
    8, 4, 32, temperature=0.05, gate="silu_softmax", gate_hidden=128
)
_CODES = Quantization(bins=16, repeats=16)
_BUDGETS = (1_000, 4_000, 16_000)
_INNER_PRODUCT = "inner product, 128-d"
_STEP = 50_000

_ROWS = flags.DEFINE_integer("rows", 1_000_000, "Items.", lower_bound=1_000)
_SECONDS = flags.DEFINE_float("seconds", 240.0, "Of measuring.")
_CACHE = flags.DEFINE_string("cache", "build/benchmarks", "Data made once.")
_OUTPUT = flags.DEFINE_string("output_dir", str(_RESULTS), "For results.")


def main(argv: Sequence[str]) -> None:
    if len(argv) > 1:
        raise app.UsageError(f"unexpected argument {argv[1]!r}")
    tf.config.threading.set_intra_op_parallelism_threads(1)
    items = synthetic.load(_ROWS.value, _DIM, pathlib.Path(_CACHE.value))
    calls, answers = _calls(items)
    exact = answers["exact"]
    recalls = {
        name: float(
            np.mean(
                [
                    len(np.intersect1d(a, b)) / _K
                    for a, b in zip(exact[0], answer[0], strict=True)
                ]
            )
        )
        for name, answer in answers.items()
    }
    timings = measure(
        calls, seconds=_SECONDS.value, min_rounds=8, max_rounds=60
    )
    base = timings[_INNER_PRODUCT]
    rows = [
        {
            "search": name,
            "cpu_ms": 1e3 * timing.median(),
            "ratio": timing.ratio_to(base),
            "scored": answers[name][1] if name in answers else None,
            "recall": recalls.get(name),
            "rounds": len(timing.costs),
        }
        for name, timing in timings.items()
    ]
    result = {
        "rows": len(items.vectors),
        "k": _K,
        "spec": _SPEC.to_dict(),
        "machine": machine.describe(),
        "searches": rows,
    }
    output = pathlib.Path(_OUTPUT.value)
    output.mkdir(parents=True, exist_ok=True)
    (output / "similarity_cost.json").write_text(
        json.dumps(result, indent=1) + "\n"
    )
    text = _markdown(result)
    (output / "similarity_cost.md").write_text(text)
    plots.cost(result, output / "similarity_cost.png")
    print(text)


def _calls(
    items: synthetic.Items,
) -> tuple[dict[str, Callable[[], Cost]], dict[str, tuple[np.ndarray, float]]]:
    """What is timed; and of each learned search ids and rows scored."""
    variants = [
        Variant("exact", _K, "exact"),
        Variant("bounded", _K, "bounded"),
        *(
            Variant(
                f"averaged_{budget}",
                _K,
                "two_stage",
                candidates="averaged",
                budget=budget,
            )
            for budget in _BUDGETS
        ),
        Variant(
            "components", _K, "two_stage", candidates="components", budget=4_000
        ),
        Variant("codes", _K, "two_stage", candidates="codes", budget=4_000),
    ]
    queries = _query_vectors(items.queries)
    served = ServedIndex(_learned(items.vectors), k=_K, variants=variants)
    signatures = served.signatures()
    calls: dict[str, Callable[[], Cost]] = {}
    answers = {}
    for variant in variants:
        call = signatures[variant.signatures[1]]
        asked = queries[:32]
        found = call(
            query_embedding=tf.constant(asked),
            filter=tf.constant([""] * len(asked)),
        )
        scored = float(np.mean(found["num_scored"].numpy()))
        answers[variant.name] = (found["ids"].numpy(), scored)
        calls[variant.name] = _call(call, queries)
    plain = ServedIndex(make_index(items.vectors), k=_K).signatures()
    calls[_INNER_PRODUCT] = _call(plain["retrieve_by_embedding"], items.queries)
    return calls, answers


def _call(signature: Any, queries: np.ndarray) -> Callable[[], Cost]:
    """Asks another query each time."""
    asked = iter(())

    def search() -> Cost:
        nonlocal asked
        query = next(asked, None)
        if query is None:
            asked = iter(queries[:, np.newaxis])
            query = next(asked)
        search_one = functools.partial(
            signature,
            query_embedding=tf.constant(query),
            filter=tf.constant([""]),
        )
        wall, cpu = time.perf_counter(), time.process_time()
        search_one()["ids"].numpy()
        cpu = time.process_time() - cpu
        return Cost(cpu, time.perf_counter() - wall)

    search()
    return search


def _learned(vectors: np.ndarray) -> Index:
    """An index of item vectors: slices as components, and a gate."""
    schema = IndexSchema(
        dim=_SPEC.item_dim, similarity=_SPEC, quantization=_CODES
    )
    index = Index(schema, len(vectors))
    random = np.random.default_rng(1)
    index.set_similarity_weights(
        {
            name: (0.1 * random.standard_normal(shape)).astype(np.float32)
            for name, shape in _SPEC.weight_shapes().items()
        }
    )
    gates = random.standard_normal((_DIM, _SPEC.pairs)).astype(np.float32)
    for begin in range(0, len(vectors), _STEP):
        part = vectors[begin : begin + _STEP]
        components = _unit(part.reshape(len(part), 4, 32))
        index.append(
            np.arange(begin, begin + len(part)),
            np.concatenate(
                [components.reshape(len(part), -1), part @ gates], axis=1
            ),
        )
    return index


def _query_vectors(queries: np.ndarray) -> np.ndarray:
    """Query vectors: slices and sums of neighbouring slices."""
    random = np.random.default_rng(2)
    slices = _unit(queries.reshape(len(queries), 4, 32))
    sums = _unit(slices + np.roll(slices, 1, axis=1))
    components = np.concatenate([slices, sums], axis=1)
    gates = random.standard_normal((_DIM, _SPEC.pairs)).astype(np.float32)
    return np.concatenate(
        [components.reshape(len(queries), -1), queries @ gates], axis=1
    )


def _unit(vectors: np.ndarray) -> np.ndarray:
    lengths = np.linalg.norm(vectors, axis=-1, keepdims=True)
    return np.asarray(vectors / lengths, np.float32)


def _markdown(result: dict[str, Any]) -> str:
    about = result["machine"]
    lines = [
        "# What Mixture of Logits costs",
        "",
        f"`python -m benchmarks.similarity.cost`: {result['rows']:,} items, "
        f"k={result['k']}, one query at a time on one thread, no filter, CPU "
        "time of a call of the served signature, median; ratios to the inner "
        "product within a round. 8 x 4 components of 32, a pair gate of 128 "
        "units, float32. Synthetic vectors and weights: recall@100 against "
        f"exact says little about trained ones. {about['processor']}.",
        "",
        "| search | CPU ms | x inner product | items scored | recall@100 |",
        "|---|---|---|---|---|",
    ]
    for row in result["searches"]:
        scored = row["scored"]
        recall = row["recall"]
        lines.append(
            f"| {row['search'].replace('_', ' ')} | {row['cpu_ms']:.1f} | "
            f"{row['ratio']:.2f} | "
            f"{'' if scored is None else f'{scored:,.0f}'} | "
            f"{'' if recall is None else f'{recall:.3f}'} |"
        )
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    app.run(main)
