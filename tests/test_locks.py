"""What is installed is what the lock files name, and nothing else may come in its place."""

import configparser
import re
from importlib.metadata import distributions

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

from tests.conftest import HOME

_LOCKS = sorted((HOME / "requirements").glob("*.lock"))


def _pins(name: str) -> dict[str, str]:
    """Versions by package of a lock file."""
    text = (HOME / "requirements" / f"{name}.lock").read_text(encoding="utf-8")
    found = re.findall(r"^([A-Za-z0-9._-]+)==([^\s;]+)", text, re.MULTILINE)
    return {canonicalize_name(package): version for package, version in found}


@pytest.mark.parametrize("lock", _LOCKS, ids=lambda path: path.stem)
def test_every_package_has_its_hashes(lock: object) -> None:
    assert len(_LOCKS) == 6
    text = lock.read_text(encoding="utf-8").replace("\\\n", " ")  # type: ignore[attr-defined]
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    assert lines
    for line in lines:
        assert re.fullmatch(
            r"[\w.-]+==[^\s;]+( ; [^-]+?)?(\s+--hash=sha256:[0-9a-f]{64})+", line
        ), line


def test_the_lock_keeps_what_the_package_asks_for() -> None:
    setup = configparser.ConfigParser()
    setup.read(HOME / "setup.cfg")
    asked = {"": setup["options"]["install_requires"], **setup["options.extras_require"]}
    pins = _pins("main") | {"torch": _pins("torch-cuda")["torch"]}
    for extra, text in asked.items():
        if extra == "fuzz":  # for an hour's run alone
            continue
        for line in text.splitlines():
            if line and not line.startswith("#"):
                wanted = Requirement(line)
                assert wanted.specifier.contains(pins[canonicalize_name(wanted.name)]), line
    assert _pins("torch-cpu")["torch"].removesuffix("+cpu") == pins["torch"]


def test_the_environment_is_the_lock() -> None:
    pins = _pins("main")
    found = {canonicalize_name(each.name): each.version for each in distributions()}
    for name, version in pins.items():
        assert Version(found.get(name, "0")) == Version(version), name
