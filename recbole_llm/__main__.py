"""``python -m recbole_llm --model=LLMSeqRec --dataset=ml-100k``: the flags of run_recbole.py."""

import sys

from recbole_llm.cli import main

if __name__ == "__main__":
    first = sys.argv[1] if len(sys.argv) > 1 else "--help"
    # A flag means RecBole's command line; a word means a subcommand of recbole-llm.
    sys.exit(main(["run", *sys.argv[1:]] if first.startswith("--") and first != "--help" else None))
