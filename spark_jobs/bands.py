"""When a figure of a night is told of: it left the band that ``bands`` in the settings gives it.

A band never fails a night; ``publish`` has limits that do.
"""

import difflib
import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from recbole_llm.errors import ConfigError
from recbole_llm.figures import FIGURES, SHARE, write_figure

MIN_NIGHTS = 3
"""Nights with a figure before their median says anything."""
_LIMITS = ("change", "least", "most")


@dataclass(frozen=True)
class Judged:
    """A figure of a night beside its nights before."""

    name: str
    value: float | None
    before: float | None
    """Of the night before."""
    median: float | None
    """Of the nights before; None for fewer than ``MIN_NIGHTS``."""
    least: float | None
    """Lower end of the band; None for none."""
    most: float | None

    @property
    def is_out(self) -> bool:
        """Whether the value has left its band; None never has."""
        return self.value is not None and (
            (self.least is not None and self.value < self.least)
            or (self.most is not None and self.value > self.most)
        )

    @property
    def band(self) -> str:
        """The band in words; empty without one."""
        unit = FIGURES[self.name].unit
        if self.least is None and self.most is None:
            return ""
        if self.most is None:
            return f"at least {write_figure(unit, self.least)}"
        if self.least is None:
            return f"at most {write_figure(unit, self.most)}"
        return f"{write_figure(unit, self.least)} to {write_figure(unit, self.most)}"

    @property
    def words(self) -> str:
        """Value and band in words."""
        return f"{self.name} {write_figure(FIGURES[self.name].unit, self.value)}, band {self.band}"


def check_bands(bands: dict[str, Any]) -> None:
    """Check the setting ``bands``.

    Raises:
        ConfigError: no figure of that name, or a band is not of ``change``, ``least``, ``most``.
    """
    for name, band in bands.items():
        if name not in FIGURES:
            near = difflib.get_close_matches(str(name), FIGURES, n=1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            raise ConfigError(f"bands: no figure is called {name!r}{hint}")
        if not isinstance(band, dict) or not band or not band.keys() <= set(_LIMITS):
            raise ConfigError(f"bands: {name} must have some of {list(_LIMITS)}, got {band!r}")
        for limit, value in band.items():
            is_number = isinstance(value, int | float) and not isinstance(value, bool)
            if not is_number or math.isnan(value) or (limit == "change" and value <= 0):
                kind = "a number above 0" if limit == "change" else "a number"
                raise ConfigError(f"bands: {limit} of {name} must be {kind}, got {value!r}")


def judge(
    row: dict[str, Any], history: Sequence[dict[str, Any]], bands: dict[str, dict[str, float]]
) -> dict[str, Judged]:
    """Hold each figure of a night against its band.

    ``least`` and ``most`` are limits, ``change`` a share of the median of the nights before. Where
    the figure has a standard error, twice that is added to both sides, so that the chance of a night
    with few users is no warning.

    Args:
        row: the night's figures; absent ones count as None.
        history: rows of the nights before, oldest first.
        bands: from the settings.
    """
    judged = {}
    for name in FIGURES:
        past = [each[name] for each in history if each.get(name) is not None]
        median = statistics.median(past) if len(past) >= MIN_NIGHTS else None
        band = bands.get(name, {})
        least, most = band.get("least"), band.get("most")
        if median is not None and "change" in band:
            width = abs(median) * band["change"] + 2 * (row.get(f"{name}_stderr") or 0.0)
            # Nothing is below 0, and no share above 1: there, the band has no end.
            if median - width > 0:
                least = max(median - width, least or 0.0)
            if median + width < (1.0 if FIGURES[name].unit == SHARE else math.inf):
                most = min(median + width, math.inf if most is None else most)
        before = history[-1].get(name) if history else None
        judged[name] = Judged(name, row.get(name), before, median, least, most)
    return judged
