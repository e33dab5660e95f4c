"""What RecBole imports as ``recbole.model.sequential_recommender.llmseqrec``, or ``.linearseqrec``.

``get_model`` takes our models from here; ``create_dataset`` and ``get_trainer`` look for
``<Model>Dataset`` and ``<Model>Trainer`` in RecBole's own packages, so these are placed there.
"""

import recbole.data.dataset
import recbole.trainer

from recbole_llm import MODELS
from recbole_llm.dataset import LLMSeqRecDataset
from recbole_llm.model import LinearSeqRec, LLMSeqRec
from recbole_llm.trainer import LLMSeqRecTrainer

for name in MODELS:
    setattr(recbole.data.dataset, f"{name}Dataset", LLMSeqRecDataset)
    setattr(recbole.trainer, f"{name}Trainer", LLMSeqRecTrainer)

__all__ = ["LLMSeqRec", "LinearSeqRec"]
