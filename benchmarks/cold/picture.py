"""The picture of what a lift of new items buys and costs."""

from collections import defaultdict
from statistics import mean
from typing import Any

from benchmarks.about import DOCS

_COLD = "cold_recall_over_warm"
_GOAL = {_COLD: 1 / 3, "warm_kept": 0.97}


def draw(rows: list[dict[str, Any]]) -> None:
    """Draw ``docs/cold.svg`` from rows of one data set: a line a model, a point a bias, seeds' means.

    Rows without a curve are left out; nothing is drawn without one that has it.
    """
    by_model = defaultdict(list)
    for row in rows:
        if row.get("curve"):
            by_model[row["model"]].append(row["curve"])
    if not by_model:
        return
    import matplotlib

    matplotlib.use("Agg")
    matplotlib.rcParams["svg.hashsalt"] = "recbole_llm"  # the same picture is the same file
    from matplotlib import pyplot

    figure, axis = pyplot.subplots(figsize=(6, 4))
    for model, curves in by_model.items():
        points = [
            {key: mean(point[key] for point in at_bias) for key in ("new_item_bias", *_GOAL)}
            for at_bias in zip(*curves, strict=True)
        ]
        kept, over_warm = ([point[key] for point in points] for key in ("warm_kept", _COLD))
        axis.plot(kept, over_warm, "o-", label=f"{model}, {len(curves)} seeds")
        for point, x, y in zip(points, kept, over_warm, strict=True):
            axis.annotate(f"{point['new_item_bias']:g}", (x, y), (5, 5), textcoords="offset points")
    axis.axhline(_GOAL[_COLD], color="grey", linewidth=0.8, linestyle="--")
    axis.axvline(_GOAL["warm_kept"], color="grey", linewidth=0.8, linestyle="--")
    axis.set_title(f"{rows[0]['dataset']}: by new_item_bias, at each point", fontsize=10)
    axis.set_xlabel("warm Recall@10 over that of a model that never heard of the new items")
    axis.set_ylabel("cold over warm Recall@10")
    axis.legend(fontsize=8)
    figure.tight_layout()
    figure.savefig(DOCS / "cold.svg", metadata={"Date": None})
    pyplot.close(figure)
