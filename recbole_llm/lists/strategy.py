"""Where the items of a list come from: one source, or several with their weights."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from recbole_llm.errors import ConfigError
from recbole_llm.lists.fusion import FUSIONS

MODEL, CONTENT, COLLABORATIVE = "model", "content", "collaborative"
POPULAR, RECENT = "popular", "recent"
SOURCES = (MODEL, CONTENT, COLLABORATIVE, POPULAR, RECENT)
"""The model; items whose texts are like those met last; items that others met after those; items that
most people met, ever or in the last days."""
_KEYS = {"sources", "fusion", "short_histories", "recent_days"}


@dataclass(frozen=True)
class Strategy:
    """What ``strategy`` in ``configs/nightly.yaml`` says, checked."""

    sources: tuple[tuple[str, float], ...] = ((MODEL, 1.0),)
    """Names of ``SOURCES`` and their weights, in that order."""
    fusion: str = "rank"
    short_histories: tuple[tuple[int, tuple[tuple[str, float], ...]], ...] = ()
    """The sources of users who met fewer items than a number, numbers rising."""
    recent_days: int = 7
    """Days whose events count for ``recent``, back from the end of the day."""

    def of(self, n_met: int) -> tuple[tuple[str, float], ...]:
        """The sources for a user who met so many items."""
        for below, sources in self.short_histories:
            if n_met < below:
                return sources
        return self.sources

    def uses(self, *sources: str) -> bool:
        """Whether anybody's lists have one of these sources."""
        everybody = [self.sources, *(each for _, each in self.short_histories)]
        return any(name in sources for each in everybody for name, _ in each)

    @property
    def is_model_alone(self) -> bool:
        """Whether everybody's lists are the model's."""
        return not self.uses(*SOURCES[1:])


def read_strategy(content: Mapping[str, Any]) -> Strategy:
    """Check the settings.

    Raises:
        ConfigError: a key that is unknown or missing, or a value out of range.
    """
    if not isinstance(content, Mapping) or content.keys() != _KEYS:
        raise ConfigError(f"strategy must hold exactly {sorted(_KEYS)}, got {content!r}")
    fusion, days = content["fusion"], content["recent_days"]
    if fusion not in FUSIONS:
        raise ConfigError(f"strategy.fusion must be one of {FUSIONS}, got {fusion!r}")
    if type(days) is not int or not 1 <= days <= 3650:
        raise ConfigError(f"strategy.recent_days must be an integer in 1..3650, got {days!r}")
    short = content["short_histories"]
    if not isinstance(short, list) or not all(
        isinstance(each, Mapping)
        and each.keys() == {"below", "sources"}
        and type(each["below"]) is int
        and each["below"] >= 1
        for each in short
    ):
        raise ConfigError(
            "strategy.short_histories must be a list of {below: a number of items, sources: {…}}, "
            f"got {short!r}"
        )
    belows = [each["below"] for each in short]
    if belows != sorted(set(belows)):
        raise ConfigError(f"strategy.short_histories must have rising numbers below, got {belows}")
    return Strategy(
        _sources(content["sources"], "strategy.sources"),
        fusion,
        tuple(
            (each["below"], _sources(each["sources"], f"below {each['below']}")) for each in short
        ),
        days,
    )


def _sources(content: Any, where: str) -> tuple[tuple[str, float], ...]:
    is_fit = isinstance(content, Mapping) and content and content.keys() <= {*SOURCES}
    if not is_fit or not all(
        type(weight) in (int, float) and 0 < weight < float("inf") for weight in content.values()
    ):
        raise ConfigError(f"{where} must give some of {SOURCES} a weight above 0, got {content!r}")
    return tuple((name, float(content[name])) for name in SOURCES if name in content)
