"""Columns of text without what may tell who somebody is."""

import pyarrow as pa
from pyspark.sql import Column
from pyspark.sql.functions import arrow_udf  # type: ignore[attr-defined]

from recbole_llm.screening import screen


def screened(texts: Column, phone_regions: list[str]) -> Column:
    """A string column screened by ``recbole_llm.screening``; null stays null."""

    def each(some: pa.Array) -> pa.Array:
        values = some.to_pylist()
        done = [value if value is None else screen(value, phone_regions) for value in values]
        return pa.array(done, pa.string())

    column: Column = arrow_udf(each, "string")(texts)
    return column
