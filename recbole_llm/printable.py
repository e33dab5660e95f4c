"""Foreign text where a terminal or a log shows it: nothing in it moves the cursor or hides the rest."""

import json
import re

_ACTIVE = re.compile(
    r"[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]"
)
"""Control codes, line ends, marks that turn the direction of writing, halves of signs."""


def printable(text: str) -> str:
    """Write what a terminal would obey as JSON's escapes; in JSON text the value stays the same.

    Args:
        text: one line.
    """
    return _ACTIVE.sub(lambda found: json.dumps(found[0])[1:-1], text)


def printable_lines(text: str) -> str:
    """``printable`` of each line of a text whose line ends are its own."""
    return "\n".join(map(printable, text.split("\n")))
