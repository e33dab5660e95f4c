"""What the service is asked and what it answers, as JSON."""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

Id = Annotated[str, StringConstraints(min_length=1, max_length=256)]
EVENT_TYPES = {
    "view": "", "like": "like", "dislike": "dislike", "hide": "hide",
    "not_interested_category": "damp", "do_not_use": "ignore", "undo": "undo",
}  # fmt: skip
"""What an event of a type says of its item, as ``configs/nightly.yaml`` has it."""
MAX_K, MAX_HISTORY, MAX_EXPLAINED = 100, 1000, 20
"""Items that a request may ask for, that it may hold, and that are explained at once."""
MAX_TOLD = 50
"""Items of a history, and users and items found, that are told."""
_FUTURE = 1 << 40
"""A second far in the future; times are counted in 64 bits."""


class Asked(BaseModel):
    """A body that a request has."""

    model_config = ConfigDict(extra="forbid")


class NewEvent(Asked):
    """What a user did since the night."""

    item_id: Id
    event_type: Literal[
        "view", "like", "dislike", "hide", "not_interested_category", "do_not_use", "undo"
    ] = Field(default="view", description="Any event that says nothing of the item is a view.")
    timestamp: int | None = Field(
        default=None,
        ge=0,
        le=_FUTURE,
        description="Unix seconds, UTC; by default the order of the list.",
    )


class _List(Asked):
    events: list[NewEvent] = Field(
        default=[], max_length=MAX_HISTORY, description="What they did since, oldest first."
    )
    market: Id | None = Field(
        default=None, description="Where they are; by default where they were."
    )
    k: int = Field(default=10, ge=1, le=MAX_K, description="Items wanted.")
    with_history: bool = Field(default=False, description="Tell what of the history is read, too.")


class _OfUser(Asked):
    user_id: Id = Field(description="A user of the published table.")


class _OfHistory(Asked):
    history: list[Id] = Field(
        max_length=MAX_HISTORY, description="Items that somebody met, oldest first."
    )


class _Explain(_List):
    k: int = Field(
        default=3, ge=1, le=MAX_EXPLAINED, description="First ranks explained, without item_ids."
    )
    item_ids: list[Id] | None = Field(
        default=None, min_length=1, max_length=MAX_EXPLAINED, description="Items to explain."
    )


class UserList(_List, _OfUser):
    """What a user of the published table gets."""


class HistoryList(_List, _OfHistory):
    """What anybody gets, by their history."""


class ExplainUser(_Explain, _OfUser):
    """Why items suit a user of the published table."""


class ExplainHistory(_Explain, _OfHistory):
    """Why items suit anybody, by their history."""


class TableQuery(Asked):
    """How much of a user's table."""

    k: int = Field(default=10, ge=1, le=MAX_K, description="First rows wanted.")


class UsersQuery(Asked):
    """How many users."""

    n: int = Field(default=20, ge=1, le=MAX_TOLD)


class ItemsQuery(UsersQuery):
    """Which items, and how many."""

    title: Id = Field(description="A part of it, in any case.")


class Problem(BaseModel):
    """Why there is no answer."""

    detail: str


class Recommended(BaseModel):
    """An item of a list."""

    rank: int
    item_id: str
    title: str
    score: float
    reason: str = Field(description="model, popular, uncapped or repeat, as in the table.")
    why: str | None = Field(default=None, description="In words, where the table has it.")


class MetItem(BaseModel):
    """An item of a history."""

    item_id: str
    title: str


class Recommendations(BaseModel):
    """A list, best first, and what it was made by."""

    user_id: str | None = Field(description="As the table names them.")
    ds: str | None = Field(description="The day of the table, or of the catalogue.")
    model_version: str
    n_known: int | None = Field(
        default=None, description="Items of the history that the model knows."
    )
    recommendations: list[Recommended]
    history: list[MetItem] | None = Field(
        default=None, description="Newest first, what is read of it."
    )


class CarriedBy(BaseModel):
    """What an item of the history did for a score."""

    item_id: str
    title: str
    left_out: float = Field(description="By how much the score falls without it.")
    gradient: float = Field(description="Gradient times input.")
    attention: float = Field(description="Where the network looked; no proof.")


class Word(BaseModel):
    """A word of an item's text."""

    text: str
    share: float = Field(description="What it adds to the score.")


class Explained(BaseModel):
    """Why an item suits a history."""

    item_id: str
    title: str
    score: float
    sentence: str
    history: list[CarriedBy]
    shares: dict[str, float] | None = Field(description="Of the score: ID, text, position.")
    words: list[Word] | None = Field(description="Of the item's text, in its order.")


class Explanations(BaseModel):
    """Why items suit a history, by the model alone."""

    model_version: str
    notes: list[str]
    items: list[Explained]


class Item(BaseModel):
    """An item of the catalogue."""

    item_id: str
    title: str


class Health(BaseModel):
    """Whether the service answers, and by what."""

    status: Literal["ok"]
    model_version: str
    ds: str | None
    n_items: int
