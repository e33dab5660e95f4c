"""Which sources a user's list has, and what settings are refused."""

from typing import Any

import pytest

from recbole_llm.errors import ConfigError
from recbole_llm.lists.strategy import Strategy, read_strategy

PLAIN: dict[str, Any] = {
    "sources": {"model": 1}, "fusion": "rank", "short_histories": [], "recent_days": 7
}  # fmt: skip


def test_short_histories_have_other_sources() -> None:
    assert read_strategy(PLAIN) == Strategy()
    assert Strategy().is_model_alone
    short = [
        {"below": 1, "sources": {"popular": 1}},
        {"below": 3, "sources": {"recent": 0.5, "content": 2}},
    ]
    strategy = read_strategy({**PLAIN, "short_histories": short})
    assert strategy.of(0) == (("popular", 1.0),)
    assert strategy.of(1) == strategy.of(2) == (("content", 2.0), ("recent", 0.5))
    assert strategy.of(3) == (("model", 1.0),)
    assert strategy.uses("recent")
    assert not strategy.uses("collaborative")
    assert not strategy.is_model_alone


@pytest.mark.parametrize(
    ("changed", "complaint"),
    [
        ({"sources": {}}, "strategy.sources must give some of"),
        ({"sources": {"modle": 1}}, "got {'modle': 1}"),
        ({"sources": {"model": 0}}, "a weight above 0"),
        ({"sources": {"model": True}}, "a weight above 0"),
        ({"sources": {"model": float("inf")}}, "a weight above 0"),
        ({"sources": ["model"]}, "got \\['model'\\]"),
        ({"fusion": "mean"}, "strategy.fusion must be one of"),
        ({"recent_days": 0}, "strategy.recent_days"),
        ({"short_histories": [{"below": 0, "sources": {"popular": 1}}]}, "a list of {below"),
        ({"short_histories": [{"below": 3}]}, "a list of {below"),
        (
            {"short_histories": [{"below": n, "sources": {"popular": 1}} for n in (3, 3)]},
            "rising numbers",
        ),
        ({"more": 1}, "must hold exactly"),
    ],
)
def test_bad_settings_are_told(changed: dict[str, Any], complaint: str) -> None:
    with pytest.raises(ConfigError, match=complaint):
        read_strategy({**PLAIN, **changed})
