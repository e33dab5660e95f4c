"""What a results file holds, and what it says of its run: command, commit, versions, machine."""

import json
import os
import platform
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"
DOCS = Path(__file__).parent.parent / "docs"
_LIBRARIES = ("recbole", "torch", "transformers", "sentence-transformers", "scikit-learn", "numpy")


def read_results(path: Path, empty: Any) -> Any:
    """A results file's content; ``empty`` before the first run."""
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else empty


def splice_table(path: Path, name: str, table: str) -> None:
    """Put a table between the two comments that mark its place."""
    start, end = f"<!-- {name} -->\n", f"<!-- end of {name} -->\n"
    before, _, rest = path.read_text(encoding="utf-8").partition(start)
    _, found, after = rest.partition(end)
    assert found, f"{path} has no place for the table {name}"
    path.write_text(before + start + table + end + after, encoding="utf-8")


def describe_run() -> dict[str, Any]:
    """Command, commit, versions and machine. Call it before anything shortens ``sys.argv``."""

    def git(*words: str) -> str:
        command = ["git", "-C", str(Path(__file__).parent), *words]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        return done.stdout.strip()

    spec = sys.modules["__main__"].__spec__
    name = spec.name.removesuffix(".__main__") if spec else Path(sys.argv[0]).stem
    commit = git("rev-parse", "--short", "HEAD")
    written = (":(exclude,top)benchmarks/results", ":(exclude,top)docs")
    if git("status", "--porcelain", "--untracked-files=no", "--", ":/", *written):
        commit += "+changes"
    return {
        "command": " ".join(["python -m", name, *map(without_machine, sys.argv[1:])]),
        "commit": commit,
        "versions": {name: version(name) for name in _LIBRARIES},
        "machine": describe_machine(),
    }


def without_machine(word: str) -> str:
    """A word of a command line as it may be published: of a path far away, the last part alone.

    Far away is an absolute path, and one that climbs more than one folder.
    """
    key, equals, value = word.rpartition("=")  # --data-path=/home/..., or a setting's value
    path = Path(value)
    is_far = path.is_absolute() or path.parts[:2] == ("..", "..")
    return f"{key}{equals}.../{path.name}" if is_far else word


def describe_machine() -> str:
    """The processor, the threads that torch uses, and the GPU where there is one."""
    import torch

    with open("/proc/cpuinfo", encoding="utf-8") as file:
        names = [line.partition(":")[2].strip() for line in file if line.startswith("model name")]
    processor = names[0] if names else platform.processor()
    cores = f"{torch.get_num_threads()} of {os.cpu_count()} cores"
    gpu = [torch.cuda.get_device_name()] if torch.cuda.is_available() else []
    return ", ".join([processor, cores, *gpu])
