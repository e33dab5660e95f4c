"""What a role may do in PostgreSQL, and how a password gets there."""

from pathlib import Path

import psycopg
import pytest

from recbole_llm.errors import ConfigError
from recbole_llm.sinks import open_sink, postgres_tables
from tests.conftest import HOME
from tests.recbole_llm.sinks.conftest import DAY, Connection, Nights, sync_to, tables_of


def test_a_reader_may_select_and_nothing_else(
    nights: Nights, address: str, asked: Connection
) -> None:
    nights.publish(DAY, "a")
    sync_to(nights, address)
    (partition,) = [name for name in tables_of(asked) if name.startswith("recommendations_2024")]
    asked.execute("SET ROLE recommendations_reader")
    for table in ("recommendations", "recommendations_latest", "recommendations_loads"):
        assert asked.execute(f"SELECT count(*) > 0 FROM {table}".encode()).fetchone() == (True,)
    for statement in (
        "INSERT INTO recommendations SELECT * FROM recommendations_latest",
        "UPDATE recommendations SET rank = 1",
        "DELETE FROM recommendations_latest",
        "TRUNCATE recommendations",
        "DELETE FROM recommendations_loads",
        f"SELECT * FROM {partition}",
        "CREATE TABLE mine (n int)",
        "CREATE OR REPLACE VIEW recommendations_latest AS SELECT 1",
    ):
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            asked.execute(statement.encode())


def test_a_loader_needs_no_more_than_its_schema_and_the_role(
    nights: Nights, address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    nights.publish(DAY, "a")
    address = address.replace("postgres@", "plain@")
    with monkeypatch.context() as patch:
        patch.setattr(postgres_tables, "_READER", "nobody_made_it")
        with pytest.raises(ConfigError, match="CREATE ROLE nobody_made_it NOLOGIN"):
            sync_to(nights, address)
    with psycopg.connect(address.replace("plain@", "postgres@"), autocommit=True) as admin:
        row = "SELECT 1 FROM pg_roles WHERE rolname = 'recommendations_reader'"
        if admin.execute(row).fetchone() is None:
            admin.execute("CREATE ROLE recommendations_reader NOLOGIN")
    assert sync_to(nights, address) == [DAY]
    nights.publish(DAY, "b")
    assert sync_to(nights, address) == [DAY]


def test_the_shipped_roles_load_and_read_and_do_nothing_else(nights: Nights, server: Path) -> None:
    nights.publish(DAY, "a")
    admin_address = f"postgresql://postgres@/postgres?host={server}"
    roles = (HOME / "recbole_llm" / "sinks" / "roles.sql").read_bytes()
    loader_address = admin_address.replace("postgres@", "recommendations_loader@")
    with psycopg.connect(admin_address, autocommit=True) as admin:
        admin.execute("CREATE TABLE IF NOT EXISTS public.orders (n int)")
        for _ in range(2):  # once more changes nothing
            admin.execute(roles)
        assert sync_to(nights, loader_address) == [DAY]
        nights.publish(DAY, "b")
        assert sync_to(nights, loader_address) == [DAY]
        assert nights.warehouse.published_days()[DAY]["run_id"] == "b"
        admin.execute("SET ROLE recommendations_reader")
        latest = b"SELECT count(*) FROM recommendations.recommendations_latest"
        assert admin.execute(latest).fetchone() == (12,)
    with psycopg.connect(loader_address, autocommit=True) as loader:
        for statement in (
            "SELECT * FROM public.orders",
            "CREATE TABLE public.mine (n int)",
            "CREATE SCHEMA mine",
            "CREATE DATABASE mine",
            "CREATE ROLE mine",
            "ALTER ROLE recommendations_loader SUPERUSER",
            "GRANT pg_read_server_files TO recommendations_loader",
            "COPY recommendations_loads TO PROGRAM 'cat'",
            "COPY recommendations_loads TO '/tmp/mine'",
            "SELECT pg_read_file('/etc/passwd')",
            "SELECT rolpassword FROM pg_authid",
            "ALTER SYSTEM SET fsync = off",
            "SET ROLE postgres",
        ):
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                loader.execute(statement.encode())


def test_a_password_comes_by_libpqs_ways_and_is_never_shown(
    nights: Nights, address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    secured = address.replace("postgres@", "secured@")
    file = tmp_path / "passes"
    file.write_text("*:*:*:secured:right\n")
    file.chmod(0o600)
    monkeypatch.setenv("PGPASSFILE", str(file))
    open_sink(secured).close()
    monkeypatch.setenv("PGPASSWORD", "wr0ng")
    with pytest.raises(ConfigError, match="password authentication failed") as failure:
        open_sink(secured)
    for told in ("postgresql://u:wr0ng@/x", "postgresql:///x?password=wr0ng",
                 "postgresql://u:wr0ng @/x", "postgresql://u:wr0ng@h:x/?a"):  # fmt: skip
        with pytest.raises(ConfigError) as refused:
            open_sink(told)
        assert "wr0ng" not in str(refused.value)
    assert "wr0ng" not in str(failure.value) + caplog.text
