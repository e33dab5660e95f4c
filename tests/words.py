"""A model that has learnt the cycle by words: each item's text is a word that no other has."""

from pathlib import Path

from recbole_llm.train import train
from tests.data import CYCLE, walk, write_atomic

WORDS = "amber birch cedar delta ember fjord grove heron island jungle kayak lagoon".split()  # noqa: SIM905


def texts_of(items: list[str]) -> dict[str, str]:
    """The place on the cycle as a word."""
    return {item: f"The {word}" for item, word in zip(items, WORDS, strict=True)}


def train_on_words(folder: Path) -> Path:
    """Train on the data set ``films`` in a folder; the artifact."""
    sequences = {f"u{n}": walk(n, 8 + n % 5) for n in range(60)}
    write_atomic(folder, "films", sequences, texts_of(CYCLE))
    found = train("LLMSeqRec", "films", None, {
        "hidden_size": 32, "n_layers": 1, "n_heads": 2, "inner_size": 32, "MAX_ITEM_LIST_LENGTH": 6,
        "text_size": 16, "encoder": "tfidf", "train_batch_size": 16, "learning_rate": 0.01,
        "epochs": 30, "stopping_step": 30, "show_progress": False, "data_path": str(folder),
        "artifact_dir": str(folder / "artifacts"), "checkpoint_dir": str(folder),
    })  # fmt: skip
    assert found.artifact is not None
    assert found.test_result["ndcg@10"] > 0.9
    return found.artifact
