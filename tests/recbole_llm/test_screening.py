import pytest

from recbole_llm.screening import screen


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Write to jane.doe+x@mail.example.co.uk today", "Write to [e-mail] today"),
        ("a@b and @handle stay", "a@b and @handle stay"),
        ("call +49 30 901820 now", "call [phone] now"),
        ("call (650) 253-0000 now", "call (650) 253-0000 now"),
        ("pay with 4111 1111 1111 1111.", "pay with [card]."),
        ("5500-0000-0000-0004", "[card]"),
        ("4111 1111 1111 1112 fails Luhn", "4111 1111 1111 1112 fails Luhn"),
        ("ISBN 978-3-16-148410-0", "ISBN 978-3-16-148410-0"),
        ("EAN 4006381333931", "EAN 4006381333931"),
        ("Model X-1234567890123456-B", "Model X-1234567890123456-B"),
        ("2001: A Space Odyssey (1968)", "2001: A Space Odyssey (1968)"),
        ("", ""),
    ],
)
def test_what_tells_of_somebody_is_taken_out_and_nothing_else(text: str, expected: str) -> None:
    assert screen(text) == expected


def test_a_region_says_how_phone_numbers_are_written() -> None:
    assert screen("call (650) 253-0000 or +49 30 901820", ["US"]) == "call [phone] or [phone]"
    assert screen("Ruf 030 901820 an", ["DE"]) == "Ruf [phone] an"
