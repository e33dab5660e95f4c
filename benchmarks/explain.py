"""Whether what is told to carry a score does, whether shares add up, and what telling it costs.

    python -m benchmarks.explain
    python -m benchmarks.explain --data-path DIR --dataset amazon-industrial-2018w

A model is trained for a few epochs (or ``--artifact`` is taken), and ranks the catalogue for histories
without their last item. Of users who have met enough items the first rank is explained.

**deletion**: the named history items are deleted and the model scores the same item anew; beside it as
many items of what is read, drawn at random. ``deletion_advantage`` is the mean fall of the score over
that of the draws: of the items that ``recbole_llm.scoring.why`` names, up to two, and of those that the
sentence names (``deletion_advantage_left_out``). ``curve`` is the mean fall with the first 1, 2, 3 and
5 items by each view, also in ``docs/explain.svg``; **newest** is what needs no explanation to name.
**completeness**: how far the shares' sum is from what the score has over the baseline's.
**cost**: ``why`` with its sentences for the first three ranks over ``Scorer.rank`` of the same rows, in
turns, the fastest of each.
**size**: bytes of the files that explanations need and of the artifact's others.

The figures are the worst of the data sets that were measured. Writes
``benchmarks/results/explain.json``.
"""

import argparse
import json
import sys
import time
from importlib.metadata import version
from pathlib import Path
from statistics import mean
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.about import DOCS, RESULTS, describe_run, read_results
from benchmarks.cold.cut import Events
from benchmarks.fresh_process import in_fresh_process
from recbole_llm.warehouse import replace_json

_PATH = RESULTS / "explain.json"
_DELETED = (1, 2, 3, 5)
_FEWEST = max(_DELETED) + 1
"""Items that a user has met: one is left when the most are deleted."""
_DRAWS = 5
_RANKS = 3
"""Ranks that the night would explain."""
_WORST = {
    "users": min,
    "deletion_advantage": min,
    "deletion_advantage_left_out": min,
    "completeness_error": max,
    "completeness_error_largest": max,
    "cost_over_scoring": max,
}


def main() -> None:
    """Measure one data set, and take the figures anew over all."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--dataset", default="ml-100k")
    parser.add_argument("--data-path", help="where it lies; ml-100k comes with RecBole")
    parser.add_argument("--artifact", type=Path, help="a trained model of it; trained here without")
    parser.add_argument("--epochs", type=int, default=25)
    parser.add_argument("--users", type=int, default=1000, help="at most so many")
    parser.add_argument("--repeats", type=int, default=15, help="the fastest counts")
    args = parser.parse_args()
    about = describe_run()
    about["versions"]["captum"] = version("captum")
    sys.argv = sys.argv[:1]  # RecBole reads the command line of whatever program it runs in
    settings: dict[str, Any] = {"epochs": args.epochs, "use_gpu": False, "show_progress": False}
    if args.data_path:
        settings["data_path"] = str(Path(args.data_path).absolute())
    artifact = args.artifact and args.artifact.absolute()
    row = in_fresh_process(measure, args.dataset, settings, artifact, args.users, args.repeats)
    content = read_results(_PATH, {"figures": {}, "datasets": {}})
    content["datasets"][args.dataset] = {**about, **row}
    content["figures"] = figures(content["datasets"])
    replace_json(_PATH, content)
    draw(content["datasets"])
    sys.stdout.write(json.dumps(row) + "\n" + json.dumps(content["figures"]) + "\n")
    sys.stdout.write(f"written to {_PATH.name}\n")


def figures(datasets: dict[str, dict[str, Any]]) -> dict[str, float]:
    """The worst of all data sets, by name."""
    return {name: worst(row[name] for row in datasets.values()) for name, worst in _WORST.items()}


def measure(
    dataset: str, settings: dict[str, Any], artifact: Path | None, n_users: int, repeats: int
) -> dict[str, Any]:
    """A row of the results."""
    from recbole_llm.explain.explainer import Explainer
    from recbole_llm.train import build_config, train

    started = time.monotonic()
    folder = Path(build_config("LLMSeqRec", dataset, None, dict(settings))["data_path"])
    if artifact is None:
        artifact = train("LLMSeqRec", dataset, None, settings).artifact
    assert artifact is not None
    explainer = Explainer(artifact)
    histories = _histories(Events(folder), explainer, n_users)
    rows = np.concatenate(histories)
    lengths = np.array([len(history) for history in histories])
    ranked, _ = explainer.scorer.rank(rows, lengths, _RANKS)
    return {
        "model_version": artifact.name,
        "users": len(histories),
        **_deletion(explainer, histories, ranked[:, 0]),
        **_completeness(explainer, histories, ranked[:, 0]),
        **_cost(explainer, rows, lengths, ranked, repeats),
        **_size(artifact),
        "seconds": round(time.monotonic() - started),
    }


def _histories(events: Events, explainer: Any, n_users: int) -> list[NDArray[np.int64]]:
    """What users met before their last item, as rows, of those who met enough."""
    scorer, found = explainer.scorer, []
    longest = scorer.artifact.sequence_config.max_seq_length
    for rows in events.users.values():
        met = [scorer.row(row[events.item]) for row in rows[:-1]]
        known = [row for row in met if row]
        if len(set(known[-longest:])) >= _FEWEST:
            found.append(np.array(known, dtype=np.int64))
    chosen = np.random.default_rng(0).permutation(len(found))[:n_users]
    return [found[user] for user in sorted(chosen)]


def _deletion(
    explainer: Any, histories: list[NDArray[np.int64]], items: NDArray[np.int64]
) -> dict[str, Any]:
    from recbole_llm.explain.history import attention, gradient, leave_out
    from recbole_llm.explain.sentence import N_NAMED, strongest
    from recbole_llm.scoring import why

    scorer = explainer.scorer
    longest = scorer.artifact.sequence_config.max_seq_length
    lengths = np.array([len(history) for history in histories])
    wanted = items[:, None]
    before = scorer.score(np.concatenate(histories), lengths, wanted)[:, 0]

    def mean_fall(out: list[list[int]]) -> float:
        """Of the scores without those items, over the users of whom some are named."""
        users = [user for user, rows in enumerate(out) if rows]
        left = [histories[user][~np.isin(histories[user], out[user])] for user in users]
        sizes = np.array([len(history) for history in left])
        after = scorer.score(np.concatenate(left), sizes, wanted[users])[:, 0]
        return float((before[users] - after).mean())

    # By view and user, history items with what they are worth, the most first.
    views = ("left out", "gradient x input", "attention", "newest")
    orders: dict[str, list[list[int]]] = {view: [] for view in views}
    of_sentence = []
    for history, item in zip(histories, items.tolist(), strict=True):
        read = history[-longest:].tolist()
        falls = leave_out(scorer, history.tolist(), item)[-len(read) :]
        worth = {
            "left out": {row: float(fall) for row, fall in zip(read, falls, strict=True)},
            "gradient x input": _summed(read, gradient(scorer, read, item)),
            "attention": _summed(read, attention(scorer, read)[-1, :, -1].mean(0).numpy()),
            "newest": {row: float(place) for place, row in enumerate(read)},
        }
        for view, of_item in worth.items():
            orders[view].append(sorted(of_item, key=lambda row: -of_item[row]))
        by_name = {str(row): fall for row, fall in worth["left out"].items()}
        of_sentence.append([int(row) for row in strongest(by_name)[:N_NAMED]])
    generator = np.random.default_rng(1)
    draws = [
        [generator.permutation(np.unique(history[-longest:])).tolist() for history in histories]
        for _ in range(_DRAWS)
    ]

    def at_random(sizes: list[int]) -> float:
        return mean(
            mean_fall([rows[:size] for rows, size in zip(draw, sizes, strict=True)])
            for draw in draws
        )

    named = why(scorer, np.concatenate(histories), lengths, wanted).rows[:, 0].tolist()
    told = [[row for row in rows if row] for rows in named]
    curve: dict[str, list[float]] = {
        view: [round(mean_fall([rows[:n] for rows in order]), 4) for n in _DELETED]
        for view, order in orders.items()
    }
    curve["at random"] = [round(at_random([n] * len(histories)), 4) for n in _DELETED]
    return {
        "score": round(float(before.mean()), 4),
        "users_without_a_name": sum(not rows for rows in told),
        "users_without_a_name_left_out": sum(not rows for rows in of_sentence),
        **{
            name: round(mean_fall(rows) / at_random([len(each) for each in rows]), 3)
            for name, rows in (
                ("deletion_advantage", told), ("deletion_advantage_left_out", of_sentence)
            )
        },
        "deleted": list(_DELETED),
        "curve": curve,
    }  # fmt: skip


def _summed(read: list[int], of_place: NDArray[np.float32]) -> dict[int, float]:
    found: dict[int, float] = {}
    for row, each in zip(read, of_place.tolist(), strict=True):
        found[row] = found.get(row, 0.0) + each
    return found


def _completeness(
    explainer: Any, histories: list[NDArray[np.int64]], items: NDArray[np.int64]
) -> dict[str, Any]:
    from recbole_llm.explain.shares import shares

    longest = explainer.scorer.artifact.sequence_config.max_seq_length
    found = [
        shares(explainer.scorer, explainer.parts, history[-longest:].tolist(), item)
        for history, item in zip(histories, items.tolist(), strict=True)
    ]
    errors = [each.completeness_error for each in found]
    return {
        "completeness_error": float(f"{mean(errors):.2g}"),
        "completeness_error_largest": float(f"{max(errors):.2g}"),
        "mean_shares": {
            "baseline": round(mean(each.baseline for each in found), 4),
            **{name: round(mean(each.of[name] for each in found), 4) for name in found[0].of},
        },
    }


def _cost(
    explainer: Any,
    rows: NDArray[np.int64],
    lengths: NDArray[np.int64],
    ranked: NDArray[np.int64],
    repeats: int,
) -> dict[str, Any]:
    from recbole_llm.scoring import why

    scorer = explainer.scorer
    titles = scorer.artifact.titles
    seconds: dict[str, list[float]] = {"scoring": [], "why": []}
    for _ in range(repeats):
        started = time.perf_counter()
        scorer.rank(rows, lengths, _RANKS)
        seconds["scoring"].append(time.perf_counter() - started)
        started = time.perf_counter()
        why(scorer, rows, lengths, ranked).sentences(titles)
        seconds["why"].append(time.perf_counter() - started)
    fastest = {name: min(each) for name, each in seconds.items()}
    return {
        "ranks": _RANKS,
        "users_a_second": {name: round(len(lengths) / each, 1) for name, each in fastest.items()},
        "cost_over_scoring": round(fastest["why"] / fastest["scoring"], 3),
    }


def _size(artifact: Path) -> dict[str, int]:
    from recbole_llm.item_parts import PARTS

    sizes = {path.name: path.stat().st_size for path in artifact.iterdir() if path.is_file()}
    needed = sum(sizes[name] for name in PARTS)
    return {"explanation_bytes": needed, "other_bytes": sum(sizes.values()) - needed}


def draw(datasets: dict[str, dict[str, Any]], folder: Path = DOCS) -> None:
    """Draw ``explain.svg``: a panel a data set, a line a view."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    with mpl.rc_context({"svg.hashsalt": "recbole_llm"}):  # the same picture is the same file
        figure = Figure(figsize=(5.5 * len(datasets), 3.8), layout="constrained")
        panels = figure.subplots(1, len(datasets), squeeze=False)[0]
        for axes, (dataset, row) in zip(panels, datasets.items(), strict=True):
            for view, falls in row["curve"].items():
                style = "--" if view == "at random" else "-"
                axes.plot(row["deleted"], falls, style, marker="o", markersize=4, label=view)
            axes.set_title(f"{dataset}, {row['users']} users", fontsize=10)
            axes.set_xlabel("history items deleted", fontsize=9)
            axes.set_ylabel("mean fall of the first rank's score", fontsize=9)
            axes.set_xticks(row["deleted"])
            axes.legend(fontsize=8)
        figure.savefig(folder / "explain.svg", metadata={"Date": None})


if __name__ == "__main__":
    main()
