"""Teach a text encoder a domain: its texts, and what people there do after what.

What comes out is a folder that serves as ``encoder`` in any training.
"""

from recbole_llm.pretrain.loop import pretrain
from recbole_llm.pretrain.options import PretrainOptions, pretrain_options

__all__ = ["PretrainOptions", "pretrain", "pretrain_options"]
