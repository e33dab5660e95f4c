"""Run named models over named data sets and seeds; what is done is not done again.

    python -m benchmarks.quality --data-path DIR         # all models on all data sets found there
    python -m benchmarks.quality --dataset my-shop --data-path DIR --models sasrec llmseqrec
    python -m benchmarks.quality --ablation --dataset ml-100k          # one option at a time
    python -m benchmarks.quality --models llmseqrec:n_layers=1,n_heads=1
    python -m benchmarks.quality --data-path DIR --jobs 8              # several runs at once
    python -m benchmarks.quality --report                # tables, plots and figures only

Writes ``benchmarks/results/quality.json`` after every run (``ablation.json`` for a name that carries
settings), and at the end ``docs/quality.md`` with its plot; ``--report`` also the ablation's table in
``docs/model.md`` and its figures in ``configs/model/LLMSeqRec.yaml``. Protocol: RecBole's leave-one-out
by time, the whole catalogue ranked, history not masked, the weights that were best on validation.
A data set that is not there is left out; a model that cannot run on one is, with an error at the end.
"""

import argparse
import logging
import os
import sys
import tempfile
from pathlib import Path

from benchmarks.about import describe_run
from benchmarks.quality.ablation import ABLATIONS, write_ablation
from benchmarks.quality.models import MODELS, find_model
from benchmarks.quality.report import write_report
from benchmarks.quality.tasks import plan, run_tasks

DATASETS = (
    "ml-100k", "amazon-beauty-2014", "steam-100k", "amazon-industrial-2018w", "ml-latest-small",
    "movietweetings-100k",
)  # fmt: skip
DEFAULT_MODELS = [name for name in MODELS if name != "sasrec-stock"]
_log = logging.getLogger("benchmarks.quality")


def main() -> None:
    """Parse the command line, run what is missing, write the report."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--dataset", nargs="+", default=list(DATASETS), help="names of data sets")
    parser.add_argument("--data-path", help="folder that holds the data sets' folders")
    parser.add_argument("--models", nargs="+", default=DEFAULT_MODELS, help=", ".join(MODELS))
    parser.add_argument(
        "--ablation", action="store_const", dest="models", const=list(ABLATIONS),
        help="llmseqrec with one option changed at a time",
    )  # fmt: skip
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument(
        "--jobs", type=int, default=1, help="runs at once, each with OMP_NUM_THREADS threads"
    )
    parser.add_argument("--report", action="store_true", help="write the report and run nothing")
    args = parser.parse_args()
    try:
        for name in args.models:
            find_model(name)
    except ValueError as error:
        parser.error(str(error))
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    about = describe_run()
    sys.argv = sys.argv[:1]  # RecBole reads the command line of whatever program it runs in
    succeeded = True
    if not args.report:
        path = str(Path(args.data_path).absolute()) if args.data_path else None
        os.chdir(tempfile.mkdtemp())  # RecBole writes logs where it runs
        present = [name for name in args.dataset if _is_here(name, path)]
        for dataset in sorted({*args.dataset} - {*present}):
            _log.warning("%s is not in %s: skipped", dataset, path or "--data-path")
        tasks = plan(present, args.models, args.seeds, path, about)
        succeeded = run_tasks(list(tasks), args.jobs)
    write_report()
    if args.report:
        write_ablation()
    sys.exit(not succeeded)


def _is_here(dataset: str, data_path: str | None) -> bool:
    if dataset == "ml-100k":  # RecBole's wheel has it
        return True
    return data_path is not None and (Path(data_path) / dataset / f"{dataset}.inter").is_file()


if __name__ == "__main__":
    main()
