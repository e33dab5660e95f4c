"""Runs the service until it is told to stop."""

import ipaddress
import logging
import socket
import sys
from contextlib import suppress
from pathlib import Path

import torch
import uvicorn

from recbole_llm.errors import ConfigError
from recbole_llm.serve.app import create_app
from recbole_llm.serve.guards import KEYS, KEYS_FILE, read_api_keys
from recbole_llm.serve.service import Service
from recbole_llm.serve.settings import ServeSettings
from recbole_llm.serve.snapshot import Source
from recbole_llm.warehouse import Warehouse

_log = logging.getLogger(__name__)
_CLOSE_S = 10
"""Seconds that requests have to end in when the service is stopped."""
_NOT_STARTED = 1
"""Exit code where the address cannot be listened on, of which uvicorn has told."""


def serve(
    warehouse: Warehouse | None,
    artifact: Path | None,
    settings: ServeSettings,
    host: str,
    port: int,
) -> None:
    """Answer requests until SIGTERM or Ctrl-C.

    Args:
        warehouse: whose champion and newest table answer.
        artifact: a model that ranks in the champion's place.
        host: an address of this machine. Without a key it must be one that only this machine reaches.
        port: 0 for a free one, which the log names.
    Raises:
        ConfigError: everybody could ask.
        NotFoundError: there is no model.
    """
    keys = read_api_keys()
    if not keys and not _is_local(host):
        raise ConfigError(
            f"without a key everybody who reaches {host} could ask: give keys by {KEYS_FILE} or "
            f"{KEYS}, or listen on 127.0.0.1"
        )
    torch.set_num_threads(settings.threads)
    service = Service(Source(warehouse, artifact), settings, warehouse)
    if not keys:
        _log.warning("no API key is set: whoever is on this machine may ask")
    config = uvicorn.Config(
        create_app(service, keys), host=host, port=port, log_level="warning", access_log=False,
        timeout_graceful_shutdown=_CLOSE_S, server_header=False, date_header=False,
    )  # fmt: skip
    _Server(config).run()


class _Server(uvicorn.Server):
    """Says where it listens, which a port of 0 leaves open."""

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        for each in (own for server in self.servers for own in server.sockets):
            _log.info("answering on %s port %d", *each.getsockname()[:2])

    def run(self, sockets: list[socket.socket] | None = None) -> None:
        """Run until it is told to stop; exits where it cannot begin."""
        with suppress(KeyboardInterrupt):
            super().run(sockets)
        if not self.started:
            sys.exit(_NOT_STARTED)


def _is_local(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
