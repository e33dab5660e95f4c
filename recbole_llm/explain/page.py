"""The page about an explanation: one file, nothing fetched."""

from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from recbole_llm.explain.explainer import Explanation, ItemExplanation
from recbole_llm.explain.plots import draw_attention, draw_gradients

N_BARS = 12
"""History items with a bar; those with the largest effects."""

_pages = Environment(
    loader=FileSystemLoader(Path(__file__).parent / "pages"),
    autoescape=True,  # titles and texts are foreign
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)


def render_page(explanation: Explanation, about: dict[str, Any]) -> str:
    """The page as HTML.

    Args:
        about: lines for its head by name, as ``user`` and ``day``.
    """
    return _pages.get_template("explain.html").render(
        about=about,
        explanation=explanation,
        heat=[_heat(item) for item in explanation.items],
        attention=draw_attention(explanation.attention),
        gradients=draw_gradients(explanation.gradients),
        n_bars=N_BARS,
    )


def _heat(item: ItemExplanation) -> list[dict[str, Any]]:
    """An item's text in pieces: words with what they add to the score, and what stands between."""
    if item.words is None:
        return []
    largest = max((abs(sum(word.of.values())) for word in item.words.words), default=0.0) or 1.0
    pieces, end = [], 0
    for word in item.words.words:
        if word.start > end:
            pieces.append({"text": item.text[end : word.start], "of": {}, "share": 0.0})
        share = sum(word.of.values()) / largest
        pieces.append({"text": word.text, "of": word.of, "share": share})
        end = word.start + len(word.text)
    return [*pieces, {"text": item.text[end:], "of": {}, "share": 0.0}]
