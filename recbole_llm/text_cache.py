"""Text vectors kept by content, so that nothing is encoded twice; those of pictures and sounds too.

One SQLite file holds all encoders: a row's key is the encoder's fingerprint and the content itself,
a text or a file's bytes, hashed. A killed run keeps what it had encoded; two processes may share the
file, and those of one training (``nproc``) encode a part each.
"""

import hashlib
import logging
import sqlite3
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, closing, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

import numpy as np
from filelock import FileLock
from numpy.typing import NDArray
from tqdm import tqdm

from recbole_llm.encoder import EncoderSpec, fingerprint, locate_weights
from recbole_llm.errors import ConfigError, UnavailableError
from recbole_llm.shared_work import all_together, is_own, is_shared
from recbole_llm.text_encoder import TextEncoder

_log = logging.getLogger(__name__)
_CHUNK = 512
"""Texts encoded between two commits."""
_BUSY_S = 60.0
"""How long to wait while another process commits, seconds."""
_Content = TypeVar("_Content")


class Encoder(Protocol[_Content]):
    """What makes vectors of contents of one kind."""

    def encode(self, contents: list[_Content], /) -> NDArray[np.float32]:
        """(N, E) float32, one row a content, in order."""


@dataclass(frozen=True)
class Reading(Generic[_Content]):
    """One encoder over contents of one kind."""

    kind: str
    """``text``, ``picture`` or ``sound``."""
    model: str
    """The encoder's name, for messages."""
    encoder_key: str
    """Its fingerprint."""
    load: Callable[[], Encoder[_Content]]
    """Builds it; called only when something is not cached."""
    order: Callable[[_Content], Any]
    """What contents are sorted by before they are encoded."""
    told: Callable[[_Content], str]
    """A content, as a message names it."""
    chunk: int
    """Contents encoded between two commits."""
    is_readable: Callable[[_Content], bool] | None = None
    """Asked of each before it is encoded; what is not gets no vector. None where all are."""


def encode_cached(
    texts: list[str],
    spec: EncoderSpec,
    cache: Path,
    device: str,
    load: Callable[[Path, EncoderSpec, str], TextEncoder] = TextEncoder,
) -> NDArray[np.float32]:
    """Encode texts, taking from the cache what it has and adding what it lacks.

    Args:
        texts: non-empty texts; repeats are encoded once. Half a surrogate pair counts as "?".
        spec: the encoder.
        cache: SQLite file, made with its folder when absent.
        device: a torch device's name.
        load: builds the encoder; it is called only when some text is not cached.
    Returns:
        (N, E) float32 in the order of ``texts``.
    Raises:
        ConfigError, UnavailableError: as ``read_or_encode``.
    """
    texts = [text.encode(errors="replace").decode() for text in texts]
    path = locate_weights(spec)
    encoder_key = fingerprint(path, spec)
    loaded: list[TextEncoder] = []

    def build() -> TextEncoder:
        loaded.append(load(path, spec, device))
        return loaded[0]

    reading = Reading(
        kind="text",
        model=spec.model,
        encoder_key=encoder_key,
        load=build,
        order=lambda text: (len(text), text),
        told=lambda text: f"{text[:80]!r} ({len(text)} characters)",
        chunk=_CHUNK,
    )
    keys = [content_key(encoder_key, text.encode()) for text in texts]
    known, n_encoded = read_or_encode(texts, keys, reading, cache)
    for encoder in loaded:
        if encoder.n_cut or encoder.n_empty:
            _log.info(
                "item text: of %d texts %d were longer than %d tokens and cut there, %d had no token "
                "and got zeros", n_encoded, encoder.n_cut, encoder.max_tokens, encoder.n_empty,
            )  # fmt: skip
    return np.stack([known[key] for key in keys])


def content_key(encoder_key: str, content: bytes) -> bytes:
    """What a vector is found by."""
    return hashlib.sha256(f"{encoder_key}\n".encode() + content).digest()


def read_or_encode(
    contents: Sequence[_Content], keys: list[bytes], reading: Reading[_Content], cache: Path
) -> tuple[dict[bytes, NDArray[np.float32]], int]:
    """Take vectors from the cache where it has them, and encode and add the others.

    Args:
        contents: what is read; repeats are encoded once.
        keys: of each, from ``content_key``.
        reading: by what, and what it is called.
        cache: SQLite file, made with its folder when absent.
    Returns:
        (E,) float32 by key, of all but those that cannot be read, and how many this process encoded.
    Raises:
        ConfigError: ``cache`` is another kind of file or damaged, or its vectors are not this
            encoder's; or the encoder gives a vector that is not finite, and nothing of that is kept.
        UnavailableError: nothing can be written to ``cache``, for one because the disk is full; what
            it held and what was encoded before is kept.
    """
    started = time.monotonic()
    lock = FileLock(f"{cache}.{reading.encoder_key[:12]}.lock")
    n_shared = 0
    if is_shared():  # a part each, without waiting for one another
        with all_together():
            _, n_shared = _fill(contents, keys, reading, cache, nullcontext(), is_own)
    # A second training that wants these vectors waits for the first one, and finds them.
    known, n_encoded = _fill(contents, keys, reading, cache, lock, lambda key: True)
    n_encoded += n_shared
    _log.info(
        "%s vectors: %d %ss, %d cached, %d encoded by %s in %.1f s",
        reading.kind, len(set(keys)), reading.kind, len(known) - n_encoded, n_encoded,
        reading.model, time.monotonic() - started,
    )  # fmt: skip
    sizes = sorted({len(vector) for vector in known.values()})
    if len(sizes) > 1:
        raise ConfigError(
            f"text_cache {cache} gives vectors of sizes {sizes} for one encoder, {reading.model}: "
            "it was changed by hand or by another program. Delete it, or name another file"
        )
    return known, n_encoded


def _fill(
    contents: Sequence[_Content], keys: list[bytes], reading: Reading[_Content], cache: Path,
    turn: AbstractContextManager[Any], is_ours: Callable[[bytes], bool],
) -> tuple[dict[bytes, NDArray[np.float32]], int]:  # fmt: skip
    """What the cache has, with what of the rest is ours to encode in our turn."""
    n_encoded = 0
    try:
        cache.parent.mkdir(parents=True, exist_ok=True)
        with closing(sqlite3.connect(cache, timeout=_BUSY_S)) as database:
            _check_is_cache(database, cache)
            known = _read(database, keys, cache)
            if len(known) < len(set(keys)):
                with turn:
                    known = _read(database, keys, cache)
                    missing = {
                        key: content
                        for key, content in zip(keys, contents, strict=True)
                        if key not in known and is_ours(key)
                    }
                    if missing:
                        _check_is_writable(database)
                        encoded = _encode_missing(database, missing, reading)
                        n_encoded = len(encoded)
                        known.update(encoded)
    except (OSError, sqlite3.OperationalError) as error:
        raise UnavailableError(
            f"text_cache {cache}: {error}. What it held is intact; make room or make it writable, or "
            "name another file, and start again"
        ) from error
    except (sqlite3.Error, UnicodeDecodeError) as error:
        raise _damaged(cache, error) from error
    return known, n_encoded


def _check_is_cache(database: sqlite3.Connection, cache: Path) -> None:
    try:
        kinds = dict(database.execute("SELECT name, type FROM sqlite_master"))
        if kinds.get("vectors", "table") != "table":  # a view may never end
            raise ConfigError(f"text_cache {cache}: its vectors are no table; name another file")
        if kinds:
            database.execute("SELECT key, vector FROM vectors LIMIT 0")
    except (sqlite3.DatabaseError, UnicodeDecodeError) as error:  # SQLite's messages cite the file
        code = getattr(error, "sqlite_errorcode", None)
        if code in (sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_BUSY):
            raise
        raise ConfigError(
            f"text_cache {cache} is no cache of text vectors ({error}); name another file"
        ) from error
    if not kinds:
        database.execute("CREATE TABLE IF NOT EXISTS vectors (key BLOB PRIMARY KEY, vector BLOB)")


def _check_is_writable(database: sqlite3.Connection) -> None:
    """Try to write before an hour of encoding, not after it."""
    database.execute("INSERT OR REPLACE INTO vectors VALUES (x'', x'')")
    database.rollback()


def _encode_missing(
    database: sqlite3.Connection, missing: dict[bytes, _Content], reading: Reading[_Content]
) -> dict[bytes, NDArray[np.float32]]:
    encoder: Encoder[_Content] | None = None
    ordered = sorted(missing.items(), key=lambda pair: reading.order(pair[1]))
    encoded: dict[bytes, NDArray[np.float32]] = {}
    about = f"encode item {reading.kind}"
    # disable=None shows the bar on a terminal only; elsewhere a line a chunk tells the progress.
    with tqdm(total=len(ordered), desc=about, unit="item", disable=None) as bar:
        for start in range(0, len(ordered), reading.chunk):
            chunk = ordered[start : start + reading.chunk]
            some = [pair for pair in chunk if _is_readable(pair[1], reading)]
            if some:
                encoder = encoder or reading.load()
                contents = [content for _, content in some]
                vectors = encoder.encode(contents)
                _check_is_finite(vectors, contents, reading)
                found = {key: vector for (key, _), vector in zip(some, vectors, strict=True)}
                database.executemany(
                    "INSERT OR REPLACE INTO vectors VALUES (?, ?)",
                    [(key, vector.tobytes()) for key, vector in found.items()],
                )
                database.commit()
                encoded |= found
            bar.update(len(chunk))
            if bar.disable:
                _log.info("%s: %d of %d", about, start + len(chunk), len(ordered))
    return encoded


def _is_readable(content: _Content, reading: Reading[_Content]) -> bool:
    return reading.is_readable is None or reading.is_readable(content)


def _check_is_finite(
    vectors: NDArray[np.float32], contents: list[_Content], reading: Reading[_Content]
) -> None:
    broken = np.flatnonzero(~np.isfinite(vectors).all(axis=1))
    if len(broken):
        raise ConfigError(
            f"encoder {reading.model!r} gives {len(broken)} of {len(contents)} {reading.kind}s a "
            f"vector with NaN or infinity, first {reading.told(contents[broken[0]])}. Its weights are "
            "broken, or its sums overflow: check the model, or take another encoder. None of these "
            "was cached"
        )


def _damaged(cache: Path, fault: object) -> ConfigError:
    return ConfigError(
        f"text_cache {cache} is damaged: {fault}. Delete it, or name another file; texts are then "
        "encoded anew"
    )


def _read(
    database: sqlite3.Connection, keys: list[bytes], cache: Path
) -> dict[bytes, NDArray[np.float32]]:
    """The vectors that the cache has."""
    known = {}
    for key in set(keys):
        row = database.execute("SELECT vector FROM vectors WHERE key = ?", (key,)).fetchone()
        if row is not None and (not isinstance(row[0], bytes) or len(row[0]) % 4):
            raise _damaged(cache, "a vector is no list of float32")
        if row is not None:
            known[key] = np.frombuffer(row[0], dtype=np.float32)
    return known
