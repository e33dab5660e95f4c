"""What RecBole imports as ``recbole.model.sequential_recommender.llmseqrec``.

``get_model`` takes ``LLMSeqRec`` from here; ``create_dataset`` and ``get_trainer`` look for
``<Model>Dataset`` and ``<Model>Trainer`` in RecBole's own packages, so both are placed there.
"""

import recbole.data.dataset
import recbole.trainer

from recbole_llm.dataset import LLMSeqRecDataset
from recbole_llm.model import LLMSeqRec
from recbole_llm.trainer import LLMSeqRecTrainer

recbole.data.dataset.LLMSeqRecDataset = LLMSeqRecDataset
recbole.trainer.LLMSeqRecTrainer = LLMSeqRecTrainer

__all__ = ["LLMSeqRec"]
