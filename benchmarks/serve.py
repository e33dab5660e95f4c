"""How soon the service answers, what it does under too much, and whether it grows.

    python -m benchmarks.serve                       # a soak of ten minutes
    python -m benchmarks.serve --soak-minutes 1

``recbole-llm serve`` runs as a process of its own over an untrained model of the default shape with
12,000 items. One process asks for the ten best items of random histories of 50, by plain asyncio, so
that it leaves the cores to the service:

- **soak**: at a fixed rate, whether answers come or not. A request's time begins when it was due, so
  that a late answer also counts for those that had to wait behind it.
- **overload**: 400 clients, each of whom asks again as soon as they have an answer, and a second after
  a refusal.

**rps**, **p99_ms**, **errors**: of the soak; errors are answers other than 200.
**soak_memory_growth_mib**: resident memory of the service in the last fifth of the soak less that in
the second, medians. **over_scoring**: the median answer's time over that of ``Scorer.top_k`` for one
history in this process. **overload_rps** and **overload_shed**: answers of 200 a second under
overload, and the share that was refused by 503; **overload_errors**: all other answers;
**recovered_p99_ms**: of ten seconds at the rate of before, right after it.

Writes ``benchmarks/results/serve.json``.
"""

import argparse
import asyncio
import json
import re
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.about import RESULTS, describe_run
from benchmarks.nightly import untrained_artifact
from recbole_llm.scoring import load_scorer, write_artifact
from recbole_llm.warehouse import replace_json

_PATH = RESULTS / "serve.json"
_LENGTH, _K = 50, 10
_AT_ONCE = 400
_RETRY_AFTER_S = 1.0
"""As a refusal asks for."""
_HISTORIES = 2_000
_START_S = 120.0
_SERVE = "import sys; from recbole_llm.cli import main; sys.exit(main())"


def main() -> None:
    """Start, ask, and print what came back."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--items", type=int, default=12_000)
    parser.add_argument("--rps", type=int, default=200, help="requests a second of the soak")
    parser.add_argument("--soak-minutes", type=float, default=10.0)
    parser.add_argument("--overload-seconds", type=float, default=20.0)
    args = parser.parse_args()
    about = describe_run()
    with ExitStack() as opened:
        folder = Path(opened.enter_context(tempfile.TemporaryDirectory()))
        ids = [f"item-{n:07}" for n in range(args.items)]
        artifact = write_artifact(untrained_artifact(ids), folder)
        rng = np.random.default_rng(1)
        chosen = rng.integers(0, args.items, (_HISTORIES, _LENGTH))
        histories = [[ids[n] for n in row] for row in chosen.tolist()]
        alone_ms = _scoring_ms(artifact, histories[:300])
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        command = [sys.executable, "-c", _SERVE, "serve", "--artifact", str(artifact),
                   "--warehouse", str(folder / "none"), "--port", str(port)]  # fmt: skip
        service = subprocess.Popen(command, cwd=folder)
        opened.callback(service.wait)
        opened.callback(service.terminate)
        measured = asyncio.run(_measure(port, histories, service.pid, args))
    soak, overload, after = measured["soak"], measured["overload"], measured["after"]
    figures = {
        "rps": soak["rps"],
        "p99_ms": soak["p99_ms"],
        "errors": soak["errors"],
        "soak_memory_growth_mib": measured["growth_mib"],
        "p50_ms": soak["p50_ms"],
        "over_scoring": round(soak["p50_ms"] / alone_ms, 2),
        "overload_rps": overload["rps"],
        "overload_shed": overload["shed"],
        "overload_errors": overload["errors"],
        "recovered_p99_ms": after["p99_ms"],
    }
    details = {"scoring_ms": alone_ms, "memory_mib": measured["memory_mib"], **measured["counts"]}
    replace_json(_PATH, {"figures": figures, **about, "details": details})
    sys.stdout.write(json.dumps(figures, indent=2) + f"\nwritten to {_PATH.name}\n")


def _scoring_ms(artifact: Path, histories: list[list[str]]) -> float:
    """The median time of one history in this process, on one core."""
    torch.set_num_threads(1)
    scorer, taken = load_scorer(artifact), []
    for history in histories:
        started = time.perf_counter()
        scorer.top_k([history], _K)
        taken.append(time.perf_counter() - started)
    return round(statistics.median(taken) * 1e3, 2)


async def _measure(
    port: int, histories: list[list[str]], pid: int, args: argparse.Namespace
) -> dict[str, Any]:
    requests = [_request({"history": history, "k": _K}) for history in histories]
    await _until_it_listens(port)
    with closing(_Connections(port)) as open_ones:
        await _at_rate(open_ones, requests, args.rps, 5)  # the first answers load what is needed
        memory: list[float] = []
        watching = asyncio.create_task(_watch(pid, memory))
        soak = await _at_rate(open_ones, requests, args.rps, args.soak_minutes * 60)
        watching.cancel()
        overload = await _too_much(open_ones, requests, args.overload_seconds)
        after = await _at_rate(open_ones, requests, args.rps, 10)
    fifth = max(len(memory) // 5, 1)
    growth = statistics.median(memory[-fifth:]) - statistics.median(memory[fifth : 2 * fifth])
    return {
        "soak": soak, "overload": overload, "after": after, "growth_mib": round(growth, 1),
        "memory_mib": [round(each, 1) for each in memory[:: max(len(memory) // 20, 1)]],
        "counts": {"soak": soak, "overload": overload, "after": after},
    }  # fmt: skip


def _request(body: dict[str, Any]) -> bytes:
    content = json.dumps(body).encode()
    head = (
        "POST /recommend HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(content)}\r\n\r\n"
    )
    return head.encode() + content


async def _until_it_listens(port: int) -> None:
    started = time.monotonic()
    while True:
        try:
            _, writer = await asyncio.open_connection("127.0.0.1", port)
        except ConnectionRefusedError:
            if time.monotonic() - started > _START_S:
                raise
            await asyncio.sleep(0.2)
            continue
        writer.close()
        return


class _Connections:
    """Connections to the service that stay open, as many as are in use at once."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._free: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = []

    async def ask(self, request: bytes) -> int:
        """The status of the answer; 0 where the connection breaks."""
        while self._free:  # the service closes what is idle: the next is tried, and then a new one
            if status := await self._ask(request, *self._free.pop()):
                return status
        return await self._ask(request, *await asyncio.open_connection("127.0.0.1", self._port))

    async def _ask(
        self, request: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> int:
        try:
            writer.write(request)
            head = await reader.readuntil(b"\r\n\r\n")
            found = re.search(rb"content-length: (\d+)", head, re.IGNORECASE)
            assert found is not None
            await reader.readexactly(int(found[1]))
        except (OSError, asyncio.IncompleteReadError):
            return 0
        self._free.append((reader, writer))
        return int(head.split(b" ", 2)[1])

    def close(self) -> None:
        """Close them."""
        for _, writer in self._free:
            writer.close()


async def _at_rate(
    open_ones: _Connections, requests: list[bytes], rps: int, seconds: float
) -> dict[str, Any]:
    """Ask at fixed instants."""
    taken: list[float] = []
    statuses: Counter[int] = Counter()
    began = time.perf_counter()

    async def one(number: int) -> None:
        due = began + number / rps
        statuses[await open_ones.ask(requests[number % len(requests)])] += 1
        taken.append(time.perf_counter() - due)

    running = set()
    n = int(rps * seconds)
    for number in range(n):
        if (wait := began + number / rps - time.perf_counter()) > 0:
            await asyncio.sleep(wait)
        task = asyncio.create_task(one(number))
        running.add(task)
        task.add_done_callback(running.discard)
    await asyncio.gather(*running)
    spent = time.perf_counter() - began
    p50, p99 = np.quantile(taken, [0.5, 0.99]) * 1e3
    return {
        "requests": n, "rps": round(statuses[200] / spent, 1), "p50_ms": round(p50, 2),
        "p99_ms": round(p99, 2), "errors": n - statuses[200],
    }  # fmt: skip


async def _too_much(
    open_ones: _Connections, requests: list[bytes], seconds: float
) -> dict[str, Any]:
    """Ask as often as it answers, many at once."""
    statuses: Counter[int] = Counter()
    began = time.perf_counter()

    async def on_and_on(number: int) -> None:
        while time.perf_counter() - began < seconds:
            status = await open_ones.ask(requests[number % len(requests)])
            statuses[status] += 1
            number += 1
            if status == 503:
                await asyncio.sleep(_RETRY_AFTER_S)

    await asyncio.gather(*(on_and_on(number) for number in range(_AT_ONCE)))
    spent, n = time.perf_counter() - began, statuses.total()
    return {
        "requests": n, "rps": round(statuses[200] / spent, 1),
        "shed": round(statuses[503] / n, 3), "errors": n - statuses[200] - statuses[503],
    }  # fmt: skip


async def _watch(pid: int, memory: list[float]) -> None:
    """Note a process's resident memory, in MiB, every second."""
    while True:
        status = Path(f"/proc/{pid}/status").read_text(encoding="ascii")
        line = next(line for line in status.splitlines() if line.startswith("VmRSS:"))
        memory.append(int(line.split()[1]) / 1024)
        await asyncio.sleep(1)


if __name__ == "__main__":
    main()
