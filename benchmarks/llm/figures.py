"""From the rows of ``llm.json`` to its figures and the table of ``docs/encoder.md``."""

from collections.abc import Mapping
from statistics import mean
from typing import Any

from benchmarks.quality import store

MAIN_SET = "amazon-beauty-2014"
CONTROL = "tfidf"
PARTS = {
    "text": ("ndcg@10", "Texts alone, NDCG@10"),
    "fused": ("ndcg@10", "Default configuration, NDCG@10"),
    "cold": ("recall@10", "A tenth of the items new, Recall@10 of those"),
}
"""The figure that each is told by, and what it is called."""
STAGES = {
    "frozen": "Frozen",
    "pretrained": "Pre-trained",
    "tuned": "Pre-trained and LoRA",
}
Row = dict[str, Any]
BySeed = Mapping[int, Row]


def split_name(encoder: str) -> tuple[str, list[str]]:
    """An encoder's name, and the ``key=value`` of its pre-training that it carries."""
    name, _, carried = encoder.partition(":")
    return (name, carried.split(",")) if "=" in carried else (encoder, [])


def gains_of(rows: list[Row]) -> dict[str, dict[str, dict[str, Any]]]:
    """What the better adapted stage has over frozen, by data set, encoder and part; None without."""
    encoders = dict.fromkeys(row["encoder"] for row in rows)
    return {
        dataset: {
            encoder: {part: _gain(rows, dataset, encoder, part) for part in PARTS}
            for encoder in encoders
        }
        for dataset in dict.fromkeys(row["dataset"] for row in rows)
    }  # fmt: skip


def figures_of(gains: dict[str, dict[str, dict[str, Any]]]) -> dict[str, float]:
    """``{part}_gain`` on the main data set, of the encoder that gains more."""
    by_encoder = gains.get(MAIN_SET, {}).values()
    found = {part: [gain[part]["gain"] for gain in by_encoder if gain[part]] for part in PARTS}
    return {f"{part}_gain": max(values) for part, values in found.items() if values}


def table_of(rows: list[Row], gains: dict[str, dict[str, dict[str, Any]]]) -> str:
    """Means over the seeds that frozen and another stage have, and each seed's ratio to frozen.

    Where there is no other stage, frozen stands alone.
    """
    heads = ["Data set", "Encoder", "What", *STAGES.values(), "Over TF-IDF"]
    lines = [heads, ["---"] * len(heads)]
    for dataset, by_encoder in gains.items():
        for encoder, by_part in by_encoder.items():
            for part, gain in by_part.items():
                frozen, adapted = _stages(rows, dataset, encoder, part)
                if gain:
                    over_tfidf = gain.get("over_tfidf")
                else:
                    frozen = _by_seed(rows, dataset, encoder, part, "frozen")
                    over_tfidf = _over(frozen, _controls(rows, dataset, part), part)
                if not frozen or encoder == CONTROL:
                    continue
                cells = [_mean(frozen, part)]
                for stage in adapted.values():
                    over = _ratios(_over(stage, frozen, part))
                    cells.append(f"{_mean(stage, part)}: {over}" if over else "")
                lines.append([dataset, encoder, PARTS[part][1], *cells, _ratios(over_tfidf)])
    return "".join(f"| {' | '.join(cells)} |\n" for cells in lines)


def _gain(rows: list[Row], dataset: str, encoder: str, part: str) -> dict[str, Any] | None:
    """Of the adapted stage that validates better, of those with most seeds."""
    frozen, adapted = _stages(rows, dataset, encoder, part)
    if not frozen:
        return None
    n_seeds = max(map(len, adapted.values()))
    best = max(
        (stage for stage in adapted if len(adapted[stage]) == n_seeds),
        key=lambda stage: mean(row["valid_ndcg@10"] for row in adapted[stage].values()),
    )
    gain = {"stage": best, **(_over(adapted[best], frozen, part) or {})}
    if over := _over(adapted[best], _controls(rows, dataset, part), part):
        gain["over_tfidf"] = over
    return gain


def _stages(
    rows: list[Row], dataset: str, encoder: str, part: str
) -> tuple[BySeed, dict[str, BySeed]]:
    """Rows by seed, of seeds that frozen and an adapted stage have: frozen, and each other stage."""
    found = {stage: _by_seed(rows, dataset, encoder, part, stage) for stage in STAGES}
    del found["frozen"]
    frozen = _by_seed(rows, dataset, split_name(encoder)[0], part, "frozen")
    adapted = {
        stage: {seed: row for seed, row in by_seed.items() if seed in frozen}
        for stage, by_seed in found.items()
    }
    seeds = {seed for by_seed in adapted.values() for seed in by_seed}
    return {seed: row for seed, row in frozen.items() if seed in seeds}, adapted


def _controls(rows: list[Row], dataset: str, part: str) -> BySeed:
    """Those with TF-IDF in the language model's place."""
    if part != "fused":
        return _by_seed(rows, dataset, CONTROL, part, "frozen")
    return {
        row["seed"]: row
        for row in store.read(store.QUALITY)
        if (row["dataset"], row["model"]) == (dataset, f"llmseqrec-{CONTROL}")
    }


def _by_seed(rows: list[Row], dataset: str, encoder: str, part: str, stage: str) -> BySeed:
    key = {"dataset": dataset, "encoder": encoder, "part": part, "stage": stage}
    return {row["seed"]: row for row in rows if key.items() <= row.items()}


def _over(found: BySeed, other: BySeed, part: str) -> dict[str, Any] | None:
    """A part's figure over the other's, on the seeds that both have."""
    figure = PARTS[part][0]
    ratios = [found[seed][figure] / other[seed][figure] for seed in sorted({*found} & {*other})]
    if not ratios:
        return None
    return {"gain": round(mean(ratios), 4), "by_seed": [round(ratio, 4) for ratio in ratios]}


def _ratios(over: dict[str, Any] | None) -> str:
    return ", ".join(f"{ratio:.2f}" for ratio in over["by_seed"]) if over else ""


def _mean(found: BySeed, part: str) -> str:
    return f"{mean(row[PARTS[part][0]] for row in found.values()):.4f}".lstrip("0")
