"""From a night's features to RecBole's atomic files.

DuckDB reads the Parquet files and writes the two tab-separated ones, so memory does not bound the
number of events.
"""

import logging
import time
from collections.abc import Sequence
from pathlib import Path

import duckdb

from recbole_llm.errors import DataError

_log = logging.getLogger(__name__)
_FORMAT = "(FORMAT csv, DELIMITER '\t', HEADER, QUOTE '', ESCAPE '')"


def export_atomic(
    features: Path,
    dataset: str,
    data_path: Path,
    before_s: int | None = None,
    media: Sequence[str] = (),
) -> Path:
    """Write ``data_path/<dataset>/<dataset>.inter``, ``.item`` and ``.user``.

    Interactions are sorted by user and time, ties as the features have them: RecBole's sort is
    stable, so it keeps this order. Items that are not to be read from a history are left out of it.
    White space in texts becomes single blanks. The ``.user`` file has the users who dislike something,
    and what.

    Args:
        features: a finished attempt's folder, with ``sequences`` and ``items``.
        dataset: the data set's name for RecBole.
        data_path: its parent folder.
        before_s: Unix seconds; only events before that instant are written, and all items.
        media: columns of the items that say where pictures and sounds are; others are not written, for
            a model would read them as texts.
    Returns:
        The data set's folder.
    Raises:
        DataError: there is no event to write, or an id holds a tab, a line break or a double quote,
            which RecBole's reader would take for the end of a field; or the items have no such column.
    """
    started = time.monotonic()
    folder = data_path / dataset
    folder.mkdir(parents=True, exist_ok=True)
    with duckdb.connect() as database:
        for name in ("sequences", "items"):
            files = _quoted(features / name / "*.parquet")
            database.execute(f"CREATE VIEW {name} AS SELECT * FROM read_parquet('{files}')")
        bad_ids = database.execute(
            "SELECT id FROM (SELECT user_id AS id FROM sequences UNION ALL SELECT item_id FROM items)"
            " WHERE regexp_matches(id, '[\t\r\n\"]') LIMIT 3"
        ).fetchall()
        if bad_ids:
            raise DataError(
                f"ids with a tab, line break or double quote cannot be written for RecBole, such as "
                f"{[row[0] for row in bad_ids]} in {features}; clean them in the feed"
            )
        until = "" if before_s is None else f"AND timestamp < {before_s:d}"
        copied = database.execute(
            f"""COPY (
                SELECT user_id AS "user_id:token", item_id AS "item_id:token",
                       timestamp AS "timestamp:float"
                FROM (SELECT user_id, unnest(item_ids) AS item_id, unnest(timestamps) AS timestamp,
                             generate_subscripts(item_ids, 1) AS position, unread_ids FROM sequences)
                WHERE NOT list_contains(unread_ids, item_id) {until} ORDER BY user_id, position
            ) TO '{_quoted(folder / f"{dataset}.inter")}' {_FORMAT}"""
        ).fetchone()
        assert copied is not None
        if not copied[0]:
            raise DataError(
                f"no event to train on in {features}"
                + (f" before {before_s} (Unix seconds)" if before_s is not None else "")
            )
        _copy_items(database, folder / f"{dataset}.item", _media_columns(database, media, features))
        database.execute(
            f"""COPY (SELECT user_id AS "user_id:token",
                       array_to_string(disliked_ids, ' ') AS "disliked_ids:token_seq"
                FROM sequences WHERE len(disliked_ids) > 0 ORDER BY user_id
            ) TO '{_quoted(folder / f"{dataset}.user")}' {_FORMAT}"""
        )
    _log.info("atomic files: %d interactions in %s, %.1f s", copied[0], folder,
              time.monotonic() - started)  # fmt: skip
    return folder


def export_items(features: Path, file: Path) -> None:
    """Write the ``.item`` file alone, with texts; see ``export_atomic``."""
    with duckdb.connect() as database:
        files = _quoted(features / "items" / "*.parquet")
        database.execute(f"CREATE VIEW items AS SELECT * FROM read_parquet('{files}')")
        _copy_items(database, file)


def _copy_items(database: duckdb.DuckDBPyConnection, file: Path, more: str = "") -> None:
    texts = ", ".join(
        f"""regexp_replace(trim({name}), '\\s+', ' ', 'g') AS "{name}:token_seq\""""
        for name in ("title", "category", "description")
    )
    database.execute(
        f"""COPY (SELECT item_id AS "item_id:token", {texts}{more} FROM items ORDER BY item_id)
        TO '{_quoted(file)}' {_FORMAT}"""
    )


def _media_columns(
    database: duckdb.DuckDBPyConnection, names: Sequence[str], features: Path
) -> str:
    """The columns of a SELECT, as they stand: a path may hold several blanks."""
    known = [row[0] for row in database.execute("DESCRIBE items").fetchall()]
    if absent := [name for name in names if name not in known]:
        raise DataError(
            f"the items of {features} have no column {absent[0]!r}, found {known}; image_field and "
            "audio_field in the section 'training' name image and audio, or leave them out"
        )
    return "".join(f""", coalesce({name}, '') AS "{name}:token\"""" for name in names)


def _quoted(path: Path) -> str:
    return str(path).replace("'", "''")
