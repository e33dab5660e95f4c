"""The page about a night, and the page that lists all nights: one file each, nothing fetched.

Everything comes from the rows in ``metrics/``, so a page can be drawn anew at any time.
"""

from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from recbole_llm.figures import FIGURES, GROUPS, SECONDS, write_figure
from recbole_llm.warehouse import Warehouse, replace_text
from spark_jobs.bands import Judged
from spark_jobs.plots import Trend, draw_scores, draw_seconds, draw_trend

N_NIGHTS = 30
"""Nights that a trend goes back."""
CARDS = ("hit", "ndcg", "coverage", "novelty", "overlap", "fallback_share")
TRENDS = (
    "hit", "ndcg", "coverage", "gini", "novelty", "popular_share", "overlap", "score_psi",
    "fallback_share", "n_users", "raw_rows", "quarantine_rate",
)  # fmt: skip
_JOBS = [name for name, figure in FIGURES.items() if figure.unit == SECONDS]

_pages = Environment(
    loader=FileSystemLoader(Path(__file__).parent / "pages"),
    autoescape=True,  # titles and reasons are foreign text
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)


def write_reports(
    warehouse: Warehouse,
    row: dict[str, Any],
    history: list[dict[str, Any]],
    judged: dict[str, Judged],
) -> None:
    """Write a night's page and, anew, the list of nights.

    Args:
        warehouse: where they go, below ``reports/``.
        row: the night's, as in ``metrics/``, with ``details``.
        history: rows of the nights before, oldest first.
        judged: its figures beside those of the nights before.
    """
    replace_text(warehouse.report(row["ds"]), render_night(row, history[-N_NIGHTS + 1 :], judged))
    rows = list(warehouse.measured_days().values())
    replace_text(warehouse.reports / "index.html", render_list(rows, warehouse.published_days()))


def render_night(
    row: dict[str, Any], history: list[dict[str, Any]], judged: dict[str, Judged]
) -> str:
    """The page about a night; see ``write_reports``."""
    nights = [*history, row]
    days = [night["ds"] for night in nights]
    details = row["details"]

    def over_nights(name: str) -> list[float | None]:
        return [night.get(name) for night in nights]

    trends = {
        name: draw_trend(
            Trend(
                days, over_nights(name),
                over_nights(f"control_{name}") if f"control_{name}" in FIGURES else None,
                FIGURES[name].unit, judged[name].least, judged[name].most, judged[name].is_out,
            )
        )
        for name in TRENDS
    }  # fmt: skip
    return _pages.get_template("night.html").render(
        row=row,
        history=history,
        judged=judged,
        groups=GROUPS,
        figures=FIGURES,
        cards=CARDS,
        trends=trends,
        scores=draw_scores(details["scores"]) if details["scores"] else None,
        seconds=draw_seconds(days, {name: over_nights(name) for name in _JOBS}),
        jobs=[FIGURES[name].title for name in _JOBS],
        write=write_figure,
        change=_change,
    )


def render_list(rows: list[dict[str, Any]], published: dict[str, dict[str, Any]]) -> str:
    """The list of all measured nights, newest first.

    Args:
        rows: as in ``metrics/``, oldest first.
        published: the runs that are the days' tables now.
    """
    shown = ("hit", "control_hit", "ndcg", "coverage", "novelty", "overlap", "fallback_share",
             "n_users")  # fmt: skip
    standing = {day: run["run_id"] for day, run in published.items()}
    return _pages.get_template("nights.html").render(
        rows=rows[::-1], figures=[FIGURES[name] for name in shown], standing=standing,
        write=write_figure,
    )  # fmt: skip


def _change(now: float | None, then: float | None) -> str:
    """An arrow and by how much a value differs from another; empty where one is absent."""
    if now is None or then is None:
        return ""
    if now == then:
        return "="
    arrow = "▲" if now > then else "▼"
    return f"{arrow} {abs(now - then) / abs(then):.1%}" if then else arrow
