"""What the benchmarks' result files say, as tables and curves."""

from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from recbole_llm.errors import NotFoundError
from recbole_llm.json_files import check_record, is_list_of, read_json

_RUN = {"dataset": str, "model": str, "seed": int, "ndcg@10": float, "recall@10": float}
_DEFAULT = "llmseqrec"
"""The default configuration, whose settings the ablation changes one by one."""


@dataclass(frozen=True)
class Measured:
    """A figure of a results file."""

    name: str
    value: float
    source: str
    """The file's name."""
    command: str
    """What prints it; where the file tells of several runs, without their flags."""


@dataclass(frozen=True)
class Score:
    """A model on a data set, over seeds."""

    ndcg: float
    recall: float
    spread: float | None
    """Standard deviation of NDCG@10; None of one seed."""
    n_seeds: int


@dataclass(frozen=True)
class Change:
    """A setting of the default configuration changed."""

    setting: str
    dataset: str
    ratio: float
    """Its NDCG@10 over the default's, over the seeds that both have."""
    n_seeds: int


@dataclass(frozen=True)
class Results:
    """All of a folder."""

    figures: list[Measured]
    quality: dict[str, dict[str, Score]]
    """By data set and model, the best first."""
    ablation: list[Change]
    curves: dict[str, list[tuple[float, float]]]
    """Seconds and validation NDCG@10 of each epoch, by model."""


def read_results(folder: Path) -> Results:
    """Read the results of ``benchmarks``.

    Args:
        folder: of JSON files; those that are absent are no part of the report.
    Raises:
        NotFoundError: there is no such file.
        ArtifactError: one is damaged.
    """
    files = sorted(folder.glob("*.json"))
    if not files:
        raise NotFoundError(f"no results in {folder}: run a benchmark, or name another folder")
    found = {file.stem: read_json(file) for file in files}
    runs = [*_runs(found.get("quality", []), folder), *_runs(found.get("ablation", []), folder)]
    return Results(
        [figure for name, content in found.items() for figure in _figures(name, content, folder)],
        _quality(runs),
        _ablation(runs),
        _curves(found.get("training", {}), folder / "training.json"),
    )


def _figures(name: str, content: Any, folder: Path) -> list[Measured]:
    if not isinstance(content, dict) or not content.get("figures"):
        return []
    where = f"{folder / name}.json"
    figures = check_record(content, {"figures": dict, "command?": str}, where)["figures"]
    command = content.get("command", f"python -m benchmarks.{name}")
    return [
        Measured(figure, value, f"{name}.json", command)
        for figure, value in figures.items()
        if isinstance(value, int | float)
    ]


def _runs(content: Any, folder: Path) -> list[dict[str, Any]]:
    rows = content if is_list_of(dict, content) else [content]
    return [check_record(row, _RUN, f"a run in {folder}") for row in rows]


def _quality(runs: list[dict[str, Any]]) -> dict[str, dict[str, Score]]:
    by_model: dict[str, dict[str, list[dict[str, Any]]]] = defaultdict(lambda: defaultdict(list))
    for run in runs:
        if ":" not in run["model"]:
            by_model[run["dataset"]][run["model"]].append(run)
    scores = {
        dataset: {model: _score(rows) for model, rows in models.items()}
        for dataset, models in by_model.items()
    }
    return {
        dataset: dict(sorted(models.items(), key=lambda pair: -pair[1].ndcg))
        for dataset, models in sorted(scores.items())
    }


def _score(rows: list[dict[str, Any]]) -> Score:
    values = [row["ndcg@10"] for row in rows]
    return Score(
        mean(values), mean(row["recall@10"] for row in rows),
        stdev(values) if len(values) > 1 else None, len(values),
    )  # fmt: skip


def _ablation(runs: list[dict[str, Any]]) -> list[Change]:
    of = {(run["dataset"], run["model"], run["seed"]): run["ndcg@10"] for run in runs}
    ratios: dict[tuple[str, str], list[float]] = defaultdict(list)
    for (dataset, model, seed), value in of.items():
        base, _, setting = model.partition(":")
        default = of.get((dataset, _DEFAULT, seed))
        if setting and base == _DEFAULT and default:
            ratios[setting, dataset].append(value / default)
    changes = [Change(*key, mean(each), len(each)) for key, each in ratios.items()]
    return sorted(changes, key=lambda change: (change.setting, change.dataset))


def _curves(content: Any, where: Path) -> dict[str, list[tuple[float, float]]]:
    parts = {"SASRec": ("sasrec", "curve"), "LLMSeqRec": ("time", "llmseqrec_curve")}
    curves = {}
    for name, (part, key) in parts.items():
        if isinstance(content, dict) and part in content:
            points = check_record(content[part], {key: list}, where)[key]
            curves[name] = [(float(seconds), float(score)) for seconds, score in points]
    return curves
