"""Settings of the service, from ``configs/serve.yaml``."""

from dataclasses import dataclass, fields
from pathlib import Path

from recbole_llm.config_files import load_settings
from recbole_llm.errors import ConfigError

_MOST = 1_000_000


@dataclass(frozen=True)
class ServeSettings:
    """``configs/serve.yaml`` says what each field means."""

    max_body_kib: int = 256
    max_in_flight: int = 128
    batch_size: int = 32
    max_explaining: int = 2
    refresh_s: float = 2.0
    threads: int = 1

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            kind = int | float if field.name == "refresh_s" else int
            if isinstance(value, bool) or not isinstance(value, kind) or not 0 < value <= _MOST:
                raise ConfigError(
                    f"{field.name} must be a number above 0 and up to {_MOST}, got {value!r}"
                )


def load_serve_settings(path: Path) -> ServeSettings:
    """Read and check the service's settings.

    Raises:
        ConfigError: no such file, no YAML, or a key that is unknown, missing or out of range.
    """
    return load_settings(path, ServeSettings)
