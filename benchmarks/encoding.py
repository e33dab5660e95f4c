"""Texts encoded a second: ``encode_cached`` on an empty cache beside ``SentenceTransformer.encode``.

    python -m benchmarks.encoding --data-path DIR

The item texts of a real set, in the file's order and with their repeats, by the same weights, the
same tokenizer, the same pooling and the same cut-off, on as many of torch's threads:

**theirs**: ``SentenceTransformer.encode`` with its defaults: float32, batches of 32 texts by
characters, each by all threads. **theirs_bfloat16**: the same under ``torch.autocast``.
**ours**: ``encode_cached`` as the encoder's file in ``configs/encoder`` has it, key and row of each
text included; its ``dtype`` may be bfloat16, in matrix products alone, where the CPU has a unit for
it. **ours_float32**: the same in float32.

Loading the model counts for nobody. The four take turns and the fastest of several counts.
**over_sentence_transformers**: ours over theirs for the default language model, the least over the
sets; **…_float32** and **…_bfloat16**: with the same type on both sides.
**over_sentence_transformers_smollm2**: the same for a decoder, which stays in float32, for in bfloat16
its cosine falls below 0.9999; nearly all of its texts fill the cut-off, so no padding can be saved.
**min_cosine**: of each text's vector on the two sides, ours against theirs in float32, the least.

**step**: one step of contrastive training on 256 texts (32 for a decoder) as pairs, forward and back,
in the encoder's ``dtype`` on both sides: ``MultipleNegativesRankingLoss`` of the library, and ours,
which is that with popularity taken out, and reads the texts in batches of like lengths.
**step_over_sentence_transformers**: texts a second of ours over theirs, the least over the sets.

**second_night_encoded**: texts that are encoded again when ``encode_cached`` is asked once more;
**second_night_seconds**: how long that takes.

Writes ``benchmarks/results/encoding.json``.
"""

import argparse
import json
import os
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.about import RESULTS, describe_run
from benchmarks.fresh_process import in_fresh_process
from recbole_llm.encoder import EncoderSpec, find_encoder, locate_weights
from recbole_llm.item_text import read_text_columns, render_texts
from recbole_llm.text_cache import encode_cached
from recbole_llm.text_encoder import (
    TextEncoder,
    features_of,
    is_in_bfloat16,
    load_sentence_transformer,
    tokens_at_once,
)
from recbole_llm.warehouse import replace_json

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

_PATH = RESULTS / "encoding.json"
_STEP_TEXTS = {"minilm": 256}
"""Texts of a training step by encoder; 32 else."""
_STEPS = ("their_step", "step")
_CASES = {
    "minilm on amazon-industrial-2018w": 4_000,
    "minilm on amazon-beauty-2014": 13_000,
    "smollm2-135m on amazon-industrial-2018w": 256,
}
"""Texts by encoder and set; a set may have fewer."""


def main() -> None:
    """Measure each case in a process of its own and print the figures."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data-path", type=Path, required=True, help="folder of RecBole data sets")
    parser.add_argument("--cases", nargs="+", choices=list(_CASES), default=list(_CASES))
    parser.add_argument("--texts", type=int, default=max(_CASES.values()), help="at most")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = os.environ["RAYON_NUM_THREADS"] = str(args.threads)
    rows = {}
    for case in args.cases:
        encoder, dataset = case.split(" on ")
        texts = _texts(args.data_path, dataset)[: min(_CASES[case], args.texts)]
        rows[case] = in_fresh_process(measure, encoder, texts, args.threads, args.rounds)
        sys.stdout.write(f"{case}: {json.dumps(rows[case])}\n")
        sys.stdout.flush()

    content = {
        **describe_run(),
        "threads": args.threads,
        "rounds": args.rounds,
        "seeds": "none: nothing is drawn",
        "load_average": round(os.getloadavg()[0], 1),
        "rows": rows,
        "figures": {
            **_ratios(rows),
            "min_cosine": min(row["min_cosine"] for row in rows.values()),
            "second_night_encoded": sum(row["second_night_encoded"] for row in rows.values()),
            "second_night_seconds": max(row["second_night_seconds"] for row in rows.values()),
        },
    }
    replace_json(_PATH, content)
    sys.stdout.write(json.dumps(content["figures"]) + f"\nwritten to {_PATH.name}\n")


def _ratios(rows: dict[str, Any]) -> dict[str, float]:
    def least(encoder: str, ours: str, theirs: str) -> float:
        rates = [row["texts_a_second"] for case, row in rows.items() if case.startswith(encoder)]
        return round(min(rate[ours] / rate[theirs] for rate in rates), 3)

    figures = {}
    if any(case.startswith("minilm") for case in rows):
        figures["step_over_sentence_transformers"] = least("minilm", "step", "their_step")
        figures["over_sentence_transformers"] = least("minilm", "ours", "theirs")
        figures["over_sentence_transformers_float32"] = least("minilm", "ours_float32", "theirs")
        figures["over_sentence_transformers_bfloat16"] = least("minilm", "ours", "theirs_bfloat16")
    if any(case.startswith("smollm2") for case in rows):
        figures["over_sentence_transformers_smollm2"] = least("smollm2", "ours", "theirs")
    return figures


def _texts(data_path: Path, dataset: str) -> list[str]:
    items = read_text_columns(data_path / dataset / f"{dataset}.item", "item_id", "\t", "utf-8")
    return [text for text in render_texts(items, None) if text]


class _Watched(TextEncoder):
    """Knows how long it took to load and how many texts it was given."""

    load_seconds = 0.0
    n_texts = 0

    def __init__(self, path: Path, spec: EncoderSpec, device: str) -> None:
        started = time.perf_counter()
        super().__init__(path, spec, device)
        super().encode(["warm up"])
        _Watched.load_seconds = time.perf_counter() - started

    def encode(self, texts: list[str]) -> NDArray[np.float32]:
        _Watched.n_texts += len(texts)
        return super().encode(texts)


def measure(encoder: str, texts: list[str], n_threads: int, rounds: int) -> dict[str, Any]:
    """Texts a second of each side, their vectors' cosine, and the second night."""
    import torch

    torch.set_num_threads(n_threads)
    spec = find_encoder(encoder)
    in_float32 = replace(spec, dtype="float32")
    library = load_sentence_transformer(locate_weights(spec), in_float32, "cpu")
    library.encode(["warm up"])
    cache = Path.cwd() / "ours.sqlite"

    def theirs(in_bfloat16: bool = False) -> NDArray[np.float32]:
        with torch.autocast("cpu", torch.bfloat16, enabled=in_bfloat16):
            vectors = library.encode(texts, show_progress_bar=False)
        return np.asarray(vectors, dtype=np.float32)

    def ours(which: EncoderSpec = spec) -> NDArray[np.float32]:
        cache.unlink(missing_ok=True)
        return encode_cached(texts, which, cache, "cpu", _Watched)

    sides: dict[str, Callable[[], NDArray[np.float32]]] = {
        "theirs": theirs,
        "theirs_bfloat16": lambda: theirs(in_bfloat16=True),
        "ours_float32": lambda: ours(in_float32),
        "ours": ours,
    }
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    vectors = {}
    for _ in range(rounds):
        for name, side in sides.items():
            _Watched.load_seconds = 0.0
            started = time.perf_counter()
            vectors[name] = side()
            seconds[name].append(time.perf_counter() - started - _Watched.load_seconds)
    of_step = texts[: _STEP_TEXTS.get(encoder, 32)]
    n_texts = {**dict.fromkeys(sides, len(texts)), **dict.fromkeys(_STEPS, len(of_step))}
    seconds |= _steps(library, of_step, spec, rounds)
    _Watched.n_texts = 0
    started = time.perf_counter()
    again = encode_cached(texts, spec, cache, "cpu", _Watched)
    second_night_seconds = time.perf_counter() - started
    assert np.array_equal(again, vectors["ours"])
    return {
        "texts": len(texts),
        "different_texts": len(set(texts)),
        "max_tokens": spec.max_tokens,
        "dtype": spec.dtype,
        "texts_a_second": {
            name: round(n_texts[name] / min(each), 1) for name, each in seconds.items()
        },
        "seconds": {name: [round(s, 2) for s in each] for name, each in seconds.items()},
        "min_cosine": min(
            _min_cosine(vectors[name], vectors["theirs"]) for name in ("ours", "ours_float32")
        ),
        "min_cosine_float32": _min_cosine(vectors["ours_float32"], vectors["theirs"]),
        "second_night_encoded": _Watched.n_texts,
        "second_night_seconds": round(second_night_seconds, 2),
    }


def _steps(
    library: "SentenceTransformer", texts: list[str], spec: EncoderSpec, rounds: int
) -> dict[str, list[float]]:
    """Seconds that each side takes, round by round, for a contrastive step on the texts as pairs."""
    import torch
    from sentence_transformers.sentence_transformer.losses import MultipleNegativesRankingLoss

    from recbole_llm.pretrain.objectives import PopularityCorrectedLoss

    library.train()
    half = len(texts) // 2
    pairs = [features_of(library, part) for part in (texts[:half], texts[half:])]
    labels = torch.zeros(half)
    losses = (
        MultipleNegativesRankingLoss(library),
        PopularityCorrectedLoss(library, 20.0, tokens_at_once(spec, "cpu")),
    )
    seconds: dict[str, list[float]] = {name: [] for name in _STEPS}
    for _ in range(1 + rounds):
        for name, loss in zip(_STEPS, losses, strict=True):
            started = time.perf_counter()
            with torch.autocast("cpu", torch.bfloat16, enabled=is_in_bfloat16(spec, "cpu")):
                value = loss([dict(column) for column in pairs], labels)
            value.backward()
            library.zero_grad()
            seconds[name].append(time.perf_counter() - started)
    return {name: each[1:] for name, each in seconds.items()}  # the first warms up


def _min_cosine(ours: NDArray[np.float32], theirs: NDArray[np.float32]) -> float:
    lengths = np.linalg.norm(ours, axis=1) * np.linalg.norm(theirs, axis=1)
    return round(float(((ours * theirs).sum(1) / lengths).min()), 6)


if __name__ == "__main__":
    main()
