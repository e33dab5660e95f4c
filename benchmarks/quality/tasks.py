"""The runs behind the rows asked for, in processes of their own, several at once if wanted.

A model's rows wait until its grid is tried. What fails stops nothing else.
"""

import logging
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context
from typing import Any

from tqdm import tqdm

from benchmarks.quality import rows
from recbole_llm.errors import RecboleLlmError

_log = logging.getLogger("benchmarks.quality")


@dataclass(frozen=True, eq=False)
class Task:
    """One run."""

    name: str
    group: tuple[str, str]
    """Data set and model; of one group, the rows come after the choices of the grid."""
    is_row: bool
    action: Callable[[], Any]


def plan(
    datasets: list[str], models: list[str], seeds: list[int], data_path: str | None,
    about: dict[str, Any],
) -> Iterator[Task]:  # fmt: skip
    """The runs in the order asked for; the first seed tries the grid."""
    for dataset in datasets:
        for model in models:
            group = (dataset, model)
            for choice in rows.untried(model, dataset):
                action = partial(
                    rows.try_choice, model, dataset, data_path, seeds[0], about, choice
                )
                yield Task(f"{model} {choice} on {dataset}", group, False, action)
            for seed in seeds:
                action = partial(rows.fill, model, dataset, data_path, seed, about)
                yield Task(f"{model} on {dataset}, seed {seed}", group, True, action)


def run_tasks(tasks: list[Task], jobs: int) -> bool:
    """Run tasks, ``jobs`` at a time, in order as far as they are ready; say whether all succeeded."""
    waiting, running = list(tasks), dict[Future[Any], Task]()
    failed = set[tuple[str, str]]()
    with (
        ProcessPoolExecutor(jobs, get_context("spawn"), _start_worker) as pool,
        tqdm(total=len(tasks), desc="runs", disable=None) as bar,  # on a terminal alone
    ):
        while waiting or running:
            while len(running) < jobs and (task := _next_ready(waiting, running.values())):
                waiting.remove(task)
                if task.group in failed:
                    bar.update()
                else:
                    running[pool.submit(task.action)] = task
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                task = running.pop(future)
                bar.update()
                if error := future.exception():
                    failed.add(task.group)  # as a model of texts on a data set without
                    trace = None if isinstance(error, RecboleLlmError) else error
                    _log.error("%s failed: %s", task.name, error, exc_info=trace)
    return not failed


def _next_ready(waiting: list[Task], running: Any) -> Task | None:
    tried_later = {task.group for task in (*waiting, *running) if not task.is_row}
    ready = (task for task in waiting if not task.is_row or task.group not in tried_later)
    return next(ready, None)


def _start_worker() -> None:
    """Our lines alone: RecBole logs each epoch, and warns of what the pinned pandas does well."""
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    _log.setLevel(logging.INFO)
    warnings.filterwarnings("ignore", category=FutureWarning, module=r"recbole\.")
