"""One model on one data set over several seeds, through RecBole's own split and evaluation.

    python -m benchmarks.seeds --model LLMSeqRec --dataset ml-100k --seeds 1 2 3 --name default
    python -m benchmarks.seeds … --set item_repr=id --set epochs=50

Protocol: leave-one-out, the whole catalogue ranked, history not masked, the weights that were best on
validation. Writes ``benchmarks/results/seeds-<dataset>-<model>-<name>.json`` as it goes.
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"
LIBRARIES = ("recbole", "torch", "transformers", "sentence-transformers", "numpy")


def describe_run() -> dict[str, Any]:
    """Command, commit, versions and machine, for a results file."""

    def git(*words: str) -> str:
        command = ["git", "-C", str(Path(__file__).parent), *words]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        return done.stdout.strip()

    with open("/proc/cpuinfo", encoding="utf-8") as file:
        names = [line.partition(":")[2].strip() for line in file if line.startswith("model name")]
    return {
        "command": "python -m benchmarks.seeds " + " ".join(sys.argv[1:]),
        "commit": git("rev-parse", "--short", "HEAD")
        + ("+changes" if git("status", "--porcelain", "--untracked-files=no") else ""),
        "versions": {name: version(name) for name in LIBRARIES},
        "machine": f"{names[0] if names else platform.processor()}, {os.cpu_count()} cores",
    }


def main() -> None:
    """Run the seeds one after another and print each result and the mean."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="LLMSeqRec")
    parser.add_argument("--dataset", default="ml-100k")
    parser.add_argument("--data-path", help="folder that holds the data set's folder")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--name", default="default", help="names the results file")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    args = parser.parse_args()
    about = describe_run()
    sys.argv = sys.argv[:1]  # RecBole reads the command line of whatever program it runs in

    from recbole_llm.train import train

    settings: dict[str, Any] = dict(pair.split("=", 1) for pair in args.set)
    if args.data_path:
        settings["data_path"] = str(Path(args.data_path).absolute())
    rows: list[dict[str, Any]] = []
    path = RESULTS / f"seeds-{args.dataset}-{args.model}-{args.name}.json"
    os.chdir(tempfile.mkdtemp())  # RecBole writes logs where it runs
    for seed in args.seeds:
        started = time.monotonic()
        given = {**settings, "seed": seed, "show_progress": False, "checkpoint_dir": "saved"}
        result = train(args.model, args.dataset, None, given)
        seconds = round(time.monotonic() - started, 1)
        rows.append(
            {
                "dataset": args.dataset,
                "model": args.model,
                "seed": seed,
                **result.test_result,
                **{f"valid_{name}": value for name, value in result.best_valid_result.items()},
                "epochs": result.epochs,
                "seconds": seconds,
            }
        )
        content = {**about, "settings": settings, "rows": rows}
        path.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    for row in rows:
        sys.stdout.write(
            f"seed {row['seed']}: NDCG@10 {row['ndcg@10']:.4f}, Recall@10 {row['recall@10']:.4f}, "
            f"{row['epochs']} epochs, {row['seconds']:.0f} s\n"
        )
    mean = statistics.mean(row["ndcg@10"] for row in rows)
    sys.stdout.write(f"mean NDCG@10 of {len(rows)} seeds: {mean:.4f}, written to {path.name}\n")


if __name__ == "__main__":
    main()
