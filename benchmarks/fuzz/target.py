"""What a target is: a reader, valid files to start from, and structured inputs."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from hypothesis import strategies as st

from benchmarks.fuzz.shapes import damaged


@dataclass(frozen=True)
class Target:
    """One reader."""

    read: Callable[[bytes], None]
    """Gives it an input; our own errors may come of it and no other."""
    seeds: list[bytes]
    """Valid inputs."""
    shaped: st.SearchStrategy[bytes]
    """Inputs that are nearly valid."""


def file_target(
    path: Path,
    read: Callable[[], object],
    shaped: Callable[[bytes], st.SearchStrategy[bytes]] | None = None,
) -> Target:
    """A reader of one file, which stands at ``path`` and is valid.

    Args:
        read: reads what then stands there.
        shaped: from the valid content, structured inputs beside damaged ones.
    """
    valid = path.read_bytes()

    def put(data: bytes) -> None:
        write(path, data)
        read()

    strategies = [shaped(valid)] * 3 if shaped else []
    return Target(put, [valid], st.one_of(*strategies, damaged(valid)))


def write(path: Path, data: bytes) -> None:
    """Write a file anew, for its owner alone, which files of keys have to be."""
    with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
        file.write(data)


@contextmanager
def in_folder(folder: Path) -> Iterator[None]:
    """Work in a folder: RecBole writes logs where it runs."""
    before = Path.cwd()
    os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(before)
