"""Nights of five domains by their shipped settings, from feeds and catalogues in their own shapes."""

import csv
import datetime
import gzip
import json
import logging
import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
import yaml
from pyspark.sql import SparkSession

from recbole_llm.champion import train_champion
from recbole_llm.config_files import config_names, config_path, load_layers, load_yaml
from recbole_llm.query import lookup
from recbole_llm.scoring import Artifact, write_artifact
from recbole_llm.warehouse import Warehouse, replace_json
from spark_jobs.config import load_night_config
from spark_jobs.prepare_features import prepare
from spark_jobs.publish import publish
from spark_jobs.score_users import score
from tests.conftest import night_runner
from tests.data import random_artifact

DAY, NEXT = "2024-05-08", "2024-05-09"
NOON = 1_715_169_600  # 2024-05-08T12:00:00Z
Row = dict[str, Any]


def _at(second: int) -> str:
    """So many seconds after noon of the first day, as most systems write it."""
    return datetime.datetime.fromtimestamp(NOON + second, datetime.UTC).isoformat()


def _write_lines(path: Path, rows: Sequence[Row]) -> None:
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows))


def _write_packed(path: Path, rows: Sequence[Row]) -> None:
    with gzip.open(path, "wt") as file:
        file.writelines(f"{json.dumps(row)}\n" for row in rows)


def _write_csv(path: Path, rows: Sequence[Row]) -> None:
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)


def _write_parquet(path: Path, rows: Sequence[Row]) -> None:
    pq.write_table(pa.Table.from_pylist(list(rows)), path)


_WRITERS: dict[str, Callable[[Path, Sequence[Row]], None]] = {
    "jsonl": _write_lines, "jsonl.gz": _write_packed, "csv": _write_csv, "parquet": _write_parquet,
}  # fmt: skip


class Domain:
    """A warehouse of a domain, and its nights by the shipped settings with a small K."""

    def __init__(self, spark: SparkSession, root: Path, name: str, **settings: Any) -> None:
        self.warehouse = Warehouse(root / "warehouse")
        self.config = root / f"{name}.yaml"
        shipped = load_yaml(config_path("domains", name))
        small = {"user_ids": "plain", "partitions": 2, "max_row_change": 1.0, **settings}
        self.config.write_text(yaml.safe_dump(shipped | small))
        self.run = night_runner(spark, self.warehouse.root, self.config)

    def deliver(self, kind: str, rows: Sequence[Row], day: str = DAY) -> None:
        """A day's events, in files of a kind."""
        folder = self.warehouse.raw_events / f"ds={day}"
        folder.mkdir(parents=True)
        _WRITERS[kind](folder / f"feed.{kind}", rows)

    def list_items(self, kind: str, rows: Sequence[Row]) -> None:
        """The catalogue of every day."""
        self.warehouse.raw_items.mkdir(parents=True)
        _WRITERS[kind](self.warehouse.raw_items / f"catalogue.{kind}", rows)

    def crown(self, artifact: Artifact) -> None:
        """Let a model be the champion."""
        path = write_artifact(artifact, self.warehouse.artifacts)
        replace_json(self.warehouse.champion, {"model_version": path.name})

    def rows(self, user: str, day: str = DAY) -> list[Row]:
        """A user's list."""
        found = lookup(self.warehouse, user, day, k=100).recommendations
        return [dict(row) for row in found]

    def list_of(self, user: str, day: str = DAY) -> list[str]:
        """The items of a user's list."""
        return [row["item_id"] for row in self.rows(user, day)]

    def manifest(self, day: str = DAY) -> Row:
        """Of the day's features."""
        return self.warehouse.features_manifest(day)


def _all_alike(items: list[str]) -> Artifact:
    """A model to which all items are the same."""
    artifact = random_artifact(items)
    matrix = artifact.item_matrix[1].repeat(len(items) + 1, 1)
    matrix[0] = 0
    return replace(artifact, item_matrix=matrix, item_bias=torch.zeros(len(items) + 1))


def test_a_domain_says_only_what_is_its_own() -> None:
    night = load_night_config(config_path(".", "nightly"))
    template = load_yaml(config_path("domains", "template"))
    assert load_night_config(config_path("domains", "template")) == night
    lines = config_path("domains", "template").read_text().splitlines()
    unsaid = [line for line in lines if line[:1].isalpha() and "# (" not in line]
    assert unsaid == []
    names = sorted({*config_names("domains")} - {"template"})
    assert names == ["education", "music", "news", "shopping", "social"]
    for name in names:
        own = load_yaml(config_path("domains", name))
        assert own.keys() <= template.keys()
        assert load_night_config(config_path("domains", name)) != night
        whole = load_layers(config_path("domains", name))
        assert whole["training"] == {**night.training, **own.get("training", {})}


@pytest.mark.spark
def test_news_grow_old(spark: SparkSession, tmp_path: Path) -> None:
    news = Domain(spark, tmp_path, "news", k=6)
    items = ["old", "new", *(f"a{n}" for n in range(8))]
    published = {"old": "2024-05-01", "new": DAY}
    news.list_items(
        "parquet",
        [
            {"article": item, "headline": f"About {item}", "section": "world", "abstract": "It was so.",
             "published": datetime.date.fromisoformat(published.get(item, "2024-05-06"))}
            for item in items
        ],
    )  # fmt: skip
    read = [(f"r{n}", "old") for n in range(4)] + [("r4", "new")]
    read += [(f"r{n}", f"a{n}") for n in range(6)] + [("s", "a7"), ("stranger", "of another paper")]
    news.deliver(
        "jsonl.gz",
        [
            {"reader": reader, "article": item, "read_at": _at(n), "action": "read"}
            for n, (reader, item) in enumerate(read)
        ],
    )
    artifact = _all_alike(items)
    bias = torch.zeros(len(items) + 1)
    bias[1] = 0.5  # the old one is a little better, if it were not old
    news.crown(replace(artifact, item_bias=bias))

    news.run(DAY)
    assert (news.manifest()["accepted_rows"], news.manifest()["quarantined_rows"]) == (
        len(read) - 1,
        1,
    )
    fresh = news.rows("s")
    assert fresh[0]["item_id"] == "new"
    assert "old" not in {row["item_id"] for row in fresh}  # behind all of two days ago
    assert fresh[0]["score"] - fresh[1]["score"] == pytest.approx(2 * math.log(2), abs=1e-4)
    # Events by odds, of 12: old has 4 / 128, new 1, those of two days ago a quarter.
    popular = news.rows("stranger")
    assert popular[0]["item_id"] == "new"
    assert [row["score"] for row in popular] == pytest.approx([1 / 12, *[1 / 48] * 5], abs=1e-6)

    later = {"reader": "t", "article": "a1", "read_at": _at(86_400), "action": "click"}
    news.deliver("jsonl.gz", [later], NEXT)
    news.run(NEXT)
    assert news.warehouse.scored_manifest(NEXT)["n_carried_users"] == 0
    a_day_later = news.rows("s", NEXT)
    assert [row["score"] for row in a_day_later] == pytest.approx(
        [row["score"] - math.log(2) for row in fresh], abs=1e-4
    )

    news.run(DAY, steps=(score, publish), freshness_half_life_days=0)
    assert news.list_of("s")[0] == "old"
    assert news.list_of("stranger")[0] == "old"


@pytest.mark.spark
def test_a_shop_sells_what_it_has(spark: SparkSession, tmp_path: Path) -> None:
    shop = Domain(spark, tmp_path, "shopping", k=8)
    items = [f"s{n}" for n in range(20)]
    shop.list_items(
        "csv",
        [
            {"sku": item, "name": f"Thing {n}", "department": "home" if n < 12 else "garden",
             "brand": f"Brand {n % 3}", "details": "green, of wood",
             "in_stock": "no" if n == 3 else "yes"}
            for n, item in enumerate(items)
        ],
    )  # fmt: skip
    did = [(f"c{n}", f"s{n}", "purchase") for n in range(6)]
    did += [("c0", "s1", "return"), ("c0", "s14", "not_interested"), ("c1", "s5", "add_to_cart")]
    shop.deliver(
        "csv",
        [
            {"at": NOON + n, "customer": customer, "sku": item, "event": event, "store": "north"}
            for n, (customer, item, event) in enumerate(did)
        ],
    )
    shop.crown(random_artifact(items))
    shop.run(DAY)
    assert shop.manifest()["quarantined_rows"] == 0
    for n in range(6):
        mine = shop.list_of(f"c{n}")
        assert not {"s3", f"s{n}"} & {*mine}
        of_home = [item for item in mine if int(item[1:]) < 12]
        assert 3 <= len(of_home) <= 5  # no more than 5 of home, and of garden
    assert not {"s1", "s14"} & {*shop.list_of("c0")}


@pytest.mark.spark
def test_social_media_by_hand(spark: SparkSession, tmp_path: Path) -> None:
    """Scores are the ages alone: a post loses a half of ln 2 a day, one of a muted author ln 20."""
    social = Domain(spark, tmp_path, "social", k=8)
    posts = [f"p{n}" for n in range(16)]
    social.list_items(
        "jsonl",
        [
            {"post": post, "text": f"Look at {post}", "author": f"@a{n % 4}",
             "hashtags": ["sun", f"tag{n}"], "posted_at": _at(-86_400 * n)}
            for n, post in enumerate(posts)
        ],
    )  # fmt: skip
    did = [
        ("m", "p0", "view"), ("m", "p3", "report"), ("m", "p5", "mute_author"), ("m", "p12", "repost"),
        ("m", "p15", "downvote"), ("m", "p13", "stare"), ("o", "p9", "comment"),
    ]  # fmt: skip
    social.deliver(
        "jsonl",
        [
            {"member": member, "post": post, "seen_at": NOON + n, "reaction": reaction}
            for n, (member, post, reaction) in enumerate(did)
        ],
    )
    social.crown(_all_alike(posts))
    social.run(DAY)
    assert social.manifest()["reasons"] == {"events.unknown_event_type": 1}
    # Without p0, p12 (met) and p3, p15 (not wanted); p1 is as if ln 20 / (ln 2 / 2) = 8.6 days older,
    # and @a1's p5 as if 13.6. @a3 has p7 and p11, the others no more than three.
    assert social.list_of("m") == ["p2", "p4", "p6", "p7", "p8", "p1", "p10", "p11"]
    # All of three of each, for whom nothing but p9 of @a1 is out.
    assert social.list_of("o") == [f"p{n}" for n in range(8)]


@pytest.mark.spark
@pytest.mark.slow
def test_music_comes_again(spark: SparkSession, tmp_path: Path) -> None:
    """A trained model: listeners hear their three favourites in turn, and get them again."""
    small = {
        "encoder": "tfidf", "epochs": 30, "hidden_size": 16, "n_layers": 1, "learning_rate": 0.02,
        "train_batch_size": 16, "MAX_ITEM_LIST_LENGTH": 10, "text_size": 8, "seed": 1,
    }  # fmt: skip
    training = {**load_yaml(config_path(".", "nightly"))["training"], **small}
    music = Domain(spark, tmp_path, "music", k=5, training=training)
    tracks = [f"t{n}" for n in range(12)]
    music.list_items(
        "parquet",
        [
            {"track": track, "name": f"Song {n}", "artist": f"Band {n // 3}",
             "tags": ["slow jazz", "piano"] if n < 6 else ["rock"]}
            for n, track in enumerate(tracks)
        ],
    )  # fmt: skip
    favourites = {f"l{n}": [tracks[(n + step) % 12] for step in (0, 1, 5)] for n in range(12)}
    plays = [
        {"listener": listener, "track": mine[play % 3], "event": "play",
         "played_at": datetime.datetime.fromtimestamp(NOON + 300 * play, datetime.UTC)}
        for listener, mine in favourites.items()
        for play in range(9)
    ]  # fmt: skip
    music.deliver("parquet", plays)
    music.run(DAY, steps=(prepare,))
    assert music.manifest()["accepted_rows"] == len(plays)
    version = train_champion(music.warehouse, music.config, DAY, if_none=False)
    (texts,) = music.warehouse.training.rglob("*.item")
    assert texts.read_text().splitlines()[1:3] == [
        "t0\tSong 0\tBand 0\tslow jazz, piano", "t1\tSong 1\tBand 0\tslow jazz, piano"
    ]  # fmt: skip
    music.run(DAY, steps=(score, publish))
    assert music.warehouse.scored_manifest(DAY)["model_version"] == version
    for listener, mine in favourites.items():
        assert {*mine} <= {*music.list_of(listener)}, listener


@pytest.mark.spark
def test_courses_wait_for_what_they_require(
    spark: SparkSession, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    school = Domain(spark, tmp_path, "education", k=6)
    entry = [f"e{n}" for n in range(9)]
    requires: dict[str, Any] = {
        "statistics 2": ["e0", "e1"], "statistics 3": ["statistics 2"], "none": ["withdrawn"]
    }  # fmt: skip

    def courses() -> list[Row]:
        return [
            {"course": course, "name": course.title(), "subject": "maths", "level": n,
             "syllabus": ["sums", "means"], "prerequisites": requires.get(course)}
            for n, course in enumerate([*entry, *requires])
        ]  # fmt: skip

    school.list_items("jsonl.gz", courses())
    known = [*entry[2:], *requires]  # neither e0 nor e1
    bias = torch.tensor(
        [0.0] * (len(entry) - 1) + [5.0, 6.0, 7.0]
    )  # the best of all, if it may be had
    school.crown(replace(_all_alike(known), item_bias=bias))

    def passed(day: int, *courses: tuple[str, str]) -> list[Row]:
        return [
            {
                "learner": learner,
                "course": course,
                "outcome": "passed",
                "finished_at": _at(86_400 * day),
            }
            for learner, course in courses
        ]

    first = [
        ("ann", "e0"), ("ann", "e2"), ("bob", "e0"), ("bob", "e1"), ("bob", "e2"), ("new", "none yet")
    ]  # fmt: skip
    school.deliver("csv", passed(0, *first))
    with caplog.at_level(logging.WARNING, "spark_jobs.score_users"):
        school.run(DAY)
    assert "1 available items are recommended to nobody: they require what is in no" in caplog.text
    assert "'none' requires 'withdrawn'" in caplog.text
    assert {*school.list_of("ann")} == {*entry[3:]}
    of_bob = school.list_of("bob")
    assert of_bob[0] == "statistics 2"
    assert {*of_bob[1:]} < {*entry[3:]}
    assert {*school.list_of("new")} < {*entry}

    school.deliver("csv", passed(1, ("ann", "e1")), NEXT)
    school.run(NEXT)
    assert school.list_of("ann", NEXT)[0] == "statistics 2"
    assert {*school.list_of("ann", NEXT)[1:]} < {*entry[3:]}
    assert school.warehouse.scored_manifest(NEXT)["n_carried_users"] == 1
    assert school.list_of("bob", NEXT) == of_bob

    last = "2024-05-10"
    requires["statistics 2"] = ["e0", "e1", "e3"]
    _write_packed(school.warehouse.raw_items / "catalogue.jsonl.gz", courses())
    school.deliver("csv", passed(2, ("ann", "e3")), last)
    school.run(last)
    assert {*school.list_of("bob", last)} == {*entry[3:]}  # not the list of before
    assert school.list_of("ann", last)[0] == "statistics 2"
