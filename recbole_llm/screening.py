"""Take what may tell who somebody is out of a text: e-mail addresses, phone and card numbers.

Phone numbers are found by Google's libphonenumber: those with a country's code anywhere, those without
one where a region says how they are written there. A card number is one of the lengths of the issuer
that its first digit names and passes Luhn's check (ISO/IEC 7812); an EAN or ISBN is none.
"""

import re
from collections.abc import Sequence

import phonenumbers

_EMAIL = re.compile(r"[\w.+-]+@[\w-]+(?:\.[\w-]+)+")
_DIGITS = re.compile(r"(?<![\w.])\d(?:[ -]?\d){13,18}(?![\w])")
_CARD_LENGTHS = {"2": {16}, "3": {14, 15}, "4": {16, 19}, "5": {16}, "6": {16, 17, 18, 19}}
_FEWEST_DIGITS = 7


def screen(text: str, phone_regions: Sequence[str] = ()) -> str:
    """The text with ``[e-mail]``, ``[phone]`` and ``[card]`` in place of what was found.

    Args:
        phone_regions: two-letter regions whose phone numbers are looked for without a country's code.
    """
    if "@" in text:
        text = _EMAIL.sub("[e-mail]", text)
    if sum(map(str.isdigit, text)) < _FEWEST_DIGITS:
        return text
    text = _DIGITS.sub(lambda found: "[card]" if _is_card(found[0]) else found[0], text)
    for region in (None, *phone_regions):
        matches = list(phonenumbers.PhoneNumberMatcher(text, region))
        for match in reversed(matches):
            text = f"{text[: match.start]}[phone]{text[match.end :]}"
    return text


def _is_card(text: str) -> bool:
    digits = [int(digit) for digit in text if digit.isdigit()]
    if len(digits) not in _CARD_LENGTHS.get(str(digits[0]), ()):
        return False
    doubled = [digit * 2 - 9 * (digit > 4) for digit in digits[-2::-2]]
    return (sum(digits[-1::-2]) + sum(doubled)) % 10 == 0
