"""What stands around every request: who asks, its size, how many there are, how long it takes."""

import asyncio
import hmac
import os
import time
from collections.abc import Awaitable, Callable, MutableMapping
from pathlib import Path
from typing import Any

from recbole_llm.errors import ConfigError
from recbole_llm.secret_files import read_secret

KEYS_FILE = "RECBOLE_LLM_API_KEYS_FILE"
"""The environment variable that names a file of keys, one a line."""
KEYS = "RECBOLE_LLM_API_KEYS"
"""The environment variable that holds keys itself, between blanks; it goes before the file."""
HEADER = "X-API-Key"
_LEAST_CHARACTERS = 16
_BODY_S = 10
"""Seconds in which a body has to come."""

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Application = Callable[[Message, Receive, Send], Awaitable[None]]


class ApiKeys:
    """Keys that open the service; any of them does. What is printed of it tells none.

    Args:
        keys: none for a service that is open to all who reach it.
    """

    def __init__(self, keys: list[str]) -> None:
        self._keys = [key.encode() for key in keys]

    def __repr__(self) -> str:
        return f"ApiKeys({len(self._keys)} keys)"

    def __bool__(self) -> bool:
        return bool(self._keys)

    def opens(self, key: str | None) -> bool:
        """Whether a request with this key may pass."""
        given = (key or "").encode("utf-8", "replace")
        # All are looked at, so that time tells nothing of which is near.
        found = [hmac.compare_digest(given, each) for each in self._keys]
        return not found or any(found)


def read_api_keys() -> ApiKeys:
    """The keys that the environment gives; none where neither variable is set.

    Raises:
        ConfigError: what is set holds no key, a key is too short, or others may read the file.
    """
    text, name = os.environ.get(KEYS), KEYS
    if not text and (named := os.environ.get(KEYS_FILE)):
        text, name = read_secret(Path(named)), KEYS_FILE
    keys = (text or "").split()
    if not keys and {KEYS, KEYS_FILE} & os.environ.keys():
        raise ConfigError(f"{name} is set and gives no key; unset it to let everybody here ask")
    if any(len(key) < _LEAST_CHARACTERS for key in keys):
        raise ConfigError(
            f"an API key has at least {_LEAST_CHARACTERS} characters; make a longer one"
        )
    return ApiKeys(keys)


class Locked:
    """Answers 401 where a key is needed and not given, before anything of a body is read.

    Args:
        application: what answers the others.
        keys: who may ask; with none everybody may.
        always: paths that are answered all the same.
    """

    def __init__(self, application: Application, keys: ApiKeys, always: set[str]) -> None:
        self._application = application
        self._keys = keys
        self._always = always

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """Answer a request, or refuse it."""
        if scope["type"] == "http" and scope["path"] not in self._always:
            given = dict(scope["headers"]).get(HEADER.lower().encode(), b"")
            if not self._keys.opens(given.decode("latin-1")):
                await _refuse(send, 401, f"give a key in the header {HEADER}", [])
                return
        await self._application(scope, receive, send)


class TooMany:
    """Answers 503 at once where too many requests are being answered already.

    Args:
        application: what answers the others.
        most: how many.
        always: paths that are answered all the same.
        on_refused: called for each that is not.
    """

    def __init__(
        self, application: Application, most: int, always: set[str], on_refused: Callable[[], None]
    ) -> None:
        self._application = application
        self._most = most
        self._always = always
        self._on_refused = on_refused
        self._n = 0

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """Answer a request, or refuse it."""
        if scope["type"] != "http" or scope["path"] in self._always:
            await self._application(scope, receive, send)
            return
        if self._n >= self._most:
            self._on_refused()
            await _refuse(
                send, 503, "too many requests at once; try again", [(b"retry-after", b"1")]
            )
            return
        self._n += 1
        try:
            await self._application(scope, receive, send)
        finally:
            self._n -= 1


class TooLarge:
    """Answers 413 where a body is larger than it may be, before it is read to its end, and 408 where
    it does not come.

    Args:
        application: what answers the others.
        most_bytes: of a body.
    """

    def __init__(self, application: Application, most_bytes: int) -> None:
        self._application = application
        self._most = most_bytes

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """Answer a request, or refuse it."""
        if scope["type"] != "http":
            await self._application(scope, receive, send)
            return
        parts: list[Message] = []
        size = 0
        try:
            async with asyncio.timeout(_BODY_S):
                while not parts or parts[-1].get("more_body"):
                    parts.append(await receive())
                    size += len(parts[-1].get("body", b""))
                    if size > self._most:
                        break
        except TimeoutError:
            await _refuse(send, 408, f"a body has to come within {_BODY_S} seconds", [])
            return
        if size > self._most:
            await _refuse(send, 413, f"a body may have {self._most} bytes", [])
            return

        async def again() -> Message:
            return parts.pop(0) if parts else await receive()

        await self._application(scope, again, send)


class Counted:
    """Counts requests by the pattern of their path, and adds headers to the answers.

    Args:
        application: what answers.
        count: takes the pattern, the status and the seconds.
        headers: of every answer.
    """

    def __init__(
        self,
        application: Application,
        count: Callable[[str, int, float], None],
        headers: dict[str, str],
    ) -> None:
        self._application = application
        self._count = count
        self._headers = [(name.lower().encode(), text.encode()) for name, text in headers.items()]

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """Answer a request."""
        if scope["type"] != "http":
            await self._application(scope, receive, send)
            return
        started, status = time.perf_counter(), 500

        async def add_headers(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message = {**message, "headers": [*message.get("headers", []), *self._headers]}
            await send(message)

        try:
            await self._application(scope, receive, add_headers)
        finally:
            path = getattr(scope.get("route"), "path", "other")
            self._count(path, status, time.perf_counter() - started)


async def _refuse(send: Send, status: int, detail: str, headers: list[tuple[bytes, bytes]]) -> None:
    body = f'{{"detail":"{detail}"}}'.encode()
    headers = [
        (b"content-type", b"application/json"), (b"content-length", str(len(body)).encode()), *headers
    ]  # fmt: skip
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
