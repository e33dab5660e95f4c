"""Where an item's picture or sound is: a path below a folder, or the bytes in the catalogue itself."""

import base64
import binascii
import re
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from recbole_llm.errors import DataError

_MOST_BYTES = 1 << 28
"""Of a file: 256 MiB, half an hour of uncompressed stereo sound."""
_DATA = re.compile(r"data:[^,]*;base64,", re.IGNORECASE)
_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:")
_SHOWN = 80


@dataclass(frozen=True)
class Medium:
    """One item's picture or sound, not yet read."""

    kind: str
    """``picture`` or ``sound``."""
    item: str
    """The item's external id."""
    value: str
    """What the field says."""
    path: Path | None
    """The file; None where ``value`` holds the bytes."""

    def __str__(self) -> str:
        shown = self.value if len(self.value) <= _SHOWN else f"{self.value[:_SHOWN]}…"
        return f"the {self.kind} of item {self.item!r}, {shown!r}"

    def read(self) -> bytes:
        """The bytes.

        Raises:
            DataError: the file is gone, is none, or is larger than 256 MiB; or the value is no base64.
        """
        if self.path is None:
            try:
                body = "".join(self.value.partition(",")[2].split())  # many a tool breaks lines
                return base64.b64decode(body, validate=True)
            except (binascii.Error, ValueError) as error:
                raise DataError(f"{self} is no base64: {error}; write it anew") from None
        try:
            if not self.path.is_file():
                raise DataError(f"{self} is no file: expected one at {self.path}")
            if (size := self.path.stat().st_size) > _MOST_BYTES:
                raise DataError(f"{self} has {size} bytes, {_MOST_BYTES} at most are read: cut it")
            return self.path.read_bytes()
        except (OSError, ValueError) as error:
            raise DataError(f"{self} cannot be read: {error}") from None


def find_medium(item: str, value: str, kind: str, root: Path) -> Medium:
    """Locate an item's picture or sound.

    Args:
        item: the item's external id.
        value: what its field says: a path below ``root``, or ``data:image/png;base64,…`` (RFC 2397),
            whose media type is not asked, for the bytes tell what they are.
        kind: ``picture`` or ``sound``.
        root: the folder below which paths are looked up, and which none may leave; resolved.
    Raises:
        DataError: a URL, an absolute path, or one that leaves ``root``, by ``..`` or by a link.
    """
    if _DATA.match(value):
        return Medium(kind, item, value, None)
    medium = Medium(kind, item, value, root / value)
    if fault := _fault(value, root):
        raise DataError(
            f"{medium} {fault}. A field holds a path below {root} (the config key media_path), or "
            "data:…;base64,… with the bytes"
        )
    return medium


def _fault(value: str, root: Path) -> str | None:
    if value[:5].lower() == "data:":
        return "is a data: URI without ';base64,'"
    if _SCHEME.match(value):
        return "is a URL, and nothing is fetched"
    path = PurePosixPath(value)
    if path.is_absolute() or ".." in path.parts:
        return "is absolute or leads upwards"
    try:
        target = (root / value).resolve()
    except (OSError, RuntimeError, ValueError) as error:  # a loop of links, a name too long
        return f"is no path: {error}"
    return None if target.is_relative_to(root) else f"is a link that leads out, to {target}"
