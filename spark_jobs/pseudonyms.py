"""Pseudonyms of columns. Each worker reads the keys for itself, so that no plan and no log has them."""

from functools import partial

from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as f

from recbole_llm.pseudonyms import keys_source, read_user_keys
from spark_jobs.config import NightConfig
from spark_jobs.text_function import each_text


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
    source = keys_source()  # where they are, not what they are, travels to the workers
    return each_text(user_ids, lambda: partial(read_user_keys(source).pseudonym, n_keys=n_keys))


def renew_users(frame: DataFrame, n_keys: int | None) -> DataFrame:
    """Bring the pseudonyms of ``user_id`` up to date.

    Args:
        frame: any, with the column.
        n_keys: how many keys they were made with; None where they are up to date.
    """
    if n_keys is None:
        return frame
    source = keys_source()
    renewed = each_text(
        f.col("user_id"), lambda: partial(read_user_keys(source).renewed, n_keys=n_keys)
    )
    return frame.withColumn("user_id", renewed)
