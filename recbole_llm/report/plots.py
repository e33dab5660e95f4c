"""The pictures of the report, as PNG in the page itself."""

import base64
import io
from collections.abc import Mapping, Sequence

from matplotlib.figure import Figure

from recbole_llm.report.results import Score

_DPI = 120
_OURS, _OTHERS = "#0b6bcb", "#9aa6b5"


def draw_quality(models: Mapping[str, Score]) -> str:
    """A bar a model, NDCG@10, with its spread over seeds; a ``data:`` address."""
    figure = Figure(figsize=(5.2, 0.5 + 0.24 * len(models)), layout="constrained")
    axes = figure.subplots()
    names = [*models][::-1]
    axes.barh(
        names,
        [models[name].ndcg for name in names],
        xerr=[models[name].spread or 0.0 for name in names],
        color=[_OURS if name.startswith("llmseqrec") else _OTHERS for name in names],
        error_kw={"elinewidth": 0.8},
    )
    axes.set_xlabel("NDCG@10", fontsize=8)
    return _data(figure)


def draw_curves(curves: Mapping[str, Sequence[tuple[float, float]]]) -> str:
    """Validation NDCG@10 by seconds of training, seconds on a logarithmic scale."""
    figure = Figure(figsize=(5.2, 2.8), layout="constrained")
    axes = figure.subplots()
    for name, points in curves.items():
        seconds, scores = zip(*points, strict=True)
        axes.plot(
            seconds,
            scores,
            label=name,
            color=_OURS if name == "LLMSeqRec" else _OTHERS,
            linewidth=1.6,
        )
    axes.set_xscale("log")
    axes.set_xlabel("seconds", fontsize=8)
    axes.set_ylabel("validation NDCG@10", fontsize=8)
    axes.legend(fontsize=8, frameon=False)
    return _data(figure)


def draw_nights(days: Sequence[str], lines: Mapping[str, Sequence[float | None]]) -> str:
    """Figures over nights, a line each."""
    figure = Figure(figsize=(5.2, 2.4), layout="constrained")
    axes = figure.subplots()
    places = range(len(days))
    for (name, values), colour in zip(lines.items(), (_OURS, _OTHERS), strict=False):
        known = [float("nan") if value is None else value for value in values]
        axes.plot(places, known, label=name, color=colour, marker="o", markersize=3)
    shown = sorted({0, len(days) // 2, len(days) - 1})
    axes.set_xticks(shown, [days[place] for place in shown])
    axes.legend(fontsize=8, frameon=False)
    return _data(figure)


def _data(figure: Figure) -> str:
    for axes in figure.axes:
        axes.tick_params(labelsize=8)
        axes.spines[["top", "right"]].set_visible(False)
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=_DPI)
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()
