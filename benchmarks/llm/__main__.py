"""What teaching the language model a domain brings: frozen, pre-trained, and pre-trained with LoRA.

    python -m benchmarks.llm --data-path DIR --dataset amazon-beauty-2014 --encoders minilm smollm2-135m
    python -m benchmarks.llm --data-path DIR --pretrain epochs=3 max_tokens=64 --tune encoder.lora_r=8
    python -m benchmarks.llm --data-path DIR --encoders tfidf --stages frozen --parts text cold
    python -m benchmarks.llm --data-path DIR --encoders minilm:objective=mlm --stages pretrained
    python -m benchmarks.llm --report                    # the figures and the table only

Three parts, each with the same split and seeds at every stage:

- **text**: the texts alone describe the items (``item_repr: text``);
- **fused**: the default configuration, the encoder in MiniLM's place;
- **cold**: the same, a random tenth of the items without training events; its Recall@10 is that of the
  users whose test item is one of them, as in ``benchmarks.cold``. The encoder is pre-trained on the
  cut data, so that it has not seen those items in use either.

An encoder's name may carry settings of its own pre-training, as of ``benchmarks.quality`` a model's
does; it is held against the same encoder frozen.

LoRA goes on from the network that the pre-trained stage left (``warm_start``), whose row it asks for
too, and makes anew where that network is gone: the first steps of a random one would distort the
encoder's features (arXiv:2202.10054).

**text_gain**, **fused_gain** and **cold_gain** are NDCG@10 (cold: Recall@10) over frozen, mean over
seeds, of the stage that is better on validation (of those with most seeds) and the encoder that gains
more on amazon-beauty-2014. Beside each gain stands what that stage has over the same with TF-IDF in the
language model's place (``over_tfidf``): on texts alone and new items ``--encoders tfidf --stages
frozen``, else ``llmseqrec-tfidf`` of ``benchmarks.quality``.

Encoders that were pre-trained stay in ``--work``, with the networks that were trained on them, and are
not made again; a run that is killed goes on when it is started again. Writes
``benchmarks/results/llm.json`` after every run, with the seconds that each took and the next items
found by cosine alone before, during and after the pre-training (``retrieval_ndcg@10``), and at the end
the table of ``docs/encoder.md`` and ``docs/texts.svg``.
"""

import argparse
import json
import logging
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from platformdirs import user_cache_path

from benchmarks.about import DOCS, RESULTS, describe_run, read_results, splice_table
from benchmarks.cold.cut import Events
from benchmarks.llm.curve import draw_curve
from benchmarks.llm.figures import (
    CONTROL,
    MAIN_SET,
    PARTS,
    STAGES,
    Row,
    figures_of,
    gains_of,
    split_name,
    table_of,
)
from benchmarks.quality import store
from benchmarks.quality.models import Entry
from benchmarks.quality.run import run
from recbole_llm.config_files import flags_as_dict
from recbole_llm.encoder import find_encoder
from recbole_llm.errors import ConfigError
from recbole_llm.pretrain import pretrain, pretrain_options
from recbole_llm.scoring.artifact import TRAINING_STATE
from recbole_llm.warehouse import replace_json

_PATH = RESULTS / "llm.json"
_COLD_SHARE = 0.1
_log = logging.getLogger("benchmarks.llm")


def main() -> None:
    """Run what is missing and print the figures."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--dataset", nargs="+", default=[MAIN_SET, "amazon-industrial-2018w"])
    parser.add_argument("--data-path", help="folder that holds the data sets' folders")
    parser.add_argument("--encoders", nargs="+", default=["minilm", "smollm2-135m"])
    parser.add_argument("--stages", nargs="+", default=[*STAGES], choices=STAGES)
    parser.add_argument("--parts", nargs="+", default=[*PARTS], choices=PARTS)
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--pretrain", nargs="*", default=[], help="key=value of pretrain.yaml")
    parser.add_argument(
        "--train", nargs="*", default=[], help="key=value of LLMSeqRec.yaml, at every stage"
    )
    parser.add_argument(
        "--tune", nargs="*", default=[], help="key=value of LLMSeqRec.yaml, with LoRA"
    )
    parser.add_argument("--work", type=Path, default=user_cache_path("recbole_llm") / "llm")
    parser.add_argument(
        "--report", action="store_true", help="write figures and table, run nothing"
    )
    args = parser.parse_args()
    if not args.report and not args.data_path:
        parser.error("--data-path is needed to run")
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    about = describe_run()
    sys.argv = sys.argv[:1]  # RecBole reads the command line of whatever program it runs in
    if not args.report:
        source = Path(args.data_path).absolute()
        args.work = args.work.absolute()
        os.chdir(tempfile.mkdtemp())  # RecBole writes logs where it runs
        _run_missing(source, args, about)
    _add(None)
    content = _read()
    splice_table(DOCS / "encoder.md", "llm", table_of(content["rows"], content["gains"]))
    draw_curve(content["rows"])
    sys.stdout.write(json.dumps(content["figures"], indent=2) + f"\nwritten to {_PATH.name}\n")


def _run_missing(source: Path, args: argparse.Namespace, about: dict[str, Any]) -> None:
    """Add the rows that are not there, each as soon as it is measured."""
    for key in _wanted(args):
        row = next((row for row in _read()["rows"] if key.items() <= row.items()), None)
        if row is None:
            start = {**key, "stage": "pretrained"}
            if key["stage"] == "tuned" and _artifact(_networks(start, args)) is None:
                # Its row may be of another network, which is not there anymore.
                _add({**start, **_measure(start, source, args), **about})
            _add({**key, **_measure(key, source, args), **about})
        elif differing := _differing(row, args):
            _log.warning(
                "%s: kept, though it ran with other settings (%s); take the row out to run it anew",
                " ".join(map(str, key.values())), differing,
            )  # fmt: skip


def _wanted(args: argparse.Namespace) -> Iterator[dict[str, Any]]:
    asked = {*args.stages, *(["pretrained"] if "tuned" in args.stages else [])}
    for dataset in args.dataset:
        for encoder in args.encoders:
            for stage in [stage for stage in STAGES if stage in asked]:
                for part in args.parts:
                    for seed in args.seeds:
                        yield {
                            "dataset": dataset,
                            "encoder": split_name(encoder)[0] if stage == "frozen" else encoder,
                            "stage": stage, "part": part, "seed": seed,
                        }  # fmt: skip


def _pretrain_flags(encoder: str, args: argparse.Namespace) -> list[str]:
    """``key=value``: those of ``--pretrain``, and over them what the encoder's name carries."""
    return [*args.pretrain, *split_name(encoder)[1]]


def _differing(row: Row, args: argparse.Namespace) -> str:
    """The settings that a row's stage ran with and that are not those asked for now."""
    asked = {
        "train": args.train, "pretrain": _pretrain_flags(row["encoder"], args), "tune": args.tune,
    }  # fmt: skip
    settings = {
        "frozen": ("train",), "pretrained": ("train", "pretrain"),
        "tuned": ("train", "pretrain", "tune"),
    }  # fmt: skip
    ran = {name: row.get(name, "") for name in settings[row["stage"]]}
    differing = [name for name, value in ran.items() if value != " ".join(asked[name])]
    return "; ".join(f"{name}: {ran[name]}" for name in differing)


def _measure(key: dict[str, Any], source: Path, args: argparse.Namespace) -> dict[str, Any]:
    """One row: pre-train if its encoder is not there yet, train, test."""
    name, encoder, part, seed = key["dataset"], key["encoder"], key["part"], key["seed"]
    flags = _pretrain_flags(encoder, args)
    cut, data, networks = None, source, _networks(key, args)
    if part == "cold":
        cut = Events(source / name).cut(_COLD_SHARE, seed)
        data = args.work / "cold" / str(seed)
        if not (data / name).is_dir():
            cut.write(data, forget=False)
    taught: dict[str, Any] = {"pretrain_seconds": None}
    settings = flags_as_dict([f"--{flag}" for flag in args.train])
    if key["stage"] != "frozen":
        taught, encoder = _pretrained(
            split_name(encoder)[0], name, data, _taught_in(key, args), flags
        )
    if key["stage"] == "pretrained":
        shutil.rmtree(networks, ignore_errors=True)
        settings["artifact_dir"] = str(networks)
    if key["stage"] == "tuned":
        settings |= {
            "encoder.finetune": "lora", "warm_start": str(_artifact(networks)),
            **flags_as_dict([f"--{flag}" for flag in args.tune]),
        }  # fmt: skip
    named = "-".join(map(str, key.values())).replace("/", "-").replace(":", "-")
    settings["resume_dir"] = str(args.work / "unfinished" / named)
    is_alone = part == "text" or encoder == CONTROL
    settings["encoder"] = encoder if is_alone else f"{encoder}+{CONTROL}"
    settings["item_repr"] = "text" if part == "text" else "id+text"
    outcome = run(
        Entry("LLMSeqRec"), name, str(data), seed, settings, cut.warm_users() if cut else None
    )
    row: dict[str, Any] = {
        "valid_ndcg@10": outcome.valid["ndcg@10"], "epochs": outcome.epochs,
        "seconds": round(outcome.seconds, 1), **taught,
        "train": " ".join(args.train), "pretrain": " ".join(flags), "tune": " ".join(args.tune),
    }  # fmt: skip
    if cut is None:
        row |= {name: outcome.test[name] for name in ("ndcg@10", "recall@10")}
    else:
        cold = cut.cold_users()
        is_cold = np.array([user in cold for user in outcome.users])
        row["cold_users"] = int(is_cold.sum())
        row["recall@10"] = round(float((outcome.ranks[is_cold] > 0).mean()), 6)
    _log.info("%s: %s", " ".join(map(str, key.values())), row)
    return row


def _pretrained(
    encoder: str, dataset: str, data: Path, work: Path, flags: list[str]
) -> tuple[dict[str, Any], str]:
    """What a row says of the pre-training, and the file that names its result as an encoder."""
    given = {"encoder": encoder, **flags_as_dict([f"--{flag}" for flag in flags])}
    options, rest = pretrain_options(None, {**given, "data_path": str(data)})
    work.parent.mkdir(parents=True, exist_ok=True)
    if not work.is_dir():
        started = time.monotonic()
        pretrain(dataset, work, options, rest)
        _log.info("pre-trained in %.0f s", time.monotonic() - started)
    told = json.loads((work / "pretrain.json").read_text(encoding="utf-8"))
    if differing := [key for key, value in asdict(options).items() if told.get(key) != value]:
        raise ConfigError(
            f"{work} was pre-trained with other settings ({', '.join(differing)}), which a row would "
            "not say: remove it, or name another --work"
        )
    named = {
        **asdict(find_encoder(encoder)), "model": str(work), "max_tokens": told["max_tokens"],
    }  # fmt: skip
    file = work.with_name(f"{work.name}.yaml")
    file.write_text(yaml.safe_dump(named), encoding="utf-8")
    retrieval = [round(figures["eval_ndcg@10"], 6) for figures in told["evaluations"]]
    return {"pretrain_seconds": told["seconds"], "retrieval_ndcg@10": retrieval}, str(file)


def _taught_in(key: dict[str, Any], args: argparse.Namespace) -> Path:
    """Folder of the encoder that a row's pre-training makes."""
    stem = Path(key["encoder"]).name.replace(":", "-")  # of a folder too
    if key["part"] == "cold":
        stem = f"{stem}-cold-{key['seed']}"
    folder: Path = args.work / key["dataset"] / stem
    return folder


def _networks(key: dict[str, Any], args: argparse.Namespace) -> Path:
    """Folder of the network that a row's pre-trained stage leaves."""
    return _taught_in(key, args) / "networks" / f"{key['part']}-{key['seed']}"


def _artifact(folder: Path) -> Path | None:
    """A network that can be gone on from, if one was written whole."""
    return next((state.parent for state in folder.glob(f"*/{TRAINING_STATE}")), None)


def _read() -> dict[str, Any]:
    content: dict[str, Any] = read_results(_PATH, {"rows": []})
    return content


def _add(row: dict[str, Any] | None) -> None:
    """Add a row, in its predecessor's place, and take the figures anew; several processes may write."""
    names = ("dataset", "encoder", "stage", "part", "seed")
    with store.locked(_PATH):
        rows = _read()["rows"]
        if row:
            rows = [old for old in rows if any(old[name] != row[name] for name in names)] + [row]
        rows.sort(key=lambda row: [str(row[name]) for name in ("dataset", "encoder", "part")])
        gains = gains_of(rows)
        replace_json(_PATH, {"figures": figures_of(gains), "gains": gains, "rows": rows})


if __name__ == "__main__":
    main()
