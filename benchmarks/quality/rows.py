"""One row of the results: a model, a data set and a seed, run unless the results have it."""

import json
import logging
from typing import Any

from benchmarks.quality import store
from benchmarks.quality.models import find_model
from benchmarks.quality.run import TOP, Outcome, run

_log = logging.getLogger("benchmarks.quality")


def fill(
    model: str, dataset: str, data_path: str | None, seed: int, about: dict[str, Any]
) -> store.Row:
    """The row, from ``quality.json``, or from ``ablation.json`` for a name that carries settings."""
    entry = find_model(model)
    file = store.ABLATION if ":" in model else store.QUALITY
    if row := store.find(file, dataset=dataset, model=model, seed=seed):
        return row
    known = store.find(store.TUNING, dataset=dataset, model=model, chosen=True)
    grid = (json.loads(known["settings"]),) if known else entry.grid
    tried = [(choice, run(entry, dataset, data_path, seed, choice)) for choice in grid]
    best_choice, best = max(tried, key=lambda pair: _valid(pair[1]))
    row = {
        "dataset": dataset, "model": model, "seed": seed,
        f"ndcg@{TOP}": best.test[f"ndcg@{TOP}"], f"recall@{TOP}": best.test[f"recall@{TOP}"],
        f"mrr@{TOP}": best.test[f"mrr@{TOP}"], f"valid_ndcg@{TOP}": _valid(best),
        f"masked_ndcg@{TOP}": best.masked_test[f"ndcg@{TOP}"],
        f"masked_recall@{TOP}": best.masked_test[f"recall@{TOP}"],
        "epochs": best.epochs, "seconds": round(best.seconds, 1), "parameters": best.parameters,
        **about,
    }  # fmt: skip
    _log.info("%s", "  ".join(f"{key} {row[key]}" for key in list(row)[:12]))
    if not known and len(entry.grid) > 1:
        for choice, outcome in tried:
            store.add(store.TUNING, {
                "dataset": dataset, "model": model, "seed": seed, "settings": json.dumps(choice),
                f"valid_ndcg@{TOP}": _valid(outcome), "epochs": outcome.epochs,
                "seconds": round(outcome.seconds, 1), "chosen": choice == best_choice,
            })  # fmt: skip
    if file == store.QUALITY:
        store.write_ranks(row, best)
    store.add(file, row)
    return row


def _valid(outcome: Outcome) -> float:
    return outcome.valid[f"ndcg@{TOP}"]
