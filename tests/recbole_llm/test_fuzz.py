"""Readers of files from outside raise our errors and no other, whatever stands in the files."""

from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from benchmarks.fuzz.targets import TARGETS
from recbole_llm.config_files import flags_as_dict
from recbole_llm.errors import ConfigError, RecboleLlmError

_QUICK = (
    "artifact.json", "items.json", "model.safetensors", "artifact with its hashes", "compressed.json",
    "modules.json", "text cache", "nightly.yaml", "encoder.yaml", "flags",
    ".item as text", "published.json", "champion.json", "manifest.json", "scored.json",
    "forgotten.json", "published table", "user keys", "raw JSON lines", "raw gzip", "raw Parquet",
    "picture", "sound",
)  # fmt: skip
"""Targets whose inputs take milliseconds each."""


@pytest.mark.parametrize("name", _QUICK)
def test_nothing_but_our_errors(name: str, tmp_path: Path) -> None:
    target = TARGETS[name](tmp_path)

    @settings(
        max_examples=20, deadline=None, derandomize=True, database=None, phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )  # fmt: skip
    @given(target.shaped)
    def read(data: bytes) -> None:
        with suppress(RecboleLlmError):
            target.read(data)

    read()


@pytest.mark.parametrize("name", _QUICK)
@pytest.mark.parametrize("data", [b"", b"\xff\xfe", b"[" * 20_000, b"0", b"{}", b"[1]", b"\0" * 8])
def test_what_is_no_such_file_at_all(name: str, data: bytes, tmp_path: Path) -> None:
    read = TARGETS[name](tmp_path).read
    with suppress(RecboleLlmError):
        read(data)


@given(st.binary(max_size=60))
@settings(max_examples=50, deadline=None, derandomize=True, database=None)
def test_flags_of_any_bytes(data: bytes) -> None:
    with suppress(ConfigError):
        flags_as_dict([f"--a={data.decode('utf-8', 'surrogateescape')}"])
