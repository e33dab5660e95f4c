"""Where the published tables are copied to, for those who ask another database.

A sink follows the pointer: ``recbole_llm.sync`` lets it hold the run that ``published.json`` names for
a day, whole or not at all, and nothing for a day that was withdrawn.
"""

from contextlib import AbstractContextManager
from typing import Any, Protocol

from recbole_llm.errors import ConfigError
from recbole_llm.sinks.run_files import RunFiles


class Tables(Protocol):
    """Where a user's rows are asked: the published files themselves, or a sink."""

    def loaded(self) -> dict[str, str]:
        """The ``run_id`` that is the table of each day."""

    def user_rows(self, user_id: str, day: str | None, k: int) -> list[dict[str, Any]]:
        """A user's first K rows of a day, of the newest when None; empty where there are none.

        Columns ``ds`` (text), ``rank``, ``item_id``, ``score``, ``reason``, ``why``, ``model_version``,
        ``run_id``.
        """

    def close(self) -> None:
        """Give back what it holds."""


class Sink(Tables, Protocol):
    """A copy of the published tables."""

    def lock(self) -> AbstractContextManager[None]:
        """Hold others who change the sink off, and make it ready to take tables."""

    def load(self, run: RunFiles) -> None:
        """Make a run the table of its day, in one step."""

    def withdraw(self, day: str) -> None:
        """Take a day's table away."""

    def forget(self, users: list[str]) -> int:
        """Delete users' rows of all days, from the disk too; how many they were."""


def open_sink(address: str) -> Sink:
    """The sink at an address.

    Args:
        address: ``postgresql://[user@][host][:port][/database]``, libpq's own, or ``delta:`` and the
            place of a Delta table.
    Raises:
        ConfigError: another address, a password in it, or a package that is not installed.
        UnavailableError: the database does not answer.
    """
    scheme, _, place = address.partition(":")
    try:
        if scheme in ("postgresql", "postgres"):
            from recbole_llm.sinks.postgres import PostgresSink

            return PostgresSink(address)
        if scheme == "delta" and place:
            from recbole_llm.sinks.delta import DeltaSink

            return DeltaSink(place)
    except ImportError as error:
        extra = "delta" if scheme == "delta" else "postgres"
        raise ConfigError(
            f"a sink {scheme}: needs the package {error.name}: pip install 'recbole-llm[{extra}]'"
        ) from None
    # The rest of the address may hold a password.
    raise ConfigError(f"a sink is postgresql://… or delta:FOLDER, got one that starts {scheme!r}")
