"""A warehouse whose second day brings bad rows among good ones, and what must be counted of them."""

import json
import random
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import yaml

from benchmarks.bad_input.kinds import (
    DAY,
    GOOD,
    ITEMS,
    MAX_DAILY_EVENTS,
    MIDNIGHT,
    ROW_KINDS,
    FileKind,
    write_items,
)
from benchmarks.faults.world import World
from benchmarks.nightly import untrained_artifact
from recbole_llm.config_files import config_path, load_yaml
from recbole_llm.scoring import write_artifact
from recbole_llm.warehouse import Warehouse, replace_json

FIRST_DAY = "2024-05-01"
_N_USERS = 100_000


@dataclass
class Expected:
    """What the manifest of ``DAY`` must say."""

    raw: int = 0
    accepted: int = 0
    duplicates: int = 0
    reasons: Counter[str] = field(default_factory=Counter)


def make_world(root: Path) -> World:
    """A first day with one event, a catalogue, a champion and settings."""
    warehouse = Warehouse(root / "warehouse")
    write_items(warehouse.raw_items)
    folder = warehouse.raw_events / f"ds={FIRST_DAY}"
    folder.mkdir(parents=True)
    (folder / "e.jsonl").write_bytes(GOOD.splitlines()[0].replace(b"17146", b"17145") + b"\n")
    replace_json(
        warehouse.champion,
        {"model_version": write_artifact(untrained_artifact(ITEMS), warehouse.artifacts).name},
    )
    config = root / "nightly.yaml"
    settings = {
        "user_ids": "plain",
        "k": 5,
        "max_daily_events": MAX_DAILY_EVENTS,
        "max_row_change": 1e9,
    }
    config.write_text(yaml.safe_dump({**load_yaml(config_path(".", "nightly")), **settings}))
    return World(warehouse, config, [DAY])


def write_rows(world: World, n_good: int, n_each: int, expected: Expected, seed: int = 0) -> None:
    """Write good rows with ``n_each`` rows of each kind among them, and as many of them twice.

    A robot gets ``MAX_DAILY_EVENTS`` more.
    """
    random_ = random.Random(seed)
    rows = [_good_row(number, random_) for number in range(n_good)]
    rows += rows[:n_each]
    expected.duplicates += n_each
    expected.accepted += n_good
    for name, (reason, make) in ROW_KINDS.items():
        n_rows = n_each + MAX_DAILY_EVENTS * (name == "a robot's")
        rows += [make(random_) for _ in range(n_rows)]
        if reason is None:
            expected.accepted += n_rows
        else:
            expected.reasons[f"events.{reason}"] += n_rows
    random_.shuffle(rows)
    expected.raw += len(rows)
    folder = day_folder(world)
    with (folder / "rows.jsonl").open("wb") as file:
        file.writelines(row + b"\n" for row in rows)


def _good_row(number: int, random_: random.Random) -> bytes:
    """Another event for each number, of as many users as a night ranks in a minute or two."""
    event = {
        "user_id": f"v{number % _N_USERS}",
        "item_id": ITEMS[number // _N_USERS % len(ITEMS)],
        "timestamp": MIDNIGHT + random_.randrange(86_400),
    }
    return json.dumps(event).encode()


def write_files(world: World, kinds: dict[str, FileKind], expected: Expected) -> None:
    """Write the good file and others beside it."""
    (day_folder(world) / "good.jsonl").write_bytes(GOOD)
    expected.accepted += 200
    expected.raw += 200
    for number, kind in enumerate(kinds.values()):
        (day_folder(world) / f"{number:02}-{kind.name}").write_bytes(kind.content)
        expected.accepted += kind.accepted
        expected.duplicates += kind.duplicates
        expected.raw += kind.accepted + kind.duplicates + sum(kind.reasons.values())
        for reason, n in kind.reasons.items():
            expected.reasons[f"events.{reason}"] += n


def day_folder(world: World) -> Path:
    """Where the raw events of ``DAY`` lie."""
    folder = world.warehouse.raw_events / f"ds={DAY}"
    folder.mkdir(exist_ok=True)
    return folder


def find_differences(world: World, expected: Expected) -> dict[str, tuple[int, int]]:
    """What the night counted other than it had to: by name, found and expected."""
    manifest = world.warehouse.features_manifest(DAY)
    found = {name: manifest[f"{name}_rows"] for name in ("raw", "accepted", "duplicate")}
    wanted = {
        "raw": expected.raw + 1, "accepted": expected.accepted + 1,
        "duplicate": expected.duplicates,
    } | expected.reasons  # fmt: skip
    found |= manifest["reasons"]
    return {
        name: (found.get(name, 0), wanted.get(name, 0))
        for name in sorted(found.keys() | wanted.keys())
        if found.get(name, 0) != wanted.get(name, 0)
    }
