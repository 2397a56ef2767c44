# SPDX-License-Identifier: Apache-2.0
"""The table of an evaluation, as text, Markdown and JSON."""

import json
import pathlib
import statistics

Results = dict[str, list[dict[str, float]]]


def table(results: Results) -> str:
    """Formats the results as a Markdown table.

    Args:
      results: model -> the metrics of each of its runs.

    Returns:
      One row a model: the mean, and the standard deviation in brackets where
      there are several runs.

    Example:
      >>> print(table({"a": [{"HR@1": 0.25}], "b": [{"HR@1": 0.0},
      ...   {"HR@1": 0.5}]}))
      | model | runs | HR@1 |
      | --- | ---: | ---: |
      | a | 1 | 0.250 |
      | b | 2 | 0.250 (0.354) |
    """
    names = list(next(iter(results.values()))[0])
    lines = [
        "| " + " | ".join(["model", "runs", *names]) + " |",
        "| " + " | ".join(["---", *["---:"] * (1 + len(names))]) + " |",
    ]
    for model, runs in results.items():
        cells = [model, str(len(runs))]
        for name in names:
            values = [run[name] for run in runs]
            cell = f"{statistics.mean(values):.3f}"
            if len(values) > 1:
                cell += f" ({statistics.stdev(values):.3f})"
            cells.append(cell)
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def write(
    folder: pathlib.Path, results: Results, how: str, command: str
) -> None:
    """Writes `movielens.json` and `movielens.md`.

    Args:
      folder: made where it is absent.
      results: model -> the metrics of each of its runs.
      how: one paragraph on what was measured.
      command: that measures it again.
    """
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "movielens.json").write_text(
        json.dumps(
            {"command": command, "how": how, "results": results}, indent=2
        )
        + "\n",
        encoding="utf-8",
    )
    (folder / "movielens.md").write_text(
        "# Retrieval quality on MovieLens-100K\n\n"
        f"{how}\n\nMeasured by `{command}`.\n\n{table(results)}\n",
        encoding="utf-8",
    )
