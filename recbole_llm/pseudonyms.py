"""Pseudonyms: what stands for users wherever this project writes something down.

A pseudonym is HMAC-SHA256 of a user's id under a secret key, its first 128 bits as hexadecimal digits
behind ``u_``. Who has the tables and not the key can neither find a user in them nor tell who a user
is; the same user is the same in all of them. A key is rotated by adding another: it is applied to
what the keys before it gave, so what was made under these is brought up to date without the ids.

Keys stand in a file, one a line, oldest first, as hexadecimal digits; no line of a log names them.

Source: HMAC, RFC 2104; keyed hashes as pseudonyms, ENISA, Pseudonymisation techniques, 2019.
"""

import hashlib
import hmac
import os
import re
import secrets
from collections.abc import Sequence
from pathlib import Path

from platformdirs import user_config_path

from recbole_llm.errors import ConfigError
from recbole_llm.secret_files import read_secret

KEYS_FILE = "RECBOLE_LLM_USER_KEYS_FILE"
"""The environment variable that names the file of keys."""
KEYS = "RECBOLE_LLM_USER_KEYS"
"""The environment variable that holds keys itself, between blanks; it goes before the file."""
_KEY_BYTES = 32
_PSEUDONYM = re.compile("u_[0-9a-f]{32}")


class UserKeys:
    """Secret keys, oldest first; what is printed of it tells none.

    Args:
        keys: bytes, at least one.
    """

    def __init__(self, keys: Sequence[bytes]) -> None:
        self._keys = tuple(keys)

    def __repr__(self) -> str:
        return f"UserKeys({self.names})"

    @property
    def names(self) -> list[str]:
        """Eight hexadecimal digits of each key, which tell keys apart and give none away."""
        return [_hmac(key, b"the name of a key")[:8] for key in self._keys]

    def pseudonym(self, user_id: str, n_keys: int | None = None) -> str:
        """The pseudonym of a user's id, under the first ``n_keys`` keys; None for all."""
        return _applied(user_id, self._keys[:n_keys])

    def renewed(self, pseudonym: str, n_keys: int, n_now: int | None = None) -> str:
        """What a pseudonym under the first ``n_keys`` keys is under ``n_now`` of them; None for all."""
        return _applied(pseudonym, self._keys[n_keys:n_now])


def is_pseudonym(text: str) -> bool:
    """Whether a text has a pseudonym's form."""
    return _PSEUDONYM.fullmatch(text) is not None


def keys_file() -> Path:
    """The file that the environment names, or the one in the user's folder of settings."""
    named = os.environ.get(KEYS_FILE)
    return Path(named).absolute() if named else user_config_path("recbole_llm") / "user_keys"


def keys_source() -> Path | None:
    """Where the keys are: None for the environment, which goes first, or else the file."""
    return None if os.environ.get(KEYS) else keys_file()


def read_user_keys(source: Path | None = None) -> UserKeys:
    """The keys of this machine.

    Args:
        source: from ``keys_source``, of another process; None looks here.
    Raises:
        ConfigError: there is no such file, others may read it, or something there is no key.
    """
    path = source or keys_source()
    if path is None:
        text, where = os.environ[KEYS], f"${KEYS}"
    else:
        if not path.exists():
            raise ConfigError(
                f"users are to be pseudonyms and there is no file of keys at {path}: let {KEYS_FILE} "
                "name one, make one by 'recbole-llm user-key', or set user_ids: plain in the night's "
                "settings"
            )
        text, where = read_secret(path), f"the file {path}"
    return UserKeys([_parsed(line, number, where) for number, line in enumerate(text.split(), 1)])


def add_user_key(path: Path) -> UserKeys:
    """Add a new random key to a file, or make the file, for its owner alone to read.

    Returns:
        All keys of the file.
    """
    lines = read_secret(path).split() if path.exists() else []
    lines.append(secrets.token_hex(_KEY_BYTES))
    keys = UserKeys([_parsed(line, n, f"the file {path}") for n, line in enumerate(lines, 1)])
    path.parent.mkdir(parents=True, exist_ok=True)
    staging = path.with_name(f".{path.name}-{secrets.token_hex(4)}")
    with open(os.open(staging, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write("\n".join(lines) + "\n")
        file.flush()
        os.fsync(file.fileno())
    os.replace(staging, path)
    return keys


def _parsed(line: str, number: int, where: str) -> bytes:
    try:
        key = bytes.fromhex(line)
    except ValueError:
        key = b""
    if len(key) < _KEY_BYTES:
        raise ConfigError(
            f"key {number} in {where} is no key: expected at least {2 * _KEY_BYTES} hexadecimal "
            f"digits, as 'recbole-llm user-key' makes them, found {len(line)} characters"
        )
    return key


def _applied(text: str, keys: Sequence[bytes]) -> str:
    for key in keys:
        message = text.encode("utf-8", "surrogateescape")  # an id may be no UTF-8
        text = f"u_{_hmac(key, message)[:32]}"
    return text


def _hmac(key: bytes, message: bytes) -> str:
    return hmac.new(key, message, hashlib.sha256).hexdigest()
