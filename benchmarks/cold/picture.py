"""The picture of what a lift of new items buys and costs."""

from collections import defaultdict
from pathlib import Path
from statistics import mean
from typing import Any

from benchmarks.about import DOCS

_COLD = "cold_recall_over_warm"
_GOAL = {_COLD: 1 / 3, "warm_kept": 0.97}


def draw(rows: list[dict[str, Any]], folder: Path = DOCS) -> None:
    """Draw ``cold.svg``: a panel a data set, a line a model, a point a bias, means over seeds.

    Rows without a curve are left out; nothing is drawn without one that has it.
    """
    curves: dict[str, dict[str, list[Any]]] = defaultdict(lambda: defaultdict(list))
    for row in rows:
        if row.get("curve"):
            curves[row["dataset"]][row["model"]].append(row["curve"])
    if not curves:
        return
    import matplotlib

    matplotlib.use("Agg")
    matplotlib.rcParams["svg.hashsalt"] = "recbole_llm"  # the same picture is the same file
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, len(curves), figsize=(6 * len(curves), 4), squeeze=False)
    for axis, (dataset, by_model) in zip(axes.flat, curves.items(), strict=True):
        for model, seeds in by_model.items():
            points = [
                tuple(mean(point[key] for point in at_bias) for key in ("warm_kept", _COLD))
                for at_bias in zip(*seeds, strict=True)
            ]
            axis.plot(*zip(*points, strict=True), "o-", label=f"{model}, seeds: {len(seeds)}")
            for point, place in zip(seeds[0], points, strict=True):
                axis.annotate(
                    f"{point['new_item_bias']:g}", place, (5, 5), textcoords="offset points"
                )
        axis.axhline(_GOAL[_COLD], color="grey", linewidth=0.8, linestyle="--")
        axis.axvline(_GOAL["warm_kept"], color="grey", linewidth=0.8, linestyle="--")
        axis.set_title(f"{dataset}, by new_item_bias", fontsize=10)
        axis.set_xlabel("warm Recall@10 over that of a model without the new items", fontsize=8)
        axis.set_ylabel("cold over warm Recall@10", fontsize=8)
        axis.legend(fontsize=8)
    figure.tight_layout()
    figure.savefig(folder / "cold.svg", metadata={"Date": None})
    pyplot.close(figure)
