"""The report: one HTML file, nothing fetched."""

from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from recbole_llm.errors import NotFoundError
from recbole_llm.figures import FIGURES, GROUPS, write_figure
from recbole_llm.query import Lookup, lookup
from recbole_llm.report.plots import draw_curves, draw_nights, draw_quality
from recbole_llm.report.results import Results
from recbole_llm.user_files import UserFile
from recbole_llm.warehouse import Warehouse

_TRENDS = {"Hit rate": ("hit", "control_hit"), "NDCG": ("ndcg", "control_ndcg")}
_N_USERS, _K = 3, 5

_pages = Environment(
    loader=FileSystemLoader(Path(__file__).parent / "pages"),
    autoescape=True,  # titles are foreign
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)


def render_report(results: Results | None, warehouse: Warehouse | None) -> str:
    """The page as HTML.

    Args:
        results: of the benchmarks; None leaves them out.
        warehouse: whose newest night and some of whose users are shown; None, or nothing published
            there, leaves them out.
    Raises:
        NotFoundError: there is nothing to report.
    """
    nights = list(warehouse.measured_days().values()) if warehouse else []
    users = _some_users(warehouse) if warehouse else []
    if results is None and not nights and not users:
        raise NotFoundError("neither results nor a published night; there is nothing to report")
    return _pages.get_template("report.html").render(
        results=results,
        bars={name: draw_quality(of) for name, of in results.quality.items()} if results else {},
        curves=draw_curves(results.curves) if results and results.curves else None,
        night=nights[-1] if nights else None,
        groups=GROUPS,
        trends=_trends(nights),
        users=users,
        write=write_figure,
    )


def _trends(nights: list[dict[str, Any]]) -> dict[str, str]:
    days = [night["ds"] for night in nights]
    if len(days) < 2:
        return {}
    return {
        title: draw_nights(
            days, {FIGURES[name].title: [night.get(name) for night in nights] for name in names}
        )
        for title, names in _TRENDS.items()
    }


def _some_users(warehouse: Warehouse) -> list[Lookup]:
    """Some of the users with whom the newest table's files begin."""
    days = warehouse.published_days()
    if not days:
        return []
    run = days[max(days)]
    files = [
        UserFile(path, ["user_id", "rank"])
        for path in sorted((warehouse.root / run["path"]).glob("*.parquet"))
    ]
    first = [user for file in files for user in file.first_users(_N_USERS)]
    chosen = dict.fromkeys(first[place * len(first) // _N_USERS] for place in range(_N_USERS))
    return [lookup(warehouse, user, k=_K) for user in chosen]
