"""JSON that another process wrote: it holds what was expected, or an error says where it does not."""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from recbole_llm.errors import ArtifactError, RecboleLlmError

_MAY_BE_HALF = re.compile(r"\\u[dD][89a-fA-F]")


def parse_json(text: str | bytes) -> Any:
    """What a JSON text says.

    Raises:
        ValueError: it is no JSON, no UTF-8, nested too deeply, or holds half a surrogate pair, which
            no file can hold.
    """
    if isinstance(text, bytes):
        text = text.decode(json.detect_encoding(text))  # json.loads itself would let halves pass
    try:
        found = json.loads(text)
        if _MAY_BE_HALF.search(text):
            json.dumps(found, ensure_ascii=False).encode()
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    return found


def read_json(path: Path) -> Any:
    """What a JSON file says; an absent one is a ``FileNotFoundError``.

    Raises:
        ArtifactError: it is no JSON.
    """
    try:
        return parse_json(path.read_bytes())
    except ValueError as error:
        raise ArtifactError(f"{path} is damaged, it is not JSON: {error}; restore it") from None


def check_record(
    record: Any,
    kinds: Mapping[str, Any],
    where: object,
    raised: type[RecboleLlmError] = ArtifactError,
    remedy: str = "restore it",
) -> dict[str, Any]:
    """A JSON object whose fields have the types that they must have; it may hold others.

    Args:
        kinds: by name a type, or several joined by ``|``; a name that ends with ``?`` may be absent.
        where: what the message names.
        raised: the error's class.
        remedy: what to do.
    Raises:
        ArtifactError, or another: it is no object, or lacks or mistakes a field.
    """
    if not isinstance(record, dict):
        raise raised(f"{where} is damaged: expected a JSON object, got {told(record)}; {remedy}")
    for name, kind in kinds.items():
        key = name.removesuffix("?")
        if key not in record and key != name:
            continue
        value = record.get(key)
        # JSON tells True from 1, and Python does not.
        if (
            key not in record
            or not isinstance(value, kind)
            or (isinstance(value, bool) and kind is not bool)
        ):
            found = told(value) if key in record else "nothing"
            wanted = getattr(kind, "__name__", str(kind))
            raise raised(f"{where} is damaged: expected {key} as {wanted}, got {found}; {remedy}")
    return record


def is_list_of(kind: type, value: Any) -> bool:
    """Whether a value is a list of one type's; True and False are no numbers."""
    return isinstance(value, list) and all(type(each) is kind for each in value)


def differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """How the settings of an earlier run differ from those of now, for a message; "" where they do not.

    Args:
        before: as JSON gave it back.
        now: of what JSON can hold.
    """
    now = json.loads(json.dumps(now))
    names = [name for name in {**before, **now} if before.get(name) != now.get(name)]
    if not names:
        return ""
    pairs = [[settings.get(name) for name in names] for settings in (before, now)]
    return f"{', '.join(names)} differ (there {pairs[0]}, here {pairs[1]})"


def told(value: Any) -> str:
    """A value for a message: its type and its beginning."""
    return f"{type(value).__name__} {ascii(value)[:60]}"
