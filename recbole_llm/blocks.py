"""Who is forgotten: whose events are quarantined unread, until the block is lifted.

``forgotten.json`` holds a mark for each of them, a salted hash of what stands for the user under the
oldest key, so that the list says of nobody that they were here.
"""

import datetime
import hashlib
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from filelock import FileLock

from recbole_llm.json_files import check_record, read_json
from recbole_llm.warehouse import Warehouse, replace_json

FORGOTTEN = "forgotten"
"""Why an event of a blocked user is quarantined, and what is kept of it."""


@dataclass(frozen=True)
class Blocks:
    """The list of a warehouse."""

    salt: str
    marks: dict[str, str]
    """The day of the block by mark."""

    def mark(self, first_name: str) -> str:
        """The mark of a user.

        Args:
            first_name: their pseudonym under the oldest key; the id where ids are plain.
        """
        return hashlib.sha256(f"{self.salt}{first_name}".encode()).hexdigest()


def read_blocks(warehouse: Warehouse) -> Blocks:
    """The warehouse's list; an empty one with a new salt where there is none yet.

    Raises:
        ArtifactError: it is damaged.
    """
    if not warehouse.forgotten.is_file():
        return Blocks(secrets.token_hex(16), {})
    found = check_record(
        read_json(warehouse.forgotten), {"salt": str, "marks": dict}, warehouse.forgotten
    )
    return Blocks(found["salt"], found["marks"])


def block(warehouse: Warehouse, names: list[str]) -> str:
    """Add a user to the list, by the pseudonym under the oldest key and by the id: nights of either
    kind know them. The mark of the first.

    Args:
        names: the first of them, and the last, as ``forget.names_of`` gives them.
    """
    today = datetime.date.today().isoformat()
    with _changed(warehouse) as blocks:
        for name in (names[0], names[-1]):
            blocks.marks.setdefault(blocks.mark(name), today)
    return blocks.mark(names[0])


def lift(warehouse: Warehouse, names: list[str]) -> bool:
    """Take a user from the list; whether they stood there."""
    with _changed(warehouse) as blocks:
        found = [blocks.marks.pop(blocks.mark(name), None) for name in (names[0], names[-1])]
    return any(found)


@contextmanager
def _changed(warehouse: Warehouse) -> Iterator[Blocks]:
    """The list, to be changed while nobody else changes it."""
    warehouse.locks.mkdir(parents=True, exist_ok=True)
    with FileLock(warehouse.locks / "blocks"):
        blocks = read_blocks(warehouse)
        yield blocks
        replace_json(warehouse.forgotten, {"salt": blocks.salt, "marks": blocks.marks})
