"""An LLM-backed sequential recommender for RecBole, and the nightly job around it.

Importing this package lets RecBole find ``LLMSeqRec`` by its name. It imports neither RecBole nor
torch: a finder waits for the one module path that ``recbole.utils.get_model`` asks for, and only
then loads our model. So ``recbole_llm.scoring`` stays light for the workers that use it.
"""

import importlib.abc
import importlib.machinery
import importlib.util
import sys
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType

__version__ = "0.1.0"

_RECBOLE_PATH = "recbole.model.sequential_recommender.llmseqrec"


class _ModelFinder(importlib.abc.MetaPathFinder):
    """Answers RecBole's look-up of ``LLMSeqRec`` with ``recbole_entry.py``, and nothing else."""

    def find_spec(
        self,
        fullname: str,
        path: Sequence[str] | None = None,
        target: ModuleType | None = None,
    ) -> importlib.machinery.ModuleSpec | None:
        if fullname != _RECBOLE_PATH:
            return None
        entry = Path(__file__).with_name("recbole_entry.py")
        return importlib.util.spec_from_file_location(fullname, entry)


if not any(type(finder).__name__ == "_ModelFinder" for finder in sys.meta_path):
    sys.meta_path.append(_ModelFinder())
