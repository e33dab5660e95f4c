"""Work that the processes of one training (``nproc``) share: a part each; an error of one is all's."""

from collections.abc import Iterator
from contextlib import contextmanager

from torch import distributed

from recbole_llm.errors import RecboleLlmError


def is_shared() -> bool:
    """Whether other processes train together with this one."""
    return distributed.is_available() and distributed.is_initialized()


def is_own(key: bytes) -> bool:
    """Whether the work of this key falls to this process: to exactly one of those that train together.

    Args:
        key: evenly distributed, as a hash is.
    """
    if not is_shared():
        return True
    return int.from_bytes(key[:8], "big") % distributed.get_world_size() == distributed.get_rank()


@contextmanager
def all_together() -> Iterator[None]:
    """Leave the block when all processes have left it; the first one's error is raised by each."""
    error: RecboleLlmError | None = None
    try:
        yield
    except RecboleLlmError as caught:
        error = caught
    if is_shared():
        errors: list[RecboleLlmError | None] = [None] * distributed.get_world_size()
        distributed.all_gather_object(errors, error)
        error = next(filter(None, errors), None)
    if error is not None:
        raise error
