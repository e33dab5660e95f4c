"""The models by the names the results use: which network, on which rows, with which settings.

``llmseqrec:repeat_lags=0`` is ``llmseqrec`` with one setting changed; a comma joins several.
"""

from dataclasses import dataclass, field, replace
from typing import Any

import yaml

from recbole_llm.config_files import config_path


@dataclass(frozen=True)
class Entry:
    """One name of the results."""

    model: str
    """RecBole's name, which decides the default settings."""
    settings: dict[str, Any] = field(default_factory=dict)
    grid: tuple[dict[str, Any], ...] = ({},)
    """Settings tried with the first seed; the best on validation is kept for all seeds."""
    network: str | None = None
    """A class of ``baselines`` or ``strategies``; None for the model that RecBole finds by name."""
    dataset: str | None = None
    """The data set's class, likewise; a network of ``baselines`` takes whole sequences."""
    config: str | None = None
    """A file of ``configs/model`` on top of the defaults."""

    @property
    def config_files(self) -> list[str]:
        """Paths for RecBole's ``config_file_list``."""
        return [] if self.config is None else [str(config_path("model", self.config))]

    def network_class(self) -> type[Any] | None:
        """The class to train; None for RecBole's look-up."""
        return None if self.network is None else _class(self.network)

    def dataset_class(self) -> type[Any] | None:
        """The class that holds the rows; None for RecBole's look-up."""
        name = self.dataset or (self.network and "WholeSequenceDataset")
        return None if name is None else _class(name)


def _class(name: str) -> type[Any]:
    from benchmarks.quality import baselines, strategies

    found: type[Any] = getattr(baselines, name, None) or getattr(strategies, name)
    return found


_TRAINING = {
    "train_batch_size": 64, "epochs": 200, "stopping_step": 10, "train_neg_sample_args": None,
}  # fmt: skip
_STOCK = {"epochs": 200, "stopping_step": 10, "train_neg_sample_args": None}
_DROPOUTS = tuple({"hidden_dropout_prob": p, "attn_dropout_prob": p} for p in (0.2, 0.5))
_GRID = tuple({**dropout, "learning_rate": r} for r in (0.001, 0.003) for dropout in _DROPOUTS)
_BERT_GRID = _GRID[: len(_DROPOUTS)]  # the second rate won on neither set that tried it
_GRU_GRID = tuple(
    {"dropout_prob": p, "learning_rate": r} for r in (0.001, 0.004) for p in (0.3, 0.5)
)

MODELS: dict[str, Entry] = {
    "pop": Entry("SASRec", {**_TRAINING, "epochs": 1}, network="Popular"),
    "markov": Entry("SASRec", {**_TRAINING, "epochs": 1}, network="Markov"),
    "recent": Entry(
        "SASRec", {**_TRAINING, "epochs": 1}, network="Recent", dataset="DatedSequences"
    ),
    "collaborative": Entry("SASRec", {**_TRAINING, "epochs": 1}, network="Collaborative"),
    "content": Entry("LLMSeqRec", {"epochs": 1}, network="Content", dataset="LLMSeqRecDataset"),
    "sasrec": Entry("SASRec", _TRAINING, _GRID, "WholeSASRec"),
    "gru4rec": Entry("GRU4Rec", _TRAINING, _GRU_GRID, "WholeGRU4Rec"),
    "bert4rec": Entry(
        "BERT4Rec", {**_TRAINING, "epochs": 400}, _BERT_GRID, "WholeBERT4Rec", "ClosedWindows"
    ),
    "sasrec-stock": Entry("SASRec", _STOCK, dataset="SequentialDataset"),
    "unisrec": Entry("LLMSeqRec", config="UniSRec"),
    "linear": Entry("LinearSeqRec"),
    "llmseqrec": Entry("LLMSeqRec"),
    "blend": Entry("LLMSeqRec", network="Blend", dataset="DatedDataset"),
    "llmseqrec-id": Entry("LLMSeqRec", {"item_repr": "id"}),
    "llmseqrec-tfidf": Entry("LLMSeqRec", {"encoder": "tfidf"}),
    "llmseqrec-minilm": Entry("LLMSeqRec", {"encoder": "minilm"}),
    "llmseqrec-smollm2": Entry("LLMSeqRec", {"encoder": "smollm2-135m"}),
    "llmseqrec-text": Entry("LLMSeqRec", {"item_repr": "text"}),
}


def find_model(name: str) -> Entry:
    """The entry of a name, with the settings that the name itself carries on top.

    Raises:
        ValueError: no such model, or a setting that is not ``key=value``.
    """
    base, _, changes = name.partition(":")
    if base not in MODELS:
        raise ValueError(f"no model {base!r}; there are {', '.join(MODELS)}")
    if not changes:
        return MODELS[base]
    settings = {}
    for change in changes.split(","):
        key, is_pair, value = change.partition("=")
        if not is_pair:
            raise ValueError(f"{name!r}: expected key=value after the colon, got {change!r}")
        settings[key] = yaml.safe_load(value)
    return replace(MODELS[base], settings={**MODELS[base].settings, **settings})
