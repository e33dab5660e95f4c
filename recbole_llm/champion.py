"""Train the model that the night scores with, and decide whether it takes over."""

import datetime
import logging
from pathlib import Path
from typing import Any

from recbole_llm.config_files import load_yaml
from recbole_llm.errors import ConfigError
from recbole_llm.export_atomic import export_atomic
from recbole_llm.scoring import load_artifact
from recbole_llm.warehouse import Warehouse, replace_json

_log = logging.getLogger(__name__)
_METRIC = "ndcg@10"
_TOLERANCE = 0.9
"""A challenger must reach this share of the champion's test metric."""


def train_champion(warehouse: Warehouse, config_file: Path, day: str, if_none: bool) -> str:
    """Train on a day's features; the new model becomes champion unless it is clearly worse.

    Both are judged by NDCG@10 on the last item of each user in the data of their own day, so the
    comparison is a guard against a broken training, not a measurement.

    Args:
        warehouse: where features lie and artifacts go.
        config_file: ``configs/nightly.yaml``; its ``training`` holds the model's name and settings.
        day: the data cut; features of that day must exist.
        if_none: keep a champion that is there already, and train nothing.
    Returns:
        The champion's ``model_version`` after all.
    """
    champion = _champion(warehouse)
    if champion and if_none:
        _log.info("champion %s stands", champion["model_version"])
        return str(champion["model_version"])
    settings = load_yaml(config_file).get("training")
    if not isinstance(settings, dict) or "model" not in settings:
        raise ConfigError(f"{config_file} has no 'training' section with a 'model'")
    if settings["model"] != "LLMSeqRec":
        raise ConfigError(
            f"training.model in {config_file} must be LLMSeqRec, the model that has an artifact; "
            f"got {settings['model']!r}"
        )
    features = warehouse.root / warehouse.features_manifest(day)["path"]
    dataset = f"night-{day}"
    export_atomic(features, dataset, warehouse.training)

    from recbole_llm.train import train  # loads torch and RecBole; not needed to say "it stands"

    own: dict[str, Any] = {
        "data_path": str(warehouse.training),
        "checkpoint_dir": str(warehouse.training / "checkpoints"),
        "artifact_dir": str(warehouse.artifacts),
        "text_cache": str(warehouse.text_cache),
        "data_cut": day,
    }
    given = {key: value for key, value in settings.items() if key != "model"}
    result = train(settings["model"], dataset, None, {**own, **given})
    assert result.artifact is not None
    version = result.artifact.name
    if champion:
        before, after = champion["metrics"]["test"][_METRIC], result.test_result[_METRIC]
        if after < _TOLERANCE * before:
            _log.warning(
                "challenger %s has %s %.4f, champion %s had %.4f: the champion stays",
                version, _METRIC, after, champion["model_version"], before,
            )  # fmt: skip
            return str(champion["model_version"])
    replace_json(
        warehouse.champion,
        {
            "model_version": version,
            "data_cut": day,
            "metrics": {"valid": result.best_valid_result, "test": result.test_result},
            "promoted_at": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        },
    )
    _log.info("champion: %s, test %s %.4f, data up to %s",
              version, _METRIC, result.test_result[_METRIC], day)  # fmt: skip
    return version


def _champion(warehouse: Warehouse) -> dict[str, Any] | None:
    if not warehouse.champion.is_file():
        return None
    load_artifact(warehouse.champion_artifact())  # a damaged champion is found here, not at night
    return load_yaml(warehouse.champion)  # JSON is YAML
