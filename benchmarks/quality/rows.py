"""One row of the results: a model, a data set and a seed, run unless the results have it."""

import json
import logging
from pathlib import Path
from typing import Any

from benchmarks.quality import store
from benchmarks.quality.models import Entry, find_model
from benchmarks.quality.run import TOP, Outcome, run

_log = logging.getLogger("benchmarks.quality")


def fill(
    model: str, dataset: str, data_path: str | None, seed: int, about: dict[str, Any]
) -> store.Row:
    """The row, from ``quality.json``, or from ``ablation.json`` for a name that carries settings."""
    entry = find_model(model)
    if row := store.find(_file(model), dataset=dataset, model=model, seed=seed):
        return row
    settings, outcome = _tuned(entry, model, dataset, data_path, seed)
    if outcome is None:
        outcome = run(entry, dataset, data_path, seed, settings)
    return keep(model, dataset, seed, outcome, about)


def _tuned(
    entry: Entry, model: str, dataset: str, data_path: str | None, seed: int
) -> tuple[dict[str, Any], Outcome | None]:
    """The settings of the model's grid that are best on validation; their outcome if it was run here.

    What ``tuning.json`` has is not tried again, with whatever seed it was tried.
    """
    if len(entry.grid) == 1:
        return entry.grid[0], None
    tried, outcomes = [], {}
    for choice in entry.grid:
        key = {"dataset": dataset, "model": model, "settings": json.dumps(choice)}
        row = store.find(store.TUNING, **key)
        if row is None:
            outcome = run(entry, dataset, data_path, seed, choice)
            outcomes[key["settings"]] = outcome
            row = {
                **key, "seed": seed, f"valid_ndcg@{TOP}": _valid(outcome),
                "epochs": outcome.epochs, "seconds": round(outcome.seconds, 1),
            }  # fmt: skip
            store.add(store.TUNING, row)
        tried.append(row)
    best = max(tried, key=lambda row: row[f"valid_ndcg@{TOP}"])["settings"]
    return json.loads(best), outcomes.get(best)


def keep(model: str, dataset: str, seed: int, outcome: Outcome, about: dict[str, Any]) -> store.Row:
    """Write a run's row, and the ranks behind it, in the place of an older one."""
    row = {
        "dataset": dataset, "model": model, "seed": seed,
        **{name: outcome.test[name] for name in (f"ndcg@{TOP}", f"recall@{TOP}", f"mrr@{TOP}")},
        f"valid_ndcg@{TOP}": _valid(outcome),
        f"masked_ndcg@{TOP}": outcome.masked_test[f"ndcg@{TOP}"],
        f"masked_recall@{TOP}": outcome.masked_test[f"recall@{TOP}"],
        "epochs": outcome.epochs, "seconds": round(outcome.seconds, 1),
        "parameters": outcome.parameters, **about,
    }  # fmt: skip
    _log.info("%s", "  ".join(f"{key} {row[key]}" for key in list(row)[:12]))
    file = _file(model)
    if file == store.QUALITY:
        store.write_ranks(row, outcome)
    store.add(file, row)
    return row


def _file(model: str) -> Path:
    return store.ABLATION if ":" in model else store.QUALITY


def _valid(outcome: Outcome) -> float:
    return outcome.valid[f"ndcg@{TOP}"]
