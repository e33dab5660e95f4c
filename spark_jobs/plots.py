"""The drawings of a night's report: inline SVG in the colours of the page, light or dark.

matplotlib draws in stand-in colours, which become the page's CSS variables. Its text stays text.
"""

import io
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib as mpl
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

from recbole_llm.figures import COUNT, SHARE

# Stand-ins, replaced after drawing.
_COLOURS = {
    "#010101": "var(--muted)", "#010102": "var(--line)", "#010103": "var(--now)",
    "#010104": "var(--then)", "#010105": "var(--band)", "#010106": "var(--warn)",
    "#010107": "var(--job-1)", "#010108": "var(--job-2)", "#010109": "var(--job-3)",
    "#01010a": "var(--job-4)",
}  # fmt: skip
_MUTED, _LINE, _NOW, _THEN, _BAND, _WARN, *_JOBS = _COLOURS
_STYLE: dict[Any, Any] = {
    "svg.fonttype": "none", "svg.hashsalt": "night", "font.size": 8.5, "text.color": _MUTED,
    "axes.edgecolor": _LINE, "axes.labelcolor": _MUTED, "axes.linewidth": 0.8,
    "axes.spines.top": False, "axes.spines.right": False, "axes.spines.left": False,
    "axes.grid": True, "axes.grid.axis": "y", "axes.axisbelow": True, "grid.color": _LINE,
    "grid.linewidth": 0.6, "xtick.color": _MUTED, "ytick.color": _MUTED, "xtick.major.size": 0,
    "ytick.major.size": 0, "figure.facecolor": "none", "axes.facecolor": "none",
}  # fmt: skip


@dataclass(frozen=True)
class Trend:
    """One figure over the nights."""

    days: Sequence[str]
    values: Sequence[float | None]
    control: Sequence[float | None] | None
    """A second line to compare with."""
    unit: str
    least: float | None
    """Lower end of the last night's band."""
    most: float | None
    is_out: bool


def draw_trend(trend: Trend) -> Markup:
    """A line over the nights, the last one marked, upon the last one's band."""
    with mpl.rc_context(_STYLE):
        figure, axes = _new(3.3, 1.35)
        places = range(len(trend.days))
        if trend.control is not None:
            axes.plot(places, _numbers(trend.control), color=_THEN, linewidth=1.3)
        axes.plot(places, _numbers(trend.values), color=_NOW, linewidth=1.6, marker="o",
                  markersize=2.2)  # fmt: skip
        mark = _WARN if trend.is_out else _NOW
        axes.plot(places[-1:], _numbers(trend.values)[-1:], color=mark, marker="o", markersize=5)
        low, high = _limits(trend)
        axes.set_ylim(low, high)
        if trend.least is not None or trend.most is not None:
            bottom = low if trend.least is None else max(trend.least, low)
            axes.axhspan(bottom, high if trend.most is None else min(trend.most, high),
                         color=_BAND, linewidth=0)  # fmt: skip
        _days_below(axes, trend.days)
        axes.yaxis.set_major_locator(MaxNLocator(3, integer=trend.unit == COUNT))
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: _short(trend.unit, value)))
        return _svg(figure)


def draw_scores(scores: dict[str, Any]) -> Markup:
    """Shares of scores in equal bins: the night's filled, those of its base as a line."""
    with mpl.rc_context(_STYLE):
        figure, axes = _new(5.2, 1.9)
        n_bins = len(scores["now"])
        width = (scores["most"] - scores["least"]) / n_bins
        edges = [scores["least"] + width * n for n in range(n_bins + 1)]
        for name, fill, colour in (("now", True, _NOW), ("before", False, _THEN)):
            if total := sum(scores[name]):
                shares = [count / total for count in scores[name]]
                axes.stairs(shares, edges, fill=fill, color=colour, linewidth=1.5,
                            alpha=0.55 if fill else 1.0)  # fmt: skip
        axes.set_ylim(bottom=0)
        axes.margins(x=0.01)
        axes.yaxis.set_major_locator(MaxNLocator(4))
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: _short(SHARE, value)))
        return _svg(figure)


def draw_seconds(days: Sequence[str], jobs: dict[str, Sequence[float | None]]) -> Markup:
    """Stacked bars: seconds of each job, night by night."""
    with mpl.rc_context(_STYLE):
        figure, axes = _new(5.2, 1.9)
        below = [0.0] * len(days)
        for colour, seconds in zip(_JOBS, jobs.values(), strict=False):
            heights = [value or 0.0 for value in seconds]
            axes.bar(range(len(days)), heights, bottom=below, color=colour, width=0.62)
            below = [low + height for low, height in zip(below, heights, strict=True)]
        axes.set_xlim(-0.6, max(len(days), 6) - 0.4)
        _days_below(axes, days)
        axes.yaxis.set_major_locator(MaxNLocator(4))
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g} s"))
        return _svg(figure)


def _new(width: float, height: float) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, figure.subplots()


def _numbers(values: Sequence[float | None]) -> list[float]:
    return [float("nan") if value is None else value for value in values]


def _limits(trend: Trend) -> tuple[float, float]:
    """The span of the lines and of the band near them; a far band does not flatten the lines."""
    there = [value for value in (*trend.values, *(trend.control or ())) if value is not None]
    if not there:
        return 0.0, 1.0
    low, high = min(there), max(there)
    reach = max(high - low, 0.5 * abs(high))
    near = [end for end in (trend.least, trend.most)
            if end is not None and low - reach <= end <= high + reach]  # fmt: skip
    low, high = min([low, *near]), max([high, *near])
    margin = 0.12 * ((high - low) or abs(high) or 1.0)
    is_near_0 = min(there) >= 0 and low - margin < 0
    return (0.0 if is_near_0 else low - margin), high + margin


def _days_below(axes: Axes, days: Sequence[str]) -> None:
    last = len(days) - 1
    places = sorted({0, last // 2, last}) if last > 4 else list(range(last + 1))
    axes.set_xticks(places, [days[place][5:] for place in places])


def _short(unit: str, value: float) -> str:
    if unit == SHARE:
        return f"{100 * value:.4g}%"
    if unit == COUNT and abs(value) >= 10_000:
        return f"{value / 1000:,.4g} k"
    return f"{value:.4g}"


def _svg(figure: Figure) -> Markup:
    text = io.StringIO()
    figure.savefig(text, format="svg", metadata={"Date": None})
    svg = text.getvalue()
    svg = svg[svg.index("<svg") :]  # an XML head has no place inside a page
    svg = re.sub(r"<metadata>.*?</metadata>\s*", "", svg, flags=re.DOTALL)
    svg = re.sub(r'(<svg[^>]*?) width="[^"]*"', r"\1", svg, count=1)
    svg = re.sub(r'(<svg[^>]*?) height="[^"]*"', r"\1", svg, count=1)
    for stand_in, colour in _COLOURS.items():
        svg = svg.replace(stand_in, colour)
    return Markup(svg)
