"""What a model trained on one domain is worth in another, against starting from scratch there.

    python -m benchmarks.transfer --data-path DIR
    python -m benchmarks.transfer --data-path DIR --pairs ml-latest-small:ml-100k --seeds 1

A source is trained once, by the default configuration, to an artifact. Of the target's users a random
share is trained on, 0, 1%, 10% or all of them, and their validation rows say when to stop; everybody's
test rows are ranked, in RecBole's protocol, whatever the share. **transfer** starts from the artifact,
by the items' texts alone; **scratch** from random weights. The share 0 trains nothing: what users met
is read and their targets are ranked. A part of the users is trained on from either start in batches of
16 windows (in batches of 128 an epoch would be a step) and with ``negatives: all``, so that both
have one objective; all users with the defaults. **pop** is the popularity of the items with all
users. Scratch and pop with all users are rows of ``benchmarks.quality``, and are run where that has
none.

Rows are kept as they come, with the seed that draws users and weights; means over seeds, and each
ratio with the standard error of its mean over seeds. Where transfer hurts, a ratio is below 1.

Writes ``benchmarks/results/transfer.json``: ``pairs``, one object a pair, and the rows.
"""

import argparse
import json
import os
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import numpy as np

from benchmarks.about import DOCS, RESULTS, describe_run, read_results, splice_table
from benchmarks.fresh_process import in_fresh_process
from benchmarks.quality import store
from recbole_llm.feed import recbole_example
from recbole_llm.warehouse import replace_json

_PATH = RESULTS / "transfer.json"
_PAIRS = (
    ("ml-latest-small", "ml-100k"),
    ("ml-latest-small", "movietweetings-100k"),
    ("amazon-beauty-2014", "amazon-industrial-2018w"),
    ("amazon-industrial-2018w", "amazon-beauty-2014"),
    ("steam-100k", "ml-100k"),
)
"""Films to films of other people, films to what a social medium says of films, shops to shops, and
games to films, which share little."""
_SHARES = {0.0: "zero_shot", 0.01: "one_percent", 0.1: "ten_percent", 1.0: "full"}
_TRANSFER, _SCRATCH, _POP = "transfer", "scratch", "pop"
_METRICS = ("ndcg@10", "recall@10")
_FEW_USERS = {"train_batch_size": 16, "negatives": "all"}
Row = dict[str, Any]


def main() -> None:
    """Measure what is not in the file yet, and take the pairs' figures anew."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--data-path", required=True, help="folder that holds the data sets' folders"
    )
    parser.add_argument("--pairs", nargs="+", type=_pair, default=_PAIRS, help="SOURCE:TARGET")
    parser.add_argument("--shares", nargs="+", type=float, default=[*_SHARES], choices=[*_SHARES])
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument(
        "--artifacts", type=Path, help="where the sources' artifacts are kept for another time"
    )
    args = parser.parse_args()
    about = describe_run()
    sys.argv = sys.argv[:1]  # RecBole reads the command line of whatever program it runs in
    data_path = Path(args.data_path).absolute()
    folder = (args.artifacts or Path(tempfile.mkdtemp())).absolute()
    folder.mkdir(parents=True, exist_ok=True)
    os.chdir(tempfile.mkdtemp())  # RecBole writes logs where it runs
    for source, target in args.pairs:
        for key in _missing(source, target, args.shares, args.seeds):
            artifact = None
            if key["start"] == _TRANSFER:
                artifact = _source(source, data_path, folder)
            about_it = {**key, "artifact": artifact, "about": about}
            found = in_fresh_process(_measure, about_it, data_path)
            sys.stdout.write(json.dumps({**key, **found}) + "\n")
            sys.stdout.flush()
            _add({**key, **about, **found})
    splice_table(DOCS / "transfer.md", "transfer", _table(_read()["pairs"]))
    sys.stdout.write(json.dumps(_read()["pairs"], indent=2) + f"\nwritten to {_PATH.name}\n")


def _pair(text: str) -> tuple[str, str]:
    source, colon, target = text.partition(":")
    if not colon:
        raise argparse.ArgumentTypeError(f"expected SOURCE:TARGET, got {text!r}")
    return source, target


def _missing(source: str, target: str, shares: list[float], seeds: list[int]) -> Iterator[Row]:
    """The rows of a pair that the file lacks; those without a source serve every pair of a target."""
    wanted: list[Row] = []
    for seed in seeds:
        wanted.append({"source": None, "target": target, "start": _POP, "share": 1.0, "seed": seed})
    for share in shares:
        for seed in seeds if share else seeds[:1]:  # what is not trained is the same for all
            key = {"target": target, "share": share, "seed": seed}
            wanted.append({"source": source, "start": _TRANSFER, **key})
            if share:
                wanted.append({"source": None, "start": _SCRATCH, **key})
    for key in wanted:
        if not any(key.items() <= row.items() for row in _read()["rows"]):
            yield key


def _source(dataset: str, data_path: Path, folder: Path) -> str:
    """The artifact of a source, trained unless it was before."""
    done = [*(folder / dataset).glob("*/artifact.json")]
    if not done:
        in_fresh_process(_train_source, dataset, data_path, folder / dataset)
        done = [*(folder / dataset).glob("*/artifact.json")]
    return str(done[0].parent)


def _train_source(dataset: str, data_path: Path, folder: Path) -> None:
    from benchmarks.quality.run import PROTOCOL
    from recbole_llm.train import train

    settings = {**PROTOCOL, "seed": 1, "artifact_dir": str(folder)}
    train("LLMSeqRec", dataset, None, {**settings, **_data(dataset, data_path)})


def _data(dataset: str, data_path: Path) -> Row:
    return {"data_path": str(data_path)} if (data_path / dataset).is_dir() else {}


def _measure(key: Row, data_path: Path) -> Row:
    from benchmarks.quality.models import MODELS
    from benchmarks.quality.rows import fill
    from benchmarks.quality.run import run

    target, share, seed = key["target"], key["share"], key["seed"]
    model = "pop" if key["start"] == _POP else "llmseqrec"
    path = _data(target, data_path).get("data_path")
    if share == 1 and key["start"] != _TRANSFER:
        row = fill(model, target, path, seed, key["about"])
        names = (*_METRICS, "valid_ndcg@10", "epochs", "seconds", "command", "commit", "machine")
        return {name: row[name] for name in names}
    settings: Row = {0.0: {"epochs": 0}, 1.0: {"negatives": "met"}}.get(share, _FEW_USERS)
    if key["artifact"]:
        settings = {**settings, "transfer_from": key["artifact"]}
    some = None if share in (0, 1) else draw_users(_users(target, data_path), share, seed)
    outcome = run(
        MODELS[model], target, path, seed, settings, training_users=some, stopping_users=some
    )
    return {
        **{name: outcome.test[name] for name in _METRICS},
        "valid_ndcg@10": outcome.valid.get("ndcg@10"),
        "epochs": outcome.epochs, "seconds": round(outcome.seconds, 1),
    }  # fmt: skip


def draw_users(users: list[str], share: float, seed: int) -> set[str]:
    """A random share of some users, one at least."""
    n = max(round(share * len(users)), 1)
    return {*np.random.default_rng(seed).choice(sorted(users), n, replace=False).tolist()}


def _users(dataset: str, data_path: Path) -> list[str]:
    """Users with enough events to train on, to stop by and to test."""
    folder = data_path / dataset if (data_path / dataset).is_dir() else recbole_example()
    with (folder / f"{dataset}.inter").open(encoding="utf-8") as file:
        columns = [column.partition(":")[0] for column in next(file).rstrip("\n").split("\t")]
        at = columns.index("user_id")
        names, counts = np.unique([line.split("\t")[at] for line in file], return_counts=True)
    return names[counts > 3].tolist()


def _read() -> Row:
    content: Row = read_results(_PATH, {"pairs": [], "rows": []})
    return content


def _add(row: Row) -> None:
    with store.locked(_PATH):
        rows = [*_read()["rows"], row]
        rows.sort(key=lambda row: (row["target"], row["source"] or "", row["share"], row["seed"]))
        pairs = compare(rows)
        above = [pair for pair in pairs if pair.get("zero_shot_over_pop", 0) > 1]
        figures = {"pairs_zero_shot_above_pop": len(above), "pairs": len(pairs)}
        replace_json(_PATH, {"figures": figures, "pairs": pairs, "rows": rows})


def compare(rows: list[Row]) -> list[Row]:
    """One object a pair: the ratios of NDCG@10 that its rows allow, and their standard errors.

    ``zero_shot_over_pop``, and by share as ``ten_percent_over_scratch``, seed by seed.
    """
    pairs = sorted({(row["source"], row["target"]) for row in rows if row["source"]})
    return [_compared(source, target, rows) for source, target in pairs]


def _compared(source: str, target: str, rows: list[Row]) -> Row:
    def scores(start: str, share: float) -> dict[int, float]:
        return {
            row["seed"]: row["ndcg@10"] for row in rows
            if row["target"] == target and row["start"] == start and row["share"] == share
            and row["source"] in (None, source)
        }  # fmt: skip

    found: Row = {"source": source, "target": target}
    pop, untrained = scores(_POP, 1.0), scores(_TRANSFER, 0.0)
    if pop and untrained:
        found["zero_shot_over_pop"] = round(mean(untrained.values()) / mean(pop.values()), 4)
    for share, name in [*_SHARES.items()][1:]:
        ours, scratch = scores(_TRANSFER, share), scores(_SCRATCH, share)
        if both := sorted(ours.keys() & scratch.keys()):
            ratio = mean(ours[seed] for seed in both) / mean(scratch[seed] for seed in both)
            found[f"{name}_over_scratch"] = round(ratio, 4)
            if len(both) > 1:
                each = [ours[seed] / scratch[seed] for seed in both]
                found[f"{name}_error"] = round(stdev(each) / len(each) ** 0.5, 4)
    return found


def _table(pairs: list[Row]) -> str:
    names = [*_SHARES.values()][1:]
    titles = ["Untrained / pop", *(f"{name.replace('_', ' ')} / scratch" for name in names)]
    lines = [f"| From | To | {' | '.join(titles)} |", "|---" * (len(titles) + 2) + "|"]
    for pair in pairs:
        cells = [pair["source"], pair["target"], f"{pair.get('zero_shot_over_pop', '')}"]
        for name in names:
            ratio, error = pair.get(f"{name}_over_scratch", ""), pair.get(f"{name}_error")
            cells.append(f"{ratio}" if error is None else f"{ratio} ± {error}")
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join([*lines, ""])


if __name__ == "__main__":
    main()
