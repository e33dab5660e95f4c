"""The results on disk: one row a data set, model and seed, and the ranks behind it.

``results/quality.json`` is a list of flat objects. ``results/ranks/<dataset>/<model>-<seed>.npz``
holds each test user's rank, from which the intervals are drawn. ``results/ablation.json`` has the
same rows for settings away from the default, ``results/removed.json`` those that were tried and are
no longer in the code, beside the default of their commit, ``results/tuning.json`` what the tuned
models tried.
Several processes may write at once.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock
from numpy.typing import NDArray

from benchmarks.about import RESULTS, read_results
from benchmarks.quality.run import Outcome
from recbole_llm.warehouse import replace_json

QUALITY = RESULTS / "quality.json"
ABLATION = RESULTS / "ablation.json"
REMOVED = RESULTS / "removed.json"
TUNING = RESULTS / "tuning.json"
Row = dict[str, Any]


def read(path: Path) -> list[Row]:
    """The rows of a results file; none before the first run."""
    rows: list[Row] = read_results(path, [])
    return rows


def find(path: Path, **keys: Any) -> Row | None:
    """The row whose columns equal ``keys``."""
    return next((row for row in read(path) if keys.items() <= row.items()), None)


def add(path: Path, row: Row) -> None:
    """Add a row, in the place of one of the same run. The file is sorted, and whole at every moment."""
    with locked(path):
        rows = [*(old for old in read(path) if _run_of(old) != _run_of(row)), row]
        rows.sort(key=lambda row: (row["dataset"], row["model"], row["seed"]))
        replace_json(path, rows)


def _run_of(row: Row) -> tuple[Any, ...]:
    return tuple(row.get(key) for key in ("dataset", "model", "seed", "settings"))


def write_ranks(row: Row, outcome: Outcome) -> None:
    """Keep a run's (N,) ranks, with history in the ranking and out of it, and of a blend's model."""
    path = _ranks_path(row["dataset"], row["model"], row["seed"])
    path.parent.mkdir(parents=True, exist_ok=True)
    arrays = {"ranks": outcome.ranks, "masked_ranks": outcome.masked_ranks}
    if outcome.model_ranks is not None:
        arrays["model_ranks"] = outcome.model_ranks
    np.savez_compressed(path, **arrays)


def read_ranks(dataset: str, model: str, seed: int, name: str = "ranks") -> NDArray[np.uint8]:
    """(N,) uint8 ranks from 1, 0 below the tenth; ``name`` is ``ranks``, ``masked_ranks``, or of a
    blend ``model_ranks``."""
    with np.load(_ranks_path(dataset, model, seed), allow_pickle=False) as file:
        ranks: NDArray[np.uint8] = file[name]
    return ranks


def _ranks_path(dataset: str, model: str, seed: int) -> Path:
    return RESULTS / "ranks" / dataset / f"{model}-{seed}.npz"


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Let nobody else write a results file."""
    with FileLock(path.with_suffix(".lock")):
        yield
