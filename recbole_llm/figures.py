"""The figures of a night: the columns of ``metrics_daily`` and the rows of its report.

Night D holds the table of the last day published before it, its *base*, against what users did on D.
Held users stand in the base's table and have an event that happened on D and was delivered by then;
their relevant items are the distinct ones of those events. A late event, delivered after its day,
counts in ``late_rate`` alone. Hit, NDCG and recall are RecBole's, at the K of the base's table, means
over held users.

Standard library only: jobs, SQL views and report all read it.
"""

from dataclasses import dataclass
from typing import Any

IDENTITY = {
    "ds": "DATE", "run_id": "VARCHAR", "model_version": "VARCHAR", "k": "INTEGER",
    "base_ds": "DATE", "base_run_id": "VARCHAR", "base_model_version": "VARCHAR",
    "base_k": "INTEGER", "n_warnings": "INTEGER", "warnings": "VARCHAR",
}  # fmt: skip
"""What a row is of; columns with DuckDB's types."""

SHARE, COUNT, NUMBER, BITS, SECONDS = "share", "count", "number", "bits", "seconds"


@dataclass(frozen=True)
class Figure:
    """One column."""

    name: str
    unit: str
    """How it is written; ``share`` is in [0, 1]."""
    title: str
    meaning: str

    @property
    def kind(self) -> str:
        """DuckDB's type."""
        return "BIGINT" if self.unit == COUNT else "DOUBLE"


GROUPS: dict[str, tuple[Figure, ...]] = {
    "What users did with the table before": (
        Figure("hit", SHARE, "Hit rate", "held users with a relevant item in their list"),
        Figure("ndcg", NUMBER, "NDCG", "normalised discounted cumulative gain"),
        Figure("recall", SHARE, "Recall", "relevant items that stand in the list"),
        Figure("hit_stderr", SHARE, "Hit rate, standard error", "over held users"),
        Figure("ndcg_stderr", NUMBER, "NDCG, standard error", "over held users"),
        Figure("control_hit", SHARE, "Hit rate of the control",
               "had each had the K items of most events in the base's state that they had not met"),
        Figure("control_ndcg", NUMBER, "NDCG of the control", "likewise"),
        Figure("control_recall", SHARE, "Recall of the control", "likewise"),
        Figure("first_hit", SHARE, "Hit rate, first-time items",
               "relevant are only items absent from the history that the base ranked: others cannot "
               "be hit where exclude_seen holds"),
        Figure("first_ndcg", NUMBER, "NDCG, first-time items", "likewise"),
        Figure("first_recall", SHARE, "Recall, first-time items", "likewise"),
        Figure("control_first_hit", SHARE, "Hit rate of the control, first-time items", "likewise"),
        Figure("control_first_ndcg", NUMBER, "NDCG of the control, first-time items", "likewise"),
        Figure("fallback_hit", SHARE, "Hit rate of the fallback",
               "held users without a row of the model"),
        Figure("fallback_ndcg", NUMBER, "NDCG of the fallback", "likewise"),
        Figure("n_active_users", COUNT, "Active users", "with an event of the day"),
        Figure("n_held_users", COUNT, "Held users", "of them in the base's table"),
        Figure("n_first_users", COUNT, "Held users with first-time items", "of the held users"),
        Figure("n_fallback_held_users", COUNT, "Held users on the fallback", "of the held users"),
    ),
    "What the table recommends": (
        Figure("coverage", SHARE, "Coverage", "of the catalogue: available items in at least one list"),
        Figure("gini", NUMBER, "Gini index",
               "of recommendations over available items: 0 all alike, 1 one item alone"),
        Figure("novelty", BITS, "Novelty",
               "mean -log2 of the share of events of a recommended item; none counts as one event"),
        Figure("popular_share", SHARE, "Popularity share",
               "recommendations of the tenth of items with most events"),
        Figure("fallback_share", SHARE, "Fallback share", "users without a row of the model"),
        Figure("overlap", SHARE, "Overlap",
               "with the base: mean Jaccard index of a user's two lists, over users in both"),
        Figure("score_psi", NUMBER, "Score drift",
               "population stability index of the model's scores over the base's deciles"),
        Figure("n_users", COUNT, "Users", "in the table"),
        Figure("n_new_users", COUNT, "New users", "of them not in the base's table"),
        Figure("n_rows", COUNT, "Rows", "in the table"),
        Figure("n_items", COUNT, "Items", "available"),
        Figure("n_new_items", COUNT, "New items", "available, first seen after the base's day"),
    ),
    "What came in": (
        Figure("raw_rows", COUNT, "Raw rows", "read by the night"),
        Figure("quarantine_rate", SHARE, "Quarantine rate", "quarantined of the raw rows"),
        Figure("duplicate_rate", SHARE, "Duplicate rate", "duplicates of the raw rows"),
        Figure("late_rate", SHARE, "Late rate", "late of the accepted rows"),
    ),
    "What it took": (
        Figure("features_seconds", SECONDS, "prepare_features", "wall time"),
        Figure("score_seconds", SECONDS, "score_users", "wall time"),
        Figure("publish_seconds", SECONDS, "publish", "wall time"),
        Figure("measure_seconds", SECONDS, "measure_night", "wall time, the report apart"),
    ),
}  # fmt: skip

FIGURES = {figure.name: figure for group in GROUPS.values() for figure in group}
COLUMNS = {**IDENTITY, **{name: figure.kind for name, figure in FIGURES.items()}}
"""Columns of ``metrics_daily`` with DuckDB's types."""


def write_figure(unit: str, value: Any) -> str:
    """A value as people read it; a dash for none."""
    if value is None:
        return "—"
    if unit == COUNT:
        return f"{value:,.0f}"
    if unit == SHARE:
        return f"{100 * value:.2f}%"
    return {NUMBER: f"{value:.4f}", BITS: f"{value:.2f} bits", SECONDS: f"{value:.1f} s"}[unit]
