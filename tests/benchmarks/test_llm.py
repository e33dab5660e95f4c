import json
import shutil
from argparse import Namespace
from pathlib import Path
from typing import Any

import pytest

from benchmarks.llm import __main__ as llm
from benchmarks.llm.curve import draw_curve
from benchmarks.llm.figures import table_of
from recbole_llm.errors import ConfigError
from recbole_llm.warehouse import replace_json
from tests.data import CYCLE, walk, write_atomic


def _row(stage: str, seed: int, valid: float, test: float, **other: Any) -> dict[str, Any]:
    return {
        "dataset": "amazon-beauty-2014", "encoder": "minilm", "part": "text", "stage": stage,
        "seed": seed, "valid_ndcg@10": valid, "ndcg@10": test, **other,
    }  # fmt: skip


def test_a_gain_is_of_the_stage_that_validates_better(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(llm, "_PATH", tmp_path / "llm.json")
    for row in (
        _row("frozen", 1, 0.5, 0.40),
        _row("frozen", 2, 0.5, 0.50),
        _row("pretrained", 1, 0.8, 0.44),
        _row("pretrained", 2, 0.6, 0.60),
        _row("pretrained", 3, 0.9, 9.00),  # nothing to hold it against
        _row("tuned", 1, 0.6, 8.00),
        _row("tuned", 2, 0.6, 8.00),
        _row("frozen", 1, 0.5, 0.40, encoder="smollm2-135m"),
        _row("pretrained", 1, 0.5, 0.42, encoder="smollm2-135m"),
        _row("frozen", 2, 0.5, 0.50, encoder="tfidf"),
        _row("pretrained", 1, 0.5, 0.40, encoder="minilm:objective=mlm"),
        _row("pretrained", 2, 0.5, 0.45, encoder="minilm:objective=mlm"),
        _row("tuned", 1, 0.9, 8.00, encoder="minilm:objective=mlm"),  # better, of one seed
        _row("frozen", 1, 0.5, 0.40, dataset="amazon-industrial-2018w"),
        _row("pretrained", 1, 0.5, 4.00, dataset="amazon-industrial-2018w"),
    ):
        llm._add(row)
    content = json.loads((tmp_path / "llm.json").read_text())
    assert content["gains"]["amazon-beauty-2014"]["minilm"]["text"] == {
        "stage": "pretrained", "gain": 1.15, "by_seed": [1.1, 1.2],
        "over_tfidf": {"gain": 1.2, "by_seed": [1.2]},
    }  # fmt: skip
    # The other objective is held against the same encoder frozen.
    of_mlm = content["gains"]["amazon-beauty-2014"]["minilm:objective=mlm"]["text"]
    assert of_mlm["by_seed"] == [1.0, 0.9]
    assert content["figures"] == {"text_gain": 1.15}  # the encoder that gains more, the main set


def test_the_control_of_the_fused_gain_is_of_the_quality_benchmark(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(llm, "_PATH", tmp_path / "llm.json")
    monkeypatch.setattr(llm.store, "QUALITY", tmp_path / "quality.json")
    control = {"dataset": "amazon-beauty-2014", "model": "llmseqrec-tfidf"}
    rows = [{**control, "seed": 2, "ndcg@10": 0.5}, {**control, "seed": 1, "ndcg@10": 0.4}]
    rows.append({**control, "seed": 1, "ndcg@10": 0.1, "model": "llmseqrec"})
    (tmp_path / "quality.json").write_text(json.dumps(rows))
    for seed, frozen, taught in ((1, 0.44, 0.48), (2, 0.5, 0.55), (3, 0.5, 0.5)):
        llm._add(_row("frozen", seed, 0.5, frozen, part="fused"))
        llm._add(_row("pretrained", seed, 0.6, taught, part="fused"))
    content = json.loads((tmp_path / "llm.json").read_text())
    gain = content["gains"]["amazon-beauty-2014"]["minilm"]["fused"]
    assert gain["by_seed"] == [1.0909, 1.1, 1.0]
    assert gain["over_tfidf"] == {"gain": 1.15, "by_seed": [1.2, 1.1]}
    assert table_of(content["rows"], content["gains"]).splitlines()[-1] == (
        "| amazon-beauty-2014 | minilm | Default configuration, NDCG@10 | .4800 "
        "| .5100: 1.09, 1.10, 1.00 |  | 1.20, 1.10 |"
    )


@pytest.mark.parametrize(
    ("stage", "ran", "pretrain", "tune", "told"),
    [
        ("frozen", "epochs=1", ["epochs=2"], ["stopping_step=5"], ""),
        ("pretrained", "epochs=1", ["epochs=1"], ["stopping_step=5"], ""),
        ("pretrained", "epochs=1", ["epochs=2"], [], "pretrain: epochs=1"),
        ("pretrained", "epochs=1 objective=mlm", ["epochs=1"], [], ""),
        ("tuned", "epochs=1", ["epochs=1"], ["stopping_step=5"], "tune: "),
    ],
)
def test_a_row_of_other_settings_is_told(
    stage: str, ran: str, pretrain: list[str], tune: list[str], told: str
) -> None:
    carried = ":objective=mlm" if "mlm" in ran else ""
    row = _row(stage, 1, 0.5, 0.5, encoder=f"minilm{carried}", pretrain=ran, tune="")
    assert llm._differing(row, Namespace(train=[], pretrain=pretrain, tune=tune)) == told
    elsewhere = Namespace(train=["enable_amp=True"], pretrain=pretrain, tune=tune)
    assert "train: " in llm._differing(row, elsewhere)


@pytest.mark.parametrize(
    ("stages", "measured"),
    [(["tuned"], ["pretrained", "tuned"]), (["pretrained", "frozen"], ["frozen", "pretrained"])],
)
def test_a_stage_has_the_row_of_what_it_goes_on_from(
    stages: list[str], measured: list[str]
) -> None:
    args = Namespace(dataset=["d"], encoders=["minilm"], stages=stages, parts=["text"], seeds=[1])
    assert [key["stage"] for key in llm._wanted(args)] == measured


def test_the_docs_show_what_the_results_say(tmp_path: Path) -> None:
    docs = (llm.DOCS / "encoder.md").read_text(encoding="utf-8")
    content = llm._read()
    assert table_of(content["rows"], content["gains"]) in docs
    draw_curve(content["rows"], tmp_path)
    assert (tmp_path / "texts.svg").read_bytes() == (llm.DOCS / "texts.svg").read_bytes()


def test_an_encoder_is_taught_once_and_then_tuned_from_its_network(
    tmp_path: Path, tiny_encoders: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(llm, "_PATH", tmp_path / "llm.json")
    texts = {item: f"Film {item} of the cycle" for item in CYCLE}
    write_atomic(tmp_path, "cycle", {f"u{n}": walk(n, 6 + n % 5) for n in range(24)}, texts)
    encoder = f"{tiny_encoders['bert']}:objective=mlm,held_out=0.2"
    args = Namespace(
        dataset=["cycle"],
        encoders=[encoder],
        stages=["tuned"],
        parts=["text"],
        seeds=[1],
        work=tmp_path / "work",
        train=["learning_rate=0.001"],
        pretrain=["epochs=1", "train_batch_size=8", "eval_steps=0.5"],
        tune=["epochs=1", "learning_rate=1e-12", "encoder.learning_rate=1e-12"],
    )
    llm._run_missing(tmp_path, args, {"commit": "one"})
    taught, tuned = llm._read()["rows"]
    assert tuned["train"] == "learning_rate=0.001"
    assert tuned["pretrain"].endswith("eval_steps=0.5 objective=mlm held_out=0.2")
    told = json.loads(
        (args.work / "cycle" / "bert-objective=mlm,held_out=0.2" / "pretrain.json").read_text()
    )
    assert (told["objective"], told["held_out"]) == ("mlm", 0.2)
    assert len(tuned["retrieval_ndcg@10"]) == 3  # before, in the middle, at the end
    assert tuned["epochs"] == 1
    assert taught["epochs"] > 1
    assert 0 < tuned["ndcg@10"] == taught["ndcg@10"]  # where it starts, as nothing learns
    monkeypatch.setattr(llm, "pretrain", None)  # it is there by now
    key = {name: tuned[name] for name in ("dataset", "encoder", "stage", "part", "seed")}
    again = llm._measure(key, tmp_path, args)
    assert again["pretrain_seconds"] == tuned["pretrain_seconds"]
    # Where its network is gone, the row of what it goes on from is made anew.
    replace_json(llm._PATH, {"rows": [taught]})
    shutil.rmtree(llm._networks(key, args))
    llm._run_missing(tmp_path, args, {"commit": "two"})
    rows = [(row["stage"], row["commit"]) for row in llm._read()["rows"]]
    assert rows == [("pretrained", "two"), ("tuned", "two")]
    args.tune.append("hidden_size=8")
    with pytest.raises(ConfigError, match="starts cold: hidden_size was 64"):
        llm._measure(key, tmp_path, args)
    args.pretrain[0] = "epochs=2"
    with pytest.raises(ConfigError, match=r"with other settings \(epochs\)"):
        llm._measure(key, tmp_path, args)
