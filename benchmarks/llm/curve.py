"""What was tried to read texts better than TF-IDF does, step by step, and how far it went."""

from collections.abc import Iterator
from pathlib import Path
from statistics import mean

from benchmarks.about import DOCS
from benchmarks.llm.figures import CONTROL, Row
from benchmarks.quality import store

GOALS = {
    "amazon-beauty-2014": 1.08, "amazon-industrial-2018w": 1.10, "ml-100k": 1.00,
    "ml-latest-small": 1.00, "steam-100k": 1.02,
}  # fmt: skip
"""NDCG@10 over the same with TF-IDF in the language model's place, as aimed at."""
_TRIED = {
    "llmseqrec-id": "no text",
    "llmseqrec-smollm2": "SmolLM2",
    "llmseqrec-minilm": "MiniLM",
    "llmseqrec:encoder=minilm+smollm2-135m": "MiniLM, SmolLM2",
    "llmseqrec": "MiniLM, TF-IDF\n(default)",
    "pretrained": "pre-trained",
    "tuned": "and LoRA",
}
"""What stands in TF-IDF's place in the default configuration; the last two of the MiniLM beside it."""
_FIGURE = "ndcg@10"


def draw_curve(rows: list[Row], folder: Path = DOCS) -> None:
    """Write ``texts.svg``: each step over the control, seed by seed, and the goal.

    Args:
        rows: of ``llm.json``; the others are those of the quality benchmark.
    """
    import matplotlib

    matplotlib.use("Agg")
    matplotlib.rcParams["svg.hashsalt"] = "recbole_llm"  # the same picture is the same file
    from matplotlib import pyplot

    found = dict(_ratios(rows))
    figure, axes = pyplot.subplots(2, 3, figsize=(15, 7.6), sharey=True)
    for axis, (dataset, by_step) in zip(axes.flat, found.items(), strict=False):
        steps = [name for name in _TRIED if name in by_step]
        for place, name in enumerate(steps):
            axis.plot([place] * len(by_step[name]), by_step[name], "k.", markersize=4)
        axis.plot([mean(by_step[name]) for name in steps], "o-", color="#c44e52")
        axis.axhline(1.0, color="#4c72b0", linewidth=1)
        if goal := GOALS.get(dataset):
            axis.axhline(goal, color="#55a868", linestyle="--", linewidth=1)
        labels = [_TRIED[name] for name in steps]
        axis.set_xticks(range(len(steps)), labels, rotation=30, ha="right", fontsize=8)
        axis.set_title(dataset, fontsize=10)
    for axis in axes[:, 0]:
        axis.set_ylabel("NDCG@10 over TF-IDF's (dots: seeds)", fontsize=8)
    for axis in axes.flat[len(found) :]:
        axis.remove()
    figure.tight_layout()
    figure.savefig(folder / "texts.svg", metadata={"Date": None})
    pyplot.close(figure)


def _ratios(rows: list[Row]) -> Iterator[tuple[str, dict[str, list[float]]]]:
    """By data set and step, of the seeds that step and control have."""
    tried: dict[str, dict[str, dict[int, float]]] = {}
    for row in [*store.read(store.QUALITY), *store.read(store.ABLATION)]:
        by_seed = tried.setdefault(row["dataset"], {}).setdefault(row["model"], {})
        by_seed[row["seed"]] = row[_FIGURE]
    for row in rows:
        if row["part"] == "fused" and row["encoder"] == "minilm":
            by_seed = tried.setdefault(row["dataset"], {}).setdefault(row["stage"], {})
            by_seed[row["seed"]] = row[_FIGURE]
    for dataset, by_step in tried.items():
        control = by_step.get(f"llmseqrec-{CONTROL}", {})
        ratios = {
            name: [by_step[name][seed] / control[seed] for seed in control if seed in by_step[name]]
            for name in _TRIED
            if name in by_step
        }
        if len(ratios := {name: found for name, found in ratios.items() if found}) > 1:
            yield dataset, ratios
