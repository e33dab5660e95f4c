"""What a lift of new items buys and costs, in means over seeds: figures and a picture."""

from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from statistics import mean
from typing import Any

from benchmarks.about import DOCS

_COLD = "cold_recall_over_warm"
_GOAL = {_COLD: 1 / 3, "warm_kept": 0.97}


@dataclass(frozen=True)
class Curve:
    """One model's means on one data set, a point a ``new_item_bias``."""

    n_seeds: int
    biases: list[float]
    points: list[tuple[float, float]]
    """``warm_kept`` and ``cold_recall_over_warm`` at each bias."""


def mean_curves(rows: list[dict[str, Any]]) -> dict[str, dict[str, Curve]]:
    """The curve of each model by data set; rows from before there were curves are left out."""
    found: dict[str, dict[str, list[Any]]] = defaultdict(lambda: defaultdict(list))
    for row in rows:
        if row.get("curve"):
            found[row["dataset"]][row["model"]].append(row["curve"])
    return {
        dataset: {
            model: Curve(
                len(seeds),
                [point["new_item_bias"] for point in seeds[0]],
                [
                    (mean(p["warm_kept"] for p in at_bias), mean(p[_COLD] for p in at_bias))
                    for at_bias in zip(*seeds, strict=True)
                ],
            )
            for model, seeds in by_model.items()
        }
        for dataset, by_model in found.items()
    }


def draw(curves: dict[str, dict[str, Curve]], folder: Path = DOCS) -> None:
    """Draw ``cold.svg``: a panel a data set, a line a model, a point a bias. No curve, no picture."""
    if not curves:
        return
    import matplotlib

    matplotlib.use("Agg")
    matplotlib.rcParams["svg.hashsalt"] = "recbole_llm"  # the same picture is the same file
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, len(curves), figsize=(6 * len(curves), 4), squeeze=False)
    for axis, (dataset, by_model) in zip(axes.flat, curves.items(), strict=True):
        for model, curve in by_model.items():
            label = f"{model}, seeds: {curve.n_seeds}"
            axis.plot(*zip(*curve.points, strict=True), "o-", label=label)
            for bias, place in zip(curve.biases, curve.points, strict=True):
                axis.annotate(f"{bias:g}", place, (5, 5), textcoords="offset points")
        axis.axhline(_GOAL[_COLD], color="grey", linewidth=0.8, linestyle="--")
        axis.axvline(_GOAL["warm_kept"], color="grey", linewidth=0.8, linestyle="--")
        axis.set_title(f"{dataset}, by new_item_bias", fontsize=10)
        axis.set_xlabel("warm Recall@10 over that of a model without the new items", fontsize=8)
        axis.set_ylabel("cold over warm Recall@10", fontsize=8)
        axis.legend(fontsize=8)
    figure.tight_layout()
    figure.savefig(folder / "cold.svg", metadata={"Date": None})
    pyplot.close(figure)
