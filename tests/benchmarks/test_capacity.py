"""The capacity table: what the docs show is what the results say."""

from benchmarks.about import DOCS
from benchmarks.capacity import MARK, reckon, table


def test_the_docs_show_what_the_results_say() -> None:
    docs = (DOCS / "operations.md").read_text(encoding="utf-8")
    shown = docs.partition(MARK)[2].lstrip("\n").partition("\n\n")[0] + "\n"
    assert shown == table(50_000_000, 1_000_000, 20, 2.0)


def test_work_grows_with_users_and_catalogue() -> None:
    small = {name: float(full) for name, full, _ in reckon(10**6, 10**6, 20, 1.0)}
    large = {name: float(full) for name, full, _ in reckon(10**8, 2 * 10**6, 20, 1.0)}
    assert large["score_users, core-hours"] > 150 * small["score_users, core-hours"]
    assert large["item vectors in each worker, GiB"] > small["item vectors in each worker, GiB"]
