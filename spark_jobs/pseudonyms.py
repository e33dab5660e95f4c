"""Pseudonyms of columns. Each worker reads the keys for itself, so that no plan and no log has them."""

from collections.abc import Callable

import pyarrow as pa
from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as f
from pyspark.sql.functions import arrow_udf  # type: ignore[attr-defined]

from recbole_llm.pseudonyms import UserKeys, keys_source, read_user_keys
from spark_jobs.config import NightConfig


def key_names(config: NightConfig) -> list[str]:
    """Names of the keys of a night's pseudonyms, oldest first; none where user ids are plain.

    Raises:
        ConfigError: users are to be pseudonyms and there is no key.
    """
    return read_user_keys().names if config.user_ids == "pseudonym" else []


def keys_before(names: list[str], names_then: list[str]) -> int | None:
    """How many keys there were, where some were added since; None where they are the same.

    Args:
        names: of the keys now.
        names_then: of the keys then, the first of those.
    """
    return None if names == names_then else len(names_then)


def pseudonyms(user_ids: Column, n_keys: int | None = None) -> Column:
    """Pseudonyms of a string column, by the first keys or by all; null stays null."""
    return _each(user_ids, lambda keys, user_id: keys.pseudonym(user_id, n_keys))


def renew_users(frame: DataFrame, n_keys: int | None) -> DataFrame:
    """Bring the pseudonyms of ``user_id`` up to date.

    Args:
        frame: any, with the column.
        n_keys: how many keys they were made with; None where they are up to date.
    """
    if n_keys is None:
        return frame
    return frame.withColumn(
        "user_id", _each(f.col("user_id"), lambda keys, name: keys.renewed(name, n_keys))
    )


def _each(values: Column, name: Callable[[UserKeys, str], str]) -> Column:
    source = keys_source()  # where they are, not what they are, travels to the workers

    def named(some: pa.Array) -> pa.Array:
        keys, coded = read_user_keys(source), some.dictionary_encode()
        names = [name(keys, value) for value in coded.dictionary.to_pylist()]
        return pa.array(names, pa.string()).take(coded.indices)

    column: Column = arrow_udf(named, "string")(values)
    return column
