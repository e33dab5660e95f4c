"""Users ranked a second: the scorer beside RecBole, implicit, and the bare product.

    python -m benchmarks.scoring

An untrained ``LLMSeqRec`` of the default shape over 12 thousand and over a million items; sequences
of 50 items, 20 items wanted, what was met left out. On one core and on two:

**encode**, **rank**, **score**: sequences to states, states to lists, and both by ``Scorer.rank``.
**rules**: score, with a third of the items banned, three blocked by each user, and at most three items
of one of 200 categories.
**floor**: the product of states and item vectors alone, in cache-sized blocks, the fastest of several.
**implicit**: ``implicit.cpu.topk`` on the same factors and exclusions; **implicit_all**: with nothing
left out, which saves it looking for as many more items as a user has met.
**full_sort_topk**: RecBole's, on the same model (it leaves nothing out).
**spark**: the job's ``score_sequences`` on ``local[2]``, reading and writing files.

Writes ``benchmarks/results/scoring.json``.
"""

import argparse
import datetime
import json
import logging
import os
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.about import RESULTS, describe_run, read_results
from benchmarks.fresh_process import in_fresh_process
from recbole_llm.warehouse import replace_json

_PATH = RESULTS / "scoring.json"
_K, _LENGTH = 20, 50
_SIZES = {12_000: 4_096, 1_000_000: 512}
"""Users by number of items."""
_SPARK_USERS = 40_000


def main() -> None:
    """Measure each size on each number of cores, in a process of its own."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--items", type=int, nargs="+", default=list(_SIZES))
    parser.add_argument("--cores", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--repeats", type=int, default=5, help="the fastest counts")
    args = parser.parse_args()
    content: dict[str, Any] = {**describe_run(), "k": _K, "length": _LENGTH, "users_a_second": {}}
    sys.argv = sys.argv[:1]  # RecBole reads the command line of whatever program it runs in
    rates = content["users_a_second"]
    for n_items in args.items:
        for cores in args.cores:
            name = f"{n_items} items, {cores} core{'s' if cores > 1 else ''}"
            os.environ["OMP_NUM_THREADS"] = str(cores)  # inherited, read when libraries load
            rates[name] = in_fresh_process(_measure, n_items, cores, args.repeats)
            sys.stdout.write(f"{name}: {json.dumps(rates[name])}\n")
            sys.stdout.flush()
    os.environ["OMP_NUM_THREADS"] = "1"
    rates["spark, 12000 items, 2 cores"] = in_fresh_process(_measure_spark, args.repeats)
    before = read_results(_PATH, {"figures": {}})
    of_approximate = (
        "approximate_speedup",
        "approximate_recall",
    )  # benchmarks.approximate adds them
    kept = {name: before["figures"][name] for name in of_approximate if name in before["figures"]}
    content["figures"] = _figures(rates) | kept
    replace_json(_PATH, before | content)
    sys.stdout.write(json.dumps(content["figures"]) + f"\nwritten to {_PATH.name}\n")


def _figures(rates: dict[str, dict[str, float]]) -> dict[str, float]:
    def ratio(name: str, ours: str, other: str) -> float:
        return round(rates[name][ours] / rates[name][other], 3)

    figures = {}
    if (small := "12000 items, 1 core") in rates:
        figures["over_full_sort_topk"] = ratio(small, "score", "full_sort_topk")
        figures["rules_over_plain_12k"] = ratio(small, "rules", "score")
        figures["over_implicit_12k"] = ratio(small, "rank", "implicit")
        figures["over_implicit_all_12k"] = ratio(small, "rank", "implicit_all")
        figures["of_floor_12k"] = ratio(small, "rank", "floor")
    if (large := "1000000 items, 1 core") in rates:
        figures["rules_over_plain_1m"] = ratio(large, "rules", "score")
        figures["over_implicit_1m"] = ratio(large, "rank", "implicit")
        figures["over_implicit_all_1m"] = ratio(large, "rank", "implicit_all")
        figures["of_floor_1m"] = ratio(large, "rank", "floor")
        figures["over_full_sort_topk_1m"] = ratio(large, "score", "full_sort_topk")
    figures["spark_of_direct"] = ratio("spark, 12000 items, 2 cores", "spark", "direct")
    return figures


def _rate(function: Callable[[], Any], users: int, repeats: int) -> float:
    function()
    seconds = []
    for _ in range(repeats):
        started = time.perf_counter()
        function()
        seconds.append(time.perf_counter() - started)
    return round(users / min(seconds), 1)


def _measure(n_items: int, cores: int, repeats: int) -> dict[str, float]:
    import scipy.sparse as sp
    import torch
    from implicit.cpu.topk import topk
    from recbole.utils.case_study import full_sort_topk

    from recbole_llm.losses import Adjustments
    from recbole_llm.scoring import Feedback, Pairs, Rules, load_scorer

    torch.set_num_threads(cores)
    users = _SIZES.get(n_items, 1_024)
    model, test_data, artifact = _untrained(Path.cwd(), n_items, users)
    scorer = load_scorer(artifact)
    generator = np.random.default_rng(1)
    met = generator.integers(1, n_items + 1, (users, _LENGTH))
    rows, lengths = met.reshape(-1), np.full(users, _LENGTH)
    batch = 256

    def encode() -> Any:
        return [
            scorer.encode(
                torch.from_numpy(met[start : start + batch].reshape(-1)),
                torch.from_numpy(lengths[start : start + batch]),
            )[0]
            for start in range(0, users, batch)
        ]

    states = torch.cat(encode())
    everything, out = scorer.among(scorer.artifact.item_ids), -torch.inf
    owners = torch.arange(batch).repeat_interleave(_LENGTH)

    @torch.inference_mode()
    def rank() -> None:
        for start in range(0, users, batch):
            seen = torch.from_numpy(met[start : start + batch].reshape(-1))
            taken_out = Adjustments(owners, seen, torch.full(seen.shape, out))
            everything(states[start : start + batch], taken_out, _K)

    rules = Rules(
        among=everything,
        banned=torch.from_numpy(generator.choice(np.arange(1, n_items + 1), n_items // 3, False)),
        categories=generator.integers(0, 200, n_items + 1),
        max_per_category=3,
    )
    three = Pairs(np.arange(users).repeat(3), generator.integers(1, n_items + 1, 3 * users))
    feedback = Feedback(blocked=three)
    items = scorer.artifact.item_matrix[1:]

    @torch.inference_mode()
    def product(block: int) -> None:
        scores = torch.empty(block, batch)
        for start in range(0, users, batch):
            columns = states[start : start + batch].T.contiguous()
            for first in range(0, n_items, block):
                part = items[first : first + block]
                torch.mm(part, columns, out=scores[: len(part)])

    factors, queries = items.numpy(), states.numpy()
    seen = sp.csr_matrix(
        (np.ones(met.size, np.float32), rows - 1, np.arange(0, met.size + 1, _LENGTH)),
        shape=(users, n_items),
    )
    few = 1 if n_items > 100_000 else 32  # RecBole's own evaluation has as many users at once
    uids = np.arange(1, few + 1)
    return {
        "encode": _rate(encode, users, repeats),
        "rank": _rate(rank, users, repeats),
        "score": _rate(lambda: scorer.rank(rows, lengths, _K), users, repeats),
        "rules": _rate(
            lambda: scorer.rank(rows, lengths, _K, rules, feedback), users, repeats
        ),
        "floor": max(_rate(lambda b=b: product(b), users, repeats) for b in (1024, 2048, 4096)),
        "implicit": _rate(
            lambda: topk(factors, queries, _K, filter_query_items=seen, num_threads=cores),
            users, repeats,
        ),
        "implicit_all": _rate(
            lambda: topk(factors, queries, _K, num_threads=cores), users, repeats
        ),
        "full_sort_topk": _rate(
            lambda: full_sort_topk(uids, model, test_data, _K), few, repeats
        ),
    }  # fmt: skip


def _untrained(folder: Path, n_items: int, users: int) -> tuple[Any, Any, Path]:
    """The model, RecBole's test data of random sequences, and the artifact."""
    from recbole.utils import get_model

    from recbole_llm.export import export_artifact
    from recbole_llm.train import build_config, build_data

    logging.disable(logging.WARNING)
    data = folder / "data" / "random"
    data.mkdir(parents=True)
    generator = np.random.default_rng(0)
    with (data / "random.item").open("w") as file:
        file.write("item_id:token\tclass:token\n")
        file.writelines(f"i{n}\tx\n" for n in range(n_items))
    with (data / "random.inter").open("w") as file:
        file.write("user_id:token\titem_id:token\ttimestamp:float\n")
        for user in range(users):
            met = generator.integers(n_items, size=_LENGTH + 2)
            file.writelines(f"u{user}\ti{item}\t{place}\n" for place, item in enumerate(met))
    config = build_config(
        "LLMSeqRec", "random", None,
        {"data_path": str(data.parent), "item_repr": "id", "id_neighbors": 0, "use_gpu": False},
    )  # fmt: skip
    dataset, (train_data, _, test_data) = build_data(config)
    model = get_model("LLMSeqRec")(config, train_data.dataset)
    return model.eval(), test_data, export_artifact(model, dataset, config, {}, folder / "artifact")


def _measure_spark(repeats: int) -> dict[str, float]:
    import pyarrow as pa
    import pyarrow.parquet as pq
    import torch

    from benchmarks.nightly import untrained_artifact
    from recbole_llm.config_files import config_path
    from recbole_llm.lists.catalogue import Catalogue
    from recbole_llm.lists.ranker import ListSettings
    from recbole_llm.scoring import load_scorer, write_artifact
    from spark_jobs.config import load_night_config
    from spark_jobs.job import start_spark
    from spark_jobs.ranking import RankingTask
    from spark_jobs.score_users import score_sequences

    folder = Path(tempfile.mkdtemp(dir=Path.cwd()))
    ids = np.array([f"item-{n:07}" for n in range(12_000)])
    artifact = write_artifact(untrained_artifact(list(ids)), folder / "artifacts")
    met = np.random.default_rng(1).integers(1, len(ids) + 1, (_SPARK_USERS, _LENGTH))
    scorer, lengths = load_scorer(artifact), np.full(_SPARK_USERS, _LENGTH)
    torch.set_num_threads(2)
    direct = _rate(lambda: scorer.rank(met.reshape(-1), lengths, _K), _SPARK_USERS, repeats)
    files = []
    for number, part in enumerate(np.array_split(np.arange(_SPARK_USERS), 8)):
        table = {
            "user_id": [f"user-{user:08}" for user in part],
            "item_ids": pa.FixedSizeListArray.from_arrays(
                pa.array(ids[met[part].reshape(-1) - 1]), _LENGTH
            ).cast(pa.list_(pa.string())),
            "state_hash": pa.array(part, pa.int64()),
            **{
                name: pa.array([[]] * len(part), pa.list_(pa.string()))
                for name in ("blocked_ids", "disliked_ids", "unread_ids", "damped_categories")
            },
            "market": pa.nulls(len(part), pa.string()),
        }
        files.append(str(folder / f"part-{number}.parquet"))
        pq.write_table(pa.table(table), files[-1])
    config = load_night_config(Path(config_path(".", "nightly")))
    output = folder / "table"
    output.mkdir()
    with start_spark("scoring", config) as spark:
        nowhere = np.array([], dtype=np.int64)
        catalogue = Catalogue(
            list(ids), np.zeros(len(ids)), np.full(len(ids), -1), {"": nowhere}, []
        )
        task = RankingTask(
            artifact=str(artifact), output=str(output), day=datetime.date(2024, 5, 1),
            run_id="benchmark", model_version=artifact.name, k=_K,
            settings=ListSettings(),
            users_per_batch=config.users_per_batch,
            generated_at=datetime.datetime(2024, 5, 2, tzinfo=datetime.UTC),
            catalogue=spark.sparkContext.broadcast(catalogue),
            base=spark.sparkContext.broadcast(None),
        )  # fmt: skip
        rate = _rate(lambda: score_sequences(spark, files, task), _SPARK_USERS, repeats)
    return {"direct": direct, "spark": rate}


if __name__ == "__main__":
    main()
