"""Where the YAML files of ``configs/`` are, in a checkout and in an installed wheel."""

import re
from dataclasses import fields
from pathlib import Path
from typing import Any, TypeVar

import yaml
from yaml.constructor import ConstructorError

from recbole_llm.errors import ConfigError

_HERE = Path(__file__).parent
_Settings = TypeVar("_Settings")
_MAX_ALIASES = 20
"""Each may double what stands in a file, so that a few dozen are more than a machine holds."""


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
        ConfigError: the file is absent, is not YAML, or holds something other than a mapping from
            words.
    """
    try:
        content = _parsed(path.read_text(encoding="utf-8"), path)
    except (FileNotFoundError, IsADirectoryError, NotADirectoryError):
        raise ConfigError(f"no config file at {path}") from None
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path} is not UTF-8: {error}; write it as UTF-8") from None
    if not isinstance(content, dict):
        raise ConfigError(f"{path} must hold 'key: value' lines, got {type(content).__name__}")
    if odd := [key for key in content if not isinstance(key, str)]:
        raise ConfigError(
            f"{path}: keys must be words, got {odd[:3]}; quote what YAML takes for more"
        )
    return content


def load_layers(path: Path) -> dict[str, Any]:
    """Read a YAML mapping that may lie on top of a file of ``configs/``, which its ``base`` names.

    What it does not hold is as the base has it; a section of both is merged key by key, once.

    Raises:
        ConfigError: as ``load_yaml`` does, or there is no such base.
    """
    own = load_yaml(path)
    if "base" not in own:
        return own
    base = own.pop("base")
    if base not in (known := config_names(".")):
        raise ConfigError(f"{path}: base must be one of {known}, files of configs/, got {base!r}")
    below = load_yaml(config_path(".", base))
    return below | {
        key: {**below[key], **value}
        if isinstance(value, dict) and isinstance(below.get(key), dict)
        else value
        for key, value in own.items()
    }


def load_settings(path: Path, kind: type[_Settings]) -> _Settings:
    """Read a YAML file that holds, with its ``base``, the fields of a dataclass, each and no other.

    Raises:
        ConfigError: no such file, no YAML, or a key that is unknown, missing or out of range.
    """
    content = load_layers(path)
    known = {field.name for field in fields(kind)}  # type: ignore[arg-type]
    if content.keys() != known:
        unknown, missing = sorted(content.keys() - known), sorted(known - content.keys())
        raise ConfigError(f"{path}: unknown keys {unknown}, missing keys {missing}")
    return kind(**content)


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
        settings[key] = _parsed(value, flag)
    return settings


def _parsed(text: str, where: object) -> Any:
    try:
        return yaml.load(text, Loader=_Loader)
    except yaml.YAMLError as error:
        raise ConfigError(f"{where} is not valid YAML: {error}") from None
    except RecursionError:
        raise ConfigError(f"{where} is nested too deeply for settings") from None


_NO_TEXT = re.compile("[\0\ud800-\udfff]")


class _Loader(yaml.SafeLoader):
    """YAML as settings need it.

    YAML 1.1 reads ``1e-12`` as text; this reads it as the number that is meant. What is no setting is
    refused with its place: texts that no file and no log can hold, integers beyond 64 bits, aliases
    that stand for themselves or for more than memory holds.
    """

    def __init__(self, stream: Any) -> None:
        super().__init__(stream)
        self._n_aliases = 0
        self._open: list[Any] = []

    def compose_node(self, parent: Any, index: Any) -> Any:
        event: Any = self.peek_event()  # type: ignore[no-untyped-call]
        if isinstance(event, yaml.AliasEvent):
            self._n_aliases += 1
            if self._n_aliases > _MAX_ALIASES or event.anchor in self._open:
                mark: Any = event.start_mark
                fault = f"an alias within itself, or more than {_MAX_ALIASES}"
                raise ConstructorError(None, None, fault, mark)
            return super().compose_node(parent, index)
        self._open.append(event.anchor)
        node = super().compose_node(parent, index)
        self._open.pop()
        return node

    def construct_object(self, node: Any, deep: bool = False) -> Any:
        try:
            value = super().construct_object(node, deep)
        except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
            fault = f"no {node.tag.rpartition(':')[2]}: {error}"  # such as 2024-02-30
            raise ConstructorError(None, None, fault, node.start_mark) from None
        if isinstance(value, int) and not -(2**63) <= value < 2**63:
            raise ConstructorError(None, None, "an integer beyond 64 bits", node.start_mark)
        if isinstance(value, str) and _NO_TEXT.search(value):
            raise ConstructorError(None, None, "NUL or half a surrogate pair", node.start_mark)
        return value


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?[0-9][0-9_]*(\.[0-9_]*)?[eE][-+]?[0-9]+$"),
    list("-+0123456789"),
)
