"""Items that nobody has met: what the text alone is worth to them, and what they cost the others.

    python -m benchmarks.cold --dataset amazon-beauty-2014 --data-path DIR --seeds 1 2 3
    python -m benchmarks.cold --data-path DIR --model llmseqrec-tfidf      # the control
    python -m benchmarks.cold --report                                     # means and picture only

A random tenth of the items loses all its training events; the two held-out events of each user stay.
The model trains on that and ranks the whole catalogue for everyone. **cold_recall_over_warm** is its
Recall@10 on the users whose test item is one of the tenth, over its Recall@10 on the users whose
validation and test items both are not.

Beside it stands a run that never heard of the tenth: they are in neither file, and a user's held-out
event with one of them is replaced by the user's own last training item, so that nobody's training
sequence changes; both runs stop by the validation rows of the other users. **warm_kept** is the first
run's Recall@10 over this one's, on the same warm users.

A cold item is no negative in the loss. Its score is made of the same two parts as every other's, on
the same scale: its adapted text, and for the ID that it lacks the mean ID of the items with like texts
(``id_neighbors``), which says how often such items are met, and ``new_item_bias`` on top: as less
is known of it, its scores lie closer to the middle, and the first ten places are at the edge.

The same trained model is also ranked at other values of that bias: ``curve`` in a row, and
``docs/cold.svg``, say what each buys and costs, so that a shop can choose.

Writes ``benchmarks/results/cold.json``.
"""

import argparse
import json
import logging
import os
import sys
import tempfile
from pathlib import Path
from statistics import mean
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.about import RESULTS, describe_run, read_results
from benchmarks.cold.cut import Events
from benchmarks.cold.picture import draw, mean_curves
from benchmarks.quality import store
from benchmarks.quality.models import MODELS
from benchmarks.quality.report import ndcg
from benchmarks.quality.run import run
from recbole_llm.warehouse import replace_json

_PATH = RESULTS / "cold.json"
_MAIN_SET = "amazon-beauty-2014"
_MAIN_SHARE = 0.1
"""The figures are of these."""
_BIASES = (0.0, 0.1, 0.2, 0.4, 0.8)
"""Values of ``new_item_bias`` on the curve."""
_log = logging.getLogger("benchmarks.cold")


def main() -> None:
    """Run both sides for each seed, keep each row as it comes, print the means."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--dataset", default=_MAIN_SET)
    parser.add_argument("--data-path", help="folder that holds the data sets' folders")
    parser.add_argument("--model", default="llmseqrec", choices=MODELS)
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument(
        "--share", type=float, default=_MAIN_SHARE, help="of the items that turn cold"
    )
    parser.add_argument("--report", action="store_true", help="print and draw, run nothing")
    args = parser.parse_args()
    if not args.report and not args.data_path:
        parser.error("--data-path is needed to run")
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    about = describe_run()
    sys.argv = sys.argv[:1]  # RecBole reads the command line of whatever program it runs in
    if not args.report:
        _run(args, about)
    curves = mean_curves(_read()["rows"])
    draw(curves)
    for dataset, by_model in curves.items():
        for model, curve in by_model.items():
            for bias, (kept, cold) in zip(curve.biases, curve.points, strict=True):
                sys.stdout.write(
                    f"{dataset} {model}, seeds: {curve.n_seeds}, new_item_bias {bias:g}: "
                    f"cold_recall_over_warm {cold:.3f}, warm_kept {kept:.3f}\n"
                )
    sys.stdout.write(json.dumps(_read().get("figures")) + f"\nwritten to {_PATH.name}\n")


def _run(args: argparse.Namespace, about: dict[str, Any]) -> None:
    source = Path(args.data_path).absolute() / args.dataset
    os.chdir(tempfile.mkdtemp())  # RecBole writes logs where it runs
    for seed in args.seeds:
        key = {"dataset": args.dataset, "model": args.model, "seed": seed, "share": args.share}
        if not any(key.items() <= row.items() for row in _read()["rows"]):
            _add({**key, **_measure(source, args.model, seed, args.share), **about})


def _read() -> dict[str, Any]:
    content: dict[str, Any] = read_results(_PATH, {"rows": []})
    return content


def _add(row: dict[str, Any]) -> None:
    """Add a row and take the figures anew; several processes may write at once."""
    with store.locked(_PATH):
        rows = [*_read()["rows"], row]
        rows.sort(key=lambda row: (row["dataset"] != _MAIN_SET, row["model"], row["seed"]))
        content: dict[str, Any] = {"rows": rows}
        main = {"dataset": _MAIN_SET, "model": "llmseqrec", "share": _MAIN_SHARE}
        ours = [row for row in rows if main.items() <= row.items()]
        if ours:
            content["figures"] = {
                name: round(mean(row[name] for row in ours), 4)
                for name in ("cold_recall_over_warm", "warm_kept")
            }
        replace_json(_PATH, content)


def _measure(source: Path, model: str, seed: int, share: float) -> dict[str, Any]:
    events = Events(source)
    cut = events.cut(share, seed)
    biases = _BIASES if MODELS[model].model == "LLMSeqRec" else ()
    with tempfile.TemporaryDirectory() as folder:
        aware, unaware = (
            run(
                MODELS[model], source.name, str(cut.write(Path(folder) / name, forget)), seed, {},
                cut.warm_users(), () if forget else biases,
            )
            for name, forget in (("aware", False), ("never-heard", True))
        )  # fmt: skip
    assert aware.users == unaware.users, "RecBole orders users by time, which the cut leaves alone"
    is_cold, is_warm = (
        np.array([user in group for user in aware.users])
        for group in (cut.cold_users(), cut.warm_users())
    )
    never_heard = _metrics("never_heard_warm", unaware.ranks[is_warm])

    def figures(ranks: NDArray[np.uint8]) -> dict[str, float]:
        found = {**_metrics("cold", ranks[is_cold]), **_metrics("warm", ranks[is_warm])}
        over_warm = found["cold_recall@10"] / found["warm_recall@10"]
        kept = found["warm_recall@10"] / never_heard["never_heard_warm_recall@10"]
        return {
            **found, "cold_recall_over_warm": round(over_warm, 6), "warm_kept": round(kept, 6)
        }  # fmt: skip

    result: dict[str, Any] = {
        "cold_items": len(cut.cold),
        "users_left_out": len(events.users) - len(cut.users),
        "cold_users": int(is_cold.sum()),
        "warm_users": int(is_warm.sum()),
        **never_heard,
        **figures(aware.ranks),
        "curve": [
            {"new_item_bias": bias, **figures(ranks)} for bias, ranks in aware.ranks_by_bias.items()
        ],
    }
    _log.info("%s", result)
    return result


def _metrics(group: str, ranks: NDArray[np.uint8]) -> dict[str, float]:
    return {
        f"{group}_recall@10": round(float((ranks > 0).mean()), 6),
        f"{group}_ndcg@10": round(float(ndcg(ranks).mean()), 6),
    }


if __name__ == "__main__":
    main()
