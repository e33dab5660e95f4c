"""Rank items for sequences of external item ids, from an artifact alone.

Needs torch, numpy and safetensors; neither RecBole nor transformers.
"""

from recbole_llm.pairs import Pairs
from recbole_llm.scoring.artifact import Artifact, load_artifact, write_artifact
from recbole_llm.scoring.feedback import Feedback
from recbole_llm.scoring.rules import Rules
from recbole_llm.scoring.scorer import Scorer, TopK, load_scorer
from recbole_llm.scoring.why import Why, why

__all__ = [
    "Artifact",
    "Feedback",
    "Pairs",
    "Rules",
    "Scorer",
    "TopK",
    "Why",
    "load_artifact",
    "load_scorer",
    "why",
    "write_artifact",
]
