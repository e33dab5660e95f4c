"""Next-item retrieval by cosine: what an encoder knows of the order, with nothing trained on top."""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from sentence_transformers.base.evaluation import BaseEvaluator

_TOP = 10
_ROWS = 512
"""Users scored at once."""


class NextItemRetrieval(BaseEvaluator):
    """Ranks all items by the cosine of their text and the text that a user met last.

    The item met last is out of the ranking, for it is nearest to itself. Items of equal scores count
    as ranked before the one that is wanted.

    Args:
        texts: V texts by item; "" stands for no item.
        last: (U,) the items met last.
        following: (U,) the items met next.
        batch_size: texts encoded at once.
    """

    def __init__(
        self, texts: list[str], last: NDArray[np.int64], following: NDArray[np.int64],
        batch_size: int,
    ) -> None:  # fmt: skip
        super().__init__()  # type: ignore[no-untyped-call]
        self.primary_metric = f"ndcg@{_TOP}"
        items = np.flatnonzero([bool(text) for text in texts])
        row = np.full(len(texts), -1)
        row[items] = np.arange(len(items))
        self._texts = [texts[item] for item in items]
        self._last, self._following = torch.from_numpy(row[last]), torch.from_numpy(row[following])
        self._batch_size = batch_size

    def __call__(
        self, model: Any, output_path: str | None = None, epoch: float = -1, steps: int = -1
    ) -> dict[str, float]:
        """NDCG@10 and Recall@10 over the users."""
        distinct = list(dict.fromkeys(self._texts))
        number = {text: row for row, text in enumerate(distinct)}
        encoded: Any = model.encode(
            distinct, batch_size=self._batch_size, show_progress_bar=False, convert_to_tensor=True,
            normalize_embeddings=True,
        )  # fmt: skip
        vectors = encoded.float()[[number[text] for text in self._texts]]
        ranks = []
        for start in range(0, len(self._last), _ROWS):
            last = self._last[start : start + _ROWS].to(vectors.device)
            wanted = self._following[start : start + _ROWS].to(vectors.device)
            rows = torch.arange(len(last), device=vectors.device)
            scores = vectors[last] @ vectors.T
            own = scores[rows, wanted].clone()
            scores[rows, last] = -torch.inf
            scores[rows, wanted] = -torch.inf
            ranks.append(1 + (scores >= own.unsqueeze(1)).sum(1))
        rank = torch.cat(ranks).double()
        is_hit = rank <= _TOP
        return {
            f"ndcg@{_TOP}": float((is_hit / (1 + rank).log2()).mean()),
            f"recall@{_TOP}": float(is_hit.double().mean()),
        }
