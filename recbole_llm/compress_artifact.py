"""The same artifact in a smaller file."""

import logging
import shutil
from dataclasses import replace
from pathlib import Path

from recbole_llm.errors import ArtifactError, ConfigError
from recbole_llm.item_parts import PARTS
from recbole_llm.scoring import load_artifact, write_artifact
from recbole_llm.scoring.artifact import TRAINING_STATE
from recbole_llm.scoring.item_neighbors import NEIGHBORS
from recbole_llm.scoring.matrix import STORED

_log = logging.getLogger(__name__)


def compress_artifact(path: Path, stored: str, root: Path | None = None) -> Path:
    """Write an artifact anew with its item matrix stored in fewer bits.

    What a later training can start from, and what other sources and explanations need, is copied.

    Args:
        path: the artifact's folder; it stays.
        stored: ``float16``, ``int8`` or ``int6``.
        root: where the new folder goes, under its own version; by default beside the old one.
    Returns:
        The new folder.
    Raises:
        ConfigError: there is no such way to store a matrix.
        ArtifactError: the artifact is damaged, or compressed already.
    """
    if stored not in STORED[1:]:
        raise ConfigError(f"matrix must be one of {STORED[1:]}, got {stored!r}")
    artifact = load_artifact(path)
    if artifact.stored != "float32":
        raise ArtifactError(
            f"artifact {path} is compressed already, its item matrix is in {artifact.stored}; "
            f"compress the one that it came from, {artifact.metadata.get('compressed_from')}"
        )
    metadata = {**artifact.metadata, "compressed_from": artifact.model_version}
    smaller = replace(artifact, stored=stored, metadata=metadata)
    target = write_artifact(smaller, path.parent if root is None else root)
    load_artifact(target)  # what cannot be read back must not be announced
    for name in (TRAINING_STATE, NEIGHBORS, *PARTS[::-1]):  # of the parts the index last
        if (path / name).is_file():
            staging = target / f".{name}"
            shutil.copyfile(path / name, staging)
            staging.rename(target / name)
    _log.info("artifact: %s (item matrix in %s)", target, stored)
    return target
