"""Item text: read the ``.item`` file and render one text an item.

RecBole has no raw text type. It splits a title into remapped tokens, and its reader takes an
unbalanced ``"`` for the start of a quoted field. The text is therefore read here, as it stands.
"""

import csv
import io
import logging
import string
import warnings
from pathlib import Path
from typing import Literal

import pandas as pd

from recbole_llm.errors import ConfigError, DataError

_log = logging.getLogger(__name__)
_UNREADABLE = "\ufffd"
"""What stands for bytes that are no text in the file's encoding."""


class _WithoutNul(io.TextIOWrapper):
    """A text file without NUL, where pandas would take a field to end."""

    def read(self, size: int | None = -1) -> str:
        return super().read(size).replace("\0", " ")


TITLE_FIELDS = ("title", "movie_title", "item_name", "name")
"""Columns that may be a title, in this order."""


def read_text_columns(path: Path, id_field: str, separator: str, encoding: str) -> pd.DataFrame:
    """Read an atomic ``.item`` or ``.user`` file as text, whatever quotes and odd characters it holds;
    where commas separate, fields may stand between quotes as RFC 4180 has them.

    Args:
        path: the file; its head names ``field:type`` columns.
        id_field: the column that holds external ids.
    Returns:
        One row an id, indexed by it (the first of repeated ids), with the
        ``token`` and ``token_seq`` columns under their bare names; absent values are "". NUL reads
        as a blank, and bytes that are no text as U+FFFD, which is counted in a warning.
    Raises:
        DataError: the head has no ``id_field``, a column without a type or one twice, or the file is
            no table.
    """
    with _WithoutNul(path.open("rb"), encoding=encoding, errors="replace", newline="") as file:
        # A comma stands in texts, between quotes; with other separators a quote is a quote.
        quoting: Literal[0, 3] = csv.QUOTE_MINIMAL if separator == "," else csv.QUOTE_NONE
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("error", pd.errors.ParserWarning)
                table = pd.read_csv(
                    file, sep=separator, dtype=str, quoting=quoting, keep_default_na=False,
                    index_col=False,
                )  # fmt: skip
        except (ValueError, pd.errors.ParserWarning) as error:  # empty, or fields without a head
            raise DataError(
                f"{path} cannot be read: {str(error).strip()}; its head names the columns that each "
                "row may have; write the file anew"
            ) from None
    names: dict[str, str] = {}
    for column in table.columns:
        field, _, kind = column.partition(":")
        if not kind:
            raise DataError(
                f"column {column!r} in {path} has no type; write it as '{column}:token'"
            )
        if kind.startswith("token"):
            if field in names.values():
                raise DataError(f"{path} has two columns {field!r}; leave one of them out")
            names[column] = field
    table = table[list(names)].rename(columns=names).fillna("")
    if id_field not in table.columns:
        raise DataError(f"{path} has no column '{id_field}:token', found {list(names.values())}")
    n_unreadable = sum(int(table[name].str.contains(_UNREADABLE).sum()) for name in table)
    if n_unreadable:
        _log.warning(
            "%d fields of %s hold bytes that are no %s and read as %s; the config key encoding says "
            "how the file is written", n_unreadable, path, encoding, _UNREADABLE,
        )  # fmt: skip
    return table.drop_duplicates(id_field).set_index(id_field)


def render_texts(items: pd.DataFrame, template: str | None) -> list[str]:
    """Render one text a row; an item with nothing to say gets "".

    Args:
        items: one row an item, text columns.
        template: fields in braces, as ``'{title} ({year})'``; None joins all columns by ". ".
    Returns:
        Texts in row order. A row whose fields are all empty gives "", whatever stands around them.
    Raises:
        ConfigError: the template names no field, or one that is not a column.

    Example:
        columns title, genres; row ("Toy Story", "Comedy"): None gives "Toy Story. Comedy".
    """
    fields = list(items.columns) if template is None else _template_fields(template, items)
    texts = []
    for values in items[fields].itertuples(index=False, name=None):
        stripped = [value.strip() for value in values]
        if not any(stripped):
            texts.append("")
        elif template is None:
            texts.append(". ".join(value for value in stripped if value))
        else:
            texts.append(template.format(**dict(zip(fields, stripped, strict=True))))
    return texts


def check_texts(items: pd.DataFrame, template: str | None) -> None:
    """Check that there is something for a language model to read.

    Args:
        items, template: as for ``render_texts``.
    Raises:
        ConfigError: as ``render_texts`` does.
        DataError: no text has a letter in it.
    """
    if not any(letter.isalpha() for text in render_texts(items, template) for letter in text):
        fields = list(items.columns) if template is None else _template_fields(template, items)
        raise DataError(
            f"no item text: the fields {fields} hold no letter in {len(items)} items. Name text "
            "fields with item_text, or train without text by --item_repr=id"
        )


def _template_fields(template: str, items: pd.DataFrame) -> list[str]:
    try:
        parsed = [*string.Formatter().parse(template)]
    except ValueError as error:
        raise ConfigError(f"item_text {template!r} is not a template: {error}") from None
    fields = [field for _, field, _, _ in parsed if field is not None]
    if any(how or conversion for _, _, how, conversion in parsed):
        raise ConfigError(
            f"item_text {template!r} must name fields alone in braces, without : or ! behind them"
        )
    unknown = [field for field in fields if field not in items.columns]
    if unknown or not fields:
        raise ConfigError(
            f"item_text {template!r} must name fields of the .item file in braces; "
            f"unknown: {unknown}, found: {list(items.columns)}"
        )
    return list(dict.fromkeys(fields))
