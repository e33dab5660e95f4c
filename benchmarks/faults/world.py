"""A small warehouse with many days, and what an undisturbed run makes of them."""

import datetime
import json
import random
from dataclasses import dataclass
from pathlib import Path

import yaml

from benchmarks.nightly import untrained_artifact
from recbole_llm.config_files import config_path, load_yaml
from recbole_llm.scoring import write_artifact
from recbole_llm.warehouse import Warehouse, replace_json

_FIRST = datetime.date(2024, 5, 1)
_SECONDS_A_DAY = 86_400
_SETTINGS = {
    "user_ids": "plain", "k": 5, "partitions": 2, "keep_days": 4, "users_per_batch": 100
}  # fmt: skip
"""Of a night on small data; states go after four days, so that this is disturbed too."""


@dataclass(frozen=True)
class World:
    """A warehouse, its settings and the days that were delivered."""

    warehouse: Warehouse
    config: Path
    days: list[str]


def make_world(root: Path, n_days: int, n_users: int = 300, n_items: int = 120) -> World:
    """Write days of events, catalogues that change on every fifth day, a champion and settings.

    The same arguments give the same files. Events come late, twice and malformed as well.
    """
    random_ = random.Random(7)
    warehouse = Warehouse(root / "warehouse")
    days = [(_FIRST + datetime.timedelta(days=n)).isoformat() for n in range(n_days)]
    midnight = int(datetime.datetime(2024, 5, 1, tzinfo=datetime.UTC).timestamp())
    for number, day in enumerate(days):
        active = range(n_users) if number == 0 else random_.sample(range(n_users), n_users // 5)
        lines = []
        for user in active:
            for _ in range(random_.randint(2, 5)):
                late = random_.choice([0, 0, 0, 1, 5]) if number else 0
                second = midnight + _SECONDS_A_DAY * (number - late) + random_.randrange(80_000)
                event = {
                    "user_id": f"u{user}", "timestamp": second,
                    "item_id": f"i{int(n_items * random_.random() ** 2)}",
                }  # fmt: skip
                lines.append(json.dumps(event))
        lines += [*random_.choices(lines, k=5), "{broken"]
        folder = warehouse.raw_events / f"ds={day}"
        folder.mkdir(parents=True)
        (folder / "events.jsonl").write_text("\n".join(lines) + "\n")
        if number % 5 == 0:
            items = [{"item_id": f"i{n}", "title": f"Item {n}"} for n in range(number, n_items)]
            folder = warehouse.raw_items / f"ds={day}"
            folder.mkdir(parents=True)
            (folder / "items.jsonl").write_text("\n".join(map(json.dumps, items)) + "\n")
    artifact = write_artifact(
        untrained_artifact([f"i{n}" for n in range(n_items)]), warehouse.artifacts
    )
    replace_json(warehouse.champion, {"model_version": artifact.name})
    config = root / "nightly.yaml"
    config.write_text(yaml.safe_dump({**load_yaml(config_path(".", "nightly")), **_SETTINGS}))
    return World(warehouse, config, days)
