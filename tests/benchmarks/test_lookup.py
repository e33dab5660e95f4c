"""The benchmark's table is one that the night could have written, and it notices a wrong answer."""

from argparse import Namespace
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.lookup import ask, load, publish_random
from recbole_llm.parquet_tables import ParquetTables
from recbole_llm.sinks import open_sink
from recbole_llm.warehouse import Warehouse


def test_answers_are_held_against_one_another(tmp_path: Path) -> None:
    warehouse = Warehouse(tmp_path / "warehouse")
    publish_random(warehouse, n_users=50, n_items=9, k=3, generator=np.random.default_rng(0))
    args = Namespace(users=50, k=3, questions=20, rounds=2)

    class Wrong(ParquetTables):
        def user_rows(self, user_id: str, day: str | None, k: int) -> list[dict[str, Any]]:
            rows = super().user_rows(user_id, day, k)
            return rows[::-1] if user_id == "user-00000007" else rows

    with closing(ParquetTables(warehouse)) as parquet, closing(Wrong(warehouse)) as wrong, closing(
        open_sink(f"delta:{tmp_path}/delta")
    ) as delta:  # fmt: skip
        assert load(warehouse, delta)["copy_seconds"] > 0
        sources = {"parquet": parquet, "delta": delta}
        mismatches, waits, works = ask(sources, args, np.random.default_rng(1))
        assert mismatches == 0
        for rounds in (*waits.values(), *works.values()):
            assert [len(each) for each in rounds] == [20, 20]
        asked = np.random.default_rng(1)
        n_wrong = sum(int((asked.integers(50, size=20) == 7).sum()) for _ in range(3))
        assert n_wrong > 0
        assert ask({**sources, "wrong": wrong}, args, np.random.default_rng(1))[0] == n_wrong
