import hashlib
import hmac
from pathlib import Path

import pytest

from recbole_llm.cli import main
from recbole_llm.errors import ConfigError
from recbole_llm.pseudonyms import (
    KEYS,
    KEYS_FILE,
    UserKeys,
    add_user_key,
    is_pseudonym,
    read_user_keys,
)

OLD, NEW = bytes(range(32)), bytes(range(32, 64))


def test_a_pseudonym_is_an_hmac_and_a_rotation_needs_no_id() -> None:
    digest = hmac.new(OLD, "Zoë".encode(), hashlib.sha256).hexdigest()
    before, after = UserKeys([OLD]), UserKeys([OLD, NEW])
    pseudonym = before.pseudonym("Zoë")
    assert pseudonym == f"u_{digest[:32]}"
    assert is_pseudonym(pseudonym)
    assert not is_pseudonym("Zoë")
    assert after.pseudonym("Zoë") == after.renewed(pseudonym, 1) != pseudonym
    assert after.pseudonym("Zoë", 1) == pseudonym
    assert after.names[:1] == before.names
    assert len({*after.names}) == 2
    for key in (OLD, NEW):
        assert key.hex() not in repr(after) + "".join(after.names)


def test_a_file_of_keys_is_made_and_rotated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "secret" / "user_keys"
    monkeypatch.setenv(KEYS_FILE, str(path))
    with pytest.raises(ConfigError, match=f"no file of keys at {path}: let {KEYS_FILE} name one"):
        read_user_keys()
    assert main(["user-key"]) == 0
    first = read_user_keys()
    assert main(["user-key"]) == 0
    assert read_user_keys().names[:1] == first.names
    assert path.stat().st_mode & 0o777 == 0o600
    assert [child.name for child in path.parent.iterdir()] == ["user_keys"]
    printed = capsys.readouterr().out
    assert "holds 2 keys" in printed
    assert not any(line in printed for line in path.read_text().split())
    path.chmod(0o640)
    with pytest.raises(ConfigError, match=f"others may read {path}.*chmod 600"):
        read_user_keys()


@pytest.mark.parametrize("line", ["secret password", "ab" * 31, "zz" * 32])
def test_what_is_no_key_is_not_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, line: str
) -> None:
    monkeypatch.setenv(KEYS, f"{OLD.hex()} {line}")
    with pytest.raises(
        ConfigError, match=rf"key 2 in \${KEYS} is no key: expected at least 64 hex"
    ) as at:
        read_user_keys()
    assert line not in str(at.value)
    monkeypatch.setenv(KEYS, OLD.hex())
    assert read_user_keys().names == UserKeys([OLD]).names
    path = tmp_path / "keys"
    path.write_text(line)
    path.chmod(0o600)
    with pytest.raises(ConfigError, match="is no key"):
        add_user_key(path)
    assert path.read_text() == line
