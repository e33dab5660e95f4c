"""Where the YAML files of ``configs/`` are, in a checkout and in an installed wheel."""

import re
from pathlib import Path
from typing import Any

import yaml

from recbole_llm.errors import ConfigError

_HERE = Path(__file__).parent


def config_path(kind: str, name: str) -> Path:
    """Path of ``configs/<kind>/<name>.yaml``; it need not exist.

    A wheel carries the files inside the package, a checkout beside it.
    """
    packaged = _HERE / "configs"
    root = packaged if packaged.is_dir() else _HERE.parent / "configs"
    return root / kind / f"{name}.yaml"


def config_names(kind: str) -> list[str]:
    """Names that stand in ``configs/<kind>/``, sorted."""
    return sorted(path.stem for path in config_path(kind, "_").parent.glob("*.yaml"))


def load_yaml(path: Path) -> dict[str, Any]:
    """Read a YAML mapping.

    Raises:
        ConfigError: the file is absent, is not YAML, or holds something other than a mapping.
    """
    try:
        content = yaml.load(path.read_text(encoding="utf-8"), Loader=_Loader)
    except FileNotFoundError:
        raise ConfigError(f"no config file at {path}") from None
    except yaml.YAMLError as error:
        raise ConfigError(f"{path} is not valid YAML: {error}") from None
    if not isinstance(content, dict):
        raise ConfigError(f"{path} must hold 'key: value' lines, got {type(content).__name__}")
    return content


def flags_as_dict(flags: list[str]) -> dict[str, Any]:
    """``--key=value`` flags as settings, each value read as YAML.

    Raises:
        ConfigError: a flag of another form, or a value that is not YAML.
    """
    settings = {}
    for flag in flags:
        key, equals, value = flag.removeprefix("--").partition("=")
        if not flag.startswith("--") or not equals:
            raise ConfigError(f"expected --key=value, got {flag!r}")
        try:
            settings[key] = yaml.load(value, Loader=_Loader)
        except yaml.YAMLError as error:
            raise ConfigError(f"{flag} is not valid YAML: {error}") from None
    return settings


class _Loader(yaml.SafeLoader):
    """YAML 1.1 reads ``1e-12`` as text; this reads it as the number that is meant."""


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?[0-9][0-9_]*(\.[0-9_]*)?[eE][-+]?[0-9]+$"),
    list("-+0123456789"),
)
