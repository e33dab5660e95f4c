"""An LLM-backed sequential recommender for RecBole, and the nightly job around it.

Importing this package lets RecBole find ``LLMSeqRec`` and ``LinearSeqRec`` by their names. It imports
neither RecBole nor torch: a finder waits for the module paths that ``recbole.utils.get_model`` asks
for, and only then loads our models. So ``recbole_llm.scoring`` stays light for the workers that use it.
"""

import importlib.abc
import importlib.machinery
import importlib.util
import sys
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType

__version__ = "0.1.0"

MODELS = ("LLMSeqRec", "LinearSeqRec")
"""By RecBole's name. Their defaults stand in ``configs/model``, the first one's beneath all."""
_RECBOLE_PATHS = {f"recbole.model.sequential_recommender.{name.lower()}" for name in MODELS}


class _ModelFinder(importlib.abc.MetaPathFinder):
    """Answers RecBole's look-up of our models with ``recbole_entry.py``, and nothing else."""

    def find_spec(
        self,
        fullname: str,
        path: Sequence[str] | None = None,
        target: ModuleType | None = None,
    ) -> importlib.machinery.ModuleSpec | None:
        if fullname not in _RECBOLE_PATHS:
            return None
        entry = Path(__file__).with_name("recbole_entry.py")
        return importlib.util.spec_from_file_location(fullname, entry)


if not any(type(finder).__name__ == "_ModelFinder" for finder in sys.meta_path):
    sys.meta_path.append(_ModelFinder())
