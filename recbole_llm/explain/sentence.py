"""One plain sentence from what was computed, and from nothing else."""

from recbole_llm.scoring.why import FAINT

N_NAMED, N_WORDS = 2, 2
LEAST = 0.05
"""By how much an item must raise a score to be named: its odds against others by a twentieth."""
_COUNTS = {2: "both", 3: "all three"}


def strongest(gains: dict[str, float], least: float = LEAST) -> list[str]:
    """The names with the largest gains, above ``least`` and not faint beside the first."""
    ordered = sorted(gains, key=lambda name: -gains[name])
    least = max(FAINT * max(gains.values(), default=0.0), least)
    return [name for name in ordered if gains[name] > least]


def write_sentence(
    carriers: list[str], words: list[str], category: str | None, largest: float
) -> str:
    """Say why an item stands where it stands.

    Args:
        carriers: titles of at most two history items without which its score would be lower, the
            strongest first.
        words: what the texts of all of them and of the item share, of the words that raised its score.
        category: what the catalogue says of all of them and of the item; None where they differ.
        largest: by how much the score falls without the strongest item, named or not.
    Example:
        ["Alien", "Aliens"], ["space"], "Horror", 1.2 gives "Because of Alien and Aliens; all three
        are of category Horror and say “space”."
    """
    if not carriers:
        return (
            "No single item of the history carries it: without any one of them its score falls by "
            f"{max(largest, 0.0):.2f} at most."
        )
    told = [f"are of category {category}"] if category else []
    if words:
        told.append("say " + " and ".join(f"“{word}”" for word in words))
    because = f"Because of {' and '.join(carriers)}"
    if not told:
        return f"{because}."
    return f"{because}; {_COUNTS[len(carriers) + 1]} {' and '.join(told)}."
