"""Train the model that the night scores with, and decide whether it takes over.

The first model is trained on everything and becomes champion. A later one, the challenger, is trained
without the newest days; champion and challenger then foretell the events of those days
(``judge.py``). What was judged is what ranks: the challenger is not trained again with those days.
It reads them in the users' histories all the same, and the next challenger learns from them.

    artifacts/champion.json              which model ranks
    artifacts/<version>/refused.json     why a challenger does not
    artifacts/decisions/<day>-<version>.json   one row of the table ``trainings``
"""

import datetime
import hashlib
import importlib.metadata
import json
import logging
import shutil
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from recbole_llm import MODELS
from recbole_llm.config_files import load_layers
from recbole_llm.errors import ArtifactError, ConfigError
from recbole_llm.export_atomic import export_atomic
from recbole_llm.json_files import check_record, read_json
from recbole_llm.judge import (
    Comparison,
    PromotionRules,
    compare,
    promotion_rules,
    read_newest_events,
)
from recbole_llm.kept_models import prune_decided
from recbole_llm.parquet_tables import duckdb_over
from recbole_llm.retention import MOST_DAYS
from recbole_llm.scoring import load_artifact, load_scorer
from recbole_llm.warehouse import Warehouse, check_day, replace_json

if TYPE_CHECKING:
    from recbole_llm.train import TrainResult

_log = logging.getLogger(__name__)
_METRIC = "ndcg@10"


def train_champion(
    warehouse: Warehouse, config_file: Path, day: str, if_none: bool, cold: bool = False
) -> str:
    """Train on a day's features; the new model becomes champion if it is the first or passes.

    Args:
        warehouse: where features lie and artifacts go.
        config_file: ``configs/nightly.yaml``; its ``training`` holds the model's name and settings,
            its ``continuation`` how a challenger goes on from the champion, its ``promotion`` the
            rules of the comparison.
        day: the newest day; its features must exist.
        if_none: keep a champion that is there already, and train nothing.
        cold: start a challenger from random weights, not from the champion's.
    Returns:
        The champion's ``model_version`` after all.
    Raises:
        ConfigError: the settings lack something or hold something out of range.
        DataError: there are no events to train on.
    """
    champion = _champion(warehouse)
    if champion and if_none:
        _log.info("champion %s stands", champion["model_version"])
        return str(champion["model_version"])
    config = load_layers(config_file)
    settings = _training_settings(config.get("training"), config_file)
    continuation = _continuation(config.get("continuation"), config_file)
    rules = promotion_rules(config.get("promotion"), config_file)
    manifest = warehouse.features_manifest(day)
    features = warehouse.root / manifest["path"]
    cut = _cut(day, champion, rules) if champion else day
    started = time.monotonic()
    given, since, cold_because = _start(warehouse, champion, settings, continuation, cut, cold)
    given = {
        "artifact_dir": str(warehouse.artifacts),
        "text_cache": str(warehouse.text_cache),
        "media_path": str(warehouse.raw_items),
        "data_cut": cut,
        **given,
    }
    about = [day, manifest["fingerprint"], settings["model"], given]
    folder = _folder_of_training(warehouse, about)
    given |= {"data_path": str(folder), "checkpoint_dir": str(folder / "checkpoints")}
    unfinished = folder / "unfinished"
    if settings.get("privacy.epsilon") is None:
        given["resume_dir"] = str(unfinished)
    media = [str(settings[key]) for key in ("image_field", "audio_field") if settings.get(key)]
    export_atomic(features, f"night-{day}", folder, _end_s(cut), media)

    from recbole_llm.train import train  # loads torch and RecBole; not needed to say "it stands"

    # What it had come to stays until the decision stands, for a try that is killed while it is judged.
    result = train(settings["model"], f"night-{day}", None, given, keep_unfinished=True)
    assert result.artifact is not None
    version = result.artifact.name
    decision = {
        "ds": day,
        "model_version": version,
        "data_cut": cut,
        "champion_before": champion["model_version"] if champion else None,
        "train_since": since,
        "epochs": result.epochs,
        "best_epoch": result.best_epoch,
        "train_seconds": round(time.monotonic() - started, 1),
        "test_ndcg": result.test_result.get(_METRIC),
        **(result.start or {"warm_from": None, "cold_because": cold_because}),
    }
    verdict, reason = "first", "there was no champion"
    if champion:
        exclude_seen = config.get("exclude_seen", True)
        found = _compare(warehouse, features, version, cut, exclude_seen, rules)
        verdict, reason = ("promoted" if found.is_passed else "refused"), found.reason
        decision |= {
            "n_users": found.n_users,
            "n_events": found.n_events,
            "champion_ndcg": found.champion_ndcg,
            "challenger_ndcg": found.challenger_ndcg,
            "difference": found.difference,
            "lower": found.lower,
            "margin": rules.margin,
            "confidence": rules.confidence,
        }
    now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    decision |= {"verdict": verdict, "reason": reason, "decided_at": now}
    replace_json(warehouse.decisions / f"{day}-{version}.json", decision)
    standing = _settle(warehouse, decision, result)
    shutil.rmtree(unfinished, ignore_errors=True)
    try:
        prune_decided(warehouse, rules.keep_refused, rules.keep_superseded)
    except ArtifactError as error:
        _log.warning("older models stay: %s", error)
    return standing


def _settle(warehouse: Warehouse, decision: dict[str, Any], result: "TrainResult") -> str:
    """Let the new model take over, or say beside it why it does not; the champion's version then."""
    version, before = decision["model_version"], decision["champion_before"]
    assert result.artifact is not None
    if decision["verdict"] == "refused":
        _log.warning("challenger %s is refused, champion %s stands: %s",
                     version, before, decision["reason"])  # fmt: skip
        if version != before:
            replace_json(result.artifact / "refused.json", decision)
        return str(before)
    replace_json(
        warehouse.champion,
        {
            "model_version": version,
            "data_cut": decision["data_cut"],
            "metrics": {"valid": result.best_valid_result, "test": result.test_result},
            "promoted_at": decision["decided_at"],
        },
    )
    (result.artifact / "refused.json").unlink(missing_ok=True)
    _log.info("champion: %s, test %s %s, data up to %s",
              version, _METRIC, result.test_result.get(_METRIC), decision["data_cut"])  # fmt: skip
    return str(version)


def _training_settings(settings: Any, config_file: Path) -> dict[str, Any]:
    if not isinstance(settings, dict) or "model" not in settings:
        raise ConfigError(f"{config_file} has no 'training' section with a 'model'")
    if settings["model"] not in MODELS:
        raise ConfigError(
            f"training.model in {config_file} must be {' or '.join(MODELS)}, the models that have an "
            f"artifact; got {settings['model']!r}"
        )
    if settings.get("decoder", "softmax") != "softmax":
        raise ConfigError(
            f"training.decoder in {config_file} must be softmax, by which nights rank; got "
            f"{settings['decoder']!r}"
        )
    return settings


def _start(
    warehouse: Warehouse,
    champion: dict[str, Any] | None,
    settings: dict[str, Any],
    continuation: tuple[int, dict[str, Any]],
    cut: str,
    cold: bool,
) -> tuple[dict[str, Any], str | None, str | None]:
    """The keys to train by, the first day to learn from where not all are, and why it starts cold."""
    newest_days, more = continuation
    given = {key: value for key, value in settings.items() if key != "model"}
    cold_because = None if champion else "no champion"
    if cold:
        cold_because = "asked for"
    if settings.get("privacy.epsilon") is not None:
        cold_because = "privacy.epsilon: the champion's weights know its users"
    if not champion or cold_because:
        return given, None, cold_because
    given["warm_start"] = str(warehouse.champion_artifact())
    if not newest_days:
        return given, None, None
    since = _first_day(cut, newest_days, champion)
    return {**given, **more, "train_since": _start_s(since)}, since, None


def _folder_of_training(warehouse: Warehouse, about: list[Any]) -> Path:
    """The folder of one training, where its next try finds what a killed one had come to; what other
    trainings left goes, for it tells who met what.

    Args:
        about: what the training depends on.
    """
    text = json.dumps(
        [importlib.metadata.version("recbole_llm"), *about], sort_keys=True, default=str
    )
    folder = warehouse.training / hashlib.sha256(text.encode()).hexdigest()[:12]
    folder.mkdir(parents=True, exist_ok=True)
    for other in warehouse.training.iterdir():
        if other.is_dir() and other != folder:
            shutil.rmtree(other)
    return folder


def _cut(day: str, champion: dict[str, Any], rules: PromotionRules) -> str:
    """The last day that a challenger is trained on.

    Where the champion saw some of the newest days, only the days after them can be judged by. Where
    it saw them all, they serve nevertheless: the comparison then favours the champion.
    """
    newest = datetime.date.fromisoformat(day)
    cut = newest - datetime.timedelta(days=rules.days)
    if seen_text := champion.get("data_cut"):
        seen = datetime.date.fromisoformat(seen_text)
        if cut < seen < newest:
            return seen.isoformat()
        if seen >= newest:
            _log.warning("champion %s was trained on the days it is judged by, up to %s: the "
                         "comparison favours it", champion["model_version"], seen)  # fmt: skip
    return cut.isoformat()


def _continuation(settings: Any, config_file: Path) -> tuple[int, dict[str, Any]]:
    """The newest days that a challenger learns alone, 0 for all, and the keys that it trains by."""
    days = settings.get("days") if isinstance(settings, dict) else None
    if isinstance(days, bool) or not isinstance(days, int) or not 0 <= days <= MOST_DAYS:
        raise ConfigError(
            f"{config_file}: 'continuation' must hold 'days', an integer of at least 0 (0: a "
            f"challenger learns from all days), got {settings!r}"
        )
    return days, {key: value for key, value in settings.items() if key != "days"}


def _first_day(cut: str, days: int, champion: dict[str, Any]) -> str:
    """The first of so many days up to the cut, or of those that the champion has not seen."""
    before = datetime.date.fromisoformat(cut) - datetime.timedelta(days=days)
    if seen := champion.get("data_cut"):
        before = min(before, datetime.date.fromisoformat(seen))
    return (before + datetime.timedelta(days=1)).isoformat()


def _start_s(day: str) -> int:
    """Unix seconds of the start of a day, UTC."""
    return int(datetime.datetime.fromisoformat(day).replace(tzinfo=datetime.UTC).timestamp())


def _end_s(day: str) -> int:
    """Unix seconds of the end of a day, UTC."""
    return _start_s(day) + 86_400


def _compare(
    warehouse: Warehouse,
    features: Path,
    challenger: str,
    cut: str,
    exclude_seen: bool,
    rules: PromotionRules,
) -> Comparison:
    with duckdb_over(features) as database:
        rows = database.execute(
            "SELECT item_id FROM read_parquet($files) WHERE available ORDER BY item_id",
            {"files": f"{features}/items/*.parquet"},
        ).fetchall()
    return compare(
        load_scorer(warehouse.champion_artifact()),
        load_scorer(warehouse.artifacts / challenger),
        read_newest_events(features, _end_s(cut), exclude_seen, rules),
        [item for (item,) in rows],
        exclude_seen,
        rules,
    )


def _champion(warehouse: Warehouse) -> dict[str, Any] | None:
    if not warehouse.champion.is_file():
        return None
    load_artifact(warehouse.champion_artifact())  # a damaged champion is found here, not at night
    champion = check_record(read_json(warehouse.champion), {}, warehouse.champion)
    if champion.get("data_cut") is not None:
        check_day(champion["data_cut"])
    return champion
