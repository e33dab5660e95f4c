"""Who was in the training data, as a model's losses tell it, and what hiding them costs.

    python -m benchmarks.privacy
    python -m benchmarks.privacy --part curve --seeds 1 2 3

**membership**: a random half of the users is trained on; items and all else are as they are. Then each
user's loss is taken as training takes it, mean cross-entropy over their windows, without dropout, by
the weights that rank, over the whole catalogue. A user with a low loss is guessed to be one of the
half; ``auc`` is the area under the curve of that guess, .5 for a coin.

Arms: ``default``, which stops ten validations after its best and ranks by the best weights; ``stopped
early``, after two; ``never stopped``, the weights after ``--epochs`` epochs; ``private``,
``configs/private.yaml``.

Source: the loss threshold of Yeom et al., arXiv:1709.01604. It is the simplest attack; others guess
better, and epsilon bounds them all.

**curve**: NDCG@10 of ``configs/private.yaml`` on the test rows by epsilon, everybody trained on, beside
that of the default, which has no bound; also in ``docs/privacy.svg``. ``dp_ndcg_kept`` is the ratio at
``epsilon``.

Rows are kept as they come; means over seeds. Writes ``benchmarks/results/privacy.json``.
"""

import argparse
import json
import os
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path
from statistics import mean
from typing import Any

import numpy as np

from benchmarks.about import DOCS, RESULTS, describe_run, read_results
from benchmarks.fresh_process import in_fresh_process
from recbole_llm.config_files import load_yaml
from recbole_llm.warehouse import replace_json

_PATH = RESULTS / "privacy.json"
_PRIVATE = Path(__file__).parent.parent / "configs" / "private.yaml"
_EPSILON = "privacy.epsilon"
_EPSILONS = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0)
_HEADLINE = 8.0
"""The epsilon of the figures, which is the file's."""


def main() -> None:
    """Measure what is not in the file yet, and take the figures anew."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--dataset", default="ml-100k")
    parser.add_argument("--data-path", help="where it lies; ml-100k comes with RecBole")
    parser.add_argument("--part", choices=("membership", "curve"), nargs="+",
                        default=["membership", "curve"])  # fmt: skip
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--epochs", type=int, default=200, help="of the arm that never stops")
    args = parser.parse_args()
    about = describe_run()
    about["versions"]["opacus"] = version("opacus")
    sys.argv = sys.argv[:1]  # RecBole reads the command line of whatever program it runs in
    given: dict[str, Any] = {"use_gpu": False, "show_progress": False, "state": "ERROR"}
    if args.data_path:
        given["data_path"] = str(Path(args.data_path).absolute())
    private = load_yaml(_PRIVATE)
    arms = {
        "default": {},
        "stopped early": {"stopping_step": 2},
        "never stopped": {"epochs": args.epochs, "eval_step": 0},
        "private": private,
    }
    for seed in args.seeds:
        todo = []
        if "membership" in args.part:
            todo += [("membership", arm, membership, settings) for arm, settings in arms.items()]
        if "curve" in args.part:
            todo.append(("curve", "default", quality, {}))
            todo += [
                ("curve", f"epsilon {epsilon:g}", quality, {**private, _EPSILON: epsilon})
                for epsilon in _EPSILONS
            ]
        for part, arm, measure, settings in todo:
            key = {"part": part, "arm": arm, "dataset": args.dataset, "seed": seed}
            if any(key.items() <= row.items() for row in _read()["rows"]):
                continue
            told = in_fresh_process(measure, args.dataset, {**settings, **given, "seed": seed})
            row = {**key, **told, **about}
            content = _read()
            content["rows"].append(row)
            content["figures"] = figures(content["rows"])
            replace_json(_PATH, content)
            sys.stdout.write(f"{json.dumps({**key, **told})}\n")
    draw(_read()["rows"])
    sys.stdout.write(f"{json.dumps(_read()['figures'])}\nwritten to {_PATH.name}\n")


def _read() -> dict[str, Any]:
    content: dict[str, Any] = read_results(_PATH, {"figures": {}, "rows": []})
    return content


def membership(dataset: str, settings: dict[str, Any]) -> dict[str, Any]:
    """Train on half of the users and tell them from the others by their losses."""
    from sklearn.metrics import roc_auc_score

    from recbole_llm.fit import fit
    from recbole_llm.train import build_config, build_data

    os.chdir(tempfile.mkdtemp())  # RecBole writes logs where it runs
    config = build_config("LLMSeqRec", dataset, None, settings)
    generator = np.random.default_rng(config["seed"])
    _, (train_data, valid_data, _) = build_data(config, _some_users(generator))
    _, (held_out, _, _) = build_data(config, _some_users(generator, others=train_data.dataset))
    fitted = fit(config, train_data, valid_data)
    losses = [user_losses(fitted.network, part.dataset) for part in (train_data, held_out)]
    is_member = np.repeat([1, 0], [len(part) for part in losses])
    return {
        "auc": round(float(roc_auc_score(is_member, -np.concatenate(losses))), 4),
        "members": len(losses[0]),
        "others": len(losses[1]),
        "loss": round(float(losses[0].mean()), 4),
        "loss_of_others": round(float(losses[1].mean()), 4),
        "valid_ndcg@10": fitted.valid_result.get("ndcg@10"),
        "epochs": fitted.epochs,
        "best_epoch": fitted.best_epoch,
        **_told(fitted.network),
    }


def quality(dataset: str, settings: dict[str, Any]) -> dict[str, Any]:
    """Train on everybody and test."""
    from recbole_llm.fit import fit
    from recbole_llm.train import build_config, build_data

    os.chdir(tempfile.mkdtemp())
    config = build_config("LLMSeqRec", dataset, None, settings)
    _, (train_data, valid_data, test_data) = build_data(config)
    fitted = fit(config, train_data, valid_data)
    result = fitted.trainer.evaluate(test_data, load_best_model=False)
    return {
        "ndcg@10": result["ndcg@10"],
        "recall@10": result["recall@10"],
        "valid_ndcg@10": fitted.valid_result["ndcg@10"],
        "epochs": fitted.epochs,
        **_told(fitted.network),
    }


def _told(network: Any) -> dict[str, Any]:
    noise = network.noise
    return {} if noise is None else {"epsilon": round(noise.epsilon, 3), "delta": noise.delta}


def _some_users(generator: np.random.Generator, others: Any = None) -> type[Any]:
    """A data set with the rows of a random half of the users, or of those that ``others`` has not.

    Ids and item texts are of all.
    """
    from recbole_llm.dataset import LLMSeqRecDataset

    class SomeUsers(LLMSeqRecDataset):
        def data_augmentation(self) -> None:
            super().data_augmentation()
            users = self.inter_feat[self.uid_field].numpy()
            if others is None:
                self.members = 1 + generator.permutation(self.user_num - 1)[: self.user_num // 2]
                is_kept = np.isin(users, self.members)
            else:
                is_kept = ~np.isin(users, others.members)
            self.inter_feat = self.inter_feat[np.flatnonzero(is_kept)]

    return SomeUsers


def user_losses(network: Any, users: Any) -> Any:
    """(U,) mean loss of each user's positions, in nats, by the weights that rank."""
    import torch

    from recbole_llm.objective import training_loss

    network.eval()
    catalogue = network.catalogue
    everything = torch.ones_like(catalogue.is_known)
    everything[0] = False
    catalogue = catalogue._replace(is_known=everything)  # others met items that nobody here did
    sums: dict[int, float] = {}
    counts: dict[int, int] = {}
    with torch.no_grad():
        for row in torch.arange(len(users)):
            window = users[row[None]]
            length = window[network.ITEM_SEQ_LEN]
            loss = training_loss(
                network.scoring_network, catalogue, network.options.objective,
                network.options.sequence, window[network.ITEM_SEQ], length,
                window[network.POS_ITEM_ID],
            )  # fmt: skip
            user, n = int(window[network.USER_ID]), int(length)
            sums[user] = sums.get(user, 0.0) + float(loss) * n
            counts[user] = counts.get(user, 0) + n
    return np.array([sums[user] / counts[user] for user in sums])


def figures(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Means over the seeds that have been measured; what has no row yet is left out."""

    def of(part: str, arm: str, key: str) -> float | None:
        values = [row[key] for row in rows if (row["part"], row["arm"]) == (part, arm)]
        return mean(values) if values else None

    private = of("curve", f"epsilon {_HEADLINE:g}", "ndcg@10")
    default = of("curve", "default", "ndcg@10")
    found = {
        "mia_auc_default": of("membership", "default", "auc"),
        "mia_auc_stopped_early": of("membership", "stopped early", "auc"),
        "mia_auc_never_stopped": of("membership", "never stopped", "auc"),
        "mia_auc_dp": of("membership", "private", "auc"),
        "epsilon": of("curve", f"epsilon {_HEADLINE:g}", "epsilon"),
        "dp_ndcg_kept": private / default if private and default else None,
    }
    return {key: round(value, 4) for key, value in found.items() if value is not None}


def draw(rows: list[dict[str, Any]], folder: Path = DOCS) -> None:
    """Draw ``privacy.svg``: NDCG@10 by epsilon, a point a seed, the default as a line."""
    points = [row for row in rows if row["part"] == "curve"]
    private = [row for row in points if "epsilon" in row]
    if not private:
        return
    import matplotlib

    matplotlib.use("Agg")
    matplotlib.rcParams["svg.hashsalt"] = "recbole_llm"  # the same picture is the same file
    from matplotlib import pyplot

    figure, axis = pyplot.subplots(figsize=(6, 4))
    axis.plot([row["epsilon"] for row in private], [row["ndcg@10"] for row in private], "o", ms=4)
    by_budget: dict[str, list[dict[str, Any]]] = {}
    for row in private:
        by_budget.setdefault(row["arm"], []).append(row)
    line = sorted(
        tuple(mean(row[key] for row in some) for key in ("epsilon", "ndcg@10"))
        for some in by_budget.values()
    )
    axis.plot(*zip(*line, strict=True), "-", color="C0", label="configs/private.yaml")
    free = [row["ndcg@10"] for row in points if row["arm"] == "default"]
    if free:
        axis.axhline(mean(free), color="grey", linestyle="--", label="default, no bound")
    axis.set_xscale("log", base=2)
    axis.set_ylim(bottom=0)
    axis.set_xlabel("epsilon, of any one user")
    axis.set_ylabel("NDCG@10, test")
    axis.set_title(", ".join(sorted({row["dataset"] for row in points})), fontsize=10)
    axis.legend(fontsize=8)
    figure.tight_layout()
    figure.savefig(folder / "privacy.svg", metadata={"Date": None})
    pyplot.close(figure)


if __name__ == "__main__":
    main()
