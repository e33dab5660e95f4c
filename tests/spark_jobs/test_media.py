"""A night whose catalogue has pictures and sounds: from the raw files to a table."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from pyspark.sql import SparkSession

from recbole_llm.champion import train_champion
from recbole_llm.config_files import load_yaml
from recbole_llm.scoring import load_artifact
from recbole_llm.warehouse import Warehouse
from spark_jobs.prepare_features import prepare
from spark_jobs.publish import publish
from spark_jobs.score_users import score
from tests.conftest import night_runner
from tests.media import as_uri, picture, sound

pytestmark = pytest.mark.spark
_DAY = "2024-05-02"


@pytest.mark.slow
def test_a_night_with_pictures_and_sounds(
    spark: SparkSession,
    small_warehouse: Path,
    small_night_config: Path,
    media_encoders: dict[str, Path],
) -> None:
    """Eighteen items have the paths of both, one has the bytes of both, one has neither."""
    warehouse = Warehouse(small_warehouse)
    warehouse.champion.unlink()
    (warehouse.raw_items / "media files").mkdir()
    lines = []
    for number in range(18):
        names = f"media files/{number}.png", f"media files/{number}.wav"
        (warehouse.raw_items / names[0]).write_bytes(picture((number * 14, 90, 90), number))
        (warehouse.raw_items / names[1]).write_bytes(sound(200 + 100 * number, number))
        lines.append(
            f'{{"item_id": "i{number}", "title": "Title of i{number}", "image": "{names[0]}",'
            f' "audio": "{names[1]}"}}\n'
        )
    (warehouse.raw_items / "items.jsonl").write_text("".join([*lines, '{"item_id": "i18"}\n']))
    whole = {"image": picture((9, 9, 200)), "audio": sound(4_000)}
    row = {"item_id": "i19", "title": "Title of i19", **whole}
    pq.write_table(pa.Table.from_pylist([row]), warehouse.raw_items / "more.parquet")
    training = {
        "model": "LLMSeqRec", "encoder": "tfidf", "epochs": 1, "hidden_size": 16, "n_layers": 1,
        "inner_size": 16, "MAX_ITEM_LIST_LENGTH": 5, "text_size": 8,
        "image_field": "image", "image_encoder": str(media_encoders["convnext"]),
        "audio_field": "audio", "audio_encoder": str(media_encoders["ast"]),
    }  # fmt: skip
    settings = {**load_yaml(small_night_config), "training": training}
    small_night_config.write_text(yaml.safe_dump(settings))
    run = night_runner(spark, small_warehouse, small_night_config)
    run(_DAY, steps=(prepare,))
    version = train_champion(warehouse, small_night_config, _DAY, if_none=True)

    (file,) = warehouse.training.glob(f"*/night-{_DAY}/*.item")
    written = file.read_text()
    rows = {line.split("\t")[0]: line.split("\t")[4:] for line in written.splitlines()}
    assert rows["item_id:token"] == ["image:token", "audio:token"]
    assert rows["i7"] == ["media files/7.png", "media files/7.wav"]
    assert rows["i18"] == ["", ""]
    found = [field.replace(" ", "") for field in rows["i19"]]  # Spark breaks base64 into lines
    assert found == [as_uri(each, "application/octet-stream") for each in whole.values()]
    artifact = load_artifact(warehouse.artifacts / version)
    kinds = [each["kind"] for each in artifact.metadata["options"]["media"]]
    assert (kinds, artifact.item_matrix.isfinite().all()) == (["picture", "sound"], True)
    run(_DAY, steps=(score, publish))
    assert warehouse.published_days()[_DAY]["model_version"] == version
