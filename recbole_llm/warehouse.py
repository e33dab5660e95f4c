"""Where a night's data lies, and how a reader finds what is finished.

    raw/events/ds=D/, raw/items/          what other systems deliver
    features/ds=D/<attempt>/…             sequences, items, recent, quarantine; manifest.json names the
                                          attempt
    artifacts/<model_version>/            trained models; champion.json names the one in use,
                                          decisions/ says of each how it came in or why not
    training/<training>/…                 what the last training read, and had come to if it was killed
    runs/ds=D/run_id=R/<attempt>/…        scored tables, published or not; scored.json names the attempt
    run_log/D_R.json                      one row of the table ``runs``
    metrics/D.json                        one row of the table ``metrics_daily``, with what its report
                                          shows beside
    reports/ds=D/index.html               the report of a night; reports/index.html lists all
    published.json                        which attempt is the table of which day; see published.py
    forgotten.json                        marks of users whose events are not taken in; see blocks.py
    locks/                                who works on what; see locks.py

Each attempt has a folder of its own and is complete before a small JSON file, replaced in one step,
names it. So a reader never sees half a table, and a killed job leaves nothing that is read.

Standard library only: Spark jobs, command line and DAG-started commands all use it.
"""

import contextlib
import datetime
import fcntl
import json
import os
import re
import uuid
from pathlib import Path
from typing import Any, TextIO

from recbole_llm.errors import ArtifactError, ConfigError, NotFoundError
from recbole_llm.json_files import check_record, read_json

_NO_PATH = re.compile("[\0\ud800-\udfff]")
_LONGEST_NAME, _LONGEST_PATH = 255, 1024
"""Bytes of a file's name, on every file system in use, and characters of a path below the root."""
POINTER_VERSION = 1
"""Of ``published.json``."""
_MANIFEST = {
    "ds": str, "attempt": str, "path": str, "first_ds": str, "base": dict | None,
    "fingerprint": str, "settings": dict, "user_keys?": list, "sources": dict,
}  # fmt: skip
_RUN = {
    "ds": str, "run_id": str, "path": str, "features_path": str, "model_version": str,
    "settings": dict, "k": int,
}  # fmt: skip
_DAY_MODEL = {"champion": str, "fingerprint": str, "model_version": str}
"""What must stand in ``model.json``: ``fingerprint`` is that of the day's features."""
_PUBLISHED = {
    "ds": str, "run_id": str, "path": str, "before?": list, "features_path?": str,
    "model_version?": str, "settings?": dict, "k?": int, "n_rows?": int,
}  # fmt: skip
"""What must stand in a manifest, a scored run and a day's entry; who needs what may be absent from an
entry looks for it."""


class Warehouse:
    """Paths below one root folder.

    Args:
        root: a folder on a file system that every worker sees.
    """

    def __init__(self, root: Path | str) -> None:
        self.root = Path(root).absolute()
        self.raw_events = self.root / "raw" / "events"
        self.raw_items = self.root / "raw" / "items"
        self.artifacts = self.root / "artifacts"
        self.champion = self.artifacts / "champion.json"
        self.decisions = self.artifacts / "decisions"
        self.published = self.root / "published.json"
        self.forgotten = self.root / "forgotten.json"
        self.run_log = self.root / "run_log"
        self.locks = self.root / "locks"
        self.metrics = self.root / "metrics"
        self.reports = self.root / "reports"
        self.text_cache = self.root / "cache" / "text_vectors.sqlite"
        self.training = self.root / "training"

    def check_there(self) -> None:
        """Check that there is a warehouse, before something is kept, deleted or told of in it.

        Raises:
            NotFoundError: there is none.
        """
        if not self.root.is_dir():
            raise NotFoundError(f"no warehouse at {self.root}; name its folder by --warehouse")

    def raw_day(self, day: str | None) -> str:
        """A day whose raw events were delivered: the given one, or the newest.

        Raises:
            NotFoundError: that day, or any, was not delivered; the message names what was.
        """
        days = delivered_days(self.raw_events)
        if not days:
            raise NotFoundError(
                f"no raw events: expected folders ds=YYYY-MM-DD in {self.raw_events}"
            )
        if day is not None and day not in days:
            raise NotFoundError(
                f"no raw events for {day} in {self.raw_events}: found {len(days)} days, {days[0]} to "
                f"{days[-1]}"
            )
        return day or days[-1]

    def features(self, day: str) -> Path:
        """Folder of a day's feature attempts."""
        return self.root / "features" / f"ds={day}"

    def runs(self, day: str) -> Path:
        """Folder of a day's scored runs."""
        return self.root / "runs" / f"ds={day}"

    def features_manifest(self, day: str) -> dict[str, Any]:
        """Paths and counts of a day's finished features.

        Raises:
            NotFoundError: no features were prepared for that day.
        """
        path = self.features(day) / "manifest.json"
        absent = f"no features for {day}: run prepare_features for that day first"
        return _manifest(_read(path, absent), path)

    def features_manifests(self) -> dict[str, dict[str, Any]]:
        """The manifests of all days with finished features, oldest day first."""
        files = (self.root / "features").glob("ds=*/manifest.json")
        manifests = (_manifest(read_json(file), file) for file in sorted(files))
        return {manifest["ds"]: manifest for manifest in manifests}

    def scored_manifest(self, day: str) -> dict[str, Any]:
        """Path and counts of a day's newest finished scoring.

        Raises:
            NotFoundError: no run was scored for that day.
        """
        path = self.runs(day) / "scored.json"
        found = _read(path, f"no scored run for {day}: run score_users first")
        return _run(found, path, _RUN)

    def champion_artifact(self) -> Path:
        """Folder of the model in use.

        Raises:
            NotFoundError: no model was trained yet.
        """
        pointer = _read(
            self.champion, f"no champion in {self.artifacts}: run 'recbole-llm train' first"
        )
        version: str = check_record(pointer, {"model_version": str}, self.champion)["model_version"]
        _inside({"path": version}, self.champion)
        return self.artifacts / version

    def day_model(self, day: str) -> Path:
        """The file that says which model ranks a day, where it is not the champion itself."""
        return self.features(day) / "model.json"

    def ranking_artifact(self, day: str) -> Path:
        """Folder of the model that ranks a day: the champion, with the day's new items where it has
        read them.

        Raises:
            NotFoundError: no champion has been trained.
        """
        champion = self.champion_artifact()
        if not self.day_model(day).is_file():
            return champion
        told = check_record(read_json(self.day_model(day)), _DAY_MODEL, self.day_model(day))
        _inside({"path": told["model_version"]}, self.day_model(day))
        extended = self.artifacts / told["model_version"]
        is_of_champion = told["champion"] == champion.name and extended.is_dir()
        return extended if is_of_champion else champion

    def published_days(self) -> dict[str, dict[str, Any]]:
        """The published run of each day, oldest day first; empty before the first night.

        Raises:
            ArtifactError: a newer version of this package moved the pointer.
        """
        if not self.published.is_file():
            return {}
        pointer = check_record(read_json(self.published), {"format_version": int}, self.published)
        found = pointer["format_version"]
        if found != POINTER_VERSION:
            raise ArtifactError(
                f"{self.published} has format {found!r}, this version reads "
                f"{POINTER_VERSION}; install the version of recbole_llm that wrote it"
            )
        days: dict[str, dict[str, Any]] = check_record(pointer, {"days": dict}, self.published)[
            "days"
        ]
        for run in days.values():
            _run(run, self.published, _PUBLISHED)
            for earlier in run.setdefault("before", []):
                _run(earlier, self.published, _PUBLISHED)
        return dict(sorted(days.items()))

    def published_run(self, day: str | None) -> dict[str, Any]:
        """The published run of one day, of the newest day when None.

        Raises:
            NotFoundError: that day, or any day, was never published; the message names what was.
        """
        days = self.published_days()
        if not days:
            raise NotFoundError(f"nothing is published in {self.root}: run 'make nightly' first")
        if day is None:
            return days[max(days)]
        if day not in days:
            raise NotFoundError(
                f"no table for {day}: {len(days)} days are published, {min(days)} to {max(days)}"
            )
        return days[day]

    def state_of(self, run: dict[str, Any]) -> Path:
        """Folder of the features that a published run was scored from.

        Raises:
            ArtifactError: the pointer does not name it.
        """
        return self.root / str(
            check_record(run, {"features_path": str}, self.published)["features_path"]
        )

    def logged_run(self, run_id: str) -> dict[str, Any]:
        """A run's row in the table ``runs``.

        Raises:
            NotFoundError: no such run was audited.
        """
        path = self.run_log / f"{run_id}.json"
        return _read(path, f"no run {run_id} in {self.run_log}: publish its day again")

    def measured_days(self) -> dict[str, dict[str, Any]]:
        """Row and details of each measured day, oldest first."""
        files = sorted(self.metrics.glob("*.json"))
        return {file.stem: check_record(read_json(file), {}, file) for file in files}

    def report(self, day: str) -> Path:
        """The page about a night."""
        return self.reports / f"ds={day}" / "index.html"

    def log_run(self, run_id: str, changes: dict[str, Any]) -> None:
        """Set columns of a run's row in the table ``runs``."""
        path = self.run_log / f"{run_id}.json"
        row = check_record(read_json(path), {}, path) if path.is_file() else {}
        replace_json(path, {**row, **changes})


def delivered_days(folder: Path) -> list[str]:
    """Days with a partition ``ds=YYYY-MM-DD``, oldest first; what is called otherwise is none."""
    names = (path.name.removeprefix("ds=") for path in folder.glob("ds=*") if path.is_dir())
    return sorted(filter(_is_day, names))


def check_day(text: str) -> str:
    """Return a day as ``YYYY-MM-DD``.

    Raises:
        ConfigError: the text is no such date.
    """
    if not _is_day(text):
        raise ConfigError(f"a day is written YYYY-MM-DD, as 2024-05-01, got {text!r}")
    return text


def _is_day(text: str) -> bool:
    try:
        return datetime.date.fromisoformat(text).isoformat() == text
    except (ValueError, TypeError):
        return False


def new_attempt(parent: Path) -> Path:
    """A path for a new attempt's folder below ``parent``; the folder itself is not made."""
    return parent / uuid.uuid4().hex[:8]


def replace_json(path: Path, content: dict[str, Any] | list[Any]) -> None:
    """Write JSON to ``path`` in one step; see ``replace_text``."""
    replace_text(path, json.dumps(content, indent=2, ensure_ascii=False))


def replace_text(path: Path, text: str) -> None:
    """Write ``path`` in one step: a reader sees the old content or the new, never a part.

    What a process that is killed on the way leaves is taken up by the next that writes ``path``.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    staging = path.with_name(f".{path.name}.staging")
    with _open_locked(staging) as file:
        try:
            file.truncate(0)
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
            os.fchmod(file.fileno(), 0o644)
            os.replace(staging, path)
        except BaseException:
            staging.unlink(missing_ok=True)
            raise


def _open_locked(path: Path) -> TextIO:
    """Open a file that no other process has open here; closing it lets it go."""
    while True:
        file = path.open("a", encoding="utf-8")
        fcntl.flock(file, fcntl.LOCK_EX)
        # Whoever held it may have given the file another name meanwhile.
        with contextlib.suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(file.fileno()), path.stat()):
                return file
        file.close()


def _read(path: Path, absent: str) -> dict[str, Any]:
    if not path.is_file():
        raise NotFoundError(absent)
    return _inside(check_record(read_json(path), {}, path), path)


def _manifest(record: Any, path: Path) -> dict[str, Any]:
    manifest = check_record(record, _MANIFEST, path)
    manifest.setdefault("user_keys", [])  # of a version that knew no pseudonyms
    if manifest["base"] is not None:
        check_record(manifest["base"], {"ds": str, "fingerprint": str}, f"base in {path}")
    return _inside(manifest, path)


def _run(record: Any, path: Path, kinds: dict[str, Any]) -> dict[str, Any]:
    """A run whose day is one, and whose settings have what readers ask for."""
    run = check_record(record, kinds, f"a run in {path}")
    try:
        check_day(run["ds"])
    except ConfigError as error:
        raise ArtifactError(f"a run in {path} has no day: {error}; restore it") from None
    keys = {"user_keys?": list, "exclude_seen?": bool, "max_per_category?": int, "markets?": list}
    check_record(run.get("settings", {}), keys, f"settings of a run in {path}")
    return _inside(run, path)


def _is_long(path: str) -> bool:
    names = (len(part.encode()) for part in Path(path).parts)
    return len(path) > _LONGEST_PATH or any(size > _LONGEST_NAME for size in names)


def _inside(record: dict[str, Any], source: Path) -> dict[str, Any]:
    """A record whose paths stay where they belong.

    Raises:
        ArtifactError: one leaves its folder.
    """
    for key in ("path", "features_path"):
        text = record.get(key) or ""
        is_path = isinstance(text, str) and not _NO_PATH.search(text)
        if not is_path or Path(text).is_absolute() or ".." in Path(text).parts or _is_long(text):
            raise ArtifactError(
                f"{source} has the {key} {text!r}, expected one below its root folder; restore "
                "the file, somebody else wrote into it"
            )
    return record
