"""All targets by name; a target is made in an empty folder, and imports what it needs then."""

from collections.abc import Callable
from pathlib import Path

from benchmarks.fuzz import artifact_files, media_contents, settings_files, warehouse_files
from benchmarks.fuzz.target import Target

TARGETS: dict[str, Callable[[Path], Target]] = {
    **artifact_files.TARGETS,
    **media_contents.TARGETS,
    **settings_files.TARGETS,
    **warehouse_files.TARGETS,
}
SPARK = ("raw JSON lines in Spark", "raw CSV in Spark", "raw item lines in Spark")
"""Those of ``event_lines``."""
