"""One row of the results: a model, a data set and a seed, run unless the results have it."""

import json
import logging
from pathlib import Path
from typing import Any

from benchmarks.quality import store
from benchmarks.quality.models import Entry, find_model
from benchmarks.quality.run import TOP, Outcome, run

_log = logging.getLogger("benchmarks.quality")


def untried(model: str, dataset: str) -> list[dict[str, Any]]:
    """The choices of the model's grid that ``tuning.json`` lacks, with whatever seed."""
    entry = find_model(model)
    if len(entry.grid) == 1:
        return []
    return [choice for choice in entry.grid if _tried(model, dataset, choice) is None]


def try_choice(
    model: str, dataset: str, data_path: str | None, seed: int, about: dict[str, Any],
    choice: dict[str, Any],
) -> None:  # fmt: skip
    """Run one choice of the model's grid and keep its validation score in ``tuning.json``.

    The best one so far is the seed's row too, which ``fill`` then need not run.
    """
    entry = find_model(model)
    outcome = run(entry, dataset, data_path, seed, choice)
    row = {
        "dataset": dataset, "model": model, "settings": json.dumps(choice), "seed": seed,
        f"valid_ndcg@{TOP}": _valid(outcome), "epochs": outcome.epochs,
        "seconds": round(outcome.seconds, 1),
    }  # fmt: skip
    _log.info("tried: %s", "  ".join(f"{key} {value}" for key, value in row.items()))
    store.add(store.TUNING, row)
    if _best_of(_tried_choices(entry, model, dataset)) == row["settings"]:
        keep(model, dataset, seed, outcome, {"tuned": row["settings"], **about})


def fill(
    model: str, dataset: str, data_path: str | None, seed: int, about: dict[str, Any]
) -> store.Row:
    """The row, from ``quality.json``, or from ``ablation.json`` for a name that carries settings.

    Its settings are those of the model's grid that are best on validation; a row of others, from
    before the grid grew, is run anew.
    """
    entry = find_model(model)
    tuned = _best_choice(entry, model, dataset)
    row = store.find(_file(model), dataset=dataset, model=model, seed=seed)
    if row and row.get("tuned", "{}") == tuned:
        return row
    outcome = run(entry, dataset, data_path, seed, json.loads(tuned))
    return keep(model, dataset, seed, outcome, {"tuned": tuned, **about})


def _best_choice(entry: Entry, model: str, dataset: str) -> str:
    if len(entry.grid) == 1:
        return json.dumps(entry.grid[0])
    tried = _tried_choices(entry, model, dataset)
    assert len(tried) == len(entry.grid), f"{model} on {dataset}: try the choices of the grid first"
    return _best_of(tried)


def _best_of(tried: list[store.Row]) -> str:
    best: str = max(tried, key=lambda row: row[f"valid_ndcg@{TOP}"])["settings"]
    return best


def _tried_choices(entry: Entry, model: str, dataset: str) -> list[store.Row]:
    found = (_tried(model, dataset, choice) for choice in entry.grid)
    return [row for row in found if row is not None]


def _tried(model: str, dataset: str, choice: dict[str, Any]) -> store.Row | None:
    return store.find(store.TUNING, dataset=dataset, model=model, settings=json.dumps(choice))


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
    if outcome.blend is not None:
        row["blend"] = json.dumps(outcome.blend)
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
