"""Sampled softmax: what it costs in quality where full softmax fits, and what a million items take.

    python -m benchmarks.sampled --dataset amazon-beauty-2014 --data-path DIR --seeds 1 2 3
    python -m benchmarks.sampled --part memory

**sampled_over_full**: test NDCG@10 of ``loss_type: sampled`` over that of the default configuration,
which differs by the loss alone, seed by seed, from the rows of ``benchmarks.quality``; those that are
there are not run again.

**peak_gib**: peak resident memory of training steps with a million items (weights, Adam's two
moments, the average, text vectors of 512 components as two encoders have them, 64 windows of 50
items), by either loss, with seconds a step.

Writes ``benchmarks/results/sampled.json``.
"""

import argparse
import json
import logging
import os
import resource
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.about import RESULTS, describe_run, read_results
from benchmarks.fresh_process import in_fresh_process
from benchmarks.quality.ablation import option_loss
from benchmarks.quality.rows import fill
from benchmarks.random_steps import Sizes, random_step
from recbole_llm.warehouse import replace_json

_PATH = RESULTS / "sampled.json"


def main() -> None:
    """Run the parts asked for and print their figures."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--part", choices=("quality", "memory", "all"), default="all")
    parser.add_argument("--dataset", default="amazon-beauty-2014")
    parser.add_argument("--data-path")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--negatives", type=int, default=4096)
    parser.add_argument("--items", type=int, default=1_000_000)
    args = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    about = describe_run()
    sys.argv = sys.argv[:1]  # RecBole reads the command line of whatever program it runs in
    content = read_results(_PATH, {})
    figures = content.setdefault("figures", {})
    if args.part in ("memory", "all"):
        sizes = (args.items, args.negatives)
        content["memory"] = {
            **about, "items": args.items, "n_negatives": args.negatives,
            **{loss: in_fresh_process(_steps, loss, *sizes) for loss in ("sampled", "CE")},
        }  # fmt: skip
        figures["peak_gib"] = content["memory"]["sampled"]["peak_gib"]
        replace_json(_PATH, content)
    if args.part in ("quality", "all"):
        _quality(content, args, about)
    sys.stdout.write(json.dumps(figures) + f"\nwritten to {_PATH.name}\n")


def _quality(content: dict[str, Any], args: argparse.Namespace, about: dict[str, Any]) -> None:
    path = str(Path(args.data_path).absolute()) if args.data_path else None
    os.chdir(tempfile.mkdtemp())  # RecBole writes logs where it runs
    sampled = "llmseqrec:loss_type=sampled"
    full_rows, sampled_rows = (
        [fill(model, args.dataset, path, seed, about) for seed in args.seeds]
        for model in ("llmseqrec", sampled)
    )
    kept = option_loss(full_rows, sampled_rows)
    assert kept is not None, "both have every seed"
    content["quality"] = {
        **about, "dataset": args.dataset, "model": sampled, "seeds": args.seeds,
        "full_ndcg@10": [row["ndcg@10"] for row in full_rows],
        "sampled_ndcg@10": [row["ndcg@10"] for row in sampled_rows],
        "standard_error": round(kept[1], 4),
    }  # fmt: skip
    content["figures"]["sampled_over_full"] = round(kept[0], 4)
    replace_json(_PATH, content)


def _steps(loss_type: str, n_items: int, n_negatives: int) -> dict[str, float]:
    """The peak and the pace of a few training steps."""
    step = random_step(Sizes(n_items, length=50, users=64), loss_type, n_negatives)
    seconds = []
    for _ in range(3 if loss_type == "sampled" else 1):
        started = time.monotonic()
        step()
        seconds.append(time.monotonic() - started)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return {"peak_gib": round(peak / 2**20, 2), "seconds_a_step": round(min(seconds), 2)}


if __name__ == "__main__":
    main()
