import pytest

from recbole_llm.explain.sentence import strongest, write_sentence


@pytest.mark.parametrize(
    ("carriers", "words", "category", "expected"),
    [
        (["A"], [], None, "Because of A."),
        (["A"], ["war"], None, "Because of A; both say “war”."),
        (["A", "B"], [], "Drama", "Because of A and B; all three are of category Drama."),
        (
            ["A", "B"],
            ["war", "1990"],
            "Drama",
            "Because of A and B; all three are of category Drama and say “war” and “1990”.",
        ),
        (
            [],
            ["war"],
            "Drama",
            "No single item of the history carries it: without any one of them its score falls by "
            "0.03 at most.",
        ),
    ],
)
def test_sentences(
    carriers: list[str], words: list[str], category: str | None, expected: str
) -> None:
    assert write_sentence(carriers, words, category, 0.03) == expected


def test_a_rise_is_no_fall() -> None:
    assert write_sentence([], [], None, -0.2).endswith("falls by 0.00 at most.")


def test_what_is_faint_is_not_named() -> None:
    assert strongest({"a": 0.09, "b": 1.0, "c": 0.4, "d": -2.0}) == ["b", "c"]
    assert strongest({"a": 0.04, "b": 0.02}) == []
    assert strongest({"a": 0.04, "b": 0.02}, 0.0) == ["a", "b"]
    assert strongest({}) == []
