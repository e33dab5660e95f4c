"""The article's set is what its benchmark says it is."""

from collections import Counter, defaultdict
from pathlib import Path

from benchmarks.article import write_dataset
from recbole_llm.feed import recbole_example


def test_a_hundred_films_in_thirty_days(tmp_path: Path) -> None:
    size = write_dataset(recbole_example(), tmp_path)
    folder = tmp_path / "article"
    head, *lines = (folder / "article.inter").read_text().splitlines()
    assert head.startswith("user_id:token\titem_id:token\trating:float\ttimestamp:float")
    rows = [line.split("\t") for line in lines]
    items, users = Counter(row[1] for row in rows), defaultdict(list)
    for row in rows:
        users[row[0]].append(float(row[3]))
    assert size == {"n_users": len(users), "n_items": 100, "n_ratings": len(rows)}
    assert len(items) == 100
    assert min(map(len, users.values())) == 5
    assert max(max(each) - min(each) for each in users.values()) < 30 * 86_400
    titles = (folder / "article.item").read_text(encoding="utf-8").splitlines()
    assert {line.split("\t")[0] for line in titles[1:]} == set(items)
    assert any(line.startswith("50\tStar Wars\t") for line in titles)
