"""Call a function in a process of its own: its memory, its threads and its folder are nobody else's."""

import multiprocessing
import os
import tempfile
from typing import Any


def in_fresh_process(function: Any, *args: Any) -> Any:
    """What ``function(*args)`` returns; it runs in an empty folder that is then removed."""
    context = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory() as folder, context.Pool(1, os.chdir, (folder,)) as pool:
        return pool.apply(function, args)
