"""How much sooner LLMSeqRec gets where RecBole's SASRec gets, and in how much less memory.

    python -m benchmarks.training              # all parts; the first takes one to three hours
    python -m benchmarks.training --threads 1  # on one core, both sides
    python -m benchmarks.training --part memory
    python -m benchmarks.training --part throughput --device cuda

**time_to_peer_ratio**: RecBole's own SASRec with its own defaults and full cross-entropy trains on
ml-100k until its validation NDCG@10 has not risen for ten epochs. LLMSeqRec with its defaults then
trains in a process of its own, from an empty text cache. The figure is the seconds the first needed
to its best validation score over the seconds the second needed to reach that same score; loading,
encoding and validation count on both sides.

**dataset_memory_ratio**: peak resident memory that ``WholeSequenceDataset`` adds while it loads and
splits a million synthetic interactions at length 200, over what RecBole's ``SequentialDataset`` adds.

**arithmetic_share**: of a training step's time, the part that its matrix products alone take at the
rate at which the same device multiplies large matrices. By default 256 users of 200 items and a
catalogue of 100,000; on a GPU by mixed precision too.

Writes ``benchmarks/results/training.json``, SASRec's curve after each epoch. A finished one is kept
and not run again on the same machine with the same threads, unless ``--fresh`` is given. Its run is
also the row ``sasrec-stock`` of ``benchmarks.quality``.
"""

import argparse
import json
import os
import resource
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from benchmarks.about import RESULTS, describe_run, read_results
from benchmarks.fresh_process import in_fresh_process
from benchmarks.quality.models import find_model
from benchmarks.quality.rows import keep
from benchmarks.quality.run import PROTOCOL, run
from benchmarks.random_steps import Sizes, random_step
from recbole_llm.warehouse import replace_json

_PATH = RESULTS / "training.json"
_PEER, _OURS = "sasrec-stock", "llmseqrec"
_DATASET = "ml-100k"


def main() -> None:
    """Run the parts asked for and print their figures."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--part", choices=("time", "memory", "throughput", "all"), default="all")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--fresh", action="store_true", help="run SASRec again")
    parser.add_argument("--interactions", type=int, default=1_000_000)
    parser.add_argument("--device", default="cpu", help="of the throughput")
    parser.add_argument("--items", type=int, default=100_000)
    parser.add_argument("--length", type=int, default=200)
    parser.add_argument("--users", type=int, default=256, help="sequences of a step")
    args = parser.parse_args()
    import torch

    torch.set_num_threads(args.threads)
    about = describe_run()
    sys.argv = sys.argv[:1]  # RecBole reads the command line of whatever program it runs in
    content = read_results(_PATH, {})
    figures = content.setdefault("figures", {})
    if args.part in ("time", "all"):
        content["time"] = {**about, **_time_part(content, args, about)}
        figures["time_to_peer_ratio"] = content["time"]["ratio"]
        replace_json(_PATH, content)
    if args.part in ("memory", "all"):
        content["memory"] = {**about, **_memory_part(args.interactions)}
        figures["dataset_memory_ratio"] = content["memory"]["ratio"]
        replace_json(_PATH, content)
    if args.part in ("throughput", "all"):
        sizes = Sizes(args.items, args.length, args.users)
        precisions = (False, True) if args.device == "cuda" else (False,)
        by_precision = {
            "mixed" if amp else "float32": _throughput(sizes, args.device, amp)
            for amp in precisions
        }
        content[f"throughput_{args.device}"] = {**about, **asdict(sizes), **by_precision}
        shares = [each["arithmetic_share"] for each in by_precision.values()]
        figures[f"arithmetic_share_{args.device}"] = shares[-1]
        replace_json(_PATH, content)
    sys.stdout.write(json.dumps(figures) + f"\nwritten to {_PATH.name}\n")


# --- time -------------------------------------------------------------------------------------


def _time_part(
    content: dict[str, Any], args: argparse.Namespace, about: dict[str, Any]
) -> dict[str, Any]:
    sasrec = content.get("sasrec", {"curve": []})
    is_comparable = has_ended(sasrec["curve"]) and sasrec["machine"] == about["machine"]
    if args.fresh or not is_comparable:
        sasrec = {**about, "threads": args.threads, "curve": []}
        content["sasrec"] = sasrec
        sasrec["curve"] = in_fresh_process(_train, _PEER, args.seed, args.threads, about, content)
        replace_json(_PATH, content)
    ours = in_fresh_process(_train, _OURS, args.seed, args.threads, about)
    best = max(score for _, score in sasrec["curve"])
    peer_seconds = next(seconds for seconds, score in sasrec["curve"] if score >= best)
    our_seconds = next((seconds for seconds, score in ours if score >= best), None)
    sys.stdout.write(
        f"valid NDCG@10 {best:.4f}: SASRec after {peer_seconds:.0f} s, LLMSeqRec after "
        f"{'no time' if our_seconds is None else f'{our_seconds:.0f} s'} (its best: "
        f"{max(score for _, score in ours):.4f})\n"
    )
    return {
        "threads": args.threads,
        "valid_ndcg@10": best,
        "sasrec_seconds": peer_seconds,
        "llmseqrec_seconds": our_seconds,
        "ratio": None if our_seconds is None else round(peer_seconds / our_seconds, 1),
        "llmseqrec_curve": ours,
    }


def has_ended(curve: list[tuple[float, float]]) -> bool:
    """Whether (seconds, score) of the last epochs, as many as its patience, are all below the best."""
    patience = find_model(_PEER).settings["stopping_step"]
    scores = [score for _, score in curve]
    return len(scores) > patience and max(scores[-patience:]) < max(scores)


def _train(
    model: str,
    seed: int,
    threads: int,
    about: dict[str, Any],
    unfinished: dict[str, Any] | None = None,
) -> list[tuple[float, float]]:
    """The validation curve: (seconds since the start, NDCG@10) of each epoch.

    ``unfinished`` is the content of the results file, written with the curve so far after each epoch.
    """
    started = time.monotonic()
    import torch

    torch.set_num_threads(threads)
    curve: list[tuple[float, float]] = []

    def on_epoch(epoch: int, score: float) -> None:
        curve.append((round(time.monotonic() - started, 1), round(score, 6)))
        sys.stdout.write(f"{model} epoch {epoch}: {curve[-1][0]:.0f} s, {score:.4f}\n")
        sys.stdout.flush()
        if unfinished:
            unfinished["sasrec"]["curve"] = curve
            replace_json(_PATH, unfinished)

    settings = {"text_cache": "empty.sqlite"} if model == _OURS else {}
    outcome = run(find_model(model), _DATASET, None, seed, settings, on_epoch=on_epoch)
    if model == _PEER:
        keep(model, _DATASET, seed, outcome, about)
    return curve


# --- memory -----------------------------------------------------------------------------------


def _memory_part(n_interactions: int) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        _synthetic(Path(folder), n_interactions)
        stock = in_fresh_process(_peak_bytes, "recbole.data.dataset", "SequentialDataset", folder)
        ours = in_fresh_process(
            _peak_bytes, "recbole_llm.sequences", "WholeSequenceDataset", folder
        )
    sys.stdout.write(
        f"{n_interactions} interactions, length 200: SequentialDataset adds "
        f"{stock / 2**20:.0f} MiB at its peak, WholeSequenceDataset {ours / 2**20:.0f} MiB\n"
    )
    return {
        "interactions": n_interactions,
        "max_item_list_length": 200,
        "sequential_dataset_bytes": stock,
        "whole_sequence_dataset_bytes": ours,
        "ratio": round(ours / stock, 4),
    }


def _synthetic(folder: Path, n_interactions: int) -> None:
    """Users of 100 interactions each, on average, with 50,000 items by a Zipf law."""
    generator = np.random.default_rng(0)
    users = np.sort(generator.integers(0, n_interactions // 100, n_interactions))
    items = generator.zipf(1.2, n_interactions) % 50_000
    path = folder / "synthetic" / "synthetic.inter"
    path.parent.mkdir()
    with path.open("w", encoding="utf-8") as file:
        file.write("user_id:token\titem_id:token\ttimestamp:float\n")
        file.writelines(
            f"{u}\t{i}\t{t}\n" for t, (u, i) in enumerate(zip(users, items, strict=True))
        )


def _peak_bytes(module: str, name: str, folder: str) -> int:
    """Peak resident memory that loading and splitting adds to a process that has imported all."""
    import importlib

    from recbole_llm.train import build_config, build_data

    settings = {**PROTOCOL, "data_path": folder, "MAX_ITEM_LIST_LENGTH": 200}
    config = build_config("SASRec", "synthetic", None, settings)
    dataset_class = getattr(importlib.import_module(module), name)
    with open("/proc/self/statm", encoding="ascii") as file:
        before = int(file.read().split()[1]) * resource.getpagesize()
    build_data(config, dataset_class)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 - before


# --- throughput -------------------------------------------------------------------------------


def _throughput(sizes: Sizes, device: str, amp: bool) -> dict[str, float]:
    """Users a second, beside those that the products of a step alone would allow."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    step = random_step(sizes, "CE", 0, device, amp)
    step()
    with FlopCounterMode(display=False) as counter:
        step()
    operations = counter.get_total_flops()
    side = 8192 if device == "cuda" else 2048
    matrix = torch.randn(side, side, device=device, dtype=torch.float16 if amp else torch.float32)
    rate = 2 * side**3 / _seconds(lambda: matrix @ matrix, device)
    seconds = _seconds(step, device)
    result = {
        "users_a_second": round(sizes.users / seconds, 1),
        "seconds_a_step": round(seconds, 4),
        "seconds_of_its_products": round(operations / rate, 4),
        "tflops": round(rate / 1e12, 3),
        "arithmetic_share": round(operations / rate / seconds, 3),
    }
    sys.stdout.write(f"{device}, {'mixed precision' if amp else 'float32'}: {result}\n")
    return result


def _seconds(action: Callable[[], Any], device: str) -> float:
    """The median of five calls, each waited for."""
    import torch

    taken = []
    for _ in range(5):
        started = time.monotonic()
        action()
        if device == "cuda":
            torch.cuda.synchronize()
        taken.append(time.monotonic() - started)
    return median(taken)


if __name__ == "__main__":
    main()
