"""Deleting folders that somebody may be reading or writing."""

import logging
import shutil
from pathlib import Path

_log = logging.getLogger(__name__)


def remove_whole(folder: Path) -> None:
    """Delete a folder so that nobody takes what is left for the whole, wherever it is stopped.

    What a call that was stopped left goes with the next.
    """
    leaving = folder.with_name(f".{folder.name}")
    if leaving.is_dir():
        shutil.rmtree(leaving)
    if folder.is_dir():
        folder.rename(leaving)
        shutil.rmtree(leaving)


def prune_attempts(parent: Path, keep: set[str]) -> int:
    """Delete the attempt folders below ``parent`` that nobody names.

    Args:
        keep: folder names to keep.
    Returns:
        How many they are.
    """
    if not parent.is_dir():
        return 0
    stale = [path for path in parent.iterdir() if path.is_dir() and path.name not in keep]
    for path in stale:
        try:
            shutil.rmtree(path)
        except OSError as error:  # a dead job's executor that still writes; the next job deletes it
            _log.warning("%s could not be deleted: %s", path, error)
    return len(stale)
