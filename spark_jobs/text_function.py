"""A function of Python on a column of texts, each different one once a batch."""

from collections.abc import Callable

import pyarrow as pa
from pyspark.sql import Column
from pyspark.sql.functions import arrow_udf  # type: ignore[attr-defined]

_HOW = ("utf-8", "surrogateescape")
"""Spark lets a string be no UTF-8, as what was delivered may be; its bytes stay what they are."""


def each_text(texts: Column, prepare: Callable[[], Callable[[str], str]]) -> Column:
    """Apply a function to a string column; null stays null.

    Args:
        prepare: gives the function, on the worker, for each batch. It travels there; what it reads
            there does not.
    """

    def work(some: pa.Array) -> pa.Array:
        coded, function = some.dictionary_encode(), prepare()
        values = coded.dictionary.cast(pa.binary()).to_pylist()
        done = [function(value.decode(*_HOW)).encode(*_HOW) for value in values]
        return pa.array(done, pa.binary()).view(pa.string()).take(coded.indices)

    column: Column = arrow_udf(work, "string")(texts)
    return column
