"""One target in a process of its own; ``python -m benchmarks.fuzz`` starts it.

    python -m benchmarks.fuzz.worker TARGET ENGINE SECONDS ROUND FOLDER KEEP

An account of what it met stands in FOLDER while it runs, so that a process that dies tells it too;
the inputs of foreign errors go to KEEP.
"""

import contextlib
import logging
import resource
import sys
import time
import warnings
from pathlib import Path

from benchmarks.fuzz.tally import Tally, catch_hangs
from benchmarks.fuzz.target import Target, in_folder
from recbole_llm.errors import RecboleLlmError

_MEMORY = 3 << 30
"""Bytes that a target may take beyond what it holds before its first input."""
_EXAMPLES = 500
"""Inputs that hypothesis draws by one seed."""
_LONGEST = 4096
"""Bytes of an input of atheris, or twice the longest seed."""


def main() -> None:
    """Run a target by one engine for so many seconds."""
    name, engine, seconds, number, where, keep = sys.argv[1:]
    sys.argv = sys.argv[:1]  # RecBole reads the command line of whatever program it runs in
    folder = Path(where)
    tally = Tally(folder / f"{engine}-{number}.json", Path(keep))
    scratch = folder / f"scratch-{engine}-{number}"
    scratch.mkdir(parents=True)
    run = {"atheris": with_atheris, "hypothesis": with_hypothesis, "spark": with_spark}[engine]
    with in_folder(scratch):
        run(name, tally, float(seconds), int(number), scratch)
    tally.save()


def with_hypothesis(name: str, tally: Tally, seconds: float, number: int, scratch: Path) -> None:
    """Structured inputs, by one seed after another."""
    from hypothesis import HealthCheck, Phase, given, seed, settings

    target = _made(name, scratch)
    until = time.monotonic() + seconds

    @settings(
        max_examples=_EXAMPLES, database=None, deadline=None, phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )  # fmt: skip
    @given(target.shaped)
    def check(data: bytes) -> None:
        if time.monotonic() < until:
            tally.check(target.read, data)

    while time.monotonic() < until:
        number += 1_000_003
        seed(number)(check)()


def with_atheris(name: str, tally: Tally, seconds: float, number: int, scratch: Path) -> None:
    """Inputs that atheris grows by what they reach in our code and in the pure Python below it.

    Does not come back: libFuzzer ends the process. What it found before is gone on with.
    """
    import atheris

    with atheris.instrument_imports(include=["recbole_llm", "spark_jobs", "yaml", "json"]):
        target = _made(name, scratch)
    corpus = scratch.parent / "corpus"
    corpus.mkdir(exist_ok=True)
    for each, seed in enumerate(target.seeds):
        (corpus / f"seed-{each}").write_bytes(seed)
    options = [
        f"-max_total_time={max(round(seconds), 1)}", f"-seed={number + 1}", "-timeout=60",
        f"-max_len={max([_LONGEST, *(2 * len(seed) for seed in target.seeds)])}", "-rss_limit_mb=0",
        f"-artifact_prefix={scratch}/", "-print_final_stats=0", "-verbosity=0",
    ]  # fmt: skip
    atheris.Setup(
        ["fuzz", *options, str(corpus)], lambda data: tally.check(target.read, data),
        enable_python_coverage=True,
    )  # fmt: skip
    atheris.Fuzz()


def with_spark(name: str, tally: Tally, seconds: float, number: int, scratch: Path) -> None:
    """Lines of raw events, thousands a job."""
    from benchmarks.fuzz.event_lines import run

    _quiet()
    run(name, tally, seconds, number, scratch)


def _made(name: str, scratch: Path) -> Target:
    """The target, quiet, its memory bounded, and its valid inputs tried."""
    from benchmarks.fuzz.targets import TARGETS

    target = TARGETS[name](scratch)
    for seed in target.seeds:
        with contextlib.suppress(RecboleLlmError):
            target.read(seed)
    _quiet()
    catch_hangs()
    held = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (held + _MEMORY, held + _MEMORY))
    return target


def _quiet() -> None:
    logging.disable(logging.CRITICAL)
    warnings.simplefilter("ignore")


if __name__ == "__main__":
    main()
