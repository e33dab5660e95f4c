"""From a trained model in RecBole to an artifact that needs RecBole no more."""

import logging
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from recbole.config import Config

from recbole_llm.dataset import LLMSeqRecDataset
from recbole_llm.model import LLMSeqRec
from recbole_llm.options import options_as_dict
from recbole_llm.scoring import Artifact, load_artifact, write_artifact
from recbole_llm.warm_start import write_training_state

_log = logging.getLogger(__name__)
_LIBRARIES = ("recbole", "torch", "transformers", "sentence-transformers", "numpy")
_TITLE_FIELDS = ("title", "movie_title", "item_name", "name")


@torch.no_grad()
def export_artifact(
    model: LLMSeqRec,
    dataset: LLMSeqRecDataset,
    config: Config,
    metrics: dict[str, dict[str, float]],
    root: Path,
) -> Path:
    """Write the model to ``root/<model_version>``, and what a later training can start from.

    Args:
        metrics: RecBole's results by split, ``{"test": {"ndcg@10": ...}}``.
    Returns:
        The artifact's folder.
    """
    model.eval()
    network = model.scoring_network
    tokens = dataset.item_tokens()[1:]
    artifact = Artifact(
        sequence_config=model.options.sequence,
        encoder_weights=network.sequences.state_dict(),
        repeat_weights={} if network.repeats is None else network.repeats.state_dict(),
        item_matrix=model.item_matrix().float(),
        item_bias=model.item_bias,
        item_ids=tokens,
        titles=_titles(dataset, tokens),
        metadata={
            "dataset": config["dataset"],
            "data_cut": config["data_cut"],
            "seed": config["seed"],
            "metrics": metrics,
            "options": options_as_dict(dataset.options),
            "versions": {name: version(name) for name in _LIBRARIES},
        },
    )
    path = write_artifact(artifact, root)
    write_training_state(model, dataset.item_tokens(), path)
    if model.tuned is not None:
        model.tuned.save(path / "adapter")
    load_artifact(path)  # what cannot be read back must not be announced
    _log.info("artifact: %s (%d items)", path, len(tokens))
    return path


def _titles(dataset: LLMSeqRecDataset, tokens: list[str]) -> list[str]:
    """A short name an item: the first title-like column of the ``.item`` file, else its first."""
    table: Any = dataset.item_table
    if table is None or not len(table.columns):
        return [""] * len(tokens)
    column = next((name for name in _TITLE_FIELDS if name in table.columns), table.columns[0])
    titles = dict(zip(table.index, table[column], strict=True))
    return [titles.get(token, "") for token in tokens]
