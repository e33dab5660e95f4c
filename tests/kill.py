"""A training that dies between two epochs."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from recbole_llm.resume import Unfinished


class Killed(BaseException):
    """What nothing on the way catches."""


@contextmanager
def killed_after(epoch: int) -> Iterator[None]:
    """A training with ``resume_dir`` in here ends when the state after an epoch, from 0, is written."""
    save = Unfinished.save

    def save_and_die(self: Unfinished, trainer: Any, best: Any, now: int) -> None:
        save(self, trainer, best, now)
        if now == epoch:
            raise Killed

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Unfinished, "save", save_and_die)
        with pytest.raises(Killed):
            yield
