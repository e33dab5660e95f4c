"""Small data with known answers, written to files as the real data is."""

import gzip
import json
from pathlib import Path
from typing import Any

import duckdb
import torch

from recbole_llm.layers import SequenceConfig, SequenceEncoder
from recbole_llm.scoring import Artifact

CYCLE = [f"i{n}" for n in range(12)]
"""Users walk this cycle, so the next item is certain."""

MANIFEST = {
    "ds": "2024-05-01", "attempt": "a", "path": "features/ds=2024-05-01/a", "first_ds": "2024-05-01",
    "base": None, "fingerprint": "", "settings": {}, "user_keys": [], "sources": {},
}  # fmt: skip
"""What a manifest of features must hold."""
RUN = {
    "ds": "2024-05-01", "run_id": "r", "path": "runs/r", "features_path": "features/ds=2024-05-01/a",
    "model_version": "m", "settings": {}, "k": 1, "n_rows": 1,
}  # fmt: skip
"""What a scored or published run must hold."""

SEQUENCE = SequenceConfig(
    hidden_size=16,
    n_layers=1,
    n_heads=2,
    inner_size=32,
    max_seq_length=5,
    hidden_dropout_prob=0.1,
    attn_dropout_prob=0.1,
    hidden_act="gelu",
    layer_norm_eps=1e-12,
    initializer_range=0.5,
    score="dot",
    temperature=0.07,
    repeat_lags=2,
)


def walk(start: int, length: int) -> list[str]:
    """``length`` steps along the cycle."""
    return [CYCLE[(start + step) % len(CYCLE)] for step in range(length)]


def write_atomic(
    parent: Path,
    name: str,
    sequences: dict[str, list[str]],
    texts: dict[str, str] | None = None,
) -> Path:
    """Write an atomic data set; events of a user are one second apart.

    Args:
        texts: a title an item; None writes no ``.item`` file.
    """
    folder = parent / name
    folder.mkdir(parents=True, exist_ok=True)
    lines = ["user_id:token\titem_id:token\ttimestamp:float"]
    for user, items in sequences.items():
        lines += [f"{user}\t{item}\t{second}" for second, item in enumerate(items)]
    (folder / f"{name}.inter").write_text("\n".join(lines) + "\n")
    if texts is not None:
        rows = [f"{item}\t{title}" for item, title in texts.items()]
        head = "item_id:token\ttitle:token_seq"
        (folder / f"{name}.item").write_text("\n".join([head, *rows]) + "\n", encoding="utf-8")
    return folder


def write_cycle(
    parent: Path, name: str = "cycle", n_users: int = 36, titles: dict[str, str] | None = None
) -> Path:
    """Users of different lengths on the cycle, and one item that has a text and no interactions.

    Args:
        titles: of some items, in place of theirs.
    """
    sequences = {f"u{n}": walk(n, 6 + n % 9) for n in range(n_users)}
    texts = {item: f"Film {item} of the cycle" for item in CYCLE}
    texts = {**texts, "cold": "A film nobody has met", **(titles or {})}
    return write_atomic(parent, name, sequences, texts)


def random_artifact(
    item_ids: list[str],
    seed: int = 0,
    data_cut: str | None = None,
    config: SequenceConfig = SEQUENCE,
) -> Artifact:
    """An untrained network over the given items; scores are arbitrary but fixed by the seed."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        matrix = torch.randn(len(item_ids) + 1, config.hidden_size)
        matrix[0] = 0
        biases = torch.randn(len(item_ids) + 1)
        weights = SequenceEncoder(config).state_dict()
    titles = [f"Title of {item}" for item in item_ids]
    repeats = {"weight": torch.tensor([0.3, -0.2])}
    return Artifact(
        config, weights, repeats, matrix, biases, item_ids, titles, {"data_cut": data_cut}
    )


def write_events(events_folder: Path, day: str, rows: list[dict[str, object] | str]) -> None:
    """Write a day's raw events as JSON lines; a string stands in the file as it is."""
    folder = events_folder / f"ds={day}"
    folder.mkdir(parents=True, exist_ok=True)
    lines = [row if isinstance(row, str) else json.dumps(row) for row in rows]
    (folder / "events.jsonl").write_text("".join(f"{line}\n" for line in lines))


def files_with(root: Path, text: str) -> list[str]:
    """Files with a text in their names or bytes, or in their rows, unpacked."""
    found = []
    for path in filter(Path.is_file, root.rglob("*")):
        content = f"{path}".encode() + path.read_bytes()
        if path.suffix == ".gz":
            content += gzip.decompress(path.read_bytes())
        if path.suffix == ".parquet":
            with duckdb.connect() as database:
                content += str(database.sql(f"FROM '{path}'").fetchall()).encode()
        if text.encode() in content:
            found.append(str(path.relative_to(root)))
    return found


def table_rows(root: Path, run: dict[str, Any]) -> list[tuple[Any, ...]]:
    """All rows of a run's table, by user and rank."""
    with duckdb.connect() as database:
        return database.execute(
            f"SELECT * FROM '{root / run['path']}/*.parquet' ORDER BY user_id, rank"
        ).fetchall()
