"""Files that hold secrets."""

import stat
from pathlib import Path

from recbole_llm.errors import ConfigError


def read_secret(path: Path) -> str:
    """The text of a file that its owner alone may read.

    Raises:
        ConfigError: it is not there, others may read it, or it is no plain text.
    """
    try:
        if path.stat().st_mode & (stat.S_IRWXG | stat.S_IRWXO):
            raise ConfigError(f"others may read {path}, which holds secret keys: chmod 600 {path}")
        return path.read_text(encoding="ascii")
    except OSError as error:
        raise ConfigError(f"no keys in {path}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise ConfigError(f"{path} holds something else than keys") from None
