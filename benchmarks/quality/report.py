"""Tables and a plot from the results: means, spreads, and ratios with intervals over users."""

import json
import logging
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path
from statistics import mean, stdev

import numpy as np
from numpy.typing import NDArray

from benchmarks.about import DOCS
from benchmarks.quality import store
from benchmarks.quality.models import MODELS
from benchmarks.quality.run import TOP

OURS, CONTROL = "llmseqrec", "llmseqrec-tfidf"
PEERS = ("sasrec", "gru4rec", "bert4rec", "sasrec-stock")
OTHERS = (*PEERS, "pop", "markov", "unisrec", "linear", "recent", "collaborative", "content")
"""All that are not our model with its own reader, the plain ones of ``strategies`` among them."""
_HEAD = """# Quality

Written by `python -m benchmarks.quality --report` from `benchmarks/results/quality.json`; each row
there names its command, commit, versions and machine. Leave-one-out by time, ties in the file's
order, the whole catalogue ranked, history not masked, the weights that were best on validation.
Means over seeds; ± is the standard deviation over seeds.

![NDCG@10 by data set and model](quality.svg)
"""
_BUDGET = """\
## How the others were tuned

SASRec, GRU4Rec and BERT4Rec are RecBole's networks with RecBole's sizes and full cross-entropy, trained
on whole sequences (`sasrec-stock`: on RecBole's own rows). Budget: two dropouts by two learning rates,
each to its end with the first seed; the best on validation serves all seeds. BERT4Rec has one rate: the
second did not win on ml-100k and steam-100k, which tried it. What was tried stands in
`benchmarks/results/tuning.json`; rows from before the second rate have tried the first one alone. Adam,
64 windows of up to 50 items a batch, at most 200 epochs (BERT4Rec 400), ten without progress on
validation. BERT4Rec is said to need long training (arXiv:2207.07483); sixty epochs without progress,
tried on ml-100k with one seed, found nothing better. Ours is one configuration for all sets; its
options were chosen on validation rows of these sets, over many more runs than the others had.

Seconds compare nothing: some rows ran on a CPU's core and some beside others on a GPU, as each row says
in `machine`; `benchmarks.training` holds training times side by side.
"""
_RATIOS = f"""\
Ratios of mean NDCG@{TOP}, each mean over the seeds that the tables below count; in brackets the 95%
interval from 2,000 bootstrap samples of the test users.
The best RecBole model is the one with the highest mean on the test rows, which favours it; so is the
best of all others, UniSRec-style, linear, and the plain ones of [strategies.md](strategies.md).
"""
_MASKED = """\
The same trained models, ranking only what is not in the sequence they read. RecBole's networks have no
means of learning that a film is seldom rated twice and spend ranks on the history; ours learns it. This
table gives them that knowledge for nothing. Where people do buy again, masking costs hits.
"""
_METRICS = (f"ndcg@{TOP}", f"recall@{TOP}", f"mrr@{TOP}")
_log = logging.getLogger("benchmarks.quality")

Table = dict[str, dict[str, list[store.Row]]]
"""Rows by data set and model."""
_PARTS = (OURS, "content", "collaborative", "recent", "pop")
_BLENDS = """\
The sources of [strategies.md](strategies.md), and what was chosen of them on the validation rows,
against the part that is best there; on the test rows, with the 95% interval over users. A lower end
below 1 says that the blend may be worse. The model is the one within the blend, of the same weights.
"""


def write_report(folder: Path = DOCS) -> None:
    """Write ``quality.md`` and ``quality.svg`` into a folder, from ``results/quality.json``."""
    table: Table = defaultdict(lambda: defaultdict(list))
    for row in store.read(store.QUALITY):
        table[row["dataset"]][row["model"]].append(row)
    if not table:
        return
    folder.mkdir(exist_ok=True)
    parts = [
        _HEAD,
        _ratio_table(
            table, "Ours against the best of the others, and against TF-IDF", _RATIOS, "ranks"
        ),
        _ratio_table(table, "The same with history masked", _MASKED, "masked_ranks"),
    ]
    parts += [_blend_table(table), _BUDGET]
    parts += [_dataset_table(name, models) for name, models in table.items()]
    (folder / "quality.md").write_text("\n".join(parts), encoding="utf-8")
    _plot(table, folder)
    _log.info("written: quality.md, quality.svg in %s", folder)


def _ratio_table(table: Table, title: str, explanation: str, ranks: str) -> str:
    lines = [
        f"## {title}", "", *explanation.splitlines(), "",
        *_head("Data set", "Ours", "Best RecBole", "Ours / it", "Best of all others", "Ours / it",
               "TF-IDF", "Ours / it"),
    ]  # fmt: skip
    for dataset, models in table.items():
        if OURS not in models:
            continue
        gains = {
            name: _user_gains(dataset, name, models[name], ranks)
            for name in (OURS, CONTROL, *OTHERS)
            if name in models
        }
        cells = [dataset, f"{gains[OURS].mean():.4f}"]
        for names in (PEERS, OTHERS, (CONTROL,)):
            found = [name for name in names if name in gains]
            if not found:
                cells += ["", ""]
                continue
            best = max(found, key=lambda name: gains[name].mean())
            label = f"{best} " if len(names) > 1 else ""
            cells += [f"{label}{gains[best].mean():.4f}", _ratio(gains[OURS], gains[best])]
        lines.append(_line(cells))
    return "\n".join([*lines, ""])


def _blend_table(table: Table) -> str:
    lines = [
        "## Blends against their best parts", "", *_BLENDS.splitlines(), "",
        *_head("Data set", "Blend, by seed", "NDCG@10", "Best part", "Its NDCG@10", "Blend / it"),
    ]  # fmt: skip
    for dataset, models in table.items():
        parts = [name for name in _PARTS if name in models]
        if "blend" not in models or OURS not in parts:
            continue
        best = max(parts, key=lambda name: _mean(models[name], f"valid_ndcg@{TOP}"))
        told = "; ".join(_recipe(row) for row in models["blend"])
        ours = _user_gains(dataset, "blend", models["blend"], "ranks")
        theirs = (
            _user_gains(dataset, "blend", models["blend"], "model_ranks")
            if best == OURS
            else _user_gains(dataset, best, models[best], "ranks")
        )
        cells = [dataset, told, f"{ours.mean():.4f}", best, f"{theirs.mean():.4f}"]
        lines.append(_line([*cells, _ratio(ours, theirs)]))
    return "\n".join([*lines, ""])


def _recipe(row: store.Row) -> str:
    """What a row's blend is made of, in words."""
    blend = json.loads(row["blend"])
    sources = " + ".join(f"{weight:g} {name}" for name, weight in blend["sources"].items())
    return f"{sources} by {blend['fusion']}"


def _ratio(ours: NDArray[np.float64], theirs: NDArray[np.float64]) -> str:
    low, high = bootstrap_ratio(ours, theirs)
    return f"**{ours.mean() / theirs.mean():.2f}** [{low:.2f}, {high:.2f}]"


def _user_gains(dataset: str, model: str, rows: list[store.Row], name: str) -> NDArray[np.float64]:
    """(N,) NDCG of each test user, averaged over seeds."""
    ranks = np.stack([store.read_ranks(dataset, model, row["seed"], name) for row in rows])
    return ndcg(ranks).mean(0)


def ndcg(ranks: NDArray[np.uint8]) -> NDArray[np.float64]:
    """NDCG of one relevant item at each rank, from 1; rank 0 is a miss."""
    gains: NDArray[np.float64] = np.where(
        ranks > 0, 1 / np.log2(ranks.astype(float) + 1 + (ranks == 0)), 0.0
    )
    return gains


def bootstrap_ratio(
    ours: NDArray[np.float64],
    theirs: NDArray[np.float64],
    samples: int = 2000,
) -> tuple[float, float]:
    """The 95% interval of the ratio of two means over the same users, by resampling users."""
    generator = np.random.default_rng(0)
    ratios = []
    for _ in range(samples):
        index = generator.integers(0, len(ours), len(ours))
        ratios.append(ours[index].mean() / theirs[index].mean())
    low, high = np.quantile(ratios, [0.025, 0.975])
    return float(low), float(high)


def _dataset_table(dataset: str, models: dict[str, list[store.Row]]) -> str:
    lines = [
        f"## {dataset}",
        "",
        *_head("Model", "NDCG@10", "Recall@10", "MRR@10", "Masked NDCG@10", "Valid NDCG@10",
               "Seeds", "Epochs", "Seconds", "Parameters"),
    ]  # fmt: skip
    for name in MODELS:
        if rows := models.get(name):
            metrics = [f"{_mean(rows, metric):.4f}{_spread(rows, metric)}" for metric in _METRICS]
            cells = [
                name, *metrics, f"{_mean(rows, f'masked_ndcg@{TOP}'):.4f}",
                f"{_mean(rows, f'valid_ndcg@{TOP}'):.4f}", str(len(rows)),
                f"{_mean(rows, 'epochs'):.0f}", f"{_mean(rows, 'seconds'):.0f}",
                f"{rows[0]['parameters']:,}",
            ]  # fmt: skip
            lines.append(_line(cells))
    return "\n".join([*lines, ""])


def _head(*names: str) -> tuple[str, str]:
    return _line(names), "|---" * len(names) + "|"


def _line(cells: Iterable[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def _mean(rows: list[store.Row], key: str = _METRICS[0]) -> float:
    return mean(row[key] for row in rows)


def _spread(rows: list[store.Row], key: str) -> str:
    return f" ± {stdev(row[key] for row in rows):.4f}" if len(rows) > 1 else ""


def _plot(table: Table, folder: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    matplotlib.rcParams["svg.hashsalt"] = "recbole_llm"  # the same picture is the same file
    from matplotlib import pyplot

    columns = min(3, len(table))
    height = -(-len(table) // columns)
    figure, axes = pyplot.subplots(
        height, columns, figsize=(5 * columns, 3.6 * height), squeeze=False
    )
    for axis in axes.flat[len(table) :]:
        axis.remove()
    for axis, (dataset, models) in zip(axes.flat, table.items(), strict=False):
        names = [name for name in MODELS if name in models][::-1]
        values = [_mean(models[name]) for name in names]
        colours = [
            "#c44e52" if n == OURS else "#dd8452" if n.startswith(OURS) else "#4c72b0"
            for n in names
        ]
        axis.barh(names, values, color=colours)
        for place, name in enumerate(names):
            points = [row[_METRICS[0]] for row in models[name]]
            axis.plot(points, [place] * len(points), "k.", markersize=3)
        axis.set_title(dataset, fontsize=10)
        axis.tick_params(labelsize=8)
        axis.set_xlabel(f"test NDCG@{TOP} (dots: seeds)", fontsize=8)
    figure.tight_layout()
    figure.savefig(folder / "quality.svg", metadata={"Date": None})
    pyplot.close(figure)
