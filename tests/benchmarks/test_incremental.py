"""The timeline, the ranks and the figures by hand, and a run that goes on where it was stopped."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks.incremental import __main__ as incremental
from benchmarks.incremental.timeline import Timeline
from recbole_llm.judge import Event
from recbole_llm.scoring import load_scorer, write_artifact
from tests.data import CYCLE, random_artifact, walk, write_atomic


def _write(parent: Path, rows: list[tuple[str, str, int]]) -> Path:
    items = {item: f"Film {item}" for _, item, _ in rows}
    folder = write_atomic(parent, "set", {}, {**items, "unmet": "Nobody"})
    lines = ["user_id:token\titem_id:token\ttimestamp:float"]
    lines += ["\t".join(map(str, row)) for row in rows]
    (folder / "set.inter").write_text("\n".join(lines) + "\n")
    return folder


def test_a_start_and_periods_of_equally_many_events(tmp_path: Path) -> None:
    rows = [
        ("a", "i1", 1), ("b", "i1", 3), ("a", "i2", 2), ("b", "i2", 4),  # the start
        ("c", "i3", 6), ("a", "i3", 5),
        ("c", "i4", 7), ("a", "i1", 7),  # at the same time, in the file's order
    ]  # fmt: skip
    timeline = Timeline(_write(tmp_path, rows), 2)
    assert [timeline.since(block) for block in (0, 1, 2)] == [1, 5, 7]
    assert timeline.items(1) == {"i3"}
    assert timeline.catalogue(0) == ["i1", "i2", "i3"]  # what the next period brings is on sale
    assert timeline.targets(1) == [Event("a", ["i1", "i2", "i3"], 2)]
    assert timeline.targets(2) == [
        Event("c", ["i3", "i4"], 1),
        Event("a", ["i1", "i2", "i3", "i1"], 3),
    ]
    assert (timeline.new_users(1), timeline.new_users(2)) == (1, 0)
    folder = tmp_path / timeline.write(1, tmp_path)
    assert (folder / "set-1.inter").read_text().splitlines()[1:] == [
        "a\ti1\t1", "a\ti2\t2", "a\ti3\t5", "b\ti1\t3", "b\ti2\t4", "c\ti3\t6"
    ]  # fmt: skip
    assert [line.split("\t")[0] for line in (folder / "set-1.item").read_text().splitlines()] == [
        "item_id:token", "i1", "i2", "i3", "i4"
    ]  # fmt: skip


def test_what_a_model_does_not_know_is_never_found(tmp_path: Path) -> None:
    scorer = load_scorer(write_artifact(random_artifact(CYCLE), tmp_path))
    best = scorer.top_k([["i3"]], 12, exclude_seen=False).item_ids[0]
    targets = [
        Event("a", ["i3", best[4]], 1),
        Event("b", ["i3", "unheard"], 1),
        Event("c", ["unheard", "i3"], 1),
    ]
    assert incremental.rank(scorer, targets, [*CYCLE, "unheard"]).tolist() == [5, 0, 0]
    assert incremental.rank(scorer, targets, best[2:]).tolist() == [3, 0, 0]
    metrics = incremental._metrics(np.array([1, 3, 11, 0]))
    assert metrics == {"ndcg@10": (1 + 0.5) / 4, "recall@500": 0.75}


def test_the_figures_pool_periods() -> None:
    def row(full: float, continued: float, stayed: int, positions: int) -> dict[str, Any]:
        return {
            "stayed_targets": stayed,
            **{
                name: {
                    "ndcg@10": value, "positions": count, "trained": 2 * count, "cpu_seconds": 1.0,
                    "stayed": {"ndcg@10": value, "recall@500": 0.0},
                }
                for name, value, count in (
                    ("full", full, positions), ("continued", continued, 10), ("stale", 0.1, 0),
                )
            },
        }  # fmt: skip

    found = incremental.figures([row(0.2, 0.1, 30, 100), row(0.3, 0.5, 10, 300)])
    assert found == {
        "kept_of_full": 1.2, "stale_of_full": 0.4, "compute_of_full": 0.05, "trained_of_full": 0.05,
        "cpu_of_full": 1.0, "forgotten": round((0.1 * 30 + 0.5 * 10) / (0.2 * 30 + 0.3 * 10), 4),
        "forgotten_recall@500": None,
    }  # fmt: skip


@pytest.mark.slow
def test_a_run_goes_on_where_it_was_stopped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [
        (f"u{n}", item, 100 * step + n) for n in range(12) for step, item in enumerate(walk(n, 12))
    ]
    rows += [(f"late{n}", "newest", 1150 + n) for n in range(3)]
    source = _write(tmp_path, rows)
    small = {
        "encoder": "tfidf", "hidden_size": 8, "inner_size": 16, "n_layers": 1, "epochs": 2,
        "replay_share": 0.0,
    }  # fmt: skip
    run = incremental.measure(source, 2, 1, tmp_path / "kept", small)
    first = next(run)
    run.close()
    trained = []
    train = incremental._train
    monkeypatch.setattr(
        incremental, "_train", lambda *given: trained.append(given[1]) or train(*given)
    )
    again, second = incremental.measure(source, 2, 1, tmp_path / "kept", small)
    assert again == first
    assert trained == [2, 2]
    assert (first["period"], second["period"], first["users"], second["users"]) == (1, 2, 12, 12)
    assert second["continued"]["epochs"] == 5  # of configs/nightly.yaml
    an_epoch = {
        name: second[name]["trained"] / second[name]["epochs"] for name in ("continued", "full")
    }
    assert an_epoch["continued"] < an_epoch["full"]
    assert second["continued"]["positions"] > second["continued"]["trained"]
    assert second["stale"]["artifact"] == first["stale"]["artifact"]
