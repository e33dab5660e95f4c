"""What stands around every request: its size, how many there are, who asks, how long it takes."""

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
_LEAST_CHARACTERS = 16

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
    """The keys that the environment gives; none where it gives none.

    Raises:
        ConfigError: a key is too short, or others may read the file.
    """
    text = os.environ.get(KEYS)
    if not text and (named := os.environ.get(KEYS_FILE)):
        text = read_secret(Path(named))
    keys = (text or "").split()
    if any(len(key) < _LEAST_CHARACTERS for key in keys):
        raise ConfigError(
            f"an API key has at least {_LEAST_CHARACTERS} characters; make a longer one"
        )
    return ApiKeys(keys)


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
    """Answers 413 where a body is larger than it may be, before it is read to its end.

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
        parts, size = [], 0
        while True:
            message = await receive()
            size += len(message.get("body", b""))
            if size > self._most:
                await _refuse(send, 413, f"a body may have {self._most} bytes", [])
                return
            parts.append(message)
            if message["type"] != "http.request" or not message.get("more_body"):
                break

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
