"""The service over an artifact alone: what it ranks, refuses and counts."""

import asyncio
import json
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient

from recbole_llm.lists.ranker import Ranker
from recbole_llm.lists.users import User
from recbole_llm.scoring import load_scorer, write_artifact
from recbole_llm.serve import guards
from recbole_llm.serve.app import create_app
from recbole_llm.serve.guards import ApiKeys
from recbole_llm.serve.service import Service, user_after
from recbole_llm.serve.settings import ServeSettings
from recbole_llm.serve.snapshot import Source
from tests.data import CYCLE, random_artifact

KEY = "a-key-for-the-tests"
HIDDEN = [{"item_id": item, "event_type": "hide"} for item in CYCLE[:7]]


def app_of(artifact: Path, **settings: Any) -> tuple[FastAPI, Service]:
    service = Service(Source(None, artifact), ServeSettings(**settings), None)
    return create_app(service, ApiKeys([])), service


@pytest.fixture(scope="module")
def artifact(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_artifact(random_artifact(CYCLE), tmp_path_factory.mktemp("artifacts"))


@pytest.fixture
def client(artifact: Path) -> Iterator[TestClient]:
    with TestClient(app_of(artifact, max_body_kib=16)[0]) as client:
        yield client


def _ids(answer: dict[str, Any]) -> list[str]:
    return [row["item_id"] for row in answer["recommendations"]]


def test_a_history_gets_what_the_scorer_gives(client: TestClient, artifact: Path) -> None:
    history = ["i3", "strange", "i4", "i5"]
    answer = client.post(
        "/recommend", json={"history": history, "k": 4, "with_history": True}
    ).json()
    top = load_scorer(artifact).top_k([history], 4)
    assert _ids(answer) == top.item_ids[0]
    assert [row["score"] for row in answer["recommendations"]] == pytest.approx(
        top.scores[0].tolist()
    )
    assert answer["recommendations"][0]["title"] == f"Title of {top.item_ids[0][0]}"
    assert [row["rank"] for row in answer["recommendations"]] == [1, 2, 3, 4]
    assert {row["reason"] for row in answer["recommendations"]} == {"model"}
    assert (answer["n_known"], answer["model_version"]) == (3, artifact.name)
    assert [item["item_id"] for item in answer["history"]] == ["i5", "i4", "strange", "i3"]


def test_events_are_what_comes_after(client: TestClient) -> None:
    def ask(history: list[str], *events: dict[str, str]) -> list[str]:
        body = {"history": history, "events": list(events), "k": 5}
        return _ids(client.post("/recommend", json=body).json())

    plain = ask(["i3", "i4"])
    assert ask(["i3"], {"item_id": "i4"}) == plain
    assert ask(["i3"], {"item_id": "i4", "event_type": "like"}) == plain
    hidden = ask(["i3", "i4"], {"item_id": plain[0], "event_type": "hide"})
    assert hidden[:4] == plain[1:]
    back = {"item_id": plain[0], "event_type": "undo"}
    assert ask(["i3", "i4"], {"item_id": plain[0], "event_type": "hide"}, back) == plain
    unread = ask(["i3", "i4"], {"item_id": "i3", "event_type": "do_not_use"})
    alone = [item for item in ask(["i4"]) if item != "i3"]  # it was met all the same
    assert unread[: len(alone)] == alone


def test_a_history_that_the_model_does_not_know_gets_other_items(client: TestClient) -> None:
    answer = client.post("/recommend", json={"history": ["strange"], "k": 3}).json()
    assert {row["reason"] for row in answer["recommendations"]} == {"popular"}
    assert len(set(_ids(answer))) == 3
    assert answer["n_known"] == 0


def test_they_are_those_that_were_met_most_in_training(tmp_path: Path) -> None:
    counts = [5 * (item == "i7") + 3 * (item == "i2") + 2 * (item == "i9") for item in CYCLE]
    path = write_artifact(replace(random_artifact(CYCLE), n_events=counts), tmp_path)
    with TestClient(app_of(path)[0]) as client:
        answer = client.post("/recommend", json={"history": ["strange"], "k": 3}).json()
    assert _ids(answer) == ["i7", "i2", "i9"]
    scores = [row["score"] for row in answer["recommendations"]]
    assert scores == pytest.approx([0.5, 0.3, 0.2])


@pytest.mark.parametrize(
    ("body", "told"),
    [
        ({}, "history: Field required"),
        ({"history": ["i1"], "user_id": "u"}, "Extra inputs"),
        ({"history": ["i1"], "k": 101}, "less than or equal to 100"),
        ({"history": ["i1"] * 1001}, "at most 1000 items"),
        ({"history": ["i1"], "k": 13}, "12 items left of 12"),
        ({"history": [], "k": 6, "events": HIDDEN}, "5 items left of 12"),
        ({"history": ["i1"], "events": [{"item_id": "i2", "event_type": "buy"}]}, "'view'"),
        ({"history": ["i1"], "more": 1}, "Extra inputs"),
        ({"history": ["\ud800"]}, "valid string"),
    ],
)  # fmt: skip
def test_what_cannot_be_answered_is_told(client: TestClient, body: Any, told: str) -> None:
    answer = client.post(
        "/recommend", content=json.dumps(body), headers={"Content-Type": "application/json"}
    )
    assert answer.status_code == 422
    assert told in answer.text
    alone = client.post("/recommend", json={"history": ["i1"], "k": 2})
    assert alone.status_code == 200


def test_users_need_a_table(client: TestClient) -> None:
    for answer in (
        client.post("/recommend", json={"user_id": "u", "k": 2}), client.get("/recommendations/u")
    ):  # fmt: skip
        assert answer.status_code == 404
        assert "no published table" in answer.json()["detail"]
    assert client.get("/users").json() == []


def test_a_body_has_a_size(client: TestClient) -> None:
    answer = client.post("/recommend", content=b" " * 16385)
    assert (answer.status_code, answer.json()) == (413, {"detail": "a body may have 16384 bytes"})

    def in_parts() -> Iterator[bytes]:
        for _ in range(200):
            yield b" " * 100

    assert client.post("/recommend", content=in_parts()).status_code == 413


def test_a_key_opens(artifact: Path) -> None:
    service = Service(Source(None, artifact), ServeSettings(), None)
    with TestClient(create_app(service, ApiKeys([KEY, f"{KEY}-2"]))) as client:
        body = {"history": ["i1"], "k": 2}
        assert client.post("/recommend", json=body).status_code == 401
        for key, status in ((KEY, 200), (f"{KEY}-2", 200), (KEY[:-1], 401), ("", 401)):
            answer = client.post("/recommend", json=body, headers={"X-API-Key": key})
            assert answer.status_code == status
        assert client.get("/metrics").status_code == 401
        assert client.get("/items", params={"title": "i1"}).status_code == 401
        assert client.get("/health").json()["model_version"] == artifact.name
        assert client.get("/").status_code == 200
    assert KEY not in repr(ApiKeys([KEY]))


def test_items_are_found_by_title(client: TestClient) -> None:
    found = client.get("/items", params={"title": "OF I1", "n": 2}).json()
    assert found == [{"item_id": f"i{n}", "title": f"Title of i{n}"} for n in (1, 10)]


def test_what_is_counted(client: TestClient, artifact: Path) -> None:
    client.post("/recommend", json={"history": ["i1"], "k": 2})
    client.post("/recommend", json={})
    client.get("/recommendations/a")
    client.get("/recommendations/b")
    client.get("/nowhere")
    text = client.get("/metrics").text
    assert 'recbole_llm_requests_total{path="/recommend",status="200"} 1.0' in text
    assert 'recbole_llm_requests_total{path="/recommend",status="422"} 1.0' in text
    assert 'recbole_llm_requests_total{path="/recommendations/{user_id}",status="404"} 2.0' in text
    assert 'recbole_llm_requests_total{path="other",status="404"} 1.0' in text
    assert 'recbole_llm_request_seconds_count{path="/recommend"} 2.0' in text
    assert f'recbole_llm_model_info{{ds="",version="{artifact.name}"}} 1.0' in text


def test_too_many_at_once_are_refused_and_the_others_answered(
    artifact: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    app, _ = app_of(artifact, max_in_flight=3)
    gate, rank = threading.Event(), Ranker.lists

    def held(self: Ranker, *args: Any) -> Any:
        gate.wait(30)
        return rank(self, *args)

    monkeypatch.setattr(Ranker, "lists", held)
    with TestClient(app) as client:
        answers: list[Any] = []

        def ask() -> None:
            answers.append(client.post("/recommend", json={"history": ["i1"], "k": 2}))

        threads = [threading.Thread(target=ask) for _ in range(8)]
        for thread in threads:
            thread.start()
        while len(answers) < 5:
            threading.Event().wait(0.01)
        assert {answer.status_code for answer in answers} == {503}
        assert answers[0].headers["retry-after"] == "1"
        assert client.get("/health").status_code == 200
        gate.set()
        for thread in threads:
            thread.join()
        assert sorted(answer.status_code for answer in answers) == [200] * 3 + [503] * 5
        assert "recbole_llm_shed_total 5.0" in client.get("/metrics").text
        assert client.post("/recommend", json={"history": ["i1"], "k": 2}).status_code == 200


def test_a_new_model_comes_in_without_a_lost_request(tmp_path: Path) -> None:
    first, second = (
        write_artifact(random_artifact(CYCLE, seed), tmp_path / "artifacts") for seed in (1, 2)
    )
    link = tmp_path / "model"
    link.symlink_to(first)
    app, service = app_of(link, refresh_s=0.02)
    body = {"history": ["i1", "i2"], "k": 5}
    with TestClient(app) as client:
        seen, failed, done = [], [], threading.Event()

        def ask() -> None:
            while not done.is_set():
                answer = client.post("/recommend", json=body)
                if answer.status_code != 200:
                    failed.append(answer.text)
                seen.append((answer.json()["model_version"], tuple(_ids(answer.json()))))

        threads = [threading.Thread(target=ask) for _ in range(3)]
        for thread in threads:
            thread.start()
        for target in (second, first, second):
            (tmp_path / "new").symlink_to(target)
            (tmp_path / "new").rename(link)
            n = service.n_swaps
            while service.n_swaps == n:
                threading.Event().wait(0.01)
        done.set()
        for thread in threads:
            thread.join()
        assert failed == []
        expected = {
            path.name: tuple(load_scorer(path).top_k([body["history"]], 5).item_ids[0])
            for path in (first, second)
        }
        assert {lists for _, lists in seen} == set(expected.values())
        assert all(expected[version] == lists for version, lists in seen)
        broken = tmp_path / "broken"
        broken.mkdir()
        (tmp_path / "new").symlink_to(broken)
        (tmp_path / "new").rename(link)
        while not service.n_failed_swaps:
            threading.Event().wait(0.01)
        assert client.post("/recommend", json=body).json()["model_version"] == second.name


def test_no_error_ends_the_look_out_for_new_models(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = (
        write_artifact(random_artifact(CYCLE, seed), tmp_path / "artifacts") for seed in (1, 2)
    )
    link = tmp_path / "model"
    link.symlink_to(first)
    app, service = app_of(link, refresh_s=0.02)
    load, errors = Source.load, [MemoryError("too much"), RuntimeError("of torch")]
    monkeypatch.setattr(Source, "load", lambda source: _raise_next(errors) or load(source))
    with TestClient(app) as client:
        (tmp_path / "new").symlink_to(second)
        (tmp_path / "new").rename(link)
        while client.get("/health").json()["model_version"] != second.name:
            threading.Event().wait(0.01)
    assert service.n_failed_swaps == 2


def _raise_next(errors: list[Exception]) -> None:
    if errors:
        raise errors.pop()


def test_a_batch_is_answered_each_for_itself(artifact: Path) -> None:
    _, service = app_of(artifact)

    async def ask() -> list[Any]:
        users = [
            user_after(User(""), [(item, "", None) for item in items], None, 100)
            for items in (["i1"], CYCLE[:11], ["i2", "i3"])
        ]
        hide = [(item, "hide", None) for item in CYCLE]
        users.append(user_after(User(""), hide, None, 100))
        return await asyncio.gather(
            *(service.recommend(user, k) for user, k in zip(users, (3, 12, 5, 2), strict=True)),
            return_exceptions=True,
        )

    one, all_, two, none = asyncio.run(ask())
    assert [len(found.rows) for found in (one, all_, two)] == [3, 12, 5]
    assert "items left" in str(none)
    scorer = load_scorer(artifact)
    assert [row.item_id for row in one.rows] == scorer.top_k([["i1"]], 3).item_ids[0]
    assert [row.item_id for row in two.rows] == scorer.top_k([["i2", "i3"]], 5).item_ids[0]
    assert [row.reason for row in all_.rows] == ["model"] + ["repeat"] * 11


def _slow(scope: dict[str, Any]) -> tuple[Any, list[Any]]:
    """A request whose body does not come, and what it is answered."""
    sent: list[Any] = []

    async def receive() -> Any:
        await asyncio.Event().wait()

    async def send(message: Any) -> None:
        sent.append(message)

    return (scope, receive, send), sent


def test_who_sends_slowly_takes_no_place_and_who_has_no_key_is_not_waited_for(
    artifact: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(guards, "_BODY_S", 0.2)
    service = Service(Source(None, artifact), ServeSettings(max_in_flight=1), None)
    app = create_app(service, ApiKeys([KEY]))
    scope = {
        "type": "http", "method": "POST", "path": "/recommend", "query_string": b"",
        "headers": [(b"content-type", b"application/json")], "http_version": "1.1",
    }  # fmt: skip
    keyed = {**scope, "headers": [*scope["headers"], (b"x-api-key", KEY.encode())]}
    body = json.dumps({"history": ["i1"], "k": 2}).encode()

    async def ask() -> list[int]:
        slow, refused = _slow(keyed)
        waiting = asyncio.create_task(app(*slow))
        await asyncio.sleep(0)
        without, locked = _slow(scope)
        await app(*without)  # at once, though nothing of the body came
        (_, _, send), answered = _slow(keyed)

        async def whole() -> Any:
            return {"type": "http.request", "body": body, "more_body": False}

        await app(keyed, whole, send)
        await waiting
        return [sent[0]["status"] for sent in (locked, answered, refused)]

    assert asyncio.run(ask()) == [401, 200, 408]
