"""What ``recbole-llm explain`` does: find what was asked for, explain it, write it out."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from recbole_llm.errors import ConfigError
from recbole_llm.explain.table import Asked, ask_table
from recbole_llm.printable import printable
from recbole_llm.warehouse import Warehouse, replace_text

if TYPE_CHECKING:
    from recbole_llm.explain.explainer import Explainer, Explanation, ItemExplanation

_N_LINES, _N_WORDS = 5, 8
"""History items and words that are printed of each item."""
_SAME = 1e-3
"""By how much two scores may differ, of themselves, and be the same: sums have another order."""
_MODEL = "model"
"""The reason of a row that the model ranked."""


def explain(
    warehouse: Warehouse,
    user_id: str | None,
    day: str | None,
    history: Sequence[str] | None,
    artifact: Path | None,
    items: Sequence[str] | None,
    k: int,
    output: Path | None,
    as_json: bool,
) -> str:
    """Explain, and give back what is to be printed.

    Args:
        warehouse: whose published table is asked, for a user.
        user_id: the user; or None, and ``history`` and ``artifact`` are given.
        day: a published day; the newest when None.
        history: external item ids, oldest first.
        artifact: the model's folder; None for the one that scored the table.
        items: external ids of the items to explain; the first ranks when None.
        k: how many these are.
        output: a page to write.
        as_json: print one JSON object instead of text.
    Raises:
        ConfigError: captum is not installed, or a history comes without an artifact.
        NotFoundError: the user, the day or an item is not there.
        ArtifactError: the model is absent or damaged.
    """
    explainer_class = _load_explainer()
    if user_id is not None:
        asked = ask_table(warehouse, user_id, day, artifact)
        explainer = explainer_class(asked.artifact)
        ranked = [row["item_id"] for row in asked.ranked if row["reason"] == _MODEL]
        wanted = list(items or ranked[:k] or [row["item_id"] for row in asked.ranked[:k]])
        explanation = explainer.explain(asked.history, wanted, asked.categories)
        explanation = _with_differences(explanation, asked)
        about = {"user": user_id, "day": asked.ds, "run": asked.run_id}
    else:
        if artifact is None or history is None:
            raise ConfigError("--history needs --artifact, the folder of the model to ask")
        asked, explainer = None, explainer_class(artifact)
        wanted = list(items or explainer.scorer.top_k([history], k).item_ids[0])
        explanation, about = explainer.explain(history, wanted), {}
    if output is not None:
        from recbole_llm.explain.page import render_page

        replace_text(output, render_page(explanation, about))
    ranks = _ranks(asked)
    if as_json:
        record = _as_dict(explanation, about, ranks)
        return printable(json.dumps(record, ensure_ascii=False)) + "\n"
    lines = [
        ", ".join([*(f"{k} {v}" for k, v in about.items()), f"model {explanation.model_version}"])
    ]
    lines += [f"note: {note}" for note in explanation.notes]
    for item in explanation.items:
        lines += _lines(item, ranks.get(item.item_id))
    if output is not None:
        lines.append(f"page: {output}")
    return "\n".join(map(printable, lines)) + "\n"


def _load_explainer() -> "type[Explainer]":
    try:
        import captum  # noqa: F401
    except ImportError:
        raise ConfigError("explanations need captum: pip install 'recbole-llm[explain]'") from None
    from recbole_llm.explain.explainer import Explainer

    return Explainer


def _with_differences(explanation: "Explanation", asked: Asked) -> "Explanation":
    """Say where the table has another score than the model alone."""
    ranks = _ranks(asked)
    notes = [
        f"the table's score of {item.item_id} is {ranks[item.item_id]['score']:.4f}, the model's "
        f"{item.score:.4f} (reason {ranks[item.item_id]['reason']}): what follows is of the model "
        "alone, without what age, the user's feedback or a popular filling made of it"
        for item in explanation.items
        if item.item_id in ranks
        and abs(ranks[item.item_id]["score"] - item.score) > _SAME * max(abs(item.score), 1.0)
    ]
    return replace(explanation, notes=[*explanation.notes, *notes])


def _ranks(asked: Asked | None) -> dict[str, dict[str, Any]]:
    return {row["item_id"]: row for row in asked.ranked} if asked else {}


def _as_dict(
    explanation: "Explanation", about: dict[str, str], ranks: dict[str, dict[str, Any]]
) -> dict[str, Any]:
    items = []
    for item in explanation.items:
        row = ranks.get(item.item_id, {})
        items.append({"rank": row.get("rank"), "reason": row.get("reason"), **asdict(item)})
    return {
        **about, "model_version": explanation.model_version, "notes": explanation.notes,
        "read": explanation.read, "items": items,
    }  # fmt: skip


def _lines(item: "ItemExplanation", row: dict[str, Any] | None) -> Iterator[str]:
    place = f"rank {row['rank']}, reason {row['reason']}, " if row else ""
    yield ""
    yield f"{item.item_id}  {item.title}: {place}score {item.score:.4f}"
    yield f"  {item.sentence}"
    yield "  history (score lost without it, gradient x input, attention as no proof):"
    for met in item.history[:_N_LINES]:
        yield (
            f"    {met.left_out:+8.4f} {met.gradient:+8.4f} {met.attention:7.4f}"
            f" {met.item_id:>8}  {met.title}"
        )
    if item.shares is not None:
        shares = item.shares
        told = ", ".join(f"{name} {value:+.3f}" for name, value in shares.of.items() if value)
        yield f"  shares: average {shares.baseline:+.3f}, {told}"
        yield f"    (off by {shares.completeness_error:.1%} of the difference from the average)"
    if item.words is not None:
        strong = sorted(item.words.words, key=lambda word: -abs(sum(word.of.values())))[:_N_WORDS]
        told = ", ".join(f"{word.text} {sum(word.of.values()):+.3f}" for word in strong)
        yield f"  words: {told}"
