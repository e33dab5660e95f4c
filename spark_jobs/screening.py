"""Columns of text without what may tell who somebody is."""

from functools import partial

from pyspark.sql import Column

from recbole_llm.screening import screen
from spark_jobs.text_function import each_text


def screened(texts: Column, phone_regions: list[str]) -> Column:
    """A string column screened by ``recbole_llm.screening``; null stays null."""
    return each_text(texts, lambda: partial(screen, phone_regions=phone_regions))
