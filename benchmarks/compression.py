"""What compression saves and costs: encoders in fewer bits and layers, item matrices in fewer bits.

    python -m benchmarks.compression --data-path DIR --dataset amazon-industrial-2018w --seeds 1 2 3

**encoders**: the encoder in float32, with its products in bfloat16 where its file asks for that and the
CPU has a unit for it, and by each way of ``compress_encoder``; size, texts a second (texts of the data
set, the fastest of some repeats, taken in turns) and the mean cosine with the vectors in float32.
NDCG@10 is of a recommender trained on the vectors, with this encoder alone.
**states**: what turns a history into a state, in torch (its window cut out of flat rows, as the night
does it) and by ``export_scorer``: size and users a second. The states are the same to 1e-4, which the
export checks; what ranks by them alone lacks the bias of items met before, so NDCG@10 is not compared.
**matrices**: item matrices by each way of ``compress_artifact``; size, users a second over 12,000 items
with histories of 50, and NDCG@10 of one trained model, that of the encoder in float32, seed by seed.

A ratio of NDCG@10 is a mean over seeds and data sets, each beside its own. Speeds are measured anew in
each run; what a results file has of NDCG@10 is not run again.

Writes ``benchmarks/results/compression.json``.
"""

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from functools import partial
from importlib.metadata import version
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import numpy as np
import torch
import yaml
from numpy.typing import NDArray

from benchmarks.about import RESULTS, describe_run, read_results, without_machine
from benchmarks.fresh_process import in_fresh_process
from recbole_llm.encoder import find_encoder
from recbole_llm.scoring.matrix import STORED
from recbole_llm.scoring.topk import bfloat16_unit
from recbole_llm.warehouse import replace_json

_PATH = RESULTS / "compression.json"
_PLAIN = "float32"
_WAYS: dict[str, dict[str, Any]] = {
    "int8": {},
    "int8-5/6-layers": {"n_layers": 5 / 6},
    "int8-half-layers": {"n_layers": 1 / 2},
    "int8-128-components": {"size": 128},
    "onnx-float32": {"bits": 32},
}
"""Ways to compress an encoder; ``n_layers`` is a share here."""
_ENCODER, _MATRIX = "int8", "int6"
"""What ``recbole-llm compress`` does unless it is told otherwise, of which the figures are."""
_TEXTS, _ITEMS, _USERS, _LENGTH, _K, _BATCH = 128, 12_000, 2_048, 50, 20, 128


def main() -> None:
    """Run the parts asked for and print their figures."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--part", choices=("speed", "quality", "all"), default="all")
    parser.add_argument("--dataset", default="amazon-industrial-2018w")
    parser.add_argument("--data-path", required=True)
    parser.add_argument("--encoder", default="minilm")
    parser.add_argument("--ways", nargs="+", choices=_WAYS, default=list(_WAYS))
    parser.add_argument("--seeds", type=int, nargs="+", default=[1])
    parser.add_argument("--epochs", type=int, help="at most so many, for a quick look")
    parser.add_argument("--repeats", type=int, default=3, help="the fastest counts")
    args = parser.parse_args()
    about = describe_run()
    about["versions"]["onnxruntime"] = version("onnxruntime")
    about["seeds"] = args.seeds
    sys.argv = sys.argv[:1]  # RecBole reads the command line of whatever program it runs in
    args.data_path = Path(args.data_path).absolute()
    name = without_machine(args.encoder)
    items = args.data_path / args.dataset / f"{args.dataset}.item"
    content = read_results(_PATH, {})
    content = {"figures": {}, "speed": {}, "quality": {}, **content}
    with tempfile.TemporaryDirectory() as folder:
        spec = find_encoder(args.encoder)
        plain = Path(folder) / "float32.yaml"
        plain.write_text(yaml.safe_dump(asdict(replace(spec, dtype="float32"))), encoding="utf-8")
        encoders = {_PLAIN: str(plain)}
        if spec.dtype != "float32" and bfloat16_unit() is not None:
            encoders[spec.dtype] = args.encoder
        for number, way in enumerate(args.ways):
            target = Path(folder) / str(number)
            in_fresh_process(_compress, args.encoder, target, _WAYS[way], items)
            encoders[way] = str(target)
        if args.part in ("speed", "all"):
            content["speed"][name] = {
                **about, "dataset": args.dataset,
                "encoders": in_fresh_process(_encoders, encoders, items, args.repeats),
            }  # fmt: skip
            content["speed"]["matrices"] = {
                **about, "items": _ITEMS, "matrices": in_fresh_process(_matrices, args.repeats)
            }  # fmt: skip
            content["speed"]["states"] = {
                **about, "items": _ITEMS, "states": in_fresh_process(_states, args.repeats)
            }  # fmt: skip
            _write(content, name)
        if args.part in ("quality", "all"):
            for seed in args.seeds:
                for way, encoder in encoders.items():
                    # The type of the products is no part of what the usual cache knows vectors by.
                    cache = Path(folder) / f"{way.replace('/', '-')}.sqlite"
                    _quality(content, args, about, seed, way, encoder, cache)
    sys.stdout.write(json.dumps(content["figures"]) + f"\nwritten to {_PATH.name}\n")


def _compress(encoder: str, target: Path, way: dict[str, Any], items: Path) -> None:
    from recbole_llm.compress_encoder import compress_encoder
    from recbole_llm.encoder import locate_weights
    from recbole_llm.text_encoder import load_sentence_transformer

    options = dict(way)
    if "n_layers" in options:
        spec = find_encoder(encoder)
        network = load_sentence_transformer(locate_weights(spec), spec, "cpu")[0].model
        options["n_layers"] = round(options["n_layers"] * network.config.num_hidden_layers)
    if "size" in options:
        options["items"] = items
    compress_encoder(encoder, target, **options)


def _encoders(encoders: dict[str, str], items: Path, repeats: int) -> dict[str, dict[str, float]]:
    """Size, pace and truth of each."""
    from recbole_llm.encoder import locate_weights
    from recbole_llm.item_text import read_text_columns, render_texts
    from recbole_llm.text_encoder import TextEncoder

    texts = sorted(
        filter(None, set(render_texts(read_text_columns(items, "item_id", "\t", "utf-8"), None)))
    )
    spread = np.linspace(0, len(texts) - 1, min(_TEXTS, len(texts))).astype(int)
    texts = sorted((texts[number] for number in spread), key=len)  # as the cache gives them
    specs = {way: find_encoder(name) for way, name in encoders.items()}
    paths = {way: locate_weights(spec) for way, spec in specs.items()}
    loaded = {way: TextEncoder(paths[way], spec, "cpu") for way, spec in specs.items()}
    vectors = {way: encoder.encode(texts) for way, encoder in loaded.items()}
    seconds: dict[str, list[float]] = {way: [] for way in loaded}
    for _ in range(repeats):
        for way, encoder in loaded.items():
            started = time.perf_counter()
            encoder.encode(texts)
            seconds[way].append(time.perf_counter() - started)
    rows = {}
    for way, read in vectors.items():
        rows[way] = {
            "size_mb": round(_bytes(paths[way]) / 1e6, 2),
            "texts_a_second": round(len(texts) / min(seconds[way]), 1),
        }
        if read.shape == vectors[_PLAIN].shape:
            lengths = np.linalg.norm(read, axis=1) * np.linalg.norm(vectors[_PLAIN], axis=1)
            rows[way]["cosine"] = round(
                float(((read * vectors[_PLAIN]).sum(1) / lengths).mean()), 4
            )
    return rows


def _bytes(path: Path) -> int:
    """Of weights and tokenizer, what a machine that encodes must have."""
    files = [path] if path.is_file() else [file for file in path.rglob("*") if file.is_file()]
    return sum(file.stat().st_size for file in files)


def _matrices(repeats: int) -> dict[str, dict[str, float]]:
    """Size and pace of each way to store an item matrix."""
    from safetensors import safe_open

    from benchmarks.nightly import untrained_artifact
    from recbole_llm.compress_artifact import compress_artifact
    from recbole_llm.scoring import load_scorer, write_artifact

    plain = write_artifact(untrained_artifact([f"i{n}" for n in range(_ITEMS)]), Path("artifacts"))
    paths = {way: plain if way == STORED[0] else compress_artifact(plain, way) for way in STORED}
    scorers = {way: load_scorer(path) for way, path in paths.items()}
    met, lengths = _histories()
    paces = _users_a_second(
        {way: partial(scorer.rank, met.ravel(), lengths, _K) for way, scorer in scorers.items()},
        repeats,
    )
    rows = {}
    for way, path in paths.items():
        with safe_open(path / "model.safetensors", framework="np") as file:
            names = [name for name in file.keys() if name in ("item_matrix", "item_scales")]  # noqa: SIM118
            size = sum(_size(file.get_slice(name)) for name in names)
        rows[way] = {"size_mb": round(size / 1e6, 3), "users_a_second": paces[way]}
    return rows


def _states(repeats: int) -> dict[str, dict[str, float]]:
    """Size and pace of what turns histories into states."""
    from onnxruntime import InferenceSession, SessionOptions

    from benchmarks.nightly import untrained_artifact
    from recbole_llm.onnx_scorer import export_scorer
    from recbole_llm.scoring import load_scorer, write_artifact

    plain = write_artifact(untrained_artifact([f"i{n}" for n in range(_ITEMS)]), Path("artifacts"))
    file = export_scorer(plain, Path("states.onnx"))
    options = SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    session = InferenceSession(file, options, providers=["CPUExecutionProvider"])
    scorer = load_scorer(plain)
    met, lengths = _histories()
    rows, row_lengths = torch.from_numpy(met), torch.from_numpy(lengths)

    def read_in_onnx() -> None:
        for start in range(0, _USERS, _BATCH):
            part = slice(start, start + _BATCH)
            session.run(["states"], {"item_seq": met[part], "length": lengths[part]})

    def read_in_torch() -> None:
        for start in range(0, _USERS, _BATCH):
            part = slice(start, start + _BATCH)
            scorer.encode(rows[part].flatten(), row_lengths[part])

    paces = _users_a_second({"torch": read_in_torch, "onnx": read_in_onnx}, repeats)
    sizes = {"torch": (plain / "model.safetensors").stat().st_size, "onnx": file.stat().st_size}
    return {
        way: {"size_mb": round(size / 1e6, 3), "users_a_second": paces[way]}
        for way, size in sizes.items()
    }


def _histories() -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """(N, L) items by place, from 1, and (N,) lengths."""
    met = np.random.default_rng(1).integers(1, _ITEMS + 1, (_USERS, _LENGTH))
    return met, np.full(_USERS, _LENGTH)


def _users_a_second(ways: dict[str, Callable[[], Any]], repeats: int) -> dict[str, float]:
    """Of each way, taken in turns; the fastest repeat counts."""
    seconds: dict[str, list[float]] = {way: [] for way in ways}
    for _ in range(repeats + 1):  # the first one warms up
        for way, read in ways.items():
            started = time.perf_counter()
            read()
            seconds[way].append(time.perf_counter() - started)
    return {way: round(_USERS / min(took[1:]), 1) for way, took in seconds.items()}


def _size(part: Any) -> int:
    widths = {"F32": 4, "F16": 2, "BF16": 2, "I8": 1, "U8": 1}
    return int(np.prod(part.get_shape())) * widths[part.get_dtype()]


def _quality(
    content: dict[str, Any], args: argparse.Namespace, about: dict[str, Any], seed: int, way: str,
    encoder: str, cache: Path,
) -> None:  # fmt: skip
    """NDCG@10 of one seed, unless it is there."""
    name = without_machine(args.encoder)
    row = content["quality"].setdefault(name, {}).setdefault(args.dataset, {})
    row = row.setdefault(way if args.epochs is None else f"{way}, {args.epochs} epochs", {})
    if str(seed) in row:
        return
    settings = {"encoder": encoder, "text_cache": str(cache)}
    if args.epochs is not None:
        settings["epochs"] = args.epochs
    outcome = in_fresh_process(
        _train, args.dataset, str(args.data_path), seed, settings, way == _PLAIN
    )
    row[str(seed)] = {**outcome, **about}
    sys.stdout.write(f"{args.dataset}, seed {seed}, {way}: {json.dumps(outcome)}\n")
    sys.stdout.flush()
    _write(content, name)


def _train(
    dataset: str, data_path: str, seed: int, settings: dict[str, Any], is_plain: bool
) -> dict[str, Any]:
    from benchmarks.quality.models import find_model
    from benchmarks.quality.run import TOP, run

    metric = f"ndcg@{TOP}"
    matrices = STORED[1:] if is_plain else ()
    outcome = run(find_model("llmseqrec"), dataset, data_path, seed, settings, matrices=matrices)
    found: dict[str, Any] = {
        metric: outcome.test[metric], "epochs": outcome.epochs,
        "seconds": round(outcome.seconds, 1),
    }  # fmt: skip
    if matrices:
        found["matrices"] = {way: test[metric] for way, test in outcome.test_by_matrix.items()}
    return found


def _write(content: dict[str, Any], encoder: str) -> None:
    content["figures"] = figures(content, encoder)
    replace_json(_PATH, content)


def figures(content: dict[str, Any], encoder: str) -> dict[str, float]:
    """What the ways that ``recbole-llm compress`` takes by itself save and keep."""
    found: dict[str, float] = {}
    speed = content["speed"]
    rows = speed.get(encoder, {}).get("encoders", {})
    if _ENCODER in rows:
        plain, small = rows[_PLAIN], rows[_ENCODER]
        found["encoder_speedup"] = round(small["texts_a_second"] / plain["texts_a_second"], 2)
        found["encoder_size_ratio"] = round(plain["size_mb"] / small["size_mb"], 2)
    if "matrices" in speed:
        rows = speed["matrices"]["matrices"]
        plain, small = rows[STORED[0]], rows[_MATRIX]
        found["matrix_size_ratio"] = round(plain["size_mb"] / small["size_mb"], 2)
        found["matrix_users_ratio"] = round(small["users_a_second"] / plain["users_a_second"], 2)
    pairs, by_matrix = [], []
    for ways in content["quality"].get(encoder, {}).values():
        for seed, plain in ways.get(_PLAIN, {}).items():
            by_matrix.append(plain["matrices"][_MATRIX] / plain["ndcg@10"])
            if seed in ways.get(_ENCODER, {}):
                pairs.append(ways[_ENCODER][seed]["ndcg@10"] / plain["ndcg@10"])
    for name, ratios in (("encoder_ndcg_kept", pairs), ("matrix_ndcg_kept", by_matrix)):
        if ratios:
            found[name] = round(mean(ratios), 4)
        if len(ratios) > 1:
            found[f"{name}_standard_error"] = round(stdev(ratios) / len(ratios) ** 0.5, 4)
    return found


if __name__ == "__main__":
    main()
