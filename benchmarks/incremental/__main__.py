"""Renewing a model by what is new: what it keeps of a full retraining, and what it costs.

    python -m benchmarks.incremental --dataset movietweetings-100k --data-path DIR --seeds 1

The first half of the events, by time, is the start; periods of equal numbers of events follow. After
each period three models rank the next one: for every user who has a history, the user's first event
in it, among all items met up to its end, history not masked.

**full** is trained from random weights on all events up to then, by the default configuration and
RecBole's early stopping on each user's newest event (``LS: valid_only``; there is no test row, so
nothing else is held out). **continued** goes on from the model of the period before and learns the
period's events, with older windows drawn again, by ``continuation`` of ``configs/nightly.yaml``;
the same events are held out, and learnt when newer ones take their place. Items that a period
brings join its catalogue, so ids and text vectors change each time. **stale** is trained on the
start and never again; what it has not heard of it cannot rank. ``continuation`` was chosen on the
first half of the main set, which here is the start, so no period that is measured had a say.

Figures, over all periods and seeds of the main set: **kept_of_full** and **stale_of_full**, mean
NDCG@10 over that of full. **compute_of_full**: the positions that training read, times epochs, those
read as context alone and the older windows drawn again included; **trained_of_full**: the positions
that were asked for the next item; **cpu_of_full**: processor seconds, of reading the files and
describing the items too. **forgotten**: continued over full on the targets whose item was met in the
start and not in the period that was learnt last; they are few and hard, so **forgotten_recall@500** is
beside it, which more of them reach.

A training that is finished is kept in the user's cache folder, so a run goes on where it was stopped.
Writes ``benchmarks/results/incremental.json``.
"""

import argparse
import json
import logging
import os
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from platformdirs import user_cache_path
from torch import Tensor

from benchmarks.about import RESULTS, describe_run, read_results
from benchmarks.incremental.timeline import Timeline
from benchmarks.quality.store import locked
from recbole_llm.config_files import config_path, load_yaml
from recbole_llm.export import export_artifact
from recbole_llm.fit import fit
from recbole_llm.judge import Event
from recbole_llm.model import LLMSeqRec
from recbole_llm.scoring import Scorer, load_scorer
from recbole_llm.sequences import IS_TRAINED
from recbole_llm.train import build_config, build_data
from recbole_llm.warehouse import replace_json

_PATH = RESULTS / "incremental.json"
_MAIN_SET = "movietweetings-100k"
"""The figures are of it: of the sets with seconds, the one whose users come back."""
_PROTOCOL = {
    "eval_args": {
        "split": {"LS": "valid_only"}, "group_by": "user", "order": "TO", "mode": "full",
    },
    "show_progress": False, "state": "WARNING", "eval_batch_size": 256,
}  # fmt: skip
_DEEP, _TOP = 500, 10
_log = logging.getLogger("benchmarks.incremental")
Row = dict[str, Any]


def main() -> None:
    """Train period by period, write a row after each, print the figures."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--dataset", default=_MAIN_SET)
    parser.add_argument("--data-path", type=Path, required=True)
    parser.add_argument("--seeds", type=int, nargs="+", default=[1])
    parser.add_argument("--periods", type=int, default=10, help="continuations after the start")
    args = parser.parse_args()
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(message)s")
    _log.setLevel(logging.INFO)
    warnings.filterwarnings("ignore", category=FutureWarning)  # of RecBole's, by the page
    about = describe_run()
    sys.argv = sys.argv[:1]  # RecBole reads the command line of whatever program it runs in
    source = args.data_path.absolute() / args.dataset
    cache = user_cache_path("recbole_llm") / "incremental" / about["commit"]
    os.chdir(tempfile.mkdtemp())  # RecBole writes logs where it runs
    for seed in args.seeds:
        folder = cache / f"{args.dataset}-{args.periods}-{seed}"
        for row in measure(source, args.periods, seed, folder, {}):
            _add({**row, **about})
    sys.stdout.write(json.dumps(_read().get("figures")) + f"\nwritten to {_PATH.name}\n")


def measure(source: Path, n_periods: int, seed: int, folder: Path, settings: Row) -> Iterator[Row]:
    """One row a period.

    Args:
        source: an atomic data set's folder.
        folder: where trainings are kept.
        settings: RecBole keys of all models.
    """
    timeline = Timeline(source, n_periods + 1)
    recipe = load_yaml(config_path(".", "nightly"))["continuation"]
    recipe = {key: value for key, value in recipe.items() if key != "days"}

    def trained(name: str, block: int, **more: Any) -> Row:
        return _once(
            folder / f"{name}.json",
            lambda: _train(timeline, block, folder, {**settings, "seed": seed, **more}),
        )

    stale = trained("start", 0)
    before = stale
    for period in range(1, n_periods + 1):
        continued = trained(
            f"continued-{period}", period, **recipe, train_since=timeline.since(period),
            warm_start=str(folder / before["artifact"]),
        )  # fmt: skip
        full = trained(f"full-{period}", period)
        targets = timeline.targets(period + 1)
        start, newest = timeline.items(0), timeline.items(period)
        is_stayed = [event.item_id in start and event.item_id not in newest for event in targets]
        known = {item for block in range(period + 1) for item in timeline.items(block)}
        row: Row = {
            "dataset": source.name, "seed": seed, "periods": n_periods, "period": period,
            "users": len(targets), "new_users": timeline.new_users(period + 1),
            "stayed_targets": sum(is_stayed),
            "new_item_targets": sum(event.item_id not in known for event in targets),
        }  # fmt: skip
        for name, model in (("full", full), ("continued", continued), ("stale", stale)):
            scorer = load_scorer(folder / model["artifact"])
            ranks = rank(scorer, targets, timeline.catalogue(period))
            row[name] = {
                **model, **_metrics(ranks),
                "stayed": _metrics(ranks[np.array(is_stayed, dtype=bool)]),
            }  # fmt: skip
        _log.info(
            "%s, seed %d, period %d of %d: NDCG@10 %.4f continued, %.4f full, %.4f stale",
            source.name, seed, period, n_periods,
            *(row[name]["ndcg@10"] for name in ("continued", "full", "stale")),
        )  # fmt: skip
        yield row
        before = continued


def _once(path: Path, make: Callable[[], Row]) -> Row:
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        started = time.monotonic()
        replace_json(path, make())
        _log.info("%s: trained in %.0f s", path.stem, time.monotonic() - started)
    found: Row = json.loads(path.read_text(encoding="utf-8"))
    return found


class _Counted(LLMSeqRec):
    """Counts what training reads and what it asks for."""

    n_read = n_trained = 0

    def calculate_loss(self, interaction: Any) -> Tensor:
        lengths = interaction[self.ITEM_SEQ_LEN]
        asked = interaction.interaction.get(IS_TRAINED, lengths)
        self.n_read += int(lengths.sum())
        self.n_trained += int(asked.sum())
        return super().calculate_loss(interaction)


def _train(timeline: Timeline, block: int, folder: Path, settings: Row) -> Row:
    """Train on the events up to the end of a block."""
    began = time.process_time()
    with tempfile.TemporaryDirectory() as data_path:
        name = timeline.write(block, Path(data_path))
        own = {**_PROTOCOL, "data_path": data_path, "checkpoint_dir": f"{data_path}/checkpoints"}
        config = build_config("LLMSeqRec", name, None, {**own, **settings})
        data, (train_data, valid_data, _) = build_data(config)
        fitted = fit(config, train_data, valid_data, _Counted)
        seconds = time.process_time() - began
        network: Any = fitted.network
        metrics = {"valid": fitted.valid_result}
        artifact = export_artifact(network, data, config, metrics, folder)
    return {
        "artifact": artifact.name, "epochs": fitted.epochs, "best_epoch": fitted.best_epoch,
        "positions": network.n_read, "trained": network.n_trained,
        "cpu_seconds": round(seconds, 1),
        "new_items": (fitted.start or {}).get("n_new_items"),
    }  # fmt: skip


def rank(scorer: Scorer, targets: list[Event], catalogue: list[str]) -> NDArray[np.int64]:
    """(N,) rank of each target's item from 1, 0 where it is not among the first 500.

    The history is not masked. An item or a whole history that the model does not know is a 0.
    """
    choice = scorer.among(catalogue)
    depth = min(_DEEP, choice.n_items)
    histories = [event.history for event in targets]
    best = scorer.top_k(histories, depth, exclude_seen=False, eligible=choice).item_ids
    places = [
        items.index(event.item_id) + 1 if event.item_id in items else 0
        for event, items in zip(targets, best, strict=True)
    ]
    return np.array(places, dtype=np.int64)


def _metrics(ranks: NDArray[np.int64]) -> dict[str, float]:
    """Sums are needed to pool periods, so with no target a mean is 0."""
    is_top = (ranks > 0) & (ranks <= _TOP)
    n = max(len(ranks), 1)
    return {
        "ndcg@10": round(float((1 / np.log2(ranks[is_top] + 1)).sum()) / n, 6),
        "recall@500": round(int((ranks > 0).sum()) / n, 6),
    }


def _read() -> Row:
    content: Row = read_results(_PATH, {"rows": []})
    return content


def _add(row: Row) -> None:
    """Add a row in the place of the same one of an earlier run, and take the figures anew."""

    def key(row: Row) -> tuple[Any, ...]:
        return (
            row["dataset"] != _MAIN_SET,
            row["dataset"],
            row["seed"],
            row["periods"],
            row["period"],
        )

    with locked(_PATH):
        rows = sorted([*(old for old in _read()["rows"] if key(old) != key(row)), row], key=key)
        main = [row for row in rows if row["dataset"] == _MAIN_SET]
        content = {"figures": figures(main) if main else {}, "rows": rows}
        replace_json(_PATH, content)


def figures(rows: list[Row]) -> dict[str, float | None]:
    """What the module's head says, over some rows; None where full never finds what stayed."""

    def over_full(model: str, metric: str) -> float | None:
        return _ratio(*(sum(row[name][metric] for row in rows) for name in (model, "full")))

    def stayed(metric: str) -> float | None:
        return _ratio(
            *(
                sum(row[name]["stayed"][metric] * row["stayed_targets"] for row in rows)
                for name in ("continued", "full")
            )
        )

    return {
        "kept_of_full": over_full("continued", "ndcg@10"),
        "stale_of_full": over_full("stale", "ndcg@10"),
        "compute_of_full": over_full("continued", "positions"),
        "trained_of_full": over_full("continued", "trained"),
        "cpu_of_full": over_full("continued", "cpu_seconds"),
        "forgotten": stayed("ndcg@10"),
        "forgotten_recall@500": stayed("recall@500"),
    }


def _ratio(part: float, whole: float) -> float | None:
    return round(part / whole, 4) if whole else None


if __name__ == "__main__":
    main()
