"""What may be asked over HTTP, and the answers' form."""

from collections.abc import Mapping
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Path, Query, Response
from fastapi.responses import PlainTextResponse
from fastapi.security import APIKeyHeader

from recbole_llm.lists.users import User
from recbole_llm.serve.guards import HEADER, ApiKeys
from recbole_llm.serve.metrics import TEXT, Metrics
from recbole_llm.serve.schemas import (
    EVENT_TYPES,
    MAX_HISTORY,
    MAX_TOLD,
    CarriedBy,
    Explained,
    ExplainHistory,
    ExplainUser,
    Explanations,
    Health,
    HistoryList,
    Item,
    ItemsQuery,
    MetItem,
    Problem,
    Recommendations,
    Recommended,
    TableQuery,
    UserList,
    UsersQuery,
    Word,
)
from recbole_llm.serve.service import Service, history_of, user_after

ALWAYS = {"/health", "/metrics"}
"""Paths that are answered however busy the service is."""
_ERRORS: dict[int | str, dict[str, Any]] = {
    status: {"model": Problem, "description": told}
    for status, told in (
        (400, "The body is no JSON."),
        (401, "The key is missing or wrong."),
        (404, "The user, or the item, is not there."),
        (408, "The body did not come in time."),
        (413, "The body is too large."),
        (422, "What was asked is not what the schema says, or cannot be answered."),
        (503, "Too many requests at once; try again."),
    )
}


def routes(service: Service, keys: ApiKeys, metrics: Metrics) -> APIRouter:
    """All paths of a service.

    Args:
        service: what answers.
        keys: who may ask; with none everybody may.
        metrics: what counts.
    """
    router = APIRouter()
    # Who may ask is settled before; this tells of it.
    needed = [Depends(APIKeyHeader(name=HEADER, auto_error=False))] if keys else []
    closed = APIRouter(dependencies=needed, responses=_ERRORS)
    _add_lists(closed, service)
    _add_explain(closed, service)
    _add_catalogue(closed, service)

    @router.get("/health")
    async def health() -> Health:
        """Whether the service answers, and by which model."""
        snapshot = service.snapshot
        return Health(
            status="ok", model_version=snapshot.model_version, ds=snapshot.ds,
            n_items=len(snapshot.ranker.catalogue.items),
        )  # fmt: skip

    @closed.get("/metrics", response_class=PlainTextResponse)
    async def tell_metrics() -> Response:
        """Counters for Prometheus."""
        return Response(metrics.render(), media_type=TEXT)

    router.include_router(closed)
    return router


def _add_lists(router: APIRouter, service: Service) -> None:
    @router.post("/recommend")
    async def recommend(asked: UserList | HistoryList) -> Recommendations:
        """Rank now, by the newest model: for a history, or for a user and what they did since."""
        user = await _user(service, asked)
        ranked = await service.recommend(user, asked.k)
        snapshot = ranked.snapshot
        read = history_of(snapshot, user)
        told = [
            MetItem(item_id=item, title=snapshot.titles.get(item, "")) for item in read[:MAX_TOLD]
        ]
        return Recommendations(
            user_id=user.user_id or None, ds=snapshot.ds, model_version=snapshot.model_version,
            n_known=sum(snapshot.ranker.scorer.row(item) > 0 for item in read),
            recommendations=[
                Recommended(
                    rank=rank, item_id=row.item_id, title=snapshot.titles.get(row.item_id, ""),
                    score=row.score, reason=row.reason,
                )
                for rank, row in enumerate(ranked.rows, 1)
            ],
            history=told if asked.with_history else None,
        )  # fmt: skip

    @router.get("/recommendations/{user_id}")
    async def recommendations(
        user_id: Annotated[str, Path(min_length=1, max_length=256)],
        query: Annotated[TableQuery, Query()],
    ) -> Recommendations:
        """A user's rows of the newest published table."""
        rows = await service.table_rows(user_id, query.k)
        return _from_table(rows, service.snapshot.titles)


def _from_table(rows: list[dict[str, Any]], titles: Mapping[str, str]) -> Recommendations:
    first = rows[0]
    return Recommendations(
        user_id=first["user_id"], ds=first["ds"], model_version=first["model_version"],
        recommendations=[
            Recommended(
                rank=row["rank"], item_id=row["item_id"], title=titles.get(row["item_id"], ""),
                score=row["score"], reason=row["reason"], why=row["why"],
            )
            for row in rows
        ],
    )  # fmt: skip


def _add_explain(router: APIRouter, service: Service) -> None:
    @router.post("/explain")
    async def explain(asked: ExplainUser | ExplainHistory) -> Explanations:
        """Say why items suit a user; takes longer than to rank them."""
        user = await _user(service, asked)
        snapshot, found = await service.explain(user, asked.item_ids, asked.k)
        return Explanations(
            model_version=snapshot.model_version, notes=found.notes,
            items=[_explained(each) for each in found.items],
        )  # fmt: skip


def _explained(item: Any) -> Explained:
    shares, words = item.shares, item.words
    return Explained(
        item_id=item.item_id, title=item.title, score=item.score, sentence=item.sentence,
        history=[
            CarriedBy(
                item_id=met.item_id, title=met.title, left_out=met.left_out, gradient=met.gradient,
                attention=met.attention,
            )
            for met in item.history
        ],
        shares=shares and {"average": shares.baseline, **shares.of},
        words=words and [Word(text=each.text, share=sum(each.of.values())) for each in words.words],
    )  # fmt: skip


def _add_catalogue(router: APIRouter, service: Service) -> None:
    @router.get("/users")
    async def users(query: Annotated[UsersQuery, Query()]) -> list[str]:
        """Some users of the published table, by the names that it has for them."""
        return await service.read(lambda: service.snapshot.some_users(query.n))

    @router.get("/items")
    async def items(query: Annotated[ItemsQuery, Query()]) -> list[Item]:
        """Items that the model reads, by a part of their title."""
        artifact, wanted = service.snapshot.ranker.scorer.artifact, query.title.casefold()
        found = (
            Item(item_id=item, title=name)
            for item, name in zip(artifact.item_ids, artifact.titles, strict=True)
            if wanted in name.casefold()
        )
        return [item for item, _ in zip(found, range(query.n), strict=False)]


async def _user(
    service: Service, asked: UserList | HistoryList | ExplainUser | ExplainHistory
) -> User:
    """Whom a request is about, after what it tells of them."""
    events = [(e.item_id, EVENT_TYPES[e.event_type], e.timestamp) for e in asked.events]
    if isinstance(asked, UserList | ExplainUser):
        user, most = await service.user(asked.user_id), service.snapshot.max_history
        return user_after(user, events, asked.market, most)
    met = [(item, "", None) for item in asked.history]
    return user_after(User(""), [*met, *events], asked.market, MAX_HISTORY)
