import numpy as np
import pytest
import torch

from recbole_llm.pretrain.retrieval import NextItemRetrieval


class _Fixed:
    """Stands for an encoder whose vectors are known."""

    def __init__(self, vectors: dict[str, list[float]]) -> None:
        self._vectors = vectors

    def encode(self, texts: list[str], **_: object) -> torch.Tensor:
        return torch.nn.functional.normalize(torch.tensor([self._vectors[t] for t in texts]), dim=1)


def test_ranks_by_hand() -> None:
    angles = {"a": 0.0, "b": 0.1, "c": 0.3, "twin": 0.3, "d": 2.0}
    model = _Fixed({text: [np.cos(angle), np.sin(angle)] for text, angle in angles.items()})
    texts = ["", "a", "b", "c", "twin", "d"]

    def figures(last: int, following: int) -> dict[str, float]:
        found = NextItemRetrieval(texts, np.array([last]), np.array([following]), 2)
        return found(model)  # type: ignore[arg-type]

    assert figures(1, 2)["ndcg@10"] == 1.0  # b is nearest to a, which itself is out
    assert figures(1, 3)["ndcg@10"] == pytest.approx(1 / np.log2(4))  # b, then twin, then c
    assert figures(1, 5)["ndcg@10"] == pytest.approx(1 / np.log2(5))
    assert figures(5, 1)["recall@10"] == 1.0


def test_beyond_the_tenth_counts_nothing() -> None:
    texts = ["", *(f"t{n}" for n in range(13))]
    model = _Fixed({f"t{n}": [1.0, 0.1 * n] for n in range(13)})
    found = NextItemRetrieval(texts, np.array([1, 1]), np.array([11, 12]), 4)(model)  # type: ignore[arg-type]
    assert found["recall@10"] == 0.5
    assert found["ndcg@10"] == pytest.approx(0.5 / np.log2(11))
