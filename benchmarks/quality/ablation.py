"""One option at a time, away from the default: what each bought, said where it is documented.

The tables go into ``docs/model.md``, each option's figures below its line of the default config.
"""

from collections import defaultdict
from pathlib import Path
from statistics import mean, stdev

from benchmarks.about import DOCS, splice_table
from benchmarks.quality import store
from benchmarks.quality.models import MODELS
from benchmarks.quality.run import TOP
from recbole_llm.config_files import config_path

PAGE, CONFIG = DOCS / "model.md", config_path("model", "LLMSeqRec")
ABLATIONS = tuple(
    f"llmseqrec:{change}"
    for change in (
        "repeat_lags=0", "ema_decay=0", "text_whitening=0", "text_whitening=1", "text_size=64",
        "adaptor=moe", "score=cosine", "hidden_size=128", "n_layers=1", "n_heads=1", "n_heads=4",
        "inner_size=64", "hidden_act=relu", "hidden_dropout_prob=0.2", "hidden_dropout_prob=0.5",
        "attn_dropout_prob=0.1", "id_neighbors=0", "id_prior=1", "id_prior=25", "id_dropout_prob=0",
        "new_item_bias=0.2", "n_targets=1", "target_decay=1.0",
        "encoder=minilm+smollm2-135m", "loss_type=sampled", "stopping_step=20",
        "decoder=semantic_ids",
    )
)  # fmt: skip
NAMED = {
    name: "{}={}".format(*next(iter(entry.settings.items())))
    for name, entry in MODELS.items()
    if name.startswith("llmseqrec") and len(entry.settings) == 1
}
"""Models of the quality table that are the default with one option changed, and that change."""
_MARK = "# With "
Losses = dict[str, dict[str, tuple[float, float]]]
"""By change, as ``n_layers=1``, and data set: what is left of the default's NDCG, and its error."""


def write_ablation(page: Path = PAGE, config: Path = CONFIG) -> None:
    """Write a page's tables and a config's figures from ``ablation.json`` and ``quality.json``.

    Settings of other models than the default are no ablation, and stand in the file alone.
    """
    losses = _losses(f"ndcg@{TOP}")
    splice_table(page, "ablation", _table(losses))
    splice_table(page, "validation", _table(_losses(f"valid_ndcg@{TOP}")))
    splice_table(page, "removed", removed_table(store.read(store.REMOVED)))
    config.write_text(with_figures(config.read_text(encoding="utf-8"), losses), encoding="utf-8")


def _losses(metric: str) -> Losses:
    default, changed = defaultdict(list), defaultdict(list)
    for row in store.read(store.QUALITY):
        if row["model"] == "llmseqrec":
            default[row["dataset"]].append(row)
        elif row["model"] in NAMED:
            changed[NAMED[row["model"]], row["dataset"]].append(row)
    for row in store.read(store.ABLATION):
        base, _, change = row["model"].partition(":")
        if base == "llmseqrec":
            changed[change, row["dataset"]].append(row)
    order = [*NAMED.values(), *(name.partition(":")[2] for name in ABLATIONS)]
    losses: Losses = defaultdict(dict)
    for change in dict.fromkeys([*order, *(change for change, _ in changed)]):
        for dataset, rows in default.items():
            if loss := option_loss(rows, changed[change, dataset], metric):
                losses[change][dataset] = loss
    return losses


def option_loss(
    default: list[store.Row], changed: list[store.Row], metric: str = f"ndcg@{TOP}"
) -> tuple[float, float] | None:
    """What is left of the default's metric after a change, and the standard error of that ratio.

    Seed by seed, over the seeds that both have; None without a common seed. The error is that of the
    mean over seeds, 0 with one seed.
    """
    by_seed = {row["seed"]: row[metric] for row in default}
    ratios = [row[metric] / by_seed[row["seed"]] for row in changed if row["seed"] in by_seed]
    if not ratios:
        return None
    return mean(ratios), stdev(ratios) / len(ratios) ** 0.5 if len(ratios) > 1 else 0.0


def with_figures(config: str, losses: Losses) -> str:
    """A YAML file's text with the figures below the line of each option; older figures go."""
    kept = [line for line in config.splitlines() if not line.lstrip().startswith(_MARK)]
    lines = []
    for line in kept:
        lines.append(line)
        key, _, _ = line.partition(":")
        for change, by_dataset in losses.items():
            if change.partition("=")[0] == key and "," not in change:
                parts = ", ".join(f"{loss:.2f} on {name}" for name, (loss, _) in by_dataset.items())
                lines.append(f"{'':32}{_MARK}{change.partition('=')[2]}, NDCG@{TOP} is {parts}.")
    return "\n".join(lines) + "\n"


def removed_table(removed: list[store.Row]) -> str:
    """What settings that are gone left of the default's NDCG at the commit that still has them."""
    tried = defaultdict(list)
    for row in removed:
        change = row["model"].partition(":")[2]
        tried[change, row["commit"], row["dataset"]].append(row)
    lines = ["| Setting | Commit | Data set | Seeds | Validation | Test |", "|---" * 6 + "|"]
    for (change, commit, dataset), rows in tried.items():
        default = tried.get(("", commit, dataset), [])
        losses = [option_loss(default, rows, f"{part}ndcg@{TOP}") for part in ("valid_", "")]
        n_seeds = len({row["seed"] for row in default} & {row["seed"] for row in rows})
        if change and n_seeds:
            cells = [_cell(*loss) for loss in losses if loss]
            lines.append(f"| `{change}` | {commit} | {dataset} | {n_seeds} | {' | '.join(cells)} |")
    return "\n".join([*lines, ""])


def _table(losses: Losses) -> str:
    datasets = list(dict.fromkeys(name for by_dataset in losses.values() for name in by_dataset))
    if not datasets:
        return "No row yet.\n"
    lines = [f"| Change | {' | '.join(datasets)} |", "|---" * (len(datasets) + 1) + "|"]
    for change, by_dataset in losses.items():
        cells = [_cell(*by_dataset[name]) if name in by_dataset else "" for name in datasets]
        lines.append(f"| `{change}` | {' | '.join(cells)} |")
    return "\n".join([*lines, ""])


def _cell(loss: float, error: float) -> str:
    return f"{loss:.3f} ± {error:.3f}" if error else f"{loss:.3f}"
