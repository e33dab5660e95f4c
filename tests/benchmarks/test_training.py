import pytest

from benchmarks.training import has_ended


@pytest.mark.parametrize(
    ("scores", "expected"),
    [
        ([], False),
        ([0.1, 0.5], False),
        ([0.5, *[0.4] * 9], False),
        ([0.1, 0.5, *[0.4] * 10], True),
        ([0.5, *[0.4] * 9, 0.5], False),  # RecBole counts from the later of two equal epochs
        ([*[0.1] * 20, 0.5], False),
    ],
)
def test_a_curve_has_ended_ten_epochs_after_its_best(scores: list[float], expected: bool) -> None:
    assert has_ended([(float(n), score) for n, score in enumerate(scores)]) is expected
