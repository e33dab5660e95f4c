"""Let a sink hold what the pointer names: load what it lacks, withdraw what was rolled back."""

import logging
import time
from contextlib import closing

from recbole_llm.errors import RecboleLlmError, UnavailableError
from recbole_llm.sinks import Sink, open_sink
from recbole_llm.sinks.run_files import RunFiles
from recbole_llm.warehouse import Warehouse

_log = logging.getLogger(__name__)


def sync_all(warehouse: Warehouse, addresses: list[str], day: str | None = None) -> None:
    """``sync`` each sink; one that fails does not keep the others from theirs.

    Raises:
        RecboleLlmError: the first sink's that failed, one that a retry may help before others.
    """
    errors = []
    for address in addresses:
        try:
            with closing(open_sink(address)) as sink:
                sync(warehouse, sink, day)
        except RecboleLlmError as error:
            _log.error("%s: %s", type(error).__name__, error)
            errors.append(error)
    if errors:
        raise min(errors, key=lambda error: not isinstance(error, UnavailableError))


def sync(warehouse: Warehouse, sink: Sink, day: str | None = None) -> list[str]:
    """Make a sink's table of a day, or of every day, the published one.

    A run that is loaded is not loaded again. A run that the pointer does not name is never read.

    Args:
        day: the day to look at; None for all that the pointer or the sink has.
    Returns:
        The days that were changed, oldest first.
    Raises:
        NotFoundError: nothing is published at all, so perhaps this is the wrong warehouse.
        ArtifactError: a run's files are not what was published.
        DataError: the sink refused a run's rows.
        UnavailableError: the sink does not answer, or is in use.
    """
    changed = []
    with sink.lock():
        # In this order: a Delta table refuses who looked at it before somebody else loaded a run
        # that the pointer named later.
        loaded = sink.loaded()
        warehouse.published_run(None)
        published = warehouse.published_days()
        for each in sorted(loaded.keys() | published) if day is None else [day]:
            run = published.get(each)
            if loaded.get(each) == (run and run["run_id"]):
                _log.info("%s: %s", each, f"run {run['run_id']} is loaded" if run else "no table")
                continue
            started = time.monotonic()
            if run is None:
                sink.withdraw(each)
                _log.info("%s: withdrew run %s", each, loaded[each])
            else:
                files = RunFiles(warehouse.root, run)
                sink.load(files)
                seconds = time.monotonic() - started
                _log.info(
                    "%s: loaded run %s, %d rows in %.1f s, %.0f rows a second",
                    each, files.run_id, files.n_rows, seconds, files.n_rows / seconds,
                )  # fmt: skip
            changed.append(each)
    return changed
