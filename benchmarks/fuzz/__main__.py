"""An hour of broken inputs for everything that reads bytes from outside.

    python -m benchmarks.fuzz [--minutes 60] [--targets NAME ...] [--keep DIR]

Each target (``targets.py``) runs in processes of its own: half of its time by atheris, which grows
inputs from valid files by the code that they reach, and half by hypothesis, which draws files that are
nearly valid. Raw lines go through the night's own reading in Spark, thousands a job, and each has to
come out. Atheris is in the extra ``fuzz``; without it hypothesis has the whole time.

**foreign_errors**: kinds of errors, by type and place in our code, that are none of
``recbole_llm/errors.py``; an input that takes 20 seconds or 3 GiB, or ends its process, is one too.
The first input of each is kept under ``--keep``.

Writes ``benchmarks/results/fuzz.json`` after each target, which takes the place of its row there, with
the commit that it ran on; the figures stand in it once all targets do. ``--missing`` runs those that
have no row.
"""

import argparse
import importlib.util
import json
import subprocess
import sys
import tempfile
import time
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from benchmarks.about import RESULTS, describe_run, read_results
from benchmarks.fuzz.targets import SPARK, TARGETS
from recbole_llm.warehouse import replace_json

_PATH = RESULTS / "fuzz.json"
_HOME = Path(__file__).parents[2]
_GRACE_S = 180
"""What a process may take beyond its time: to import, to start Spark, to end a last input."""
_LEAST_S = 5.0
"""With less time left, a process that ended early is not started again."""
_SPARK_SHARE = 4
"""A Spark target's time, as a multiple of another's: it takes as long to start."""


def main() -> None:
    """Fuzz for so many minutes and print the figures."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.fuzz",
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    every = [*TARGETS, *SPARK]
    parser.add_argument("--minutes", type=float, default=60)
    parser.add_argument("--targets", nargs="+", choices=every, default=every, metavar="NAME")
    parser.add_argument("--missing", action="store_true", help="only targets without a row")
    parser.add_argument("--keep", type=Path, help="folder for the inputs of foreign errors")
    args = parser.parse_args()
    about = describe_run()
    about["versions"] |= {name: _version(name) for name in ("atheris", "hypothesis")}
    shares = {name: _SPARK_SHARE if name in SPARK else 1 for name in every}
    second = args.minutes * 60 / sum(shares[name] for name in args.targets)
    rows: dict[str, Any] = read_results(_PATH, {"targets": {}})["targets"]
    chosen = [name for name in args.targets if not args.missing or name not in rows]
    with tempfile.TemporaryDirectory(prefix="fuzz-") as scratch:
        keep = args.keep.absolute() if args.keep else Path(scratch) / "kept"
        for name in chosen:
            number = every.index(name)
            folder = Path(scratch) / str(number)
            row = fuzz(name, shares[name] * second, folder, keep / str(number))
            sys.stdout.write(f"{name}: {json.dumps(row)}\n")
            sys.stdout.flush()
            rows[name] = {**row, **about}
            told = {key: rows[key] for key in every if key in rows}
            whole = {"figures": figures(told)} if len(told) == len(every) else {}
            replace_json(_PATH, {**whole, "targets": told})
    missing = [name for name in every if name not in rows]
    sys.stdout.write(f"missing: {missing}\n" if missing else json.dumps(figures(rows)) + "\n")


def figures(rows: dict[str, dict[str, Any]]) -> dict[str, int]:
    """Inputs and kinds of foreign errors of all targets."""
    return {
        "inputs": sum(row["inputs"] for row in rows.values()),
        "foreign_errors": sum(len(row["foreign_errors"]) for row in rows.values()),
    }


def fuzz(name: str, seconds: float, folder: Path, keep: Path) -> dict[str, Any]:
    """Run one target by its engines.

    Args:
        seconds: for all its engines.
        folder: for accounts and scratch files.
        keep: gets the first input of each foreign error.
    Returns:
        ``inputs`` by engine and in all, ``seconds`` and ``foreign_errors``.
    """
    engines = ["spark"] if name in SPARK else ["hypothesis"]
    if engines == ["hypothesis"] and importlib.util.find_spec("atheris"):
        engines.insert(0, "atheris")
    row: dict[str, Any] = {"inputs": 0, "seconds": 0.0, "by_engine": {}}
    errors: dict[tuple[str, str], int] = {}
    for engine in engines:
        accounts = run_engine(name, engine, seconds / len(engines), folder, keep)
        row["by_engine"][engine] = sum(account["inputs"] for account in accounts)
        row["seconds"] += sum(account["seconds"] for account in accounts)
        for error in (each for account in accounts for each in account["errors"]):
            key = (error["type"], error["place"])
            errors[key] = errors.get(key, 0) + error["times"]
    row["inputs"] = sum(row["by_engine"].values())
    row["seconds"] = round(row["seconds"], 1)
    row["foreign_errors"] = [
        {"type": kind, "place": place, "times": times} for (kind, place), times in errors.items()
    ]
    return row


def run_engine(
    name: str, engine: str, seconds: float, folder: Path, keep: Path
) -> list[dict[str, Any]]:
    """The accounts of one engine's processes; one that an input ends is started again."""
    accounts: list[dict[str, Any]] = []
    until = time.monotonic() + seconds
    left, number = seconds, 0
    while number == 0 or left > _LEAST_S:
        path = folder / f"{engine}-{number}.json"
        folder.mkdir(parents=True, exist_ok=True)
        command = [
            sys.executable,
            "-m",
            "benchmarks.fuzz.worker",
            name,
            engine,
            str(left),
            str(number),
        ]
        with (folder / f"{engine}-{number}.log").open("wb") as log:
            process = subprocess.Popen(
                [*command, str(folder), str(keep)], stdout=log, stderr=log, cwd=_HOME
            )
            try:
                code: int | str = process.wait(left + _GRACE_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
                code = "no end"
        account = {"inputs": 0, "seconds": 0.0, "errors": []}
        if path.is_file():
            account = json.loads(path.read_text(encoding="utf-8"))
        if code != 0:
            account["errors"].append({"type": f"exit {code}", "place": "the process", "times": 1})
        accounts.append(account)
        left, number = until - time.monotonic(), number + 1
        if code == 0:
            break
    return accounts


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "not installed"


if __name__ == "__main__":
    main()
